"""Trades in, bars out: dedupe by (symbol, trade_id), OHLCV bars on event time, JSON lines.

    mdp run examples/bars.py --workers 2 --set output=OUT
    mdp run examples/bars.py --workers 2 --set input=trades.csv.gz --set output=OUT --set interval=1m

``input``: a CSV or JSON lines file (also .gz) with the columns symbol, ts_event (ns), price, size and, where there are any,
ts_recv, side, trade_id; without it, synthetic trades. ``max_delay``: how far out of order the file is ("2s"); by default any
disorder is fine, nothing is late, and the bars come at the end of the file.
"""

from pathlib import Path

from market_data_pipeline import JsonLines, Pipeline, Replay, Synthetic
from market_data_pipeline.sources.base import Source


def pipeline(
    input: Path | None, output: Path, interval: str = "1s", items: int = 1_000_000, max_delay: str | None = None
) -> Pipeline:
    source: Source
    if input is not None:
        source = Replay(input, max_delay=max_delay)
    else:
        source = Synthetic(symbols=1000, items=items, duplicates=0.01, disorder=0.05, seed=7)
    return (
        Pipeline("bars")
        .source(source)
        .key_by("symbol")
        .dedupe("symbol", "trade_id", within="10m")
        .bars(interval)
        .sink(JsonLines(output))
    )
