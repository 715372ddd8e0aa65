"""The in-memory channel: capacity, order, levels, closing, cancellation."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.channels.base import Hysteresis, Watermark, check_levels
from market_data_pipeline.channels.memory import Channel
from market_data_pipeline.errors import ChannelClosed, ConfigError


async def ticks(n: int = 5) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def drained(channel: Channel[Any]) -> list[Any]:
    return [item async for item in channel]


async def cancel(job: asyncio.Task[Any]) -> None:
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)


# --- levels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("high", "low"), [(1, 1), (1, 2), (0, 0), (5, -1), (-1, -2)])
def test_levels_that_make_no_sense_are_refused(high: int, low: int) -> None:
    with pytest.raises(ConfigError, match=f"high={high}, low={low}"):
        Watermark(high, low)


@pytest.mark.parametrize(("high", "low"), [(0.2, 0.3), (0.5, 0.5), (1.1, 0.1), (0.5, -0.1)])
def test_shares_that_make_no_sense_are_refused(high: float, low: float) -> None:
    with pytest.raises(ConfigError, match="0 <= low < high <= 1"):
        Watermark.of(100, high, low)


@given(st.integers(1, 10_000), st.floats(0, 1), st.floats(0, 1))
@settings(derandomize=True, max_examples=200, deadline=None)
def test_levels_by_share_always_fit_the_capacity(capacity: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    if low == high:
        return
    levels = Watermark.of(capacity, high, low)
    assert 0 <= levels.low < levels.high <= capacity
    assert levels.high <= max(1, capacity * high)
    assert levels.low <= capacity * low


def test_default_levels_are_75_and_25_percent() -> None:
    channel: Channel[int] = Channel()
    assert (channel.capacity, channel.watermark) == (2048, Watermark(1536, 512))


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_capacity_below_one_is_refused(capacity: int) -> None:
    with pytest.raises(ConfigError, match=f"capacity: {capacity}"):
        Channel(capacity)


def test_levels_over_the_capacity_are_refused() -> None:
    with pytest.raises(ConfigError, match="high=11 is over the capacity of 10"):
        check_levels(10, Watermark(11, 2))


@given(st.lists(st.integers(0, 20), max_size=200), st.integers(1, 20), st.integers(0, 19))
@settings(derandomize=True, max_examples=300, deadline=None)
def test_hysteresis_fires_in_turns_and_only_at_its_levels(lengths: list[int], high: int, low: int) -> None:
    if low >= high:
        return
    levels = Hysteresis(Watermark(high, low))
    fired = [(crossing, length) for length in lengths if (crossing := levels.update(length)) is not None]
    assert [name for name, _ in fired] == (["high", "low"] * len(fired))[: len(fired)]
    assert all(length >= high if name == "high" else length <= low for name, length in fired)
    # what must have fired, by looking for the next crossing from the last one
    expected, wanted = [], "high"
    for length in lengths:
        if (wanted == "high" and length >= high) or (wanted == "low" and length <= low):
            expected.append((wanted, length))
            wanted = "low" if wanted == "high" else "high"
    assert fired == expected


# --- order, capacity --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
async def test_items_come_out_in_order_once_and_capacity_holds(seed: int) -> None:
    rng = random.Random(seed)
    capacity = rng.randrange(1, 9)
    channel: Channel[int] = Channel(capacity)
    longest = 0

    async def produce() -> None:
        nonlocal longest
        for item in range(300):
            await channel.put(item)
            longest = max(longest, len(channel))
            await ticks(rng.randrange(3))
        channel.close()

    async def consume() -> list[int]:
        taken: list[int] = []
        while True:
            try:
                if rng.random() < 0.5:
                    taken.append(await channel.get())
                else:
                    limit = rng.randrange(1, 6)
                    many = await channel.get_many(limit)
                    assert 1 <= len(many) <= limit
                    taken += many
            except ChannelClosed:
                return taken
            await ticks(rng.randrange(3))

    _, taken = await asyncio.gather(produce(), consume())
    assert taken == list(range(300))
    assert longest <= capacity


async def test_many_producers_never_exceed_the_capacity() -> None:
    channel: Channel[int] = Channel(3)
    producers = [asyncio.create_task(channel.put(n)) for n in range(20)]
    taken = []
    for _ in range(20):
        await ticks()
        assert len(channel) <= 3
        taken.append(await channel.get())
    await asyncio.gather(*producers)
    assert sorted(taken) == list(range(20))
    assert await channel.length() == 0


async def test_many_consumers_get_each_item_once() -> None:
    channel: Channel[int] = Channel(4)
    consumers = [asyncio.create_task(drained(channel)) for _ in range(5)]
    for item in range(100):
        await channel.put(item)
    channel.close()
    taken = [item for part in await asyncio.gather(*consumers) for item in part]
    assert sorted(taken) == list(range(100))


async def test_get_many_takes_what_is_there_and_no_more_than_asked() -> None:
    channel: Channel[int] = Channel(10)
    for item in range(5):
        await channel.put(item)
    assert await channel.get_many(3) == [0, 1, 2]
    assert await channel.get_many(3) == [3, 4]


async def test_none_and_falsy_items_travel() -> None:
    channel: Channel[Any] = Channel(10)
    for item in (None, 0, "", [], False):
        await channel.put(item)
    channel.close()
    assert await drained(channel) == [None, 0, "", [], False]


# --- callbacks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("seed", range(4))
async def test_callbacks_fire_once_per_crossing(kind: str, seed: int) -> None:
    fired: list[str] = []

    async def note_async(name: str) -> None:
        await asyncio.sleep(0)
        fired.append(name)

    def callback(name: str) -> Any:
        return (lambda: note_async(name)) if kind == "async" else (lambda: fired.append(name))

    channel: Channel[int] = Channel(10, Watermark(7, 2), callback("high"), callback("low"))
    rng = random.Random(seed)
    expected: list[str] = []
    model: deque[int] = deque()
    above = False
    for step in range(400):
        if len(model) < 10 and (not model or rng.random() < (0.7 if step // 40 % 2 == 0 else 0.3)):
            await channel.put(step)
            model.append(step)
        else:
            assert await channel.get() == model.popleft()
        if not above and len(model) >= 7:
            expected.append("high")
            above = True
        elif above and len(model) <= 2:
            expected.append("low")
            above = False
        assert fired == expected
    assert len(expected) > 4


async def test_an_error_of_a_callback_reaches_the_caller_of_put() -> None:
    def refuse() -> None:
        raise RuntimeError("no more")

    channel: Channel[int] = Channel(2, Watermark(1, 0), on_high=refuse)
    with pytest.raises(RuntimeError, match="no more"):
        await channel.put(1)


# --- closing ----------------------------------------------------------------------------------------------------


async def test_close_lets_the_rest_be_drained_and_refuses_puts() -> None:
    channel: Channel[int] = Channel(5)
    for item in range(3):
        await channel.put(item)
    await channel.close()
    assert channel.closed
    with pytest.raises(ChannelClosed):
        await channel.put(9)
    assert await drained(channel) == [0, 1, 2]
    with pytest.raises(ChannelClosed):
        await channel.get()
    with pytest.raises(ChannelClosed):
        await channel.get_many(3)


async def test_close_works_without_await_and_twice() -> None:
    channel: Channel[int] = Channel(5)
    channel.close()
    channel.close()
    await channel.close()
    assert await drained(channel) == []


async def test_close_wakes_every_waiting_putter_and_getter() -> None:
    full: Channel[int] = Channel(1)
    await full.put(0)
    putters = [asyncio.create_task(full.put(n)) for n in range(3)]
    empty: Channel[int] = Channel(1)
    getters = [asyncio.create_task(empty.get()) for _ in range(3)]
    await ticks()
    full.close()
    empty.close()
    outcomes = await asyncio.wait_for(asyncio.gather(*putters, *getters, return_exceptions=True), 1)
    assert [type(outcome) for outcome in outcomes] == [ChannelClosed] * 6
    assert await drained(full) == [0]


# --- cancellation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ticks_before", [0, 1, 2, 3])
async def test_a_cancelled_get_loses_no_item_and_no_wakeup(ticks_before: int) -> None:
    channel: Channel[int] = Channel(4)
    first = asyncio.create_task(channel.get())
    second = asyncio.create_task(channel.get())
    await ticks()
    await channel.put(1)  # wakes the first
    await ticks(ticks_before)
    await cancel(first)
    if first.cancelled():
        assert await asyncio.wait_for(second, 1) == 1
    else:
        assert first.result() == 1
        await channel.put(2)
        assert await asyncio.wait_for(second, 1) == 2


@pytest.mark.parametrize("ticks_before", [0, 1, 2, 3])
async def test_a_cancelled_put_adds_nothing_and_loses_no_wakeup(ticks_before: int) -> None:
    channel: Channel[int] = Channel(1)
    await channel.put(0)
    first = asyncio.create_task(channel.put(1))
    second = asyncio.create_task(channel.put(2))
    await ticks()
    assert await channel.get() == 0  # wakes the first
    await ticks(ticks_before)
    await cancel(first)
    if first.cancelled():
        assert await asyncio.wait_for(channel.get(), 1) == 2
    else:
        assert await channel.get() == 1
        assert await asyncio.wait_for(channel.get(), 1) == 2
    await second


@pytest.mark.parametrize("seed", range(10))
async def test_random_cancellation_loses_and_repeats_nothing(seed: int) -> None:
    rng = random.Random(seed)
    channel: Channel[int] = Channel(rng.randrange(1, 4))
    done: list[int] = []
    taken: list[int] = []

    async def put(item: int) -> None:
        await channel.put(item)
        done.append(item)

    async def get() -> None:
        taken.append(await channel.get())

    jobs: list[asyncio.Task[None]] = []
    for item in range(200):
        jobs.append(asyncio.create_task(put(item)))
        if rng.random() < 0.8:
            jobs.append(asyncio.create_task(get()))
        await ticks(rng.randrange(3))
        if rng.random() < 0.3:
            rng.choice(jobs).cancel()
        assert len(channel) <= channel.capacity
    await ticks(10)
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
    channel.close()
    taken += await drained(channel)
    assert sorted(taken) == sorted(done)
    assert len(taken) == len(set(taken))
