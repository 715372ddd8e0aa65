"""The channel inside a process."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Generator
from typing import TypeVar

from market_data_pipeline.channels.base import (
    DEFAULT_CAPACITY,
    BaseChannel,
    LevelCallback,
    Waiters,
    Watermark,
    turn,
    wait_on,
    wake_one,
)
from market_data_pipeline.errors import ChannelClosed

T = TypeVar("T")


class _Done(Awaitable[None]):
    """Awaitable that is done already, so that ``close()`` works with and without ``await``."""

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


class Channel(BaseChannel[T]):
    """Bounded in-memory channel.

    ``capacity`` in items (default 2048); ``watermark`` defaults to 75 % and 25 % of it. ``on_high`` and ``on_low``, sync or
    async, fire once per crossing, after the item was put or taken. ``puts`` counts the items ever put. All calls from one
    event loop.

    A ``put`` or ``get`` that is cancelled while it waits has done nothing. When an async ``on_high`` raises or is cancelled
    the item is in the channel already. When ``on_low`` does, the items taken go back to the front, and stand over the
    capacity if others were put meanwhile.
    """

    def __init__(
        self,
        capacity: int = DEFAULT_CAPACITY,
        watermark: Watermark | None = None,
        on_high: LevelCallback | None = None,
        on_low: LevelCallback | None = None,
    ) -> None:
        super().__init__(capacity, watermark, on_high, on_low)
        self._items: deque[T] = deque()
        self._getters: Waiters = deque()
        self._putters: Waiters = deque()
        self._closed = False
        self.puts = 0
        # the hysteresis is spelled out here rather than called: this is the hot path of coroutine nodes
        self._above = False
        self._high = self.watermark.high
        self._low = self.watermark.low

    def __len__(self) -> int:
        return len(self._items)

    async def length(self) -> int:
        return len(self._items)

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    async def put(self, item: T) -> None:
        items = self._items
        # the other side is often one turn of the loop away, which is cheaper than a future; who waits already goes first
        if len(items) >= self.capacity and not self._putters and not self._closed:
            await turn()
        while len(items) >= self.capacity and not self._closed:
            await wait_on(self._putters)
        if self._closed:
            raise ChannelClosed("put on a closed channel")
        items.append(item)
        self.puts += 1
        if self._getters:
            wake_one(self._getters)
        if len(items) >= self._high and not self._above:
            self._above = True
            await self._fire("high")

    async def get(self) -> T:
        items = self._items
        if not items and not self._getters and not self._closed:
            await turn()
        while not items:
            if self._closed:
                raise ChannelClosed("the channel is closed and drained")
            await wait_on(self._getters)
        item = items.popleft()
        if self._putters:
            wake_one(self._putters)
        if self._above and len(items) <= self._low:
            await self._fire_low([item])
        return item

    async def get_many(self, limit: int) -> list[T]:
        taken = [await self.get()]
        items = self._items
        while items and len(taken) < limit:
            taken.append(items.popleft())
            if self._putters:
                wake_one(self._putters)
        if self._above and len(items) <= self._low:
            await self._fire_low(taken)
        return taken

    async def _fire_low(self, taken: list[T]) -> None:
        """Fire; when the callback raises or is cancelled, the items go back, for the caller never got them."""
        self._above = False
        try:
            await self._fire("low")
        except BaseException:
            self._items.extendleft(reversed(taken))
            for _ in taken:
                wake_one(self._getters)
            raise

    def close(self) -> Awaitable[None]:
        self._closed = True
        for waiters in (self._getters, self._putters):
            while waiters:
                wake_one(waiters)
        return _Done()
