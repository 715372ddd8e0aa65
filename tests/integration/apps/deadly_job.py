"""A job with one item that kills whatever process works on it."""

import os
import signal
from pathlib import Path
from typing import Any

from market_data_pipeline import JsonLines, Pipeline, Synthetic


def deadly(trade: Any) -> Any:
    if trade.trade_id == 23_456:
        os.kill(os.getpid(), signal.SIGKILL)
    return trade


def pipeline(output: Path, items: int = 40_000) -> Pipeline:
    source = Synthetic(symbols=20, items=items, event_rate=10_000, seed=5)
    return Pipeline("deadly").source(source).key_by("symbol").map(deadly).sink(JsonLines(output), name="files")
