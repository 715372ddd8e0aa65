"""Named inputs and outputs, waking by time, and operators that wait: fused, through streams, and in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import pytest
from tools.memory_job import CommittedRows, ListSource, MemoryJob, committed_rows
from tools.memory_store import MemoryServer

from market_data_pipeline import (
    Collect,
    Conflate,
    Dag,
    DagRuntime,
    Node,
    Operator,
    Pipeline,
    TumblingBars,
    TumblingWindow,
)
from market_data_pipeline.dag.graph import Edge
from market_data_pipeline.dag.plan import plan_from_dict
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import ConfigError, DagValidationError
from market_data_pipeline.frame import Frame, to_rows
from market_data_pipeline.operators.base import AsyncOperator
from market_data_pipeline.runtime.contract import Limits

SECOND = 1_000_000_000


class OddEven(Operator):
    """Even numbers to ``out``, odd ones to ``odd``."""

    accepts: ClassVar[Literal["rows"]] = "rows"
    outputs = ("odd",)

    def process(self, frame: Frame) -> Iterable[Frame]:
        rows = to_rows(frame.items)
        yield Frame([row for row in rows if row["n"] % 2 == 0])
        yield Frame([row for row in rows if row["n"] % 2], port="odd")


class Sides(Operator):
    """Tells each item by which input it came."""

    accepts: ClassVar[Literal["rows"]] = "rows"
    inputs = ("left", "right")

    def process(self, frame: Frame) -> Iterable[Frame]:
        return (Frame([{**row, "side": frame.port} for row in to_rows(frame.items)]),)


def rows(count: int) -> list[dict[str, Any]]:
    return [{"symbol": f"S{n % 5}", "n": n, "ts_event": n} for n in range(count)]


def split_and_meet(boundary: bool, sink: Any) -> Dag:
    dag = Dag("ports")
    dag.add_node(Node("source", ListSource(rows(100))))
    dag.add_node(Node("split", OddEven()))
    dag.add_node(Node("sides", Sides()))
    dag.add_node(Node("sink", sink))
    dag.add_node(Node("pass", TumblingWindow("1s")))
    dag.add_node(Node("other", Collect() if isinstance(sink, Collect) else CommittedRows()))
    dag.add_edge("source", "split", key="symbol")
    dag.add_edge("split", "sides", input="left", boundary=boundary)
    dag.add_edge("split", "pass", output="odd", boundary=boundary)
    dag.add_node(Node("odd", OddEven()))
    dag.add_edge("split", "odd", output="odd", boundary=boundary)
    dag.add_edge("odd", "sides", output="odd", input="right")
    dag.add_edge("sides", "sink")
    dag.add_edge("pass", "other")
    return dag


EXPECTED = [{**row, "side": "right" if row["n"] % 2 else "left"} for row in rows(100)]


@pytest.mark.parametrize("partitions", [1, 4])
@pytest.mark.parametrize("boundary", [False, True])
async def test_items_go_by_their_port(boundary: bool, partitions: int) -> None:
    dag = split_and_meet(boundary, CommittedRows())
    plan = compile_dag(dag, partitions)
    job = MemoryJob(dag, plan, MemoryServer(plan, Limits()), Limits())
    await job.run()
    found = [row for part in committed_rows(job.server, "sink").values() for row in part]
    assert sorted(found, key=lambda row: row["n"]) == EXPECTED


async def test_items_go_by_their_port_in_one_process() -> None:
    sink = Collect()
    await DagRuntime(split_and_meet(False, sink)).start()
    assert sorted(sink.items, key=lambda row: row["n"]) == EXPECTED


def test_ports_are_part_of_the_plan() -> None:
    plain = compile_dag(split_and_meet(False, CommittedRows()), 2)
    again = plan_from_dict(plain.to_dict())
    assert [(e.output, e.input) for e in again.edges] == [(e.output, e.input) for e in plain.edges]
    assert again.fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    ("edge", "says"),
    [
        (Edge("source", "sides", input="middle"), "node 'sides' has no input 'middle'; it has: 'left', 'right'"),
        (Edge("source", "sides"), "node 'sides' has no input ''; it has: 'left', 'right'"),
        (Edge("source", "sides", output="odd", input="left"), "node 'source' has no output 'odd'; it has: ''"),
        (Edge("source", "sides", input="left"), "node 'sides': no edge leads to its input 'right'"),
    ],
)
def test_wrong_ports_are_refused(edge: Edge, says: str) -> None:
    dag = Dag("wrong")
    dag.add_node(Node("source", ListSource([])))
    dag.add_node(Node("sides", Sides()))
    dag.add_edge(edge.src, edge.dst, output=edge.output, input=edge.input)
    with pytest.raises(DagValidationError, match=says):
        dag.validate()


def test_late_items_that_go_nowhere_are_refused() -> None:
    pipeline = Pipeline("late").source(ListSource([])).operator(TumblingBars("1s", late="side_output")).sink(Collect())
    with pytest.raises(DagValidationError, match="sends items to its output 'late', and no edge takes them"):
        pipeline.build()
    with pytest.raises(ConfigError, match="late: 'keep' is not allowed; one of: drop, side_output"):
        TumblingBars("1s", late="keep")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["bars", "windows"])
async def test_late_items_come_out_beside(kind: str) -> None:
    times = [0, 5 * SECOND, 1 * SECOND, 6 * SECOND, 2 * SECOND]
    trades = [{"symbol": "A", "ts_event": ts, "price": 1.0, "size": 1.0} for ts in times]
    main, late = Collect(), Collect()
    dag = Dag("late")
    dag.add_node(Node("source", ListSource(trades, batch_items=1)))
    made = TumblingBars("3s", late="side_output") if kind == "bars" else TumblingWindow("3s", late="side_output")
    dag.add_node(Node("made", made))
    dag.add_node(Node("main", main))
    dag.add_node(Node("late", late))
    dag.add_edge("source", "made")
    dag.add_edge("made", "main")
    dag.add_edge("made", "late", output="late")
    runtime = DagRuntime(dag)
    await runtime.start()
    assert [item["ts_event"] if isinstance(item, dict) else item.ts_event for item in late.items] == [
        SECOND,
        2 * SECOND,
    ]
    assert runtime.counts["made"]["late"] == 2
    assert [bar.ts_open // SECOND for bar in main.items] == [0, 3, 6]


class Later(Operator):
    """Gives each item a second (of wall time) after it came."""

    accepts: ClassVar[Literal["rows"]] = "rows"

    def open(self, ctx: Any) -> None:
        super().open(ctx)
        self._waiting: list[tuple[int, Any]] = []

    def process(self, frame: Frame) -> Iterable[Frame]:
        self._waiting += [(self.ctx.now + SECOND, row) for row in to_rows(frame.items)]
        return ()

    def wake_at(self) -> int | None:
        return self._waiting[0][0] if self._waiting else None

    def tick(self, now: int) -> Iterable[Frame]:
        ready = [row for at, row in self._waiting if at <= now]
        self._waiting = [(at, row) for at, row in self._waiting if at > now]
        return (Frame(ready),)


class Endless(ListSource):
    def fresh(self) -> Endless:
        return self

    done: asyncio.Event

    async def read(self) -> Any:
        batch = await super().read()
        if batch is None:
            await self.done.wait()
        return batch


@pytest.mark.parametrize("fused", [False, True])
async def test_an_operator_is_woken_when_nothing_comes(fused: bool) -> None:
    source = Endless(rows(20))
    source.done = asyncio.Event()
    pipeline = Pipeline("later").source(source)
    pipeline = pipeline if fused else pipeline.key_by("symbol")
    dag = pipeline.operator(Later()).key_by("symbol").operator(OddEven()).sink(CommittedRows(), name="sink").build()
    plan = compile_dag(dag, 2)
    job = MemoryJob(dag, plan, MemoryServer(plan, Limits()), Limits())

    def out() -> bool:
        job.clock.advance(0.001)
        return sum(map(len, committed_rows(job.server, "sink").values())) == 10

    await job.run_until(out)
    assert job.clock.elapsed >= 1.0
    source.done.set()
    await job.run()


class Looked(AsyncOperator):
    """Asks the outside about each frame."""

    accepts: ClassVar[Literal["rows"]] = "rows"

    async def prepare(self, frame: Frame) -> Frame:
        await asyncio.sleep(0)
        return frame._replace(items=[{**row, "looked": True} for row in to_rows(frame.items)])


@pytest.mark.parametrize("partitions", [1, 3])
async def test_an_operator_that_waits_begins_a_subgraph(partitions: int) -> None:
    dag = (
        Pipeline("looked").source(ListSource(rows(50))).key_by("symbol").operator(OddEven()).operator(Looked()).build()
    )
    dag = Dag("looked")
    dag.add_node(Node("source", ListSource(rows(50))))
    dag.add_node(Node("split", OddEven()))
    dag.add_node(Node("looked", Looked()))
    dag.add_node(Node("sink", CommittedRows()))
    dag.add_edge("source", "split", key="symbol")
    dag.add_edge("split", "looked")
    dag.add_edge("looked", "sink")
    plan = compile_dag(dag, partitions)
    assert [s.nodes for s in plan.subgraphs] == [("source",), ("split",), ("looked", "sink")]
    job = MemoryJob(dag, plan, MemoryServer(plan, Limits()), Limits())
    await job.run()
    found = [row for part in committed_rows(job.server, "sink").values() for row in part]
    assert sorted(row["n"] for row in found) == list(range(0, 50, 2))
    assert all(row["looked"] for row in found)


async def test_an_operator_that_waits_in_one_process() -> None:
    sink = Collect()
    await DagRuntime(Pipeline("looked").source(ListSource(rows(50))).operator(Looked()).sink(sink)).start()
    assert [row["looked"] for row in sink.items] == [True] * 50


class KeepsWhilePressed(Operator):
    """Keeps the last item while its output is full."""

    accepts: ClassVar[Literal["rows"]] = "rows"
    absorbs = True

    def open(self, ctx: Any) -> None:
        super().open(ctx)
        self._kept: list[Any] = []

    def process(self, frame: Frame) -> Iterable[Frame]:
        items = [*self._kept, *to_rows(frame.items)]
        if self.ctx.pressed:
            self.ctx.count("replaced", len(items) - 1)
            self._kept = items[-1:]
            return ()
        self._kept = []
        return (Frame(items),)

    def advance(self, watermark: int) -> Iterable[Frame]:
        kept, self._kept = (self._kept, []) if watermark == 2**63 - 1 else ([], self._kept)
        return (Frame(kept),)

    def snapshot(self) -> Mapping[str, bytes | None]:  # type: ignore[override]
        return {}


async def test_a_task_that_absorbs_reads_on_while_its_output_is_full() -> None:
    """The consumer is dead: whoever absorbs goes on, whoever does not waits."""
    for absorbing in (True, False):
        operator = KeepsWhilePressed() if absorbing else OddEven()
        dag = Dag("pressed")
        dag.add_node(Node("source", ListSource(rows(4_000))))
        dag.add_node(Node("absorb", operator))
        dag.add_node(Node("sink", CommittedRows()))
        dag.add_edge("source", "absorb", key="symbol")
        dag.add_edge("absorb", "sink", boundary=True)
        plan = compile_dag(dag, 1)
        limits = Limits(frame_items=10, commit_items=40, commit_frames=4, channel_capacity=16, high=8, low=4)
        job = MemoryJob(dag, plan, MemoryServer(plan, limits), limits)
        (sink,) = [task for task in plan.tasks() if task.subgraph == "sink"]
        job.start(sink)
        await job.kill(sink)
        for task in plan.tasks():
            if task != sink:
                job.start(task)
        for _ in range(20_000):
            await asyncio.sleep(0)
        left = len(job.server.stream(("source.absorb", 0)))
        assert (left == 0) == absorbing
        await job.stop()


async def test_what_was_kept_comes_out_when_there_is_room_though_nothing_more_comes() -> None:
    """The last quotes of a feed that fell silent must not wait for its next one."""
    source = Endless(rows(4_000))
    source.done = asyncio.Event()
    dag = Dag("released")
    dag.add_node(Node("source", source))
    dag.add_node(Node("conflate", Conflate()))
    dag.add_node(Node("sink", CommittedRows()))
    dag.add_edge("source", "conflate", key="symbol")
    dag.add_edge("conflate", "sink", boundary=True)
    plan = compile_dag(dag, 1)
    limits = Limits(frame_items=10, commit_items=40, commit_frames=4, channel_capacity=16, high=8, low=4)
    job = MemoryJob(dag, plan, MemoryServer(plan, limits), limits)
    (sink,) = [task for task in plan.tasks() if task.subgraph == "sink"]
    for task in plan.tasks():
        if task != sink:
            job.start(task)

    def read_by_conflate() -> bool:
        job.clock.advance(0.001)
        return sum(task.subgraph == "source" for task in job.server.history) >= 400 and not job.server.stream(
            ("source.conflate", 0)
        )

    await job.run_until(read_by_conflate, only=[task for task in plan.tasks() if task != sink])
    job.start(sink)

    def last_of_each() -> bool:
        job.clock.advance(0.001)
        found = [row["n"] for part in committed_rows(job.server, "sink").values() for row in part]
        return set(range(3_995, 4_000)) <= set(found)

    async with asyncio.timeout(60):
        await job.run_until(last_of_each)
    source.done.set()
    await job.run()
