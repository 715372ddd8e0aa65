"""A small job, to see how long it takes until something happens: ``items=0`` for one that has nothing to do."""

from market_data_pipeline import Pipeline, Synthetic
from market_data_pipeline.sinks.discard import Discard


def pipeline(items: int = 100_000) -> Pipeline:
    return Pipeline("start").source(Synthetic(symbols=1000, items=items)).key_by("symbol").bars("1s").sink(Discard())
