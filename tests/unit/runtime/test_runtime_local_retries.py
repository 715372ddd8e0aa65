"""Sources and sinks of one process that fail for a while: begun anew, with nothing lost and nothing twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from tools.fake_clock import FakeClock
from tools.memory_job import ListSource

from market_data_pipeline import Batch, Collect, Dag, DagRuntime, Frame, Node, Retries, Sink, SinkContext, SourceContext
from market_data_pipeline.errors import SinkError, SourceError
from market_data_pipeline.frame import to_rows

ROWS = [{"symbol": "A", "n": n, "ts_event": n} for n in range(20)]


class Table:
    """The outside of a sink: what is published, and which of its calls fail."""

    def __init__(self, *failing: str) -> None:
        self.failing = Counter(failing)
        self.published: list[int] = []
        self.staged: dict[int, list[int]] = {}
        self.opened: list[tuple[int, Any]] = []
        self.closed = 0

    def call(self, name: str) -> None:
        if self.failing[name] > 0:
            self.failing[name] -= 1
            raise SinkError(f"{name}: away")


class Staging(Sink):
    """Stages the rows of a step under a number that it prepares, and publishes them once. Refuses the row 3."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def fresh(self) -> Staging:
        return Staging(self.table)

    async def open(self, ctx: SinkContext, state: Any | None) -> None:
        self.table.opened.append((ctx.generation, state))
        self.table.call("open")
        self._ctx, self._rows, self._step = ctx, [], state or 0
        self._publish()

    def _publish(self) -> None:
        self.table.published += self.table.staged.pop(self._step, [])

    async def write(self, frames: Sequence[Frame]) -> None:
        rows = [row for frame in frames for row in to_rows(frame.items)]
        for row in rows:
            if row["n"] == 3:
                self._ctx.reject(row, "three")
        self._ctx.counted("written", len(rows))
        self._rows = [row["n"] for row in rows if row["n"] != 3]
        self.table.call("write")

    async def prepare(self, ended: bool) -> Any | None:
        self.table.call("prepare")
        self._step += 1
        self.table.staged[self._step], self._rows = self._rows, []
        return self._step

    async def committed(self) -> None:
        self.table.call("committed")
        self._publish()

    async def close(self) -> None:
        self.table.closed += 1


def runtime_of(table: Table, retries: Retries | None, clock: FakeClock) -> DagRuntime:
    dag = Dag("sink")
    dag.add_node(Node("source", ListSource(ROWS, batch_items=5)))
    dag.add_node(Node("sink", Staging(table), retries=retries))
    dag.add_edge("source", "sink")
    return DagRuntime(dag, clock=clock)


@pytest.mark.parametrize(
    "failing",
    [("open", "open"), ("write", "write"), ("prepare", "prepare"), ("committed",), ("write", "open", "prepare")],
    ids=" ".join,
)
async def test_a_sink_that_fails_goes_on_behind_its_last_step(failing: tuple[str, ...]) -> None:
    table, clock = Table(*failing), FakeClock()
    runtime = runtime_of(table, Retries(attempts=4), clock)
    await runtime.start()
    assert table.published == [n for n in range(20) if n != 3], "nothing lost, nothing twice, in order"
    assert [letter.item["n"] for letter in runtime.dead_letters] == [3], "refused once, however often it was written"
    assert (runtime.counts["sink"]["dead_letter"], runtime.counts["sink"]["written"]) == (1, 20)
    assert clock.slept == [1.0, 2.0, 4.0][: len(failing)]
    generations = [generation for generation, _ in table.opened]
    assert generations == sorted(set(generations))
    assert table.closed == len(table.opened) == len(failing) + 1


async def test_failures_count_in_a_row() -> None:
    """Two in each of two steps are not four."""
    table, clock = Table("write", "write"), FakeClock()
    dag = Dag("row")
    dag.add_node(Node("source", ListSource(ROWS, batch_items=10)))
    dag.add_node(Node("sink", Staging(table), retries=Retries(attempts=3)))
    dag.add_edge("source", "sink")
    real = table.call

    def call(name: str) -> None:
        real(name)
        if name == "committed" and len(table.opened) == 3:
            table.failing["write"] = 2

    table.call = call  # type: ignore[method-assign]
    await DagRuntime(dag, clock=clock).start()
    assert clock.slept == [1.0, 2.0, 1.0, 2.0]
    assert len(table.published) == 19


