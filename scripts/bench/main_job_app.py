"""The main job as it is measured: synthetic trades of 1,000 symbols -> keyed edge -> dedupe -> 1-second bars -> counted."""

from market_data_pipeline import Pipeline, Synthetic
from market_data_pipeline.sinks.discard import Discard


def pipeline(items: int = 20_000_000, symbols: int = 1000, dedupe: bool = True, event_rate: float = 10_000) -> Pipeline:
    """``event_rate``: items per second of event time."""
    source = Synthetic(symbols=symbols, items=items, event_rate=event_rate)
    job = Pipeline("main-job").source(source).key_by("symbol")
    if dedupe:
        job = job.dedupe("symbol", "trade_id", within="10s")
    return job.bars("1s").sink(Discard())
