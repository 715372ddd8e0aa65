"""The main job as it is measured: synthetic trades of 1,000 symbols -> keyed edge -> dedupe -> 1-second bars -> counted."""

from market_data_pipeline import Pipeline, Synthetic
from market_data_pipeline.sinks.discard import Discard


def pipeline(items: int = 20_000_000, symbols: int = 1000, dedupe: bool = True) -> Pipeline:
    job = Pipeline("main-job").source(Synthetic(symbols=symbols, items=items)).key_by("symbol")
    if dedupe:
        job = job.dedupe("symbol", "trade_id", within="10s")
    return job.bars("1s").sink(Discard())
