"""The async map: order, bounds, retries and failures, with answers that come when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.memory_job import until

from market_data_pipeline.errors import ConfigError, OperatorFailed
from market_data_pipeline.frame import Frame, columns_from_rows
from market_data_pipeline.operators.async_map import AsyncMap, all_of
from market_data_pipeline.operators.base import OnError, OperatorContext
from market_data_pipeline.records import Trade


class Impatient(AsyncMap):
    """Its pauses take no time; ``paused`` lists them."""

    def open(self, ctx: OperatorContext) -> None:
        super().open(ctx)
        self.paused: list[float] = []

    async def pause(self, seconds: float) -> None:
        self.paused.append(seconds)


def started(fn: Callable[[Any], Awaitable[Any]], on_error: OnError = "dead_letter", **options: Any) -> Impatient:
    operator = Impatient(fn, **options)
    operator.open(OperatorContext("ask", on_error=on_error))
    return operator


class Outside:
    """Answers when ``turns`` says: the n-th item after so many turns of the loop. Notes how many are asked at once."""

    def __init__(self, turns: list[int]) -> None:
        self.turns = turns
        self.asked = self.most = 0
        self.answered: list[int] = []

    async def ask(self, item: int) -> int:
        self.asked += 1
        self.most = max(self.most, self.asked)
        for _ in range(self.turns[item % len(self.turns)]):
            await asyncio.sleep(0)
        self.asked -= 1
        self.answered.append(item * 10)
        return item * 10


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 6), st.booleans(), st.integers(0, 40))
@settings(derandomize=True, max_examples=200, deadline=None)
def test_all_answers_in_order_and_never_more_at_once(turns: list[int], concurrency: int, ordered: bool, n: int) -> None:
    async def check() -> None:
        outside = Outside(turns)
        operator = started(outside.ask, concurrency=concurrency, ordered=ordered)
        frame = await operator.prepare(Frame(list(range(n)), mark=7, born=5, port="x"))
        assert frame.items == ([10 * i for i in range(n)] if ordered else outside.answered)
        assert sorted(outside.answered) == [10 * i for i in range(n)]
        assert frame[1:] == (7, 5, "x")
        assert outside.most == min(concurrency, n)
        assert list(operator.process(frame)) == [frame]

    asyncio.run(check())


async def test_frames_prepared_side_by_side_share_the_places() -> None:
    outside = Outside([3])
    operator = started(outside.ask, concurrency=4)
    frames = await all_of(operator.prepare(Frame([i])) for i in range(20))
    assert [frame.items for frame in frames] == [[10 * i] for i in range(20)]
    assert outside.most == 4


async def test_the_example_of_the_module() -> None:
    gates = {item: asyncio.Event() for item in (1, 2, 3)}
    asked: list[int] = []

    async def lookup(item: int) -> str:
        asked.append(item)
        await gates[item].wait()
        return f"lookup({item})"

    for ordered in (True, False):
        asked.clear()
        for gate in gates.values():
            gate.clear()
        preparing = asyncio.create_task(started(lookup, concurrency=2, ordered=ordered).prepare(Frame([1, 2, 3])))
        for item in (2, 3, 1):
            await until(lambda item=item: item in asked)  # type: ignore[misc]
            assert asked == ([1, 2] if item == 2 else [1, 2, 3])
            gates[item].set()
        order = [1, 2, 3] if ordered else [2, 3, 1]
        assert (await preparing).items == [f"lookup({item})" for item in order]


async def test_a_failure_is_repeated_after_growing_random_pauses_and_then_rejected() -> None:
    tries: list[int] = []

    async def flaky(item: int) -> int:
        tries.append(item)
        if item == 2 or (item == 1 and tries.count(1) < 3):
            raise ConnectionError("refused")
        return item

    operator = started(flaky, retries=3, backoff="100ms", backoff_max="300ms")
    frame = await operator.prepare(Frame([1, 2, 3]))
    assert frame.items == [1, 3]
    assert [tries.count(item) for item in (1, 2, 3)] == [3, 4, 1]
    assert [(letter.item, letter.reason) for letter in operator.ctx.dead_letters] == [(2, "ConnectionError: refused")]
    assert operator.ctx.counts == {"retried": 5, "dead_letter": 1}
    assert len(operator.paused) == 5
    assert all(0 <= pause <= 0.3 for pause in operator.paused)


async def test_one_without_an_answer_harms_no_neighbour() -> None:
    async def ask(item: int) -> int:
        if item == 2:
            await asyncio.Event().wait()
        return item

    operator = started(ask, timeout="1ms", retries=1)
    assert (await operator.prepare(Frame([1, 2, 3]))).items == [1, 3]
    (letter,) = operator.ctx.dead_letters
    assert letter.reason == "TimeoutError: no result within 0.001 s"
    assert operator.ctx.counts["retried"] == 1


async def test_the_functions_own_timeout_keeps_its_message() -> None:
    async def ask(item: int) -> int:
        raise TimeoutError("the server said so")

    operator = started(ask, retries=0, on_error="skip")
    assert (await operator.prepare(Frame([1]))).items == []
    assert operator.ctx.counts == {"skipped": 1}
    failing = started(ask, retries=0, on_error="fail")
    with pytest.raises(OperatorFailed, match="the server said so"):
        await failing.prepare(Frame([1, 2, 3]))


async def test_when_it_is_cancelled_nothing_goes_on() -> None:
    ended: list[int] = []

    async def ask(item: int) -> int:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(item)
        return item

    preparing = asyncio.create_task(started(ask, concurrency=3).prepare(Frame([1, 2, 3, 4])))
    for _ in range(5):
        await asyncio.sleep(0)
    preparing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await preparing
    assert sorted(ended) == [1, 2, 3]


async def test_columns_come_as_records() -> None:
    trade = Trade("A", 1, 0, 1.0, 1.0)

    async def symbol(item: Trade) -> str:
        return item.symbol

    assert (await started(symbol).prepare(Frame(columns_from_rows([trade])[0]))).items == ["A"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fn": 5}, "async_map: 5 is not a function"),
        ({"concurrency": 0}, "concurrency: 0 is not allowed; a whole number from 1 on"),
        ({"retries": -1}, "retries: -1 is not allowed; a whole number from 0 on"),
        ({"timeout": 0}, "timeout: 0 must be greater than zero"),
        ({"backoff": "0s"}, "backoff: '0s' must be greater than zero"),
    ],
)
def test_mistakes_in_the_arguments(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        AsyncMap(**{"fn": asyncio.sleep, **options})
