"""The main job with a Python function on each trade: in front of the keyed edge, or behind it, or not at all."""

from typing import Literal

from market_data_pipeline import Pipeline, Synthetic, Trade
from market_data_pipeline.sinks.discard import Discard


def normalise(trade: Trade) -> Trade:
    """The price in hundredths: a new record for each trade."""
    return trade._replace(price=trade.price * 100)


def pipeline(items: int = 3_000_000, place: Literal["before", "behind"] = "behind") -> Pipeline:
    job = Pipeline("rows").source(Synthetic(symbols=1000, items=items))
    job = job.map(normalise).key_by("symbol") if place == "before" else job.key_by("symbol").map(normalise)
    return job.bars("1s").sink(Discard())
