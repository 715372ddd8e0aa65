"""Trades from a file into the sink that an expression gives."""

from pathlib import Path
from typing import Any

import market_data_pipeline
from market_data_pipeline import Pipeline, Replay


def pipeline(source: Path, sink: str, speed: float) -> Pipeline:
    names: dict[str, Any] = {name: getattr(market_data_pipeline, name) for name in market_data_pipeline.__all__}
    made = eval(sink, names)  # the test's own expression
    return (
        Pipeline("sinks").source(Replay(source, speed=speed, batch_items=200)).key_by("symbol").sink(made, name="out")
    )
