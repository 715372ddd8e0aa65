"""A job that waits: one trade every ten minutes."""

from market_data_pipeline import Pipeline, Synthetic
from market_data_pipeline.sinks.discard import Discard


def pipeline() -> Pipeline:
    source = Synthetic(symbols=1000, items=10, rate=1 / 600, event_rate=1)
    return Pipeline("idle").source(source).key_by("symbol").dedupe().bars("1s").sink(Discard())
