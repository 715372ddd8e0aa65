"""How a task finds the item that kills its process: pure decisions, then whole jobs on the model of the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tools.memory_job import CommittedRows, ListSource, MemoryJob, committed_rows
from tools.memory_store import MemoryServer

from market_data_pipeline import Dag, Node, Pipeline
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import OperatorFailed
from market_data_pipeline.runtime.contract import Attempts, Limits
from market_data_pipeline.runtime.observe import TaskObserver
from market_data_pipeline.runtime.suspicion import DEATHS, Range, Suspicion, place_of


def after(*attempts: Attempts) -> Suspicion:
    suspicion = Suspicion()
    for answer in attempts:
        suspicion.learned(answer)
    return suspicion


def test_the_first_start_is_unsuspecting() -> None:
    suspicion = after(Attempts(1))
    assert (suspicion.careful, suspicion.marking, suspicion.ask) == (False, False, False)


def test_the_second_start_takes_one_frame_a_commit_for_a_while() -> None:
    suspicion = after(Attempts(2))
    assert (suspicion.careful, suspicion.marking) == (True, False)
    steps = 0
    while suspicion.careful:
        assert not suspicion.ask, "it has begun at this commit: to ask again would count as another start"
        suspicion.committed()
        assert suspicion.ask == suspicion.careful
        suspicion.learned(Attempts(1))
        steps += 1
    assert steps == 16
    assert not suspicion.ask


def test_from_the_third_start_on_it_marks_until_a_commit() -> None:
    suspicion = after(Attempts(3))
    assert suspicion.marking
    suspicion.committed()
    assert (suspicion.marking, suspicion.careful) == (False, True)


@pytest.mark.parametrize("items", [1, 2, 127, 128, 129, 8192, 100_000])
def test_ranges_cover_every_item_once(items: int) -> None:
    parts = after(Attempts(3)).ranges("u", items)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(items))
    assert len(parts) <= 128


def test_each_death_divides_the_range_until_one_item_is_left() -> None:
    poison, place, deaths, suspect, starts = 5_077, "", 0, "", 3
    while True:
        parts = after(Attempts(starts, suspect, deaths)).ranges("u", 8192)
        assert [i for part in parts for i in range(part.start, part.stop)] == list(range(8192))
        part = next(part for part in parts if part.start <= poison < part.stop)
        if part.poison:
            break
        place = place_of("u", part)
        deaths = deaths + 1 if place == suspect else 1
        suspect, starts = place, starts + 1
    assert part == Range(poison, poison + 1, True)
    assert [other for other in parts if other.poison] == [part]
    assert (deaths, starts) == (DEATHS, 7)


@pytest.mark.parametrize("suspect", ["", "other 0-1", "u end", "u 5-3", "u 0-99", "u", "u x-y", "u 1"])
def test_a_mark_that_says_nothing_about_this_frame_divides_the_whole(suspect: str) -> None:
    assert after(Attempts(5, suspect, 9)).ranges("u", 4) == [Range(i, i + 1) for i in range(4)]


def test_deaths_at_different_items_condemn_none() -> None:
    assert not any(part.poison for part in after(Attempts(9, "u 3-4", DEATHS - 1)).ranges("u", 8))


class Dies(BaseException):
    """Stands for a process that is gone: none of its tasks takes another step."""

    def __init__(self, job: MemoryJob) -> None:
        job.crash()


class Watching(TaskObserver):
    def __init__(self) -> None:
        self.reloads = 0

    def reloaded(self) -> None:
        self.reloads += 1


def make_job(fn: Callable[[Any], Any], with_source: bool, items: int, partitions: int = 1) -> MemoryJob:
    """``fn`` behind a stream, or fused with the source."""
    rows = [{"symbol": f"S{n % 7}", "n": n, "ts_event": n} for n in range(items)]
    pipeline = Pipeline("deadly").source(ListSource(rows), name="source")
    pipeline = pipeline.map(fn).key_by("symbol") if with_source else pipeline.key_by("symbol").map(fn)
    dag = pipeline.sink(CommittedRows(), name="sink").build()
    plan = compile_dag(dag, partitions)
    limits = Limits(frame_items=50, commit_items=120)
    return MemoryJob(dag, plan, MemoryServer(plan, limits), limits)


def written(job: MemoryJob) -> list[int]:
    return sorted(row["n"] for rows in committed_rows(job.server, "sink").values() for row in rows)


@pytest.mark.parametrize("with_source", [False, True])
async def test_an_item_that_kills_the_process_ends_in_the_dead_letters(with_source: bool) -> None:
    deadly = 137

    def fatal(row: dict[str, int]) -> dict[str, int]:
        if row["n"] == deadly:
            raise Dies(job)
        return row

    job = make_job(fatal, with_source, items=400)
    deaths = await run_to_the_end(job)
    assert written(job) == [n for n in range(400) if n != deadly]
    (letter,) = job.server.contents.dead_letters
    assert letter.item["n"] == deadly
    assert "the process died 3 times at this item" in letter.reason
    assert DEATHS < deaths <= 7


async def run_to_the_end(job: MemoryJob) -> int:
    """Restart the task that died, as a supervisor would; how many times."""
    deaths = 0
    while True:
        try:
            await job.run()
            return deaths
        except (OperatorFailed, asyncio.CancelledError):
            deaths += 1
            assert deaths < 20, "the item is never found"
            job.server.marking = asyncio.Lock()  # another process
            for partition in range(job.plan.partitions):
                await job.take_over(partition)


async def test_those_that_die_with_it_condemn_nothing() -> None:
    """Four partitions in one process, all at the same place in their work whenever one of them kills it."""
    deadly = {137: 3, 138: 2}

    def fatal(row: dict[str, int]) -> dict[str, int]:
        if row["n"] in deadly:
            raise Dies(job)
        return row

    job = make_job(fatal, with_source=False, items=800, partitions=4)
    await run_to_the_end(job)
    assert written(job) == [n for n in range(800) if n not in deadly]
    assert sorted(letter.item["n"] for letter in job.server.contents.dead_letters) == sorted(deadly)


async def test_a_coroutine_nodes_deadly_item_ends_in_the_dead_letters() -> None:
    async def fn(in_ch: dict[str, Any], out_ch: dict[str, Any]) -> None:
        async for row in in_ch["source"]:
            if row["n"] == 137:
                raise Dies(job)
            await out_ch["sink"].put(row)

    rows = [{"symbol": f"S{n % 7}", "n": n, "ts_event": n} for n in range(400)]
    dag = Dag("deadly")
    dag.add_node(Node("source", ListSource(rows)))
    dag.add_node(Node("fn", fn))
    dag.add_node(Node("sink", CommittedRows()))
    dag.add_edge("source", "fn", key="symbol")
    dag.add_edge("fn", "sink")
    plan = compile_dag(dag, 1)
    limits = Limits(frame_items=50, commit_items=120)
    job = MemoryJob(dag, plan, MemoryServer(plan, limits), limits)
    deaths = await run_to_the_end(job)
    assert written(job) == [n for n in range(400) if n != 137]
    assert [letter.item["n"] for letter in job.server.contents.dead_letters] == [137]
    assert DEATHS < deaths <= 7


async def test_a_restart_without_deaths_condemns_nothing() -> None:
    """However often a task is killed at any other place."""
    job = make_job(lambda row: row, with_source=False, items=400)
    for commits in range(1, 12):
        await job.run_until(lambda: len(job.server.history) >= commits)  # noqa: B023
        await job.take_over(0)
        await job.take_over(0)
        await job.take_over(0)
    await job.run()
    assert written(job) == list(range(400))
    assert job.server.contents.dead_letters == []


async def test_past_its_lease_a_task_writes_nothing_outside_and_loads_again() -> None:
    job = make_job(lambda row: row, with_source=False, items=50)
    job.observer = watching = Watching()
    held = iter([False, True, False])
    job.server.lease_held = lambda: next(held, True)
    await job.run()
    assert written(job) == list(range(50))
    assert next(held, None) is None, "it was asked"
    assert watching.reloads == 2
