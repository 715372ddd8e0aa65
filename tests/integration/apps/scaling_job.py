"""A job whose one stage is slow: its sink waits for the outside, or its operator computes."""

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from market_data_pipeline import Frame, Pipeline, Synthetic
from market_data_pipeline.sinks.base import Sink


class Outside(Sink):
    """One table that all tasks write to, one at a time, as a database would let them: each write holds the lock for ``delay``
    seconds."""

    def __init__(self, path: Path, delay: float) -> None:
        self.path, self.delay = path, delay

    async def write(self, frames: Sequence[Frame]) -> None:
        await asyncio.to_thread(self._insert, sum(len(frame.items) for frame in frames))

    def _insert(self, items: int) -> None:
        database = sqlite3.connect(self.path, timeout=60.0, isolation_level=None)
        try:
            database.execute("CREATE TABLE IF NOT EXISTS writes (items INTEGER)")
            database.execute("BEGIN IMMEDIATE")
            database.execute("INSERT INTO writes VALUES (?)", (items,))
            time.sleep(self.delay)
            database.execute("COMMIT")
        finally:
            database.close()


def _slowly(row: Any) -> Any:
    """Computes for a while."""
    for _ in range(4000):
        hash(row)
    return row


def pipeline(output: Path, slow: str) -> Pipeline:
    source = Synthetic(symbols=50, items=2_000_000)
    job = Pipeline("scaling").source(source).key_by("symbol")
    if slow == "operator":
        job = job.map(_slowly)
    return job.sink(Outside(output, 0.2 if slow == "sink" else 0.0), name="outside")
