"""A job whose store is not there before the file ``there`` is."""

from collections.abc import Sequence
from pathlib import Path

from market_data_pipeline import Frame, JsonLines, NodeOptions, Pipeline, Retries, Synthetic
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


def pipeline(output: Path, there: Path, attempts: int | None = None) -> Pipeline:
    source, store = Synthetic(symbols=50, items=2000), Store(output, there)
    options = NodeOptions(retries=Retries(attempts, "20ms") if attempts is not None else None)
    return Pipeline("waiting").source(source).key_by("symbol").sink(store, name="store").options(options)
