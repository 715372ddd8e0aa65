"""Stores that are asked beside the work, and a run in one process that waits for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

import pytest
from test_runtime_memory_jobs import job_of
from tools.fake_clock import FakeClock
from tools.memory_job import CommittedRows, ListSource, until

from market_data_pipeline import Collect, Conflate, Dag, DagRuntime, Frame, Node, StoreReading
from market_data_pipeline.clock import SYSTEM_CLOCK
from market_data_pipeline.dag.plan import TaskId
from market_data_pipeline.runtime.store_poll import StorePoll
from market_data_pipeline.sources.base import Batch


class Store:
    """Answers what it is told to; an event lets it answer."""

    def __init__(self, depth: float = 0.0) -> None:
        self.depth, self.asked, self.answered = depth, 0, 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.error: Exception | None = None

    async def reading(self) -> StoreReading:
        self.asked += 1
        await self.may_answer.wait()
        self.answered += 1
        if self.error is not None:
            raise self.error
        return StoreReading(self.depth, 80, 20)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def test_a_store_is_asked_once_a_second_and_nobody_waits_for_it(clock: FakeClock) -> None:
    store, poll = Store(50), StorePoll(clock)
    store.may_answer.clear()
    for _ in range(10):
        poll.look({("sink", 0): store})
        clock.advance(0.3)
        await asyncio.sleep(0)
    assert store.asked == 1, "the question is still open"
    assert poll.readings() == {}
    store.may_answer.set()
    await until(lambda: poll.answers == 1)
    assert poll.readings() == {"sink": StoreReading(50, 80, 20)}
    poll.look({("sink", 0): store})
    await until(lambda: poll.answers == 2)
    poll.look({("sink", 0): store})
    clock.advance(0.9)
    poll.look({("sink", 0): store})
    await asyncio.sleep(0)
    assert store.asked == 2
    await poll.close()


async def test_what_is_older_than_five_seconds_says_nothing(clock: FakeClock) -> None:
    store, poll = Store(50), StorePoll(clock)
    poll.look({("sink", 0): store})
    await until(lambda: poll.answers == 1)
    clock.advance(5.0)
    assert poll.readings() == {"sink": StoreReading(50, 80, 20)}
    clock.advance(0.01)
    assert poll.readings() == {}
    await poll.close()


async def test_an_error_says_nothing_and_is_logged_once_until_there_is_an_answer(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one, two, poll = Store(), Store(), StorePoll(clock)
    one.error = two.error = OSError("refused")
    stores = {("sink", 0): one, ("sink", 1): two}
    for n in range(1, 4):
        poll.look(stores)
        await until(lambda n=n: one.answered == two.answered == n)  # type: ignore[misc]
        clock.advance(1.0)
    assert poll.readings() == {}
    assert [record.message for record in caplog.records] == ["node sink: its store does not say how it is (refused)"]
    one.error = None
    poll.look(stores)
    await until(lambda: poll.answers == 1)
    assert poll.readings() == {"sink": StoreReading(0, 80, 20)}
    assert len(caplog.records) == 1, "one of them is silent still"
    clock.advance(1.0)
    two.error = None
    poll.look(stores)
    await until(lambda: poll.answers == 3)
    assert [record.message for record in caplog.records][1:] == ["node sink: its store says again how it is"]
    await poll.close()


async def test_a_store_that_cannot_be_interrupted_keeps_nobody(caplog: pytest.LogCaptureFixture) -> None:
    let_go = asyncio.Event()

    class Stubborn:
        async def reading(self) -> StoreReading | None:
            while not let_go.is_set():
                with suppress(asyncio.CancelledError):
                    await let_go.wait()
            return None

    store, poll = Stubborn(), StorePoll(SYSTEM_CLOCK)
    poll.look({("sink", 0): store})
    await asyncio.sleep(0)
    closing = asyncio.create_task(poll.close())
    try:
        done, _ = await asyncio.wait({closing}, timeout=20)
        assert done
        assert [record.message for record in caplog.records] == [
            "node sink: its store goes on with a question that was given up"
        ]
    finally:
        let_go.set()
        await closing


async def test_the_worst_of_a_nodes_tasks_is_said_and_who_is_gone_is_forgotten(clock: FakeClock) -> None:
    empty, full, poll = Store(0), Store(90), StorePoll(clock)
    poll.look({("sink", 0): empty, ("sink", 1): full, ("other", -1): empty})
    await until(lambda: poll.answers == 3)
    assert poll.readings() == {"sink": StoreReading(90, 80, 20), "other": StoreReading(0, 80, 20)}
    poll.look({("sink", 0): empty})
    assert poll.readings() == {"sink": StoreReading(0, 80, 20)}
    another = Store(30)
    poll.look({("sink", 0): another})
    assert poll.readings() == {}, "it is another one, which has said nothing yet"
    await poll.close()


class Queued(CommittedRows):
    """Says how it is as long as it is open."""

    async def reading(self) -> StoreReading:
        return StoreReading(len(self._rows), 80, 20)


async def test_a_task_names_the_sinks_that_can_be_asked_while_they_are_open() -> None:
    dag = Dag("job")
    dag.add_node(Node("source", ListSource([{"symbol": "A", "ts_event": n} for n in range(20)])))
    for name, sink in (("queued", Queued()), ("silent", CommittedRows())):
        dag.add_node(Node(name, sink))
        dag.add_edge("source", name, key="symbol")
    job, _ = job_of(dag, partitions=1)
    job.start(TaskId("queued", 0))
    job.start(TaskId("silent", 0))
    task, silent = job.running[TaskId("queued", 0)][0], job.running[TaskId("silent", 0)][0]
    assert task.stores() == {}
    await until(lambda: bool(task.stores()))
    reading = await task.stores()["queued"].reading()
    assert reading == StoreReading(0, 80, 20)
    assert silent.stores() == {}
    job.start(TaskId("source", 0))
    await job.run()
    assert task.stores() == {}


class Backlog:
    """What a sink has taken and its store not yet stored, ten items a second of which are; a copy of the sink has the same."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.items, self.at, self.deepest = clock, 0.0, 0.0, 0.0
        self.said: list[float] = []

    def __deepcopy__(self, memo: object) -> Backlog:
        return self

    def take(self, items: int) -> None:
        self.items = max(0.0, self.items - 10 * (self.clock.monotonic() - self.at)) + items
        self.at, self.deepest = self.clock.monotonic(), max(self.deepest, self.items)

    async def reading(self) -> StoreReading:
        self.take(0)
        self.said.append(self.items)
        return StoreReading(self.items, 80, 20)


