"""The helper coroutines for low-level nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from market_data_pipeline.channels.memory import Channel
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.records import Trade, Window
from market_data_pipeline.runtime.coroutines import buffer_async, filter_async, map_async, tumbling_window


async def run(items: list[Any], helper: Any, *arguments: Any, **named: Any) -> list[Any]:
    source: Channel[Any] = Channel(1000)
    target: Channel[Any] = Channel(2)
    for item in items:
        await source.put(item)
    source.close()

    async def drain() -> list[Any]:
        return [item async for item in target]

    _, found = await asyncio.gather(helper(source, target, *arguments, **named), drain())
    assert target.closed
    return list(found)


async def triple_async(n: int) -> int:
    await asyncio.sleep(0)
    return n * 3


async def is_even_async(n: int) -> bool:
    await asyncio.sleep(0)
    return n % 2 == 0


@pytest.mark.parametrize("fn", [lambda n: n * 3, triple_async], ids=["sync", "async"])
async def test_map(fn: Any) -> None:
    assert await run(list(range(50)), map_async, fn) == [n * 3 for n in range(50)]


@pytest.mark.parametrize("fn", [lambda n: n % 2 == 0, is_even_async], ids=["sync", "async"])
async def test_filter(fn: Any) -> None:
    assert await run(list(range(51)), filter_async, fn) == list(range(0, 51, 2))


@pytest.mark.parametrize(("n", "size"), [(0, 3), (1, 3), (3, 3), (10, 3), (10, 1), (5, 100)])
async def test_buffer_makes_lists_and_a_shorter_last_one(n: int, size: int) -> None:
    assert await run(list(range(n)), buffer_async, size) == [
        list(range(start, min(start + size, n))) for start in range(0, n, size)
    ]


async def test_buffer_without_interval_keeps_a_short_list_until_the_end() -> None:
    source: Channel[int] = Channel(10)
    target: Channel[list[int]] = Channel(10)
    job = asyncio.create_task(buffer_async(source, target, 5))
    await source.put(1)
    await asyncio.sleep(0.02)
    assert len(target) == 0
    source.close()
    await job
    assert await target.get() == [1]


async def test_buffer_flushes_a_short_list_after_the_interval() -> None:
    source: Channel[int] = Channel(10)
    target: Channel[list[int]] = Channel(10)
    job = asyncio.create_task(buffer_async(source, target, 3, flush_interval=0.02))
    started = asyncio.get_running_loop().time()
    await source.put(1)
    await source.put(2)
    assert await asyncio.wait_for(target.get(), 2) == [1, 2]
    assert asyncio.get_running_loop().time() - started >= 0.019, "not before the interval is over"
    for item in (3, 4, 5, 6):
        await source.put(item)
    assert await asyncio.wait_for(target.get(), 2) == [3, 4, 5]
    assert await asyncio.wait_for(target.get(), 2) == [6]
    source.close()
    await job
    assert target.closed


async def test_buffer_refuses_a_size_below_one() -> None:
    with pytest.raises(ConfigError, match="max_items=0"):
        await buffer_async(Channel(), Channel(), 0)


def trade(seconds: float, symbol: str = "A") -> Trade:
    return Trade(symbol, int(seconds * 1e9), 0, seconds, 1.0)


async def test_tumbling_window_groups_by_key_and_event_time() -> None:
    trades = [trade(0.1), trade(0.2, "B"), trade(0.9), trade(1.5), trade(3.2, "B")]
    found = await run(trades, tumbling_window, "1s", key="symbol")
    second = 1_000_000_000
    assert all(isinstance(window, Window) for window in found)
    assert sorted(found) == [
        Window("A", 0, second, [trades[0], trades[2]]),
        Window("A", second, 2 * second, [trades[3]]),
        Window("B", 0, second, [trades[1]]),
        Window("B", 3 * second, 4 * second, [trades[4]]),
    ]


async def test_tumbling_window_takes_functions_and_waits_for_max_delay() -> None:
    events = [(1_000, "x"), (2_500, "y"), (1_900, "late but in time"), (9_000, "z"), (1_950, "too late")]
    found = await run(events, tumbling_window, 1_000, ts=lambda e: e[0], key=lambda e: 0, max_delay=1_000)
    assert [(w.ts_open, [name for _, name in w.items]) for w in found] == [
        (1_000, ["x", "late but in time"]), (2_000, ["y"]), (9_000, ["z"]),
    ]  # fmt: skip


def helpers(source: Channel[Any], target: Channel[Any], fail: Any) -> dict[str, Coroutine[Any, Any, None]]:
    return {
        "map": map_async(source, target, fail),
        "filter": filter_async(source, target, fail),
        "window": tumbling_window(source, target, "1s", ts=fail),
    }


@pytest.mark.parametrize(
    ("name", "kind"),
    [("map", "sync"), ("map", "async"), ("filter", "sync"), ("filter", "async"), ("window", "sync")],
)
async def test_an_error_comes_out_and_the_output_is_closed(name: str, kind: str) -> None:
    def fail(item: Any) -> Any:
        raise LookupError(f"bad {item}")

    async def fail_async(item: Any) -> Any:
        await asyncio.sleep(0)
        raise LookupError(f"bad {item}")

    source: Channel[Any] = Channel(5)
    target: Channel[Any] = Channel(5)
    await source.put(1)
    made = helpers(source, target, fail if kind == "sync" else fail_async)
    job = made.pop(name)
    for other in made.values():
        other.close()
    with pytest.raises(Exception, match="bad 1"):
        await job
    assert target.closed


@pytest.mark.parametrize("helper", [map_async, filter_async])
async def test_cancelling_a_helper_closes_its_output(helper: Any) -> None:
    source: Channel[Any] = Channel(5)
    target: Channel[Any] = Channel(5)
    job = asyncio.create_task(helper(source, target, lambda n: n))
    await asyncio.sleep(0)
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    assert job.cancelled()
    assert target.closed
