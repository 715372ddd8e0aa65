"""Trades into a sink that takes them at once, into a queue that its store works off behind it. ``slow``: a file; while it is
there, the store takes next to nothing. ``url``: an outside coordinator of writes that is asked instead.

The queue is of what the files have already, so it is no matter of life and death: what counts is how full it becomes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from paced_job import Paced

from market_data_pipeline import Dag, Frame, HttpFeedback, JsonLines, Node, StoreReading

HIGH, LOW = 10_000, 2_000
_FAST, _SLOW = 1_000_000, 100


class Files(JsonLines):
    """Says nothing."""


class WriteBehind(JsonLines):
    """Has a queue that all tasks of its process share."""

    depth: ClassVar[float] = 0.0
    looked_at: ClassVar[float] = 0.0

    def __init__(self, path: Path, slow: Path) -> None:
        super().__init__(path)
        self.slow = slow

    def work_off(self) -> None:
        now = time.monotonic()
        speed = _SLOW if self.slow.exists() else _FAST
        WriteBehind.depth = max(0.0, WriteBehind.depth - (now - WriteBehind.looked_at) * speed)
        WriteBehind.looked_at = now

    async def write(self, frames: Sequence[Frame]) -> None:
        self.work_off()
        WriteBehind.depth += sum(len(frame.items) for frame in frames)
        await super().write(frames)

    async def reading(self) -> StoreReading:
        self.work_off()
        return StoreReading(WriteBehind.depth, HIGH, LOW, 1 / _SLOW if self.slow.exists() else 1 / _FAST)


def dag(pace: Path, output: Path, slow: Path, url: str = "") -> Dag:
    made = Dag("queue-job")
    made.add_node(Node("source", Paced(pace)))
    if url:
        made.add_node(Node("store", Files(output), feedback=HttpFeedback(url)))
    else:
        made.add_node(Node("store", WriteBehind(output, slow)))
    made.add_edge("source", "store", key="symbol")
    return made
