"""A job that every command can name without parameters."""

from market_data_pipeline import Discard, Pipeline, Synthetic

pipeline = Pipeline("small").source(Synthetic(symbols=5, items=1000)).key_by("symbol").bars("1s").sink(Discard())
