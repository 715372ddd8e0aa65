"""A clock that stands until a test says otherwise: for real sockets, whose bytes take a time that nobody knows."""

from __future__ import annotations

import asyncio
import time

_PACE = 0.001
"""Seconds. Shorter sleeps are the pace of requests at a venue: their time passes also while the clock stands."""
_LOOK = 0.005
"""Seconds. Nobody sleeps longer: the time that a sleeper waits for may come at any moment."""


class HandClock:
    """Implements ``market_data_pipeline.clock.Clock``. Monotonic time moves by ``advance``, and by itself from ``go`` on.
    Sleepers wake early and look."""

    def __init__(self) -> None:
        self._elapsed = 0.0
        self._since: float | None = None

    def go(self) -> None:
        self._since = time.monotonic()

    def advance(self, seconds: float) -> None:
        self._elapsed += seconds

    def time_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return self._elapsed + (0.0 if self._since is None else time.monotonic() - self._since)

    def computed(self) -> float:
        return time.thread_time()

    async def sleep(self, seconds: float) -> None:
        if self._since is None and seconds < _PACE:
            self.advance(seconds)
        await asyncio.sleep(min(seconds, _LOOK))
