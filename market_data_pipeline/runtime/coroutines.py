"""Helper coroutines for low-level nodes: they read a channel until it ends, write to another, and close what they feed.

Each takes sync and async functions. The logic is that of the operators of the same name. An exception of the function
comes out of the helper (and fails its node); the output is closed all the same.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from market_data_pipeline.channels.base import BaseChannel
from market_data_pipeline.durations import Duration, parse_duration, positive_duration
from market_data_pipeline.errors import ChannelClosed
from market_data_pipeline.frame import END, Frame, to_rows
from market_data_pipeline.operators.base import OperatorContext
from market_data_pipeline.operators.batch import Batcher
from market_data_pipeline.operators.window import TumblingWindow
from market_data_pipeline.runtime.progress import SourceWatermark

AnyChannel = BaseChannel[Any]
Fn = Callable[[Any], Any] | Callable[[Any], Awaitable[Any]]


async def _call(fn: Fn, item: Any) -> Any:
    result = fn(item)
    return await result if inspect.isawaitable(result) else result


async def map_async(in_ch: AnyChannel, out_ch: AnyChannel, fn: Fn) -> None:
    """Put ``fn(item)`` for each item of ``in_ch``."""
    try:
        async for item in in_ch:
            await out_ch.put(await _call(fn, item))
    finally:
        await out_ch.close()


async def filter_async(in_ch: AnyChannel, out_ch: AnyChannel, predicate: Fn) -> None:
    """Put each item of ``in_ch`` for which ``predicate(item)`` is true."""
    try:
        async for item in in_ch:
            if await _call(predicate, item):
                await out_ch.put(item)
    finally:
        await out_ch.close()


async def buffer_async(
    in_ch: AnyChannel, out_ch: AnyChannel, max_items: int, flush_interval: float | None = None
) -> None:
    """Put lists of up to ``max_items`` items. A list that is not full goes out ``flush_interval`` seconds after its first
    item came (``None``: only at the end)."""
    batcher = Batcher(max_items)
    batcher.open(OperatorContext("buffer"))
    loop = asyncio.get_running_loop()
    deadline: float | None = None
    try:
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    items = await in_ch.get_many(max_items)
            except TimeoutError:
                frames, deadline = batcher.flush(), None
            except ChannelClosed:
                await _put_all(out_ch, batcher.flush())
                return
            else:
                frames = batcher.take(items)
                if not batcher.waiting:
                    deadline = None
                elif frames or deadline is None:
                    deadline = None if flush_interval is None else loop.time() + flush_interval
            await _put_all(out_ch, frames)
    finally:
        await out_ch.close()


async def tumbling_window(
    in_ch: AnyChannel,
    out_ch: AnyChannel,
    size: Duration,
    ts: str | Callable[[Any], int] = "ts_event",
    key: str | Callable[[Any], Any] | None = None,
    max_delay: Duration = 0,
) -> None:
    """Put a :class:`~market_data_pipeline.records.Window` per key and window of ``size`` on event time.

    ``ts`` and ``key`` as for :class:`TumblingWindow`; events may come up to ``max_delay`` out of order, later ones are
    dropped.
    """
    window = TumblingWindow(positive_duration(size, "size"), ts, key)
    window.open(OperatorContext("tumbling_window", on_error="fail"))
    watermark = SourceWatermark(parse_duration(max_delay, "max_delay"))
    try:
        async for item in in_ch:
            mark = watermark.observe([{"ts_event": window.time_of(item)}])
            await _put_all(out_ch, window.process(Frame([item])))
            await _put_all(out_ch, window.advance(mark))
        await _put_all(out_ch, window.advance(END))
    finally:
        await out_ch.close()


async def _put_all(out_ch: AnyChannel, frames: Any) -> None:
    for frame in frames:
        for item in to_rows(frame.items):
            await out_ch.put(item)
