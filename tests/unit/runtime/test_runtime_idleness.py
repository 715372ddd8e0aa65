"""Idle inputs: they hold nobody back, wake up, and are remembered by the next owner."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.fake_clock import FakeClock
from tools.memory_job import CommittedRows, ListSource, MemoryJob, committed_rows
from tools.memory_store import MemoryServer

from market_data_pipeline import Dag, Node, TumblingWindow
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.frame import END, IDLE, NO_MARK
from market_data_pipeline.runtime.contract import Limits
from market_data_pipeline.runtime.progress import MarkMerger, SourceWatermark
from market_data_pipeline.sources.base import Batch, SourceContext

SECOND = 1_000_000_000
steps = st.lists(st.tuples(st.sampled_from("abc"), st.integers(-5, 20) | st.sampled_from([END, IDLE])), max_size=60)


@given(steps)
@settings(derandomize=True, max_examples=300, deadline=None)
def test_the_watermark_is_that_of_the_inputs_that_are_not_idle(history: list[tuple[str, int]]) -> None:
    merger = MarkMerger("abc")
    best, idle, watermark = dict.fromkeys("abc", NO_MARK), set[str](), NO_MARK
    for key, mark in history:
        if mark == IDLE:
            idle |= {key} if best[key] != END else set()
        else:
            idle -= {key}
            best[key] = max(best[key], mark)
        merger.update(key, mark)
        heard = [best[k] for k in "abc" if k not in idle and best[k] != END]
        silent = [best[k] for k in idle]
        watermark = max(watermark, min(heard) if heard else max(silent) if silent else END)
        assert merger.watermark == watermark
        assert merger.is_idle == (bool(idle) and not heard)
        again = MarkMerger("abc")
        again.restore(merger.saved())
        assert again.saved() == merger.saved()


def test_items_wake_an_idle_input() -> None:
    merger = MarkMerger("ab")
    merger.update("a", 10)
    merger.update("b", IDLE)
    assert merger.watermark == 10
    merger.came("b")
    merger.update("a", 20)
    assert merger.watermark == 10, "b holds back again"


def test_a_source_is_idle_after_its_time_and_says_so_once() -> None:
    source = SourceWatermark(0, idle_after=2 * SECOND)
    source.heard(100.0)
    assert source.patience(100.5) == 1.0
    assert source.patience(101.5) == 0.5
    assert source.silence(101.9, 0) is None
    assert source.silence(102.0, 0) == IDLE
    assert source.silence(103.0, 0) is None
    source.heard(104.0)
    assert source.silence(105.0, 0) is None
    assert source.silence(106.0, 0) == IDLE


def test_an_idle_live_source_follows_the_clock_and_never_goes_back() -> None:
    source = SourceWatermark(5, idle_after=SECOND, live=True)
    source.heard(0.0)
    source.observe([{"ts_event": 1_000}])
    assert source.silence(0.5, 9_000) is None
    assert source.silence(1.0, 9_000) == 8_995
    assert source.silence(1.1, 8_000) is None
    assert source.silence(1.2, 9_100) == 9_095
    assert source.observe([{"ts_event": 2_000}]) == 9_095


class Quiet(ListSource):
    """Gives its items, and then nothing for ever, until ``done`` is set."""

    def __init__(self, items: list[Any], idle_after: int | None, live: bool = False) -> None:
        super().__init__(items)
        self.idle_after, self.live = idle_after, live
        self.done = asyncio.Event()

    def fresh(self) -> Quiet:
        return self

    async def open(self, ctx: SourceContext, position: Any | None) -> None:
        await super().open(ctx, position)

    async def read(self) -> Batch | None:
        batch = await super().read()
        if batch is None:
            await self.done.wait()
        return batch


def fan_in(quiet: Quiet, partitions: int) -> MemoryJob:
    """A source with items at 0..99 s, and one that falls silent, into windows of 10 s."""
    rows = [{"symbol": f"S{n % 3}", "n": n, "ts_event": n * SECOND} for n in range(100)]
    busy = Quiet(rows, None)
    quiet.done = busy.done
    dag = Dag("idle")
    dag.add_node(Node("busy", busy))
    dag.add_node(Node("quiet", quiet))
    dag.add_node(Node("windows", TumblingWindow("10s", key="symbol")))
    dag.add_node(Node("sink", CommittedRows()))
    dag.add_edge("busy", "windows", key="symbol")
    dag.add_edge("quiet", "windows", key="symbol")
    dag.add_edge("windows", "sink")
    plan = compile_dag(dag, partitions)
    job = MemoryJob(dag, plan, MemoryServer(plan, Limits()), Limits())
    job.clock = FakeClock()
    return job


def windows(job: MemoryJob) -> set[int]:
    return {window.ts_open // SECOND for rows in committed_rows(job.server, "sink").values() for window in rows}


@pytest.mark.parametrize("partitions", [1, 4])
@pytest.mark.parametrize("first", [[], [{"symbol": "S1", "n": -1, "ts_event": 5 * SECOND}]])
async def test_a_silent_source_does_not_stall_the_job(partitions: int, first: list[Any]) -> None:
    quiet = Quiet(first, idle_after=SECOND)
    job = fan_in(quiet, partitions)

    def waited() -> bool:
        job.clock.advance(0.01)
        return windows(job) == set(range(0, 90, 10))

    await job.run_until(waited)
    for partition in range(partitions):
        await job.take_over(partition)
    quiet.done.set()
    await job.run()
    assert windows(job) == set(range(0, 100, 10))


async def test_without_idle_after_it_holds_the_others_back() -> None:
    quiet = Quiet([], idle_after=None)
    job = fan_in(quiet, 1)
    looks = iter(range(300))

    def waited() -> bool:
        job.clock.advance(0.01)
        return next(looks, None) is None

    await job.run_until(waited)
    assert windows(job) == set()
    quiet.done.set()
    await job.run()
    assert windows(job) == set(range(0, 100, 10))


async def test_a_consumer_that_starts_anew_remembers_who_is_idle() -> None:
    """The idle source does not say it again."""
    quiet = Quiet([], idle_after=SECOND)
    job = fan_in(quiet, 1)

    def heard() -> bool:
        job.clock.advance(0.01)
        return len(windows(job)) > 2

    await job.run_until(heard)
    (consumer,) = [task for task in job.running if task.subgraph == "windows"]
    await job.kill(consumer)
    job.server.lease(consumer.partition)
    for task in [task for task in job.running if task.partition == consumer.partition]:
        await job.kill(task)

    def all_out() -> bool:
        job.clock.advance(0.01)
        return windows(job) == set(range(0, 90, 10))

    await job.run_until(all_out)
    quiet.done.set()
    await job.run()
    assert windows(job) == set(range(0, 100, 10))


async def test_a_source_that_is_told_to_rest_does_not_call_itself_idle() -> None:
    """The silence is ours. Another source would go ahead, and what waited outside meanwhile be late."""
    quiet = Quiet([{"symbol": "S1", "n": -1, "ts_event": 5 * SECOND}], idle_after=SECOND)
    job = fan_in(quiet, 1)
    sources = [task for task in job.plan.tasks() if task.subgraph in ("busy", "quiet")]
    await job.run_until(lambda: job.server.contents.tasks[sources[1]].meta != b"", sources)
    resting: Any = job.running[sources[1]][0]
    resting.resting = True
    rested = job.clock.monotonic() + 10

    def waited() -> bool:
        job.clock.advance(0.01)
        return job.clock.monotonic() > rested

    await job.run_until(waited, sources)
    assert resting._intake.watermark.silence(job.clock.monotonic(), 0) is None
    await job.stop()
