"""The main job with every knob that a test turns."""

from pathlib import Path

from market_data_pipeline import JsonLines, Pipeline, Synthetic


def source(
    items: int, rate: float | None = None, symbols: int = 50, event_rate: float = 10_000, seed: int = 3
) -> Synthetic:
    return Synthetic(
        symbols=symbols, items=items, rate=rate, event_rate=event_rate, duplicates=0.05, disorder=0.1, seed=seed
    )


def pipeline(output: Path, items: int, rate: float | None = None, symbols: int = 50) -> Pipeline:
    return (
        Pipeline("bars")
        .source(source(items, rate, symbols))
        .key_by("symbol")
        .dedupe("symbol", "trade_id")
        .bars("1s")
        .sink(JsonLines(output), name="files")
    )
