"""The one clock, injected wherever time matters; tests give a fake."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Wall time in nanoseconds since the epoch (UTC), monotonic seconds, seconds that this thread has computed, and a sleep
    that a fake can drive."""

    def time_ns(self) -> int: ...

    def monotonic(self) -> float: ...

    def computed(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's clock."""

    def time_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()

    def computed(self) -> float:
        return time.thread_time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


SYSTEM_CLOCK = SystemClock()
