"""A node that is cancelled from within, or panics, has not come to its end: what it had still to do must not be missing in
silence."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from tools.memory_job import ListSource, MemoryJob
from tools.memory_store import MemoryServer

from market_data_pipeline import Batch, Collect, Dag, DagRuntime, Frame, Map, Node, Pipeline, Sink, SinkContext
from market_data_pipeline.dag.graph import NodeFn
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import OperatorFailed, SinkError
from market_data_pipeline.runtime.contract import Limits


async def lose() -> None:
    """Awaits something that somebody else cancels."""
    other = asyncio.ensure_future(asyncio.Event().wait())
    other.cancel()
    await other


class Losing(ListSource):
    async def read(self) -> Batch | None:
        if self._at == 10:
            await lose()
        return await super().read()


class LosingSink(Collect):
    async def write(self, frames: Sequence[Frame]) -> None:
        await lose()


async def losing(in_ch: dict[str, Any], out_ch: dict[str, Any]) -> None:
    await lose()


def dag_of(first: NodeFn, then: NodeFn) -> Dag:
    dag = Dag("lost")
    dag.add_node(Node("first", first))
    dag.add_node(Node("then", then))
    dag.add_edge("first", "then", boundary=True)
    return dag


NODES = {
    "source": (Losing(range(30)), Collect(), "first"),
    "sink": (ListSource(range(30)), LosingSink(), "then"),
    "coroutine": (losing, Collect(), "first"),
    "coroutine with inputs": (ListSource(range(30)), losing, "then"),
}


@pytest.mark.parametrize("case", NODES)
async def test_in_one_process_the_run_fails_and_names_the_node(case: str) -> None:
    first, then, lost = NODES[case]
    runtime = DagRuntime(dag_of(first, then))
    with pytest.raises(OperatorFailed, match=rf"^node {lost}: something that it waited for was cancelled"):
        await runtime.start()
    assert runtime.result.failed == 1


@pytest.mark.parametrize("case", NODES)
async def test_a_task_of_a_worker_fails_and_names_the_node(case: str) -> None:
    first, then, lost = NODES[case]
    dag = dag_of(first, then)
    plan = compile_dag(dag, 1)
    limits = Limits()
    job = MemoryJob(dag, plan, MemoryServer(plan, limits), limits)
    with pytest.raises(OperatorFailed, match=rf"^node {lost}: something that it waited for was cancelled"):
        await job.run()
    await job.stop()


class Panic(BaseException):
    """As pyo3's ``PanicException``, by which extensions written in Rust tell a fault of theirs."""


def panic(item: int) -> int:
    raise Panic(f"index {item} is out of bounds")


class PanickingSource(ListSource):
    async def read(self) -> Batch | None:
        panic(0)


class PanickingSink(Collect):
    async def write(self, frames: Sequence[Frame]) -> None:
        panic(0)


async def panicking(in_ch: dict[str, Any], out_ch: dict[str, Any]) -> None:
    async with asyncio.TaskGroup():
        panic(0)


PANICS = {
    "source": (PanickingSource(range(30)), Collect(), "first"),
    "operator": (ListSource(range(30)), Map(panic), "then"),
    "sink": (ListSource(range(30)), PanickingSink(), "then"),
    "coroutine": (ListSource(range(30)), panicking, "then"),
}


@pytest.mark.parametrize("case", PANICS)
async def test_a_panic_fails_the_run_and_the_task(case: str) -> None:
    first, then, lost = PANICS[case]
    told = rf"^node {lost}: (Panic: index 0 is out of bounds|BaseExceptionGroup: )"
    dag = dag_of(first, then)
    runtime = DagRuntime(dag)
    with pytest.raises(OperatorFailed, match=told):
        await runtime.start()
    assert runtime.result.failed == 1
    plan, limits = compile_dag(dag, 1), Limits()
    job = MemoryJob(dag, plan, MemoryServer(plan, limits), limits)
    with pytest.raises(OperatorFailed, match=told):
        await job.run()
    await job.stop()


async def test_one_that_is_cancelled_twice_has_its_counts_and_closed_its_channels() -> None:
    cleaning = asyncio.Event()

    async def slow(in_ch: dict[str, Any], out_ch: dict[str, Any]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await asyncio.Event().wait()

    runtime = DagRuntime(dag_of(slow, Collect()))
    running = asyncio.create_task(runtime.start())
    await asyncio.sleep(0)
    running.cancel()
    await cleaning.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert runtime.result == (2, 0, 2, 0)


def test_a_run_that_was_left_by_an_exit_is_none_that_has_finished() -> None:
    """asyncio lets ``SystemExit`` out of the loop; a host that runs the loop on must not be told that all is well."""

    def leave(item: int) -> int:
        raise SystemExit(3)

    runtime = DagRuntime(dag_of(ListSource(range(30)), Map(leave)))
    with asyncio.Runner() as runner:
        running = runner.get_loop().create_task(runtime.start())
        while not running.done():
            with suppress(SystemExit):
                runner.get_loop().run_until_complete(running)
    assert isinstance(running.exception(), SystemExit)
    assert runtime.result.failed == 1


async def test_each_sink_is_closed_though_another_one_cannot_be() -> None:
    closed: list[str] = []

    class Closing(Sink):
        def __init__(self, name: str, why: str = "") -> None:
            self.name, self.why = name, why

        async def open(self, ctx: SinkContext, state: Any | None) -> None:
            return None

        async def write(self, frames: Sequence[Frame]) -> None:
            return None

        async def close(self) -> None:
            closed.append(self.name)
            if self.why:
                raise SinkError(self.why)

    pipeline = Pipeline("two").source(ListSource(range(3))).sink(Closing("a", "no room"), "a").sink(Closing("b"), "b")
    with pytest.raises(SinkError, match="no room"):
        await DagRuntime(pipeline).start()
    assert closed == ["a", "b"]
