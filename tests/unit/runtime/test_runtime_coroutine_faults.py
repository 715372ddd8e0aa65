"""Coroutine nodes over tasks, when commits are slow, replies are lost and owners die."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from test_runtime_memory_jobs import SMALL, job_of
from tools.memory_job import CommittedRows, ListSource, committed_rows
from tools.memory_store import Fault, MemoryStore

from market_data_pipeline import Dag, Node
from market_data_pipeline.dag.graph import NodeFn
from market_data_pipeline.runtime.contract import CommitRequest, Stream
from market_data_pipeline.runtime.local import DagRuntime, RunConfig

ITEMS = 300


def numbers(server: Any) -> list[int]:
    return [row["n"] for rows in committed_rows(server, "out").values() for row in rows]


def line(source: NodeFn) -> Dag:
    async def middle(in_ch: dict[str, Any], out_ch: dict[str, Any]) -> None:
        async for item in in_ch["source"]:
            await out_ch["out"].put(item)

    dag = Dag("line")
    dag.add_node(Node("source", source))
    dag.add_node(Node("middle", middle))
    dag.add_node(Node("out", CommittedRows()))
    dag.add_edge("source", "middle", key="symbol")
    dag.add_edge("middle", "out")
    return dag


@pytest.mark.parametrize("pause", [0.0, 0.0003])
@pytest.mark.parametrize("fault", [None, Fault.LOSE_REPLY, Fault.FULL])
async def test_a_source_function_commits_one_step_at_a_time(
    monkeypatch: pytest.MonkeyPatch, pause: float, fault: Fault | None
) -> None:
    """The timer and a full frame may both want to commit while the commit before is still under way."""
    commit = MemoryStore.commit

    async def slow(self: MemoryStore, request: CommitRequest) -> dict[Stream, int]:
        await asyncio.sleep(0.003)
        return await commit(self, request)

    async def source(in_ch: dict[str, Any], out_ch: dict[str, Any]) -> None:
        for n in range(ITEMS):
            await out_ch["middle"].put({"symbol": f"S{n % 5}", "n": n})
            if n % 5 == 0:
                await asyncio.sleep(pause)

    monkeypatch.setattr(MemoryStore, "commit", slow)
    job, server = job_of(line(source))
    rng = random.Random(3)
    server.choose_fault = lambda task, request: fault if rng.random() < 0.3 else None
    await job.run(10)
    assert sorted(numbers(server)) == list(range(ITEMS))


@pytest.mark.parametrize("killed_at", range(8))
async def test_two_inputs_read_at_unequal_speed_survive_a_takeover(killed_at: int) -> None:
    """Every third item of ``a`` takes one of ``b``: entries of both are handed out in part when the owner dies."""

    async def meet(in_ch: dict[str, Any], out_ch: dict[str, Any]) -> None:
        taken = 0
        async for item in in_ch["a"]:
            await out_ch["out"].put(item)
            taken += 1
            if taken % 3 == 0:
                await in_ch["b"].get()

    dag = Dag("meet")
    rows = [{"symbol": "A", "n": n} for n in range(60)]
    dag.add_node(Node("a", ListSource(rows, batch_items=7)))
    dag.add_node(Node("b", ListSource(rows, batch_items=2)))
    dag.add_node(Node("meet", meet))
    dag.add_node(Node("out", CommittedRows()))
    dag.add_edge("a", "meet", key="symbol")
    dag.add_edge("b", "meet", key="symbol")
    dag.add_edge("meet", "out")
    job, server = job_of(dag, partitions=1, limits=SMALL._replace(commit_items=4))
    commits = 0

    def choose(task: Any, request: CommitRequest) -> Fault | None:
        nonlocal commits
        commits += task.subgraph == "meet"
        return Fault.HANG_AFTER if task.subgraph == "meet" and commits == killed_at + 1 else None

    server.choose_fault = choose
    running = asyncio.create_task(job.run(10))
    await asyncio.wait_for(server.hung.wait(), 5)
    await job.take_over(0)
    await running
    assert numbers(server) == list(range(60))


async def test_the_first_error_comes_out_and_not_what_it_led_to() -> None:
    async def produce(in_ch: dict[str, Any], out_ch: dict[str, Any]) -> None:
        for n in range(100):
            await out_ch["consume"].put(n)

    async def consume(in_ch: dict[str, Any], out_ch: dict[str, Any]) -> None:
        await in_ch["produce"].get()
        await asyncio.sleep(0)
        raise ValueError("boom")

    dag = Dag("blocked")
    dag.add_node(Node("produce", produce))
    dag.add_node(Node("consume", consume))
    dag.add_edge("produce", "consume")
    runtime = DagRuntime(dag, RunConfig(channel_capacity=1))
    with pytest.raises(ValueError, match="boom"):
        await runtime.start()
    assert runtime.result == (2, 0, 1, 1)


async def test_a_consumer_that_returns_early_does_not_stop_its_producer() -> None:
    put: list[int] = []

    async def produce(in_ch: dict[str, Any], out_ch: dict[str, Any]) -> None:
        for n in range(100):
            await out_ch["consume"].put(n)
            put.append(n)

    async def consume(in_ch: dict[str, Any], out_ch: dict[str, Any]) -> None:
        assert await in_ch["produce"].get() == 0

    dag = Dag("early")
    dag.add_node(Node("produce", produce))
    dag.add_node(Node("consume", consume))
    dag.add_edge("produce", "consume")
    assert await DagRuntime(dag, RunConfig(channel_capacity=2)).start() == (2, 2, 0, 0)
    assert put == list(range(100))
