"""A task whose sink's target is away, and a source that waits for its venue: who hears of it, and until when."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from mdp_worker.waits import Failures, Waits
from prometheus_client import Gauge
from tools.fake_clock import FakeClock
from tools.memory_job import CommittedRows, ListSource, MemoryJob, committed_rows, until
from tools.memory_store import MemoryServer

from market_data_pipeline import Dag, Frame, Node
from market_data_pipeline.dag.plan import TaskId
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import SinkError
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


def job_with(source: ListSource) -> tuple[MemoryJob, MemoryServer]:
    dag = Dag("waits")
    dag.add_node(Node("source", source))
    dag.add_node(Node("out", Away()))
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
