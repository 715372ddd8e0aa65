"""A clock for many sleepers at once: time stands still while anybody can run, and then goes on to the next one's time."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")
_TURNS = 50
"""Turns of the event loop in which everybody who can run has run."""


class SteppedClock:
    """Implements ``market_data_pipeline.clock.Clock``; runs only inside :meth:`drive`."""

    def __init__(self) -> None:
        self.elapsed = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def time_ns(self) -> int:
        return round(self.elapsed * 1e9)

    def monotonic(self) -> float:
        return self.elapsed

    def computed(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.elapsed + seconds, next(self._numbers), woken))
        await woken

    async def drive(self, work: Awaitable[T]) -> T:
        """The result of ``work``, with time going on as those who sleep want it."""
        job = asyncio.ensure_future(work)
        while True:
            for _ in range(_TURNS):
                await asyncio.sleep(0)
                if job.done():
                    return job.result()
            assert self._sleepers, "everybody waits, and nobody for the clock"
            self.elapsed, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)
