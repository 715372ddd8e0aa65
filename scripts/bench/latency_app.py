"""The jobs of ``scripts/bench/latency``: trades whose event time is the wall clock, forwarded or made into bars, and a sink
that takes the time of each commit. What is measured is said there."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from market_data_pipeline import Batch, Columns, Frame, Pipeline, Sink, SinkContext, SourceContext, Synthetic
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import Array
from market_data_pipeline.runtime.latency import LatencyHistogram

SECOND = 10**9
LATE = "the feed's start had passed when the job was ready"


class Feed(Synthetic):
    """``rate`` trades a second from wall time ``start`` (ns) on, for ``seconds``. Event time is the wall clock: trade n is of
    ``start + n / rate``. ``ts_recv``: when the trade's batch was due, which is when the last trade of it was."""

    def __init__(self, rate: int, seconds: float, start: int) -> None:
        super().__init__(items=int(rate * seconds), rate=rate, start=start)
        self.seconds = seconds

    def due(self, numbers: Array) -> Array:
        """When the batches of the trades with these numbers are due, ns."""
        behind = (numbers // self._batch + 1) * self._batch
        return self.start + (np.minimum(behind, self.items or 0) * self._step).astype(np.int64)

    def closing(self, ends: Array) -> Array:
        """Numbers of the first trades at or behind these times, ns: they take the watermark there."""
        return np.ceil((ends - self.start) / self._step).astype(np.int64)

    async def open(self, ctx: SourceContext, position: Any | None) -> None:
        if ctx.clock.time_ns() > self.start:
            raise ConfigError(f"{LATE}; give it more time with --lead")
        await super().open(ctx, position)

    async def read(self) -> Batch | None:
        due = int(self.due(np.array([self._number * self._batch]))[0])
        await self._clock.sleep(max(0, due - self._clock.time_ns()) / SECOND)
        batch = await super().read()
        if batch is not None:
            assert isinstance(batch.items, Columns)
            batch.items.data["ts_recv"] = np.full(len(batch.items), due, np.int64)
        return batch


class Stopwatch(Sink):
    """Nanoseconds from when an item's batch was due at the source until the commit that holds it was done, into
    ``folder``, a histogram per partition. Of a bar: from when the batch was due that took the watermark to its end."""

    accepts = "columns"

    def __init__(self, feed: Feed, warm_up: float, folder: str) -> None:
        self.feed, self.warm_up, self.folder = feed, warm_up, folder

    async def open(self, ctx: SinkContext, state: Any | None) -> None:
        self._file = Path(self.folder) / f"{ctx.partition}.json"
        self._waiting: list[Array] = []
        self._histogram = LatencyHistogram()

    async def write(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            assert isinstance(frame.items, Columns)
            if frame.items.kind == "trade":
                self._waiting.append(frame.items.array("ts_recv"))
            else:
                numbers = self.feed.closing(frame.items.array("ts_close"))
                assert self.feed.items is not None
                self._waiting.append(self.feed.due(numbers[numbers < self.feed.items]))  # the rest closed at the end

    async def committed(self) -> None:
        now = time.time_ns()
        counted_from = self.feed.start + int(self.warm_up * SECOND)
        for due in self._waiting:
            for moment, items in zip(*np.unique(due[due >= counted_from], return_counts=True), strict=True):
                self._histogram.record(now - int(moment), int(items))
        self._waiting.clear()

    async def close(self) -> None:
        self._file.write_text(json.dumps(self._histogram.packed()))


def pipeline(rate: int, seconds: float, start: int, folder: str, bars: str = "", warm_up: float = 0.0) -> Pipeline:
    """``bars``: their length, empty to forward the trades as they are."""
    feed = Feed(rate, seconds, start)
    job = Pipeline("latency").source(feed).key_by("symbol")
    return (job.bars(bars) if bars else job).sink(Stopwatch(feed, warm_up, folder))
