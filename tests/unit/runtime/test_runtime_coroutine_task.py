"""Coroutine nodes across tasks, on the in-memory model of the commit."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from tools.memory_job import CommittedRows, ListSource, MemoryJob, committed_rows
from tools.memory_store import Fault, MemoryServer

from market_data_pipeline.channels.base import BaseChannel
from market_data_pipeline.dag.graph import Dag, Node, NodeFn
from market_data_pipeline.dag.plan import TaskId
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import ChannelClosed
from market_data_pipeline.runtime.contract import CommitRequest, Limits

Channels = dict[str, BaseChannel[Any]]
ITEMS = 240
SMALL = Limits(
    frame_items=8, frame_bytes=4096, commit_items=20, commit_frames=2, channel_capacity=6, channel_bytes=64 * 1024,
    high=4, low=1, linger=0.0, mark_interval=0.0,
)  # fmt: skip


async def double(in_ch: Channels, out_ch: Channels) -> None:
    (source,), (target,) = in_ch.values(), out_ch.values()
    async for item in source:
        await target.put({**item, "twice": item["n"] * 2})


async def produce(in_ch: Channels, out_ch: Channels) -> None:
    for n in range(ITEMS):
        await out_ch["mid"].put({"symbol": f"S{n % 5}", "n": n})


def job_of(first: NodeFn | ListSource, mid: NodeFn, partitions: int = 2) -> tuple[MemoryJob, MemoryServer]:
    dag = Dag("co")
    dag.add_node(Node("first", first))
    dag.add_node(Node("mid", mid))
    dag.add_node(Node("out", CommittedRows()))
    dag.add_edge("first", "mid", key="symbol")
    dag.add_edge("mid", "out")
    plan = compile_dag(dag, partitions)
    server = MemoryServer(plan, SMALL)
    return MemoryJob(dag, plan, server, SMALL), server


def source() -> ListSource:
    return ListSource([{"symbol": f"S{n % 5}", "n": n} for n in range(ITEMS)])


def check(server: MemoryServer, expected: range = range(ITEMS)) -> None:
    found: dict[str, list[int]] = {}
    for rows in committed_rows(server, "out").values():
        for row in rows:
            assert row["twice"] == 2 * row["n"]
            found.setdefault(row["symbol"], []).append(row["n"])
    assert found == {f"S{s}": [n for n in expected if n % 5 == s] for s in range(5)}
    assert max(server.longest.values()) <= SMALL.channel_capacity
    assert server.largest_append <= SMALL.commit_frames


@pytest.mark.parametrize("partitions", [1, 3])
async def test_a_coroutine_between_streams(partitions: int) -> None:
    job, server = job_of(source(), double, partitions)
    await job.run()
    check(server)


async def test_a_coroutine_that_produces() -> None:
    job, server = job_of(produce, double)
    await job.run()
    check(server)


@pytest.mark.parametrize("seed", range(10))
async def test_a_coroutine_killed_at_random_points_is_exactly_once(seed: int) -> None:
    job, server = job_of(source(), double)
    rng = random.Random(seed)
    running = asyncio.create_task(job.run())
    kills = 0
    while not running.done():
        for _ in range(rng.randrange(1, 40)):
            await asyncio.sleep(0)
        if not running.done():
            await job.take_over(rng.randrange(2))
            kills += 1
    await running
    assert kills >= 2
    check(server)


@pytest.mark.parametrize("fault", [Fault.HANG_BEFORE, Fault.HANG_AFTER])
@pytest.mark.parametrize("at", [0, 1, 2, 4, 7])
async def test_a_coroutine_killed_in_its_commit_is_exactly_once(fault: Fault, at: int) -> None:
    job, server = job_of(source(), double)
    mine: list[TaskId] = []

    def choose(task: TaskId, request: CommitRequest) -> Fault | None:
        if task.subgraph != "mid":
            return None
        mine.append(task)
        return fault if len(mine) == at + 1 else None

    server.choose_fault = choose
    running = asyncio.create_task(job.run())
    await asyncio.wait_for(server.hung.wait(), 10)
    await job.take_over(mine[at].partition)
    await running
    check(server)


@pytest.mark.parametrize("fault", [Fault.LOSE_REPLY, Fault.FULL])
async def test_lost_replies_and_refusals(fault: Fault) -> None:
    job, server = job_of(produce, double)
    rng = random.Random(5)
    server.choose_fault = lambda task, request: fault if rng.random() < 0.4 else None
    await job.run()
    check(server)


async def test_one_item_becomes_more_than_a_commit_holds() -> None:
    async def explode(in_ch: Channels, out_ch: Channels) -> None:
        async for item in in_ch["first"]:
            for part in range(100):
                await out_ch["out"].put((item["n"], part))

    job, server = job_of(ListSource([{"symbol": "A", "n": n} for n in range(6)]), explode, 1)
    await job.run()
    found = [tuple(row) for row in committed_rows(server, "out")[0]]
    assert found == [(n, part) for n in range(6) for part in range(100)]
    assert server.largest_append <= SMALL.commit_frames
    assert max(server.longest.values()) <= SMALL.channel_capacity


async def test_a_coroutine_that_returns_early_lets_its_producer_finish() -> None:
    async def first_three(in_ch: Channels, out_ch: Channels) -> None:
        for _ in range(3):
            await out_ch["out"].put(await in_ch["first"].get())

    job, server = job_of(source(), first_three, 1)
    await job.run()
    assert [row["n"] for row in committed_rows(server, "out")[0]] == [0, 1, 2]
    assert not any(server.contents.streams.values()), "the rest was drained"


async def test_an_error_comes_out_as_it_was_raised() -> None:
    async def fail(in_ch: Channels, out_ch: Channels) -> None:
        await in_ch["first"].get()
        raise LookupError("mine")

    job, _ = job_of(source(), fail, 1)
    with pytest.raises(LookupError, match="mine"):
        await job.run()
    await job.stop()


async def test_channels_are_one_way_and_closed_at_the_end() -> None:
    seen: list[str] = []

    async def poke(in_ch: Channels, out_ch: Channels) -> None:
        with pytest.raises(ChannelClosed):
            await in_ch["first"].put(1)
        with pytest.raises(ChannelClosed):
            await out_ch["out"].get()
        async for _ in in_ch["first"]:
            pass
        with pytest.raises(ChannelClosed):
            await in_ch["first"].get()
        await out_ch["out"].close()
        with pytest.raises(ChannelClosed):
            await out_ch["out"].put(1)
        seen.append("all")

    job, _ = job_of(source(), poke, 1)
    await job.run()
    assert seen == ["all"]


async def test_bad_frames_become_dead_letters() -> None:
    job, server = job_of(source(), double, 1)
    server.append(("first.mid", 0), [b"rubbish"])
    await job.run()
    (letter,) = server.contents.dead_letters
    assert (letter.node, letter.item, letter.where) == ("mid", b"rubbish", "first.mid/0 entry 1-0")
    check(server)
