"""A job whose pace is told from outside: the source reads items per second from a file, 0 ends it.

What the items are depends on nothing but their number; only when they come follows the clock. ``work``: microseconds
that each trade keeps its process waiting, so that several processes do more than one, however few cores there are.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from market_data_pipeline import Batch, JsonLines, Pipeline, SourceContext, Synthetic

_OWED_SECONDS = 1.0
"""A source that was kept waiting catches up so much, no more."""
_LOOK_SECONDS = 0.05


BATCH = 200
"""Items a time."""
_TRADES: dict[str, Any] = {
    "symbols": 64, "event_rate": 2000, "duplicates": 0.05, "disorder": 0.1, "zipf": 0.3, "seed": 11,
    "rate": BATCH / 0.005,  # of Synthetic, to have batches of 200
}  # fmt: skip


def trades(items: int) -> Synthetic:
    """The first ``items`` items (whole batches), 2,000 a second of event time."""
    return Synthetic(items=items, **_TRADES)


class Paced(Synthetic):
    """:func:`trades` without end at the pace that stands in the file ``pace``: items per second; no file: none yet."""

    def __init__(self, pace: Path) -> None:
        super().__init__(items=None, **_TRADES)
        self.pace, self.rate = pace, None
        self._due = 0.0

    async def open(self, ctx: SourceContext, position: Any | None) -> None:
        await super().open(ctx, position)
        self._due = ctx.clock.monotonic()

    async def read(self) -> Batch | None:
        while not (pace := self._told()):
            if pace == 0:
                return None
            await self._clock.sleep(_LOOK_SECONDS)
            self._due = self._clock.monotonic()
        now = self._clock.monotonic()
        self._due = max(self._due, now - _OWED_SECONDS) + BATCH / pace
        await self._clock.sleep(max(0.0, self._due - now))
        return await super().read()

    def _told(self) -> float | None:
        """Items per second; ``None`` before anybody said."""
        return float(self.pace.read_text()) if self.pace.exists() else None


def slow_lookup(microseconds: int) -> Any:
    """A function of one trade that keeps its process waiting, as a call to something slow does."""

    def work(trade: Any) -> Any:
        time.sleep(microseconds / 1e6)
        return trade

    return work


def pipeline(pace: Path, output: Path, work: int = 0) -> Pipeline:
    job = Pipeline("paced").source(Paced(pace)).key_by("symbol").dedupe("symbol", "trade_id")
    return (job.map(slow_lookup(work)) if work else job).bars("1s").sink(JsonLines(output), name="files")
