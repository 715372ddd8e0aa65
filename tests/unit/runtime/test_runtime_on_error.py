"""What a source cannot read and a sink's store refuses goes where ``on_error`` says, in tasks and in one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tools.memory_job import CommittedRows, ListSource, MemoryJob, committed_rows
from tools.memory_store import MemoryServer

from market_data_pipeline import Batch, Dag, DagRuntime, Frame, Node
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import OperatorFailed, SinkError
from market_data_pipeline.frame import to_rows
from market_data_pipeline.operators.base import DeadLetter, OnError
from market_data_pipeline.packing import unpack
from market_data_pipeline.runtime.contract import Limits
from market_data_pipeline.sinks.base import SinkContext

ROWS = [{"symbol": "A", "n": n, "ts_event": n} for n in range(30)]
BAD_ROW = DeadLetter("source", "price: 'x' is not a finite number", {"row": 1}, "trades.csv:3", "the traceback")
ODD = 17


class Rejecting(ListSource):
    """Has a row that it cannot use in its second batch."""

    async def read(self) -> Batch | None:
        batch = await super().read()
        return batch._replace(rejected=(BAD_ROW,)) if batch is not None and batch.position == 20 else batch


class Picky(CommittedRows):
    """Its store refuses one row. Whatever is raised within its work would be the store's error to it."""

    kept: list[int]

    async def open(self, ctx: SinkContext, state: Any | None) -> None:
        await super().open(ctx, state)
        self._ctx = ctx

    async def write(self, frames: Sequence[Frame]) -> None:
        rows = [row for frame in frames for row in to_rows(frame.items)]
        try:
            for row in rows:
                if row["n"] == ODD:
                    self._ctx.reject(row, "refused by the store")
        except Exception as error:
            raise SinkError("the transaction failed") from error
        await super().write([Frame([row for row in rows if row["n"] != ODD])])
        self.kept += [row["n"] for row in rows if row["n"] != ODD]

    def fresh(self) -> Picky:
        made = Picky()
        made.kept = self.kept
        return made


def dag_with(source: OnError, sink: OnError) -> Dag:
    picky = Picky()
    picky.kept = []
    dag = Dag("policies")
    dag.add_node(Node("source", Rejecting(ROWS), on_error=source))
    dag.add_node(Node("sink", picky, on_error=sink))
    dag.add_edge("source", "sink", boundary=True)
    return dag


async def in_tasks(dag: Dag) -> tuple[list[DeadLetter], dict[str, dict[str, int]], list[int]]:
    plan, limits = compile_dag(dag, 1), Limits(frame_items=8, linger=0.0, mark_interval=0.0)
    server = MemoryServer(plan, limits)
    job = MemoryJob(dag, plan, server, limits)
    try:
        await job.run()
    finally:
        await job.stop()
    metas = [unpack(record.meta) for record in server.contents.tasks.values()]
    counts = {node: counts for meta in metas for node, counts in meta["counts"].items()}
    return server.contents.dead_letters, counts, [row["n"] for row in committed_rows(server, "sink")[0]]


async def in_one_process(dag: Dag) -> tuple[list[DeadLetter], dict[str, dict[str, int]], list[int]]:
    runtime = DagRuntime(dag)
    await runtime.start()
    kept: list[int] = dag.nodes["sink"].fn.kept  # type: ignore[union-attr]
    return runtime.dead_letters, {node: dict(counts) for node, counts in runtime.counts.items()}, kept


RUN = pytest.mark.parametrize("run", [in_tasks, in_one_process], ids=lambda run: run.__name__)
GOOD = [n for n in range(30) if n != ODD]


@RUN
async def test_dead_letters_say_all_that_is_known(run: Any) -> None:
    letters, counts, kept = await run(dag_with("dead_letter", "dead_letter"))
    assert sorted(letters) == sorted([BAD_ROW, DeadLetter("sink", "refused by the store", ROWS[ODD])])
    assert (counts["source"]["dead_letter"], counts["sink"]["dead_letter"]) == (1, 1)
    assert kept == GOOD


@RUN
async def test_what_is_skipped_is_counted_and_nothing_else(run: Any) -> None:
    letters, counts, kept = await run(dag_with("skip", "skip"))
    assert letters == []
    assert [counts[node]["skipped"] for node in ("source", "sink")] == [1, 1]
    assert [counts[node].get("dead_letter", 0) for node in ("source", "sink")] == [0, 0]
    assert kept == GOOD


@RUN
async def test_a_source_that_must_lose_nothing_fails_at_a_bad_row(run: Any) -> None:
    said = "node 'source' at trades.csv:3: price: 'x' is not a finite number; item: {'row': 1}"
    with pytest.raises(OperatorFailed) as failed:
        await run(dag_with("fail", "skip"))
    assert str(failed.value) == said


@RUN
async def test_a_sink_that_must_lose_nothing_fails_though_it_catches_all(run: Any) -> None:
    """Not within its work, where it would take it for an error of the store, and be tried for ever."""
    with pytest.raises(OperatorFailed, match=r"node 'sink': refused by the store; item: .*'n': 17"):
        await run(dag_with("skip", "fail"))
