"""A task whose sink's target is away, and a source that waits for its venue: who hears of it, and until when."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from mdp_worker.waits import Failures, Waits, delay_of
from prometheus_client import Gauge
from tools.fake_clock import FakeClock
from tools.memory_job import CommittedRows, ListSource, MemoryJob, committed_rows, until
from tools.memory_store import MemoryServer

from market_data_pipeline import Dag, Frame, Node, Retries
from market_data_pipeline.dag.plan import TaskId
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import SinkError, SourceError, StoreUnavailable
from market_data_pipeline.runtime.contract import Limits
from market_data_pipeline.runtime.task import Task
from market_data_pipeline.sources.base import Batch, SourceContext
from market_data_pipeline.store.trouble import Trouble

ROWS = [{"symbol": f"S{n}", "ts_event": n} for n in range(40)]


class Away(CommittedRows):
    """Its target is away for as long as the class says so."""

    why: ClassVar[str] = ""

    async def write(self, frames: Sequence[Frame]) -> None:
        if self.why:
            raise SinkError(self.why)
        await super().write(frames)


class Venue(ListSource):
    """Says why it waits, and waits, until it may go on."""

    why: ClassVar[str] = ""

    async def open(self, ctx: SourceContext, position: Any | None) -> None:
        await super().open(ctx, position)
        self._tell = ctx.trouble

    async def read(self) -> Batch | None:
        self._tell(self.why)
        await until(lambda: not self.why)
        self._tell("")
        return await super().read()


def job_with(source: ListSource, retries: Retries | None = None) -> tuple[MemoryJob, MemoryServer]:
    dag = Dag("waits")
    dag.add_node(Node("source", source, retries=retries))
    dag.add_node(Node("out", Away(), retries=retries))
    dag.add_edge("source", "out", key="symbol")
    plan, limits = compile_dag(dag, 2), Limits()
    server = MemoryServer(plan, limits)
    return MemoryJob(dag, plan, server, limits), server


async def failed(job: MemoryJob, task: TaskId) -> tuple[Task, Exception]:
    """``task`` once its sink could not write, and the error."""
    made, running = job.running[task]
    with pytest.raises(SinkError) as error:
        await running
    return made, error.value


async def test_what_tasks_wait_for_is_said_until_their_next_commit(caplog: pytest.LogCaptureFixture) -> None:
    Away.why = "db:\n refused"
    job, server = job_with(ListSource(ROWS))
    out = [TaskId("out", 0), TaskId("out", 1)]
    await job.run_until(lambda: len(job.running) == 3 and all(job.running[task][1].done() for task in out))
    clock, gauge = FakeClock(), Gauge("waiting", "tasks", registry=None)
    waits = Waits(clock)
    tasks = [task for task, _ in job.running.values()]
    assert waits.look(tasks, gauge) == ()
    with caplog.at_level(logging.DEBUG, "mdp_worker.waits"):
        failures = {name: Failures() for name in out}
        for _ in range(2):
            for name in out:
                task, error = await failed(job, name)
                assert await waits.wait(task, error, failures[name]) == ""
            assert waits.look(tasks, gauge) == (Trouble("out/0", "db: refused", 2),)
    assert gauge._value.get() == 2
    assert clock.slept == [1.0, 1.0, 2.0, 2.0]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] + 3 * [logging.DEBUG]

    Away.why = ""
    async with asyncio.timeout(20):
        assert await job.running[out[0]][0].run()
    assert waits.look(tasks, gauge) == (Trouble("out/1", "db: refused"),)
    async with asyncio.timeout(20):
        assert await job.running[out[1]][0].run()
    assert waits.look(tasks, gauge) == ()
    assert gauge._value.get() == 0
    await job.stop()
    assert sorted(row["ts_event"] for rows in committed_rows(server, "out").values() for row in rows) == list(range(40))


async def test_it_is_over_too_when_nothing_is_there_to_be_done() -> None:
    Away.why, Venue.why = "", "away"
    job, _ = job_with(Venue(ROWS))
    task = TaskId("out", 0)
    await job.run_until(lambda: task in job.running)
    made = job.running[task][0]
    made.waits_for = "db: refused when it was opened"
    await until(lambda: not made.trouble)
    await job.stop()


async def test_a_source_says_itself_what_it_waits_for() -> None:
    Away.why, Venue.why = "", "feed x: away"
    job, _ = job_with(Venue(ROWS))
    task = TaskId("source", 0)
    await job.run_until(lambda: task in job.running and job.running[task][0].trouble == "feed x: away")
    made = job.running[task][0]
    assert Waits(FakeClock()).look([made], Gauge("waiting", "tasks", registry=None)) == (
        Trouble("source/0", "feed x: away"),
    )
    Venue.why = ""
    await job.run()
    assert made.trouble == ""


async def test_a_source_that_is_closed_waits_for_nothing() -> None:
    Venue.why = "feed x: away"
    job, _ = job_with(Venue(ROWS))
    task = TaskId("source", 0)
    await job.run_until(lambda: task in job.running and job.running[task][0].trouble != "")
    made = job.running[task][0]
    await job.stop()
    assert made.trouble == ""


def test_failures_are_counted_in_a_row_and_by_node() -> None:
    failures = Failures()
    assert [failures.another(node, 0) for node in ("a", "a", "b", "a")] == [1, 2, 1, 3]
    assert failures.another("b", 1) == 1, "the task has made progress: everybody begins anew"
    assert failures.another("a", 1) == 1
    assert failures.another("a", 1) == 2


@pytest.mark.parametrize("error", [SinkError("away"), StoreUnavailable("refused")], ids=repr)
def test_what_is_not_said_is_tried_for_ever_and_a_source_is_not(error: Exception) -> None:
    assert [delay_of(None, error, n) for n in (1, 2, 3, 4, 5, 6, 99)] == [1, 2, 5, 10, 30, 30, 30]
    assert delay_of(None, SourceError("gone"), 1) is None
    retries = Retries(attempts=4, first="500ms", most="1500ms")
    assert [delay_of(retries, each, n) for each in (error, SourceError("gone")) for n in (1, 2, 3, 4)] == [
        0.5, 1.0, 1.5, None, 0.5, 1.0, 1.5, None,
    ]  # fmt: skip


class Wavering(CommittedRows):
    """Can write only the rows below ``bound``."""

    bound: ClassVar[int] = 0

    async def write(self, frames: Sequence[Frame]) -> None:
        await super().write(frames)
        if any(row["ts_event"] >= self.bound for row in self._rows):
            raise SinkError("table is locked")


async def test_a_job_fails_when_its_sink_was_tried_often_enough() -> None:
    """A commit that used input in between, and the count begins anew."""
    dag = Dag("wavering")
    dag.add_node(Node("source", ListSource(ROWS)))
    dag.add_node(Node("out", Wavering(), retries=Retries(attempts=3)))
    dag.add_edge("source", "out", key="symbol")
    plan, limits = compile_dag(dag, 1), Limits(frame_items=1, linger=0.0)
    server = MemoryServer(plan, limits)
    job, task, waits, failures = MemoryJob(dag, plan, server, limits), TaskId("out", 0), Waits(FakeClock()), Failures()
    source = TaskId("source", 0)
    await job.run_until(lambda: server.contents.tasks[source].ended, [source])
    said = []
    for bound in (0, 0, 16, 16, 16):  # a step takes 16 frames, of a row each
        Wavering.bound = bound
        if not said:
            job.start(task)
        made, error = await failed(job, task)
        assert made.blamed(error) == "out"
        said.append(await waits.wait(made, error, failures))
        job.running[task] = (made, asyncio.create_task(made.run()))
    assert said == [""] * 4 + ["task out/0: table is locked; node 'out' was tried 3 times in a row"]
    assert [row["ts_event"] for row in committed_rows(server, "out")[0]] == list(range(16))
    await job.stop()


class Cut(ListSource):
    """Is cut off behind its first batch."""

    async def read(self) -> Batch | None:
        if self._at:
            raise SourceError("cut off")
        return await super().read()


@pytest.mark.parametrize(("retries", "text"), [(None, "task source/0: cut off"), (Retries(), "")])
async def test_a_source_is_tried_again_only_where_it_is_said(retries: Retries | None, text: str) -> None:
    Away.why = ""
    job, _ = job_with(Cut(ROWS), retries)
    task = TaskId("source", 0)
    await job.run_until(lambda: task in job.running)
    made, running = job.running[task]
    with pytest.raises(SourceError) as error:
        await running
    assert made.blamed(error.value) == "source"
    assert await Waits(FakeClock()).wait(made, error.value, Failures()) == text
    await job.stop()
