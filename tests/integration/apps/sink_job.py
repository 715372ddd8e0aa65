"""Trades into the sink that an expression gives, until the file ``end`` is there."""

from pathlib import Path
from typing import Any

import market_data_pipeline
from market_data_pipeline import Batch, Pipeline, Synthetic


def trades(items: int | None) -> Synthetic:
    """A few hundred a second: a sink that is a small disk takes them for minutes."""
    return Synthetic(symbols=40, items=items, rate=500)


class UntilTold(Synthetic):
    """:func:`trades` for as long as a test needs them, however slow the machine. Whole batches come out."""

    def __init__(self, end: Path) -> None:
        super().__init__(symbols=40, items=None, rate=500)
        self.end = end

    async def read(self) -> Batch | None:
        return None if self.end.exists() else await super().read()


def pipeline(end: Path, sink: str) -> Pipeline:
    names: dict[str, Any] = {name: getattr(market_data_pipeline, name) for name in market_data_pipeline.__all__}
    made = eval(sink, names)  # the test's own expression
    return Pipeline("sinks").source(UntilTold(end), name="source").key_by("symbol").sink(made, name="out")
