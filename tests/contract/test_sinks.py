"""One suite for every sink: what stands outside after crashes, repetitions, outages and takeovers.

A sink is driven as a task drives it: ``write``, ``prepare``, the commit (here: keeping what ``prepare`` returned) and
``committed``. A crash is an instance that is let go between two of these, and another one that opens with the state of the last
commit, under the next epoch and a larger generation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tools.sink_case import SinkCase
from tools.sink_cases import CASES

from market_data_pipeline import Batcher, Trade
from market_data_pipeline.errors import SinkError
from market_data_pipeline.frame import Frame, columns_from_rows
from market_data_pipeline.operators.base import OperatorContext
from market_data_pipeline.sinks.base import Sink, SinkContext

START = 1_767_364_200_000_000_000


def trades(first: int, last: int) -> list[Trade]:
    """Trades ``first`` to ``last - 1``, of three symbols."""
    sides = ("buy", "sell", "")
    return [
        Trade(f"S{i % 3}", START + i * 1_000_000, 7, 100.0 + i / 100, 1.5, sides[i % 3], i, venue="x")
        for i in range(first, last)
    ]


def expected(*ranges: tuple[int, int]) -> Counter[Any]:
    return Counter((t.symbol, t.trade_id, t.price, t.ts_event) for r in ranges for t in trades(*r))


class Owner:
    """The process that has the task: one sink, opened behind the last commit."""

    def __init__(self, world: World, sink: Sink, generation: int) -> None:
        self.world, self.sink, self.generation = world, sink, generation
        self.rejected: list[Any] = []

    async def open(self) -> Owner:
        self.sink.check()
        await self.sink.open(self.context(), self.world.state)
        return self

    def context(self) -> SinkContext:
        def reject(item: Any, reason: str) -> None:
            self.rejected.append((item, reason))

        owner = f"{self.generation:032x}"
        return SinkContext("out", "job0job0", 3, self.generation, owner, 1_000_000 + self.generation, reject)

    async def write(self, items: list[Trade], as_columns: bool = False) -> None:
        frame = Frame(columns_from_rows(items)[0] if as_columns else list(items))
        await self.sink.write([frame])

    async def prepare(self, ended: bool = False) -> Any:
        return await self.sink.prepare(ended)

    async def step(self, items: list[Trade], ended: bool = False, as_columns: bool = False) -> None:
        """A whole step."""
        await self.write(items, as_columns)
        self.world.state = await self.prepare(ended)
        self.world.committed += len(items)
        await self.sink.committed()


class World:
    """What outlives processes: the place, and what was committed."""

    def __init__(self, case: SinkCase) -> None:
        self.case = case
        self.state: Any = None
        self.committed = 0
        self.owners: list[Owner] = []

    async def owner(self) -> Owner:
        """The next owner of the task; the one before is dead, or a zombie."""
        owner = Owner(self, self.case.sink().fresh(), len(self.owners) + 1)
        self.owners.append(owner)
        return await owner.open()

    async def end(self) -> None:
        """The task ends: whatever is staged is published."""
        owner = await self.owner()
        await owner.step([], ended=True)

    def found(self) -> Counter[Any]:
        return Counter(map(tuple, self.case.read()))


@pytest.fixture(params=sorted(CASES))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SinkCase]:
    made = CASES[request.param](tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
async def world(case: SinkCase) -> AsyncIterator[World]:
    made = World(case)
    yield made
    for owner in made.owners:
        await owner.sink.close()


@pytest.mark.parametrize("as_columns", [False, True])
async def test_what_was_written_is_there(world: World, as_columns: bool) -> None:
    owner = await world.owner()
    await owner.step(trades(0, 100), as_columns=as_columns)
    await owner.step(trades(100, 150), ended=True, as_columns=as_columns)
    assert world.found() == expected((0, 150))
    assert owner.rejected == []


async def test_a_restart_goes_on(world: World) -> None:
    for first in (0, 50, 100):
        owner = await world.owner()
        await owner.step(trades(first, first + 50))
        await owner.sink.close()
    await world.end()
    assert world.found() == expected((0, 150))


@pytest.mark.parametrize("prepared", [False, True])
async def test_a_crash_between_write_and_commit(world: World, prepared: bool) -> None:
    owner = await world.owner()
    await owner.step(trades(0, 50))
    await owner.write(trades(50, 80))
    if prepared:
        await owner.prepare()  # and the process dies: nobody knows what it returned
    successor = await world.owner()
    await successor.step(trades(50, 120))  # the same again, in another batch
    await world.end()
    check_once(world, expected((0, 120)))


async def test_a_crash_between_commit_and_publishing(world: World) -> None:
    owner = await world.owner()
    await owner.step(trades(0, 50))
    await owner.write(trades(50, 80))
    world.state = await owner.prepare()  # committed; the process dies before it publishes
    successor = await world.owner()
    await successor.step(trades(80, 120))
    await world.end()
    check_once(world, expected((0, 120)))


async def test_a_successor_that_dies_before_its_first_commit(world: World) -> None:
    owner = await world.owner()
    await owner.write(trades(0, 50))
    world.state = await owner.prepare(True)
    second = await world.owner()
    await second.write(trades(50, 60))
    third = await world.owner()
    await third.step(trades(50, 90), ended=True)
    await world.end()
    check_once(world, expected((0, 90)))


async def test_what_comes_twice_stands_there_once_where_items_have_keys(world: World) -> None:
    owner = await world.owner()
    await owner.step(trades(0, 60))
    await owner.step(trades(20, 80))
    await owner.step([*trades(70, 90), *trades(70, 90)], ended=True)
    found = world.found()
    assert set(found) == set(expected((0, 90)))
    twice = expected((20, 60), (70, 80), (70, 90))
    assert found == (expected((0, 90)) if world.case.keyed else expected((0, 90)) + twice)


async def test_a_place_that_is_there_already_is_used(world: World) -> None:
    owner = await world.owner()
    await owner.step(trades(0, 30), ended=True)
    await owner.sink.close()
    other = World(world.case)
    second = Owner(other, world.case.sink().fresh(), 1)
    world.owners.append(second)
    second.context = lambda: SinkContext("other", "job1job1", 0, 1, "f" * 32, 5_000_000)  # type: ignore[method-assign]
    await second.open()
    await second.step(trades(30, 60), ended=True)
    assert world.found() == expected((0, 60)), "of two jobs none touches what the other wrote"


async def test_the_lists_of_a_batcher_are_taken_apart(world: World, request: pytest.FixtureRequest) -> None:
    if request.node.callspec.params["case"] in ("json-lines", "guarded", "csv", "sqlite-table"):
        pytest.skip("writes any item as it is, a list as one")
    batcher = Batcher(max_items=7)
    batcher.open(OperatorContext("batch"))
    frames = [*batcher.process(Frame(list(trades(0, 40)))), *batcher.flush()]
    assert all(isinstance(item, list) for frame in frames for item in frame.items)
    owner = await world.owner()
    await owner.sink.write(frames)
    world.state = await owner.prepare(True)
    await owner.sink.committed()
    assert world.found() == expected((0, 40))


async def test_a_spoiled_place_is_refused_before_anything_is_written(world: World) -> None:
    owner = await world.owner()
    await owner.step(trades(0, 5), ended=True)
    await owner.sink.close()
    word = world.case.spoil()
    if word is None:
        pytest.skip("there is no place that it must refuse")
    with pytest.raises(SinkError, match=word):
        world.case.sink().check()


async def test_an_outage_loses_and_doubles_nothing(world: World) -> None:
    owner = await world.owner()
    await owner.step(trades(0, 40))
    written = 40
    with world.case.outage(), pytest.raises(SinkError) as refused:  # noqa: PT012 - which step is refused is the place's affair
        for first in range(40, 100_040, 1_000):  # a full disk takes what still fits into its last page
            written = first + 1_000
            await owner.step(trades(first, written))
    assert str(refused.value).strip(), "the message says what happened"
    await owner.sink.close()
    assert world.committed < written, "the step that was refused is not committed"
    successor = await world.owner()
    await successor.step(trades(world.committed, written))
    await world.end()
    check_once(world, expected((0, written)))


def check_once(world: World, wanted: Counter[Any]) -> None:
    """All that is wanted is there; once, where the sink promises that."""
    found = world.found()
    assert set(found) == set(wanted)
    if world.case.exactly_once:
        assert found == wanted
