"""The channel between processes: a bounded Redis stream of items.

The same contract as the memory channel, for programs of a user's own at either end of a job. (Tasks do not use it: their
streams are appended and trimmed by the commit.) One producer and one consumer process; taking removes an item at once, so
what a consumer took before it died is gone: at most once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any, TypeVar

import redis.asyncio

from market_data_pipeline.channels.base import BaseChannel, Hysteresis, LevelCallback, Watermark
from market_data_pipeline.errors import ChannelClosed
from market_data_pipeline.packing import pack, unpack
from market_data_pipeline.store.client import Script, cancel_and_wait, until_done
from market_data_pipeline.store.keys import channel_keys

T = TypeVar("T")

_PUT, _TAKE = Script("channel_put"), Script("channel_take")
_CLOSED, _FULL = -1, -2
_FIRST_DELAY, _LAST_DELAY = 0.002, 0.05
_BLOCK_MS = 50


class StreamChannel(BaseChannel[T]):
    """A channel named ``name`` on the server behind ``client``.

    ``capacity`` in items (default 64). Items are anything msgpack can carry, records included; tuples arrive as lists. Both
    ends fire their own callbacks: a producer that crossed ``high`` watches the length until it is back at ``low``.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        name: str,
        capacity: int = 64,
        watermark: Watermark | None = None,
        on_high: LevelCallback | None = None,
        on_low: LevelCallback | None = None,
    ) -> None:
        super().__init__(capacity, watermark, on_high, on_low)
        self._client: Any = client
        self._stream, self._closed_flag = channel_keys(name)
        self._levels = Hysteresis(self.watermark)
        self._watching: asyncio.Task[None] | None = None
        self._taking: asyncio.Task[tuple[bool, int, list[bytes]]] | None = None
        self._taken: deque[T] = deque()

    async def put(self, item: T) -> None:
        blob = pack(item)
        delay = _FIRST_DELAY
        keys = [self._stream, self._closed_flag]
        while True:
            length = await until_done(lambda: _PUT.call(self._client, keys, [blob, self.capacity]), "put")
            if length == _CLOSED:
                raise ChannelClosed("put on a closed channel")
            if length != _FULL:
                break
            await asyncio.sleep(delay)
            delay = min(delay * 1.5, _LAST_DELAY)
        await self._note(length)
        if self._levels.above and self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    async def get_many(self, limit: int) -> list[T]:
        while not self._taken:
            if self._taking is None:
                self._taking = asyncio.create_task(self._take(limit))
            taking = self._taking
            try:
                closed, length, blobs = await asyncio.shield(
                    taking
                )  # a cancelled get leaves what was taken to the next
            finally:
                if taking.done():
                    self._taking = None
            self._taken.extend(unpack(blob) for blob in blobs)
            if blobs:
                await self._note(length)
            elif closed:
                raise ChannelClosed("the channel is closed and drained")
            else:
                await until_done(self._arrival, "take")
        return [self._taken.popleft() for _ in range(min(limit, len(self._taken)))]

    async def _take(self, limit: int) -> tuple[bool, int, list[bytes]]:
        keys = [self._stream, self._closed_flag]
        closed, length, *blobs = await until_done(lambda: _TAKE.call(self._client, keys, [limit]), "take")
        return bool(closed), int(length), blobs

    def close(self) -> Coroutine[Any, Any, None]:
        return self._close()

    async def _close(self) -> None:
        await until_done(lambda: self._client.set(self._closed_flag, "1"), "close")
        if self._watching is not None:
            await cancel_and_wait(self._watching)
            self._watching = None

    async def length(self) -> int:
        return int(await until_done(lambda: self._client.xlen(self._stream), "length"))

    async def _arrival(self) -> Any:
        """Until there is something to take, a moment at most: a close does not wake a blocked read."""
        return await self._client.execute_command(
            "XREAD", "COUNT", 1, "BLOCK", _BLOCK_MS, "STREAMS", self._stream, "0-0"
        )

    async def _note(self, length: int) -> None:
        crossing = self._levels.update(length)
        if crossing is not None:
            await self._fire(crossing)

    async def _watch(self) -> None:
        while self._levels.above:
            await asyncio.sleep(_LAST_DELAY)
            await self._note(await self.length())
        self._watching = None
