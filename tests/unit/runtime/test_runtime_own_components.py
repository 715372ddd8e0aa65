"""Mistakes in a source or sink of one's own: the same sentence in one process and in a job, with the node and the method."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tools.memory_job import ListSource, MemoryJob
from tools.memory_store import MemoryServer

from market_data_pipeline import Batch, Dag, DagRuntime, Discard, Frame, Node, SourceContext
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import ConfigError, DagValidationError
from market_data_pipeline.runtime.contract import Limits

ROWS = [{"symbol": "A", "ts_event": n} for n in range(5)]


class ReadsLists(ListSource):
    async def read(self) -> Any:
        return ROWS


class ReadsAtOnce(ListSource):
    def read(self) -> Any:
        return Batch(ROWS, 5)


class OpensAtOnce(ListSource):
    def open(self, ctx: SourceContext, position: Any | None) -> Any:
        self._at = 0


class ClosesAtOnce(ListSource):
    def close(self) -> Any:
        pass


class WritesAtOnce(Discard):
    def write(self, frames: Sequence[Frame]) -> Any:
        pass


class PreparesAtOnce(Discard):
    def prepare(self, ended: bool) -> Any:
        return 5


class CommitsAtOnce(Discard):
    def committed(self) -> Any:
        pass


class SinkOpensAtOnce(Discard):
    def open(self, ctx: object, state: object) -> Any:
        pass


class SinkClosesAtOnce(Discard):
    def close(self) -> Any:
        pass


class Awaitable(Discard):
    """No 'async def', and yet right."""

    def write(self, frames: Sequence[Frame]) -> Any:
        return super().write(frames)


def dag_of(source: ListSource, sink: Discard) -> Dag:
    dag = Dag("own")
    dag.add_node(Node("feed", source))
    dag.add_node(Node("out", sink))
    dag.add_edge("feed", "out")
    return dag


async def in_process(dag: Dag) -> None:
    await DagRuntime(dag).start()


async def in_a_job(dag: Dag) -> None:
    plan, limits = compile_dag(dag, 1), Limits()
    job = MemoryJob(dag, plan, MemoryServer(plan, limits), limits)
    for task in plan.tasks():
        job.start(task)
    await asyncio.gather(*(running for _, running in job.running.values()))


ASYNC = "; write it as an 'async def' that returns"


@pytest.mark.parametrize("run", [in_process, in_a_job])
@pytest.mark.parametrize(
    ("source", "sink", "message"),
    [
        (
            ReadsLists,
            Discard,
            r"node 'feed': ReadsLists.read gave \[{.*; return a Batch\(items, position\), None at the end",
        ),
        (ReadsAtOnce, Discard, rf"node 'feed': ReadsAtOnce.read gave Batch\(.*{ASYNC}"),
        (OpensAtOnce, Discard, f"node 'feed': OpensAtOnce.open gave None{ASYNC}"),
        (ClosesAtOnce, Discard, f"node 'feed': ClosesAtOnce.close gave None{ASYNC}"),
        (ListSource, WritesAtOnce, f"node 'out': WritesAtOnce.write gave None{ASYNC}"),
        (ListSource, PreparesAtOnce, f"node 'out': PreparesAtOnce.prepare gave 5{ASYNC}"),
        (ListSource, CommitsAtOnce, f"node 'out': CommitsAtOnce.committed gave None{ASYNC}"),
        (ListSource, SinkOpensAtOnce, f"node 'out': SinkOpensAtOnce.open gave None{ASYNC}"),
        (ListSource, SinkClosesAtOnce, f"node 'out': SinkClosesAtOnce.close gave None{ASYNC}"),
    ],
)
async def test_what_is_not_as_the_contract_says_is_told(
    run: Callable[[Dag], Any], source: type[ListSource], sink: type[Discard], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        await run(dag_of(source(ROWS), sink()))


@pytest.mark.parametrize("run", [in_process, in_a_job])
async def test_whatever_can_be_awaited_will_do(run: Callable[[Dag], Any]) -> None:
    await run(dag_of(ListSource(ROWS), Awaitable()))


class Measured(Discard):
    def reading(self) -> None:
        pass


class Told(Discard):
    """Has something else of that name."""

    def __init__(self) -> None:
        self.reading = "a book"


def test_a_reading_that_cannot_be_awaited_is_refused() -> None:
    with pytest.raises(
        DagValidationError, match=r"node 'out': Measured.reading is no 'async def', so nobody could ask it"
    ):
        dag_of(ListSource(ROWS), Measured()).validate()
    dag_of(ListSource(ROWS), Told()).validate()
