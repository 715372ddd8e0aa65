"""Which calls a sink gets from its task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from test_runtime_memory_jobs import job_of
from tools.memory_job import CommittedRows, ListSource

from market_data_pipeline import Dag, Frame, Node
from market_data_pipeline.dag.plan import TaskId
from market_data_pipeline.errors import SinkError
from market_data_pipeline.operators.stateless import Filter
from market_data_pipeline.packing import pack, unpack
from market_data_pipeline.sinks.base import Sink, SinkContext


class Diary(Sink):
    """Writes down how it is called."""

    calls: ClassVar[list[str]] = []

    async def write(self, frames: Sequence[Frame]) -> None:
        self.calls.append("write")

    async def prepare(self, ended: bool) -> Any | None:
        self.calls.append("prepare, the end" if ended else "prepare")
        return None

    async def committed(self) -> None:
        self.calls.append("committed")


async def test_committed_follows_only_a_commit_that_holds_what_prepare_returned() -> None:
    """A commit in which the sink had no part still carries its former state: the sink must not think otherwise."""
    Diary.calls.clear()
    rows = [{"symbol": "A", "n": n, "ts_event": n} for n in range(60)]
    dag = Dag("diary")
    dag.add_node(Node("source", ListSource(rows, batch_items=5)))
    dag.add_node(Node("few", Filter(lambda row: row["n"] % 20 == 0)))
    dag.add_node(Node("diary", Diary()))
    dag.add_edge("source", "few", key="symbol")
    dag.add_edge("few", "diary")
    job, _ = job_of(dag, partitions=1)
    await job.run()
    assert Diary.calls[-2:] == ["prepare, the end", "committed"]
    rounds = Diary.calls[:-2]
    assert rounds[: len(rounds) // 3 * 3] == ["write", "prepare", "committed"] * (len(rounds) // 3)
    assert rounds.count("write") >= 1


class Opened(CommittedRows):
    """Notes for which job it was opened."""

    jobs: ClassVar[list[str]] = []

    async def open(self, ctx: SinkContext, state: Any | None) -> None:
        self.jobs.append(ctx.job)
        await super().open(ctx, state)


async def test_a_sink_hears_its_own_life_and_the_record_says_whether_it_was_sealed() -> None:
    """What a deployment must know of a sink that it changes, and what it tells one that begins anew."""
    Opened.jobs.clear()
    rows = [{"symbol": "A", "n": n, "ts_event": n} for n in range(40)]
    dag = Dag("lives")
    dag.add_node(Node("source", ListSource(rows, batch_items=5)))
    dag.add_node(Node("sink", Opened()))
    dag.add_edge("source", "sink", key="symbol")
    job, server = job_of(dag, partitions=1)
    task = TaskId("sink", 0)
    server.contents.tasks[task].meta = pack({"lives": {"sink": "again"}})

    def stored() -> dict[str, Any]:
        return dict(unpack(server.contents.tasks[task].meta))

    await job.run_until(lambda: "sinks" in stored())
    assert (stored()["lives"], stored()["unsealed"]) == ({"sink": "again"}, ["sink"])
    await job.take_over(0)
    await job.run()
    assert stored()["lives"] == {"sink": "again"}
    assert "unsealed" not in stored(), "the end seals"
    assert set(Opened.jobs) == {"again"}


class Unclosable(CommittedRows):
    """Its client cannot be closed either."""

    closed: ClassVar[list[str]] = []

    async def open(self, ctx: SinkContext, state: Any | None) -> None:
        self.node = ctx.node
        await super().open(ctx, state)

    async def close(self) -> None:
        self.closed.append(self.node)
        raise SinkError("not connected")


async def test_each_sink_of_a_task_is_closed_whatever_another_one_raises() -> None:
    """Else a circuit's only trial, say, would never be given back."""
    Unclosable.closed.clear()
    dag = Dag("closing")
    dag.add_node(Node("source", ListSource([{"symbol": "A", "ts_event": 1}])))
    dag.add_node(Node("both", Filter(lambda row: True)))
    dag.add_edge("source", "both", key="symbol")
    for name in ("one", "two"):
        dag.add_node(Node(name, Unclosable()))
        dag.add_edge("both", name)
    job, _ = job_of(dag, partitions=1)
    await job.run()  # which begins a task anew whose outside fails
    assert set(Unclosable.closed) == {"one", "two"}
    assert Unclosable.closed.count("one") == Unclosable.closed.count("two")


class Generations(CommittedRows):
    """Notes under which generation it was opened."""

    seen: ClassVar[list[int]] = []

    async def open(self, ctx: SinkContext, state: Any | None) -> None:
        self.seen.append(ctx.generation)
        await super().open(ctx, state)


async def test_a_later_owner_has_the_larger_generation_also_when_the_servers_clock_goes_back() -> None:
    Generations.seen.clear()
    rows = [{"symbol": "A", "n": n, "ts_event": n} for n in range(40)]
    dag = Dag("generations")
    dag.add_node(Node("source", ListSource(rows, batch_items=5)))
    dag.add_node(Node("sink", Generations()))
    dag.add_edge("source", "sink", key="symbol")
    job, server = job_of(dag, partitions=1)
    task = TaskId("sink", 0)
    ahead = 10**18  # a clock that was far ahead when this was committed
    server.contents.tasks[task].meta = pack({"generation": ahead})
    await job.run_until(lambda: "sinks" in unpack(server.contents.tasks[task].meta))
    assert unpack(server.contents.tasks[task].meta)["generation"] == ahead + 1
    await job.take_over(0)
    await job.run()
    assert Generations.seen == [ahead + 1, ahead + 2]