class Behind(Collect):
    """Gives what it takes to a :class:`Backlog`, and speaks for it where it is told to."""

    def __init__(self, backlog: Backlog) -> None:
        super().__init__()
        self.backlog = backlog

    async def write(self, frames: Sequence[Frame]) -> None:
        self.backlog.take(sum(len(frame.items) for frame in frames))
        await super().write(frames)


class Speaking(Behind):
    async def reading(self) -> StoreReading:
        return await self.backlog.reading()


class Ticking(ListSource):
    """Ten items each tenth of a second."""

    def __init__(self, items: int, clock: FakeClock) -> None:
        super().__init__([{"symbol": "A", "ts_event": n} for n in range(items)])
        self.fake = clock

    def fresh(self) -> Ticking:
        return self

    async def read(self) -> Batch | None:
        self.fake.advance(0.1)
        for _ in range(3):  # who was asked has time to answer
            await asyncio.sleep(0)
        return await super().read()


@pytest.mark.parametrize("how", ["sink", "node", "not at all", "behind Conflate"])
async def test_a_source_in_one_process_waits_for_a_store_that_is_full(clock: FakeClock, how: str) -> None:
    backlog = Backlog(clock)
    sink = Speaking(backlog) if how in ("sink", "behind Conflate") else Behind(backlog)
    dag = Dag("job")
    dag.add_node(Node("source", Ticking(1000, clock)))
    dag.add_node(Node("sink", sink, feedback=backlog if how == "node" else None))
    if how == "behind Conflate":
        dag.add_node(Node("newest", Conflate()))
        dag.add_edge("source", "newest")
        dag.add_edge("newest", "sink")
    else:
        dag.add_edge("source", "sink")
    run = DagRuntime(dag, clock=clock)
    await run.start()
    if how in ("sink", "node"):
        assert backlog.deepest <= 80 + 3 * 100, "a second until it is asked, its answer, and the batch that is read"
        assert clock.monotonic() >= 1000 / 10 - 40
        held = [n for n, depth in enumerate(backlog.said) if depth >= 80]
        assert held
        assert any(depth <= 20 for depth in backlog.said[held[0] :]), "it was let go on"
    else:
        assert clock.monotonic() < 12, "nobody waits"
    if how != "behind Conflate":
        assert backlog.at > 0
        assert run.counts["sink"]["in"] == 1000
    assert run.result.completed == len(dag.nodes)


async def test_a_run_that_is_held_can_be_stopped(clock: FakeClock) -> None:
    class Full(Behind):
        async def reading(self) -> StoreReading:
            if clock.monotonic() > 20:
                run.stop()
            return StoreReading(100, 80, 20)

    dag = Dag("job")
    dag.add_node(Node("source", Ticking(100_000, clock)))
    dag.add_node(Node("sink", Full(Backlog(clock))))
    dag.add_edge("source", "sink")
    run = DagRuntime(dag, clock=clock)
    await run.start()
    assert run.counts["sink"]["in"] < 1000
