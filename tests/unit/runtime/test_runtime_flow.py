"""What a task commits of its own progress: exact items by edge, and where its time went."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from test_runtime_memory_jobs import PARTITIONS, SMALL
from tools.fake_clock import FakeClock
from tools.memory_job import ListSource, MemoryJob
from tools.memory_store import MemoryServer

from market_data_pipeline import Dag, Frame, Node
from market_data_pipeline.codec import decode
from market_data_pipeline.dag.plan import TaskId
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.operators.base import AsyncOperator
from market_data_pipeline.operators.stateless import FlatMap, Map
from market_data_pipeline.packing import unpack
from market_data_pipeline.runtime.contract import CommitRequest
from market_data_pipeline.runtime.flow import Flow, TaskFlow
from market_data_pipeline.sinks.base import Sink
from market_data_pipeline.store.commit_args import Lease

ROWS = [{"symbol": f"S{n % 7}", "n": n, "ts_event": n} for n in range(120)]


class Counted(MemoryServer):
    """After every commit, what the tasks say of an edge is what lies in its streams."""

    checked = 0

    def apply(self, task: TaskId, lease: Lease, job: str, request: CommitRequest) -> None:
        super().apply(task, lease, job, request)
        self.check()

    def meta(self, task: TaskId) -> dict[str, Any]:
        blob = self.contents.tasks[task].meta
        return dict(unpack(blob)) if blob else {}

    def flow(self, task: TaskId) -> TaskFlow:
        return TaskFlow.of(self.meta(task))

    def check(self) -> None:
        metas = [self.meta(task) for task in self.contents.tasks]
        flows = [TaskFlow.of(meta) for meta in metas]
        for edge in self.plan.channels:
            told = sum(flow.sent.get(edge.name, 0) - flow.used.get(edge.name, 0) for flow in flows)
            blobs = [entry.blob for p in range(PARTITIONS) for entry in self.stream((edge.name, p))]
            lying = sum(len(decode(blob).frame.items) for blob in blobs)
            assert told == lying - sum(meta.get("skip", {}).get(edge.name, 0) for meta in metas)
            self.checked += lying > 0


class Slow(Sink):
    """Waits ten seconds for the outside in each write and five in each prepare, and computes one second besides."""

    clock: FakeClock

    async def write(self, frames: Sequence[Frame]) -> None:
        self.clock.advance(10.0)
        self.clock.compute(1.0)

    async def prepare(self, ended: bool) -> Any | None:
        self.clock.advance(5.0)
        return None


class Asking(AsyncOperator):
    """Waits three seconds for an answer."""

    clock: FakeClock

    async def prepare(self, frame: Frame) -> Frame:
        self.clock.advance(3.0)
        return frame

    def process(self, frame: Frame) -> list[Frame]:
        self.clock.compute(2.0)
        return [frame]


def job_of(dag: Dag, partitions: int = PARTITIONS) -> tuple[MemoryJob, Counted]:
    plan = compile_dag(dag, partitions)
    server = Counted(plan, SMALL)
    job = MemoryJob(dag, plan, server, SMALL)
    Slow.clock = Asking.clock = job.clock
    return job, server


def line(*nodes: Node, keyed: int = 0) -> Dag:
    """``nodes`` one behind the other; the edge behind the first is keyed."""
    dag = Dag("line")
    for node in nodes:
        dag.add_node(node)
    for n, (src, dst) in enumerate(pairwise(nodes)):
        dag.add_edge(src.name, dst.name, key="symbol" if n == keyed else None)
    return dag


async def forward(in_ch: dict[str, Any], out_ch: dict[str, Any]) -> None:
    async for item in in_ch["many"]:
        await out_ch["out"].put(item)


def through_everything() -> Dag:
    """A source, an operator whose output needs the outbox, a coroutine, a sink: three edges."""
    many = Node("many", FlatMap(lambda row: [row] * 9))
    return line(
        Node("source", ListSource(ROWS, 20)),
        many,
        Node("through", forward),
        Node("out", Map(dict)),
        Node("end", Slow()),
    )


async def test_what_was_sent_less_what_was_used_is_what_waits_at_every_commit() -> None:
    job, server = job_of(through_everything())
    await job.run()
    assert server.checked > 20, "the streams were always empty: nothing was tested"
    ends = [server.flow(task) for task in server.contents.tasks]
    assert sum(flow.sent.get("source.many", 0) for flow in ends) == len(ROWS)
    assert sum(flow.used.get("through.out", 0) for flow in ends) == 9 * len(ROWS)


async def test_it_stays_so_through_takeovers_and_a_rollback() -> None:
    job, server = job_of(through_everything())
    await job.run_until(lambda: server.checked > 10)
    point = server.snapshot()
    for partition in range(PARTITIONS):
        await job.take_over(partition)
    checked = server.checked
    await job.run_until(lambda: server.checked > checked + 10)
    server.rollback(point)
    server.check()
    for partition in range(PARTITIONS):
        await job.take_over(partition)
    await job.run()
    ends = [server.flow(task) for task in server.contents.tasks]
    assert sum(flow.sent.get("many.through", 0) for flow in ends) == 9 * len(ROWS)


async def test_the_time_in_a_sink_less_what_was_computed_is_waiting() -> None:
    job, server = job_of(line(Node("source", ListSource(ROWS, 500)), Node("slow", Slow())), partitions=1)
    await job.run()
    flow = server.flow(TaskId("slow", 0))
    calls = round(flow.outside / 5)
    assert flow.outside == pytest.approx(5 * calls)
    assert calls >= 3, "write, prepare, and prepare at the end"
    assert flow.outside + 1.0 <= flow.busy <= flow.outside + calls, "what it computed is busy, not waiting"


async def test_an_operator_that_asks_waits_for_the_outside_too() -> None:
    ask = Node("ask", Asking())
    job, server = job_of(line(Node("source", ListSource(ROWS, 500)), ask, Node("end", Map(dict))), partitions=1)
    await job.run()
    flow = server.flow(TaskId("ask", 0))
    calls = round(flow.outside / 3)
    assert calls >= 1
    assert flow.outside == pytest.approx(3 * calls, abs=0.5), "the other tasks' sleeps pass while it waits"
    assert flow.busy == pytest.approx(5 * calls, abs=0.5)


async def test_a_coroutine_node_waits_where_it_awaits() -> None:
    async def slow(in_ch: dict[str, Any], out_ch: dict[str, Any]) -> None:
        async for item in in_ch["source"]:
            job.clock.advance(2.0)
            job.clock.compute(1.0)
            await out_ch["end"].put(item)

    dag = line(Node("source", ListSource(ROWS, 500)), Node("slow", slow), Node("end", Map(dict)), keyed=9)
    job, server = job_of(dag, partitions=1)
    await job.run()
    flow = server.flow(TaskId("slow", 0))
    assert flow.used == {"source.slow": len(ROWS)}
    assert flow.outside == pytest.approx(2.0 * len(ROWS))
    assert flow.busy == pytest.approx(3.0 * len(ROWS), rel=0.01)


async def test_what_a_function_leaves_unread_is_used() -> None:
    async def few(in_ch: dict[str, Any], out_ch: dict[str, Any]) -> None:
        await out_ch["end"].put(await in_ch["source"].get())

    dag = line(Node("source", ListSource(ROWS, 20)), Node("few", few), Node("end", Map(dict)), keyed=9)
    job, server = job_of(dag, partitions=1)
    await job.run()
    server.check()
    assert server.flow(TaskId("few", 0)).used == {"source.few": len(ROWS)}


def test_pauses_are_not_work() -> None:
    clock = FakeClock()
    flow = Flow(clock, TaskFlow(busy=100.0, paused=7.0))
    clock.advance(50.0)
    with flow.step():
        clock.compute(1.0)
        with flow.pause():
            clock.advance(20.0)
        clock.compute(2.0)
        assert TaskFlow(**flow.saved({})).busy == 103.0, "a commit in the middle of a step says what it was so far"
    with flow.pause():
        clock.advance(1.0)
    told = TaskFlow(**flow.saved({"a.b": 3}))
    assert told == TaskFlow({"a.b": 3}, {}, 103.0, 0.0, 28.0)


def test_what_other_tasks_compute_meanwhile_is_not_waiting() -> None:
    clock = FakeClock()
    flow = Flow(clock, TaskFlow())
    with flow.step(), flow.outside():
        clock.advance(0.2)
        clock.compute(0.8)
    told = TaskFlow(**flow.saved({}))
    assert (told.busy, told.outside) == (pytest.approx(1.0), pytest.approx(0.2))


def test_a_step_that_raises_ends() -> None:
    clock = FakeClock()
    flow = Flow(clock, TaskFlow())

    def step() -> None:
        with flow.step(), flow.outside():
            clock.advance(1.0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        step()
    clock.advance(5.0)
    assert TaskFlow(**flow.saved({})) == TaskFlow({}, {}, 1.0, 1.0, 0.0)
