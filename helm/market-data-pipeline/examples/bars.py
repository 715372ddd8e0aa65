"""Trades in, bars out, for ever: 20,000 synthetic trades a second of 500 symbols, deduped, into 10-second bars."""

from market_data_pipeline import Discard, Pipeline, Synthetic


def pipeline(rate: float = 20_000.0, interval: str = "10s") -> Pipeline:
    return (
        Pipeline("bars")
        .source(Synthetic(symbols=500, items=None, rate=rate, duplicates=0.01, disorder=0.05))
        .key_by("symbol")
        .dedupe("symbol", "trade_id", within="10m")
        .bars(interval)
        .sink(Discard())
    )
