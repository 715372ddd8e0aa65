"""Recorded Parquet trades, paced, to bars: for tests that stop it in the middle."""

from pathlib import Path

from market_data_pipeline import JsonLines, Pipeline, Replay


def pipeline(trades: Path, output: Path, speed: float) -> Pipeline:
    source = Replay(trades, speed=speed, batch_items=512)
    return Pipeline("replay").source(source).key_by("symbol").bars("1s").sink(JsonLines(output))
