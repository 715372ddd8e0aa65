"""A clock that tests drive: time moves only in ``sleep``, ``advance`` and ``compute``. ``slept`` lists what was asked for."""

from __future__ import annotations

import asyncio


class FakeClock:
    """Implements ``market_data_pipeline.clock.Clock``. A sleep is over at once, with the time moved on by it."""

    def __init__(self, now_ns: int = 1_767_364_200_000_000_000) -> None:
        self._start_ns = now_ns
        self.elapsed = 0.0
        self.busy = 0.0
        self.slept: list[float] = []

    def time_ns(self) -> int:
        return self._start_ns + round(self.elapsed * 1e9)

    def monotonic(self) -> float:
        return self.elapsed

    def computed(self) -> float:
        return self.busy

    def advance(self, seconds: float) -> None:
        self.elapsed += seconds

    def compute(self, seconds: float) -> None:
        """Time in which the thread works."""
        self.elapsed += seconds
        self.busy += seconds

    async def sleep(self, seconds: float) -> None:
        assert seconds >= 0, "a sleep cannot be negative"
        self.slept.append(seconds)
        self.elapsed += seconds
        await asyncio.sleep(0)
