"""A sink that keeps what it gets, for tests and notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

from market_data_pipeline.frame import Frame, to_rows
from market_data_pipeline.sinks.base import Sink


class Collect(Sink):
    """Appends every item to ``items``, as rows. In one process only: it is not a place that a job could resume from, and
    worker processes would each fill their own list, so a job over processes is refused. Exactly-once as long as the
    process lives."""

    accepts: ClassVar[Literal["rows"]] = "rows"
    one_process = True

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._pending: list[Any] = []

    def fresh(self) -> Self:
        """The same instance: the caller holds it to read ``items``."""
        return self

    def config(self) -> dict[str, Any]:
        return {}

    async def write(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            self._pending += to_rows(frame.items)

    async def committed(self) -> None:
        self.items += self._pending
        self._pending = []

    async def close(self) -> None:
        self._pending = []
