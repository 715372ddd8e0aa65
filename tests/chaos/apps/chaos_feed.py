"""A feed of trades for the chaos rounds: every item a pure function of seed and number, sent by the wall clock.

Like a venue it does not wait: after an outage it catches up as fast as the job takes it. Duplicates come up to 5,000 items
after the first, so that a dedupe which lost its state is found out; a few items come so late that their bar is gone.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from market_data_pipeline import Batch, Columns, Source, SourceContext
from market_data_pipeline.frame import Dictionary

START = 1_767_364_200_000_000_000
"""2026-01-02 14:30:00 UTC, in ns."""
MAX_DELAY = 2_000_000_000
LATE_BY = 100_000_000_000
_LATE_AFTER = 150_000_000_000
_FAR_BACK = 5000
_BATCH = 100
_POLL_SECONDS = 0.02

Numbers = npt.NDArray[np.uint64]


def mix(seed: int, salt: int, numbers: Numbers) -> Numbers:
    """Random-looking bits for each number (splitmix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = numbers + np.uint64((seed * 1_000_003 + salt) % 2**32) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: Numbers = z ^ (z >> np.uint64(31))
        return mixed


class Feed(Source):
    """``items`` trades at ``rate`` a second from the moment that ``begin`` holds (unix seconds; the feed waits for it).

    ``speed``: seconds of event time per second. ``hot_from``, ``hot_to``: trade ids between which 9 of 10 are of one
    symbol. ``first_id`` and ``offset`` (ns) keep two feeds of one job apart. ``late``: whether there are items too late.
    """

    max_delay = MAX_DELAY

    def __init__(
        self,
        begin: Path,
        items: int,
        rate: float,
        *,
        seed: int = 0,
        symbols: int = 40,
        speed: float = 20.0,
        hot_from: int = 0,
        hot_to: int = 0,
        first_id: int = 0,
        offset: int = 0,
        late: bool = True,
    ) -> None:
        self.begin, self.items, self.rate, self.seed = begin, items, rate, seed
        self.symbols, self.speed, self.hot_from, self.hot_to = symbols, speed, hot_from, hot_to
        self.first_id, self.offset, self.late = first_id, offset, late
        self._names = tuple(f"S{i:03d}" for i in range(symbols))
        self._next = 0
        self._began: float | None = None

    async def open(self, ctx: SourceContext, position: Any | None) -> None:
        self._next = int(position or 0)

    async def read(self) -> Batch | None:
        count = min(_BATCH, self.items - self._next)
        if count <= 0:
            return None
        await self._wait_until_due(self._next + count)
        items = self.generate(self._next, count)
        self._next += count
        return Batch(items, self._next)

    async def _wait_until_due(self, number: int) -> None:
        while self._began is None:
            if self.begin.exists():
                self._began = float(self.begin.read_text())
            else:
                await asyncio.sleep(_POLL_SECONDS)
        await asyncio.sleep(max(0.0, self._began + number / self.rate - time.time()))

    def generate(self, first: int, count: int) -> Columns:
        """Items ``first`` to ``first + count - 1``."""
        numbers = np.arange(first, first + count, dtype=np.uint64)
        trade = self._identity(numbers)
        step = 1e9 * self.speed / self.rate
        since = (trade * step).astype(np.int64)
        delayed = mix(self.seed, 4, trade) % np.uint64(10) == 0
        since -= np.where(delayed, (mix(self.seed, 5, trade) % np.uint64(MAX_DELAY)).astype(np.int64), 0)
        if self.late:
            late = (mix(self.seed, 6, trade) % np.uint64(400) == 0) & (since > _LATE_AFTER)
            since -= np.where(late, LATE_BY, 0)
        ts_event = START + self.offset + since
        return Columns(
            "trade",
            {
                "symbol": Dictionary(self._symbol(trade), self._names),
                "ts_event": ts_event,
                "ts_recv": ts_event + 1_000_000,
                "price": 100.0 + (mix(self.seed, 8, trade) % np.uint64(1000)).astype(np.float64) / 100.0,
                "size": (1 + mix(self.seed, 9, trade) % np.uint64(999)).astype(np.float64) / 100.0,
                "side": (1 + mix(self.seed, 10, trade) % np.uint64(2)).astype(np.int8),
                "trade_id": trade.astype(np.int64) + self.first_id,
            },
        )

    def _identity(self, numbers: Numbers) -> Numbers:
        """Which trade each item is: its own number, or that of an earlier item that it repeats."""
        back = 1 + mix(self.seed, 3, numbers) % np.uint64(_FAR_BACK)
        earlier = np.where(numbers >= back, numbers - back, 0)
        repeats = self._repeats(numbers) & (numbers >= back) & ~self._repeats(earlier)
        return np.where(repeats, earlier, numbers)

    def _repeats(self, numbers: Numbers) -> npt.NDArray[np.bool_]:
        flags: npt.NDArray[np.bool_] = mix(self.seed, 2, numbers) % np.uint64(20) == 0
        return flags

    def _symbol(self, trade: Numbers) -> npt.NDArray[np.uint32]:
        unit = (mix(self.seed, 7, trade) >> np.uint64(11)).astype(np.float64) / 2.0**53
        code = (unit * unit * self.symbols).astype(np.uint32)  # a few symbols trade most
        hot = (trade >= self.hot_from) & (trade < self.hot_to) & (trade % np.uint64(10) != 0)
        return np.where(hot, np.uint32(0), code)
