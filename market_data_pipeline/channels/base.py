"""The channel contract, and the levels that drive backpressure.

A channel has a capacity that is never exceeded. Its levels fire once per crossing: ``on_high`` when its length reaches
``high`` from below, ``on_low`` when it comes back to ``low``; in between nothing fires (hysteresis).
"""

from __future__ import annotations

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from types import coroutine
from typing import Any, Generic, Literal, Self, TypeVar

from market_data_pipeline.errors import ChannelClosed, ConfigError

__all__ = [
    "BaseChannel",
    "ChannelClosed",
    "Hysteresis",
    "LevelCallback",
    "Waiters",
    "Watermark",
    "turn",
    "wait_on",
    "wake_one",
]

T = TypeVar("T")
LevelCallback = Callable[[], Any] | Callable[[], Awaitable[Any]]
"""Called without arguments when a level is crossed; may be async. What it raises reaches the caller of put or get."""

DEFAULT_CAPACITY = 2048


@dataclass(frozen=True)
class Watermark:
    """The levels of a channel, in items: ``0 <= low < high``. (Not the event-time watermark.)"""

    high: int
    low: int

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise ConfigError(f"levels: high={self.high}, low={self.low}; needed: 0 <= low < high")

    @classmethod
    def of(cls, capacity: int, high_pct: float = 0.75, low_pct: float = 0.25) -> Watermark:
        """Levels as shares of ``capacity``."""
        if not 0 <= low_pct < high_pct <= 1:
            raise ConfigError(f"levels: high {high_pct}, low {low_pct}; needed: 0 <= low < high <= 1")
        high = max(1, int(capacity * high_pct))
        return cls(high, min(int(capacity * low_pct), high - 1))


class Hysteresis:
    """Turns lengths into crossings. Pure."""

    __slots__ = ("above", "levels")

    def __init__(self, levels: Watermark) -> None:
        self.levels = levels
        self.above = False

    def update(self, length: int) -> Literal["high", "low"] | None:
        """The crossing that ``length`` makes, if any."""
        if not self.above and length >= self.levels.high:
            self.above = True
            return "high"
        if self.above and length <= self.levels.low:
            self.above = False
            return "low"
        return None


def check_levels(capacity: int, watermark: Watermark | None) -> Watermark:
    """The levels to use, ``high`` at most ``capacity``. Raises ``ConfigError``."""
    if capacity < 1:
        raise ConfigError(f"capacity: {capacity} must be at least 1")
    levels = watermark or Watermark.of(capacity)
    if levels.high > capacity:
        raise ConfigError(f"levels: high={levels.high} is over the capacity of {capacity}")
    return levels


class BaseChannel(ABC, Generic[T]):
    """What every channel promises.

    One producer side and one consumer side; items come out in the order they went in, each once. After ``close`` a
    ``put`` raises :class:`ChannelClosed`; ``get`` goes on until the channel is drained and then raises it too.
    """

    capacity: int
    watermark: Watermark

    def __init__(
        self, capacity: int, watermark: Watermark | None, on_high: LevelCallback | None, on_low: LevelCallback | None
    ) -> None:
        self.watermark = check_levels(capacity, watermark)
        self.capacity = capacity
        self._callbacks = {"high": on_high, "low": on_low}

    @abstractmethod
    async def put(self, item: T) -> None:
        """Append ``item``; waits while the channel is full."""

    @abstractmethod
    async def get_many(self, limit: int) -> list[T]:
        """At least one and at most ``limit`` items, whatever is there; waits while there is none."""

    @abstractmethod
    def close(self) -> Awaitable[None]:
        """No more puts. Closing twice is allowed."""

    @abstractmethod
    async def length(self) -> int:
        """How many items wait."""

    async def get(self) -> T:
        """The oldest item; waits while there is none."""
        return (await self.get_many(1))[0]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            return await self.get()
        except ChannelClosed:
            raise StopAsyncIteration from None

    async def _fire(self, crossing: str) -> None:
        callback = self._callbacks[crossing]
        if callback is not None:
            result = callback()
            if inspect.isawaitable(result):
                await result


Waiters = deque[asyncio.Future[None]]
"""Those of one side that wait, the longest waiting first."""


@coroutine
def turn() -> Generator[None, None, None]:
    """Let everything else that is ready run once."""
    yield


async def wait_on(waiters: Waiters) -> None:
    """Wait until one of the other side wakes this waiter; hands the wake-up on when it ends after that came."""
    future: asyncio.Future[None] = asyncio.Future(loop=asyncio.get_running_loop())
    waiters.append(future)
    try:
        await future
    except BaseException:  # cancelled, or closed with its coroutine
        if future in waiters:
            waiters.remove(future)
        elif not future.cancelled():
            wake_one(waiters)
        raise


def wake_one(waiters: Waiters) -> None:
    """Wake the longest waiting one."""
    while waiters:
        future = waiters.popleft()
        if not future.done():
            future.set_result(None)
            return
