"""Every order of a cancellation and what it races with: no item is lost or comes twice, nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from itertools import permutations, product
from typing import Any

import pytest
import uvloop

from market_data_pipeline.channels.base import Watermark
from market_data_pipeline.channels.memory import Channel
from market_data_pipeline.errors import ChannelClosed

LOOPS: dict[str, Callable[[Coroutine[Any, Any, None]], None]] = {"asyncio": asyncio.run, "uvloop": uvloop.run}
STEPS = range(4)
"""Turns of the loop between two events: enough to pass the turn, the waiting, the wake-up and the return."""
SOON = 5.0


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    return LOOPS[request.param]


async def turns(n: int) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def settle(*jobs: asyncio.Task[Any]) -> None:
    await asyncio.wait_for(asyncio.gather(*jobs, return_exceptions=True), SOON)


def got(*jobs: asyncio.Task[Any]) -> list[Any]:
    return [job.result() for job in jobs if job.done() and not job.cancelled() and job.exception() is None]


def run_all(run: Any, race: Callable[..., Coroutine[Any, Any, None]], *choices: Iterable[Any]) -> None:
    """``race`` with every combination of ``choices``, one after another, on one loop."""

    async def every() -> None:
        for chosen in product(*choices):
            await race(*chosen)

    run(every())


def test_a_get_cancelled_at_any_moment_around_a_put(run: Any) -> None:
    async def race(before: int, between: int, first: str) -> None:
        channel: Channel[int] = Channel(4)
        getter = asyncio.create_task(channel.get())
        await turns(before)
        if first == "cancel":
            getter.cancel()
            await turns(between)
            await channel.put(1)
        else:
            await channel.put(1)
            await turns(between)
            getter.cancel()
        await settle(getter)
        assert got(getter) + list(channel._items) == [1]
        assert not channel._getters

    run_all(run, race, STEPS, STEPS, ("cancel", "put"))


def test_a_put_cancelled_at_any_moment_around_a_get(run: Any) -> None:
    async def race(before: int, between: int, first: str) -> None:
        channel: Channel[int] = Channel(1)
        await channel.put(1)
        putter = asyncio.create_task(channel.put(2))
        await turns(before)
        taken = []
        if first == "cancel":
            putter.cancel()
            await turns(between)
            taken.append(await channel.get())
        else:
            taken.append(await channel.get())
            await turns(between)
            putter.cancel()
        await settle(putter)
        assert taken + list(channel._items) == ([1] if putter.cancelled() else [1, 2])
        assert not channel._putters

    run_all(run, race, STEPS, STEPS, ("cancel", "get"))


@pytest.mark.parametrize("order", [*permutations(("put", "cancel one", "cancel two"))])
def test_of_three_getters_the_one_that_is_left_gets_the_item(run: Any, order: tuple[str, ...]) -> None:
    async def race(*waits: int) -> None:
        channel: Channel[int] = Channel(4)
        one, two, three = jobs = [asyncio.create_task(channel.get()) for _ in range(3)]
        for event, wait in zip(order, waits, strict=True):
            await turns(wait)
            if event == "put":
                await channel.put(7)
            else:
                (one if event == "cancel one" else two).cancel()
        await settle(one, two)
        if not got(one, two):
            await asyncio.wait_for(asyncio.wait({three}), SOON)
        assert got(*jobs) == [7]
        await channel.close()
        await settle(three)

    run_all(run, race, STEPS, STEPS, STEPS)


@pytest.mark.parametrize("order", [*permutations(("get", "cancel one", "cancel two"))])
def test_of_three_putters_the_one_that_is_left_gets_the_room(run: Any, order: tuple[str, ...]) -> None:
    async def race(*waits: int) -> None:
        channel: Channel[int] = Channel(1)
        await channel.put(0)
        one, two, three = jobs = [asyncio.create_task(channel.put(n)) for n in (1, 2, 3)]
        for event, wait in zip(order, waits, strict=True):
            await turns(wait)
            if event == "get":
                assert await channel.get() == 0
            else:
                (one if event == "cancel one" else two).cancel()
        await settle(one, two)
        if not got(one, two):
            await asyncio.wait_for(asyncio.wait({three}), SOON)
        done = [n for n, job in enumerate(jobs, 1) if job.done() and not job.cancelled()]
        assert len(done) == 1
        assert await channel.get() == done[0]
        three.cancel()
        await settle(three)

    run_all(run, race, STEPS, STEPS, STEPS)


@pytest.mark.parametrize("order", [*permutations(("put", "cancel", "close"))])
def test_a_cancelled_get_beside_a_close(run: Any, order: tuple[str, ...]) -> None:
    async def race(*waits: int) -> None:
        channel: Channel[int] = Channel(4)
        getter, other = asyncio.create_task(channel.get()), asyncio.create_task(channel.get())
        refused = False
        for event, wait in zip(order, waits, strict=True):
            await turns(wait)
            if event == "cancel":
                getter.cancel()
            elif event == "close":
                channel.close()
            else:
                try:
                    await channel.put(1)
                except ChannelClosed:
                    refused = True
        await settle(getter, other)
        left = [item async for item in channel]
        assert got(getter, other) + left == ([] if refused else [1])

    run_all(run, race, STEPS, STEPS, STEPS)


def test_a_get_many_that_times_out_takes_nothing(run: Any) -> None:
    async def race(before: int, between: int) -> None:
        channel: Channel[int] = Channel(8)
        many = asyncio.create_task(channel.get_many(3))
        await turns(before)
        for n in range(3):
            await channel.put(n)
        await turns(between)
        many.cancel()
        await settle(many)
        assert [n for taken in got(many) for n in taken] + list(channel._items) == [0, 1, 2]

    run_all(run, race, STEPS, STEPS)


def test_waiters_that_gave_up_leave_nothing_behind(run: Any) -> None:
    async def give_up() -> None:
        empty: Channel[int] = Channel(1)
        full: Channel[int] = Channel(1)
        await full.put(0)
        for wait in [*STEPS] * 10:
            jobs = [asyncio.create_task(empty.get()), asyncio.create_task(full.put(1))]
            await turns(wait)
            for job in jobs:
                job.cancel()
            await settle(*jobs)
        assert not empty._getters
        assert not full._putters

    run(give_up())


def test_a_coroutine_that_is_closed_while_it_was_woken_hands_the_wake_up_on(run: Any) -> None:
    async def close_one() -> None:
        channel: Channel[int] = Channel(4)
        first = channel.get()
        first.send(None)  # past the turn
        first.send(None)  # waits
        second = asyncio.create_task(channel.get())
        await turns(3)
        await channel.put(1)  # wakes the first, which nobody runs any more
        first.close()
        assert await asyncio.wait_for(second, SOON) == 1

    run(close_one())


def test_items_that_on_low_gave_back_wake_who_waits(run: Any) -> None:
    """While the callback runs the channel looks empty, so another one may have begun to wait."""

    async def give_back(by_cancelling: bool) -> None:
        entered, refuse = asyncio.Event(), asyncio.Event()
        failing = True

        async def on_low() -> None:
            if failing:
                entered.set()
                await refuse.wait()
                raise RuntimeError("cannot resume")

        channel: Channel[int] = Channel(4, Watermark(2, 0), on_low=on_low)
        await channel.put(1)
        await channel.put(2)
        first = asyncio.create_task(channel.get_many(2))
        await asyncio.wait_for(entered.wait(), SOON)
        waiting = [asyncio.create_task(channel.get()) for _ in range(2)]
        await turns(3)
        failing = False
        if by_cancelling:
            first.cancel()
        else:
            refuse.set()
        await settle(first)
        assert [await asyncio.wait_for(job, SOON) for job in waiting] == [1, 2]

    for by_cancelling in (False, True):
        run(give_back(by_cancelling))


def test_a_put_cancelled_in_on_high_has_put_its_item_once(run: Any) -> None:
    async def cancel_in_callback() -> None:
        entered = asyncio.Event()

        async def on_high() -> None:
            entered.set()
            await asyncio.Event().wait()

        channel: Channel[int] = Channel(4, Watermark(1, 0), on_high=on_high)
        putter = asyncio.create_task(channel.put(1))
        await asyncio.wait_for(entered.wait(), SOON)
        putter.cancel()
        await settle(putter)
        assert putter.cancelled()
        assert list(channel._items) == [1]

    run(cancel_in_callback())


def test_those_who_wait_already_go_first(run: Any) -> None:
    """A producer that comes back at once does not overtake those that wait for room."""

    async def queue() -> None:
        channel: Channel[str] = Channel(1)
        await channel.put("first")
        waiting = [asyncio.create_task(channel.put(name)) for name in ("a", "b")]
        await turns(3)
        waiting.append(asyncio.create_task(channel.put("late")))
        taken = []
        for _ in range(4):
            taken.append(await asyncio.wait_for(channel.get(), SOON))
            await turns(2)
        assert taken == ["first", "a", "b", "late"]
        await settle(*waiting)

    run(queue())
