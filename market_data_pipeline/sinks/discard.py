"""A sink that only counts, for benchmarks and for trying a graph."""

from __future__ import annotations

from collections.abc import Sequence

from market_data_pipeline.frame import Frame
from market_data_pipeline.sinks.base import Sink


class Discard(Sink):
    """Takes everything and keeps nothing; what came is in the node's ``in`` counter."""

    async def write(self, frames: Sequence[Frame]) -> None:
        """Nothing to do: the runtime counts."""
