"""A job whose store is not there before the file ``there`` is."""

from collections.abc import Sequence
from pathlib import Path

from market_data_pipeline import Frame, JsonLines, Pipeline, Synthetic
from market_data_pipeline.errors import SinkError


class Store(JsonLines):
    """Cannot be reached at first."""

    def __init__(self, path: Path, there: Path) -> None:
        super().__init__(path)
        self.there = there

    async def write(self, frames: Sequence[Frame]) -> None:
        if not self.there.exists():
            raise SinkError("store: connection refused")
        await super().write(frames)


def pipeline(output: Path, there: Path) -> Pipeline:
    source = Synthetic(symbols=50, items=2000)
    return Pipeline("waiting").source(source).key_by("symbol").sink(Store(output, there), name="store")
