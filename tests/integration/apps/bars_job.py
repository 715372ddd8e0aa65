"""The main job with every knob that a test turns."""

from pathlib import Path

from market_data_pipeline import Batch, JsonLines, Pipeline, Synthetic


def source(
    items: int, rate: float | None = None, symbols: int = 50, event_rate: float = 10_000, seed: int = 3
) -> Synthetic:
    return Synthetic(
        symbols=symbols, items=items, rate=rate, event_rate=event_rate, duplicates=0.05, disorder=0.1, seed=seed
    )


class UntilTold(Synthetic):
    """:func:`source` until the file ``end`` is there: a job that runs for as long as a test needs it, however slow the machine.
    Whole batches come out, so what came is ``source`` of as many items."""

    def __init__(self, end: Path, rate: float | None, symbols: int = 50) -> None:
        super().__init__(
            symbols=symbols, items=None, rate=rate, event_rate=10_000, duplicates=0.05, disorder=0.1, seed=3
        )
        self.end = end

    async def read(self) -> Batch | None:
        return None if self.end.exists() else await super().read()


def trades(items: int | None, rate: float | None, end: Path | None, symbols: int = 50) -> Synthetic:
    """So many items, or those that come until the file ``end`` is there."""
    if end is not None:
        return UntilTold(end, rate, symbols)
    assert items is not None
    return source(items, rate, symbols)


def pipeline(
    output: Path, items: int | None = None, rate: float | None = None, symbols: int = 50, end: Path | None = None
) -> Pipeline:
    return (
        Pipeline("bars")
        .source(trades(items, rate, end, symbols), name="source")
        .key_by("symbol")
        .dedupe("symbol", "trade_id")
        .bars("1s")
        .sink(JsonLines(output), name="files")
    )