@pytest.mark.parametrize(("retries", "tries"), [(None, 1), (Retries(attempts=3), 3)])
async def test_the_last_error_comes_out_when_it_was_often_enough(retries: Retries | None, tries: int) -> None:
    table = Table(*["write"] * 10)
    with pytest.raises(
        SinkError, match="^write: away" + ("; node .sink. was tried 3 times in a row$" if retries else "$")
    ):
        await runtime_of(table, retries, FakeClock()).start()
    assert len(table.opened) == table.closed == tries
    assert table.published == []


class Feed:
    """The outside of a source: the positions at which it was opened, and after which it fails how often."""

    def __init__(self, failing: dict[int, int]) -> None:
        self.failing = failing
        self.opened: list[Any] = []
        self.closed = 0


class Flaky(ListSource):
    def __init__(self, feed: Feed) -> None:
        super().__init__(ROWS, batch_items=5)
        self.feed = feed

    def fresh(self) -> Flaky:
        return Flaky(self.feed)

    async def open(self, ctx: SourceContext, position: Any | None) -> None:
        self.feed.opened.append(position)
        if self._fails(-1):
            raise SourceError("cannot open")
        await super().open(ctx, position)

    def _fails(self, at: int) -> bool:
        self.feed.failing[at] = self.feed.failing.get(at, 0) - 1
        return self.feed.failing[at] >= 0

    async def read(self) -> Batch | None:
        if self._fails(self._at):
            raise SourceError(f"cut off at {self._at}")
        return await super().read()

    async def close(self) -> None:
        self.feed.closed += 1


def read_of(feed: Feed, retries: Retries | None, clock: FakeClock) -> tuple[DagRuntime, Collect]:
    out, dag = Collect(), Dag("source")
    dag.add_node(Node("source", Flaky(feed), retries=retries))
    dag.add_node(Node("out", out))
    dag.add_edge("source", "out")
    return DagRuntime(dag, clock=clock), out


async def test_a_source_that_is_cut_off_goes_on_at_its_last_position() -> None:
    feed, clock = Feed({-1: 1, 0: 1, 10: 2, 20: 1}), FakeClock()
    runtime, out = read_of(feed, Retries(attempts=3), clock)
    await runtime.start()
    assert [row["n"] for row in out.items] == list(range(20))
    assert feed.opened == [None, None, None, 10, 10, 20]
    assert clock.slept == [1.0, 2.0, 1.0, 2.0, 1.0], "each batch ends a row of failures"
    assert feed.closed == len(feed.opened)


@pytest.mark.parametrize(("retries", "tries"), [(None, 1), (Retries(attempts=2), 2)])
async def test_a_source_that_stays_away_fails_the_run(retries: Retries | None, tries: int) -> None:
    feed = Feed({10: 99})
    runtime, out = read_of(feed, retries, FakeClock())
    said = "cut off at 10" + (f"; node 'source' was tried {tries} times in a row" if retries else "")
    with pytest.raises(SourceError, match=f"^{said}$"):
        await runtime.start()
    assert [row["n"] for row in out.items] == list(range(10))
    assert feed.opened == [None, *[10] * (tries - 1)]
    assert feed.closed == tries


async def test_a_run_that_is_stopped_does_not_wait_for_its_source() -> None:
    """Not even where it has never been open, and is tried for ever."""

    class Patient(FakeClock):
        async def sleep(self, seconds: float) -> None:
            runtime.stop()
            await asyncio.Event().wait()

    feed = Feed({-1: 99})
    runtime, out = read_of(feed, Retries(), Patient())
    async with asyncio.timeout(20):
        await runtime.start()
    assert (out.items, feed.opened, feed.closed) == ([], [None], 1)
