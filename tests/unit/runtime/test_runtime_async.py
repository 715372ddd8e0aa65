"""Operators that wait for the outside, at work in tasks: frames side by side, stopping, new owners."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tools.memory_job import CommittedRows, ListSource, MemoryJob, committed_rows
from tools.memory_store import MemoryServer

from market_data_pipeline import Collect, Dag, DagRuntime, Node, TumblingWindow
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.operators.async_map import AsyncMap
from market_data_pipeline.runtime.contract import Limits

ROWS = [{"symbol": f"S{n % 5}", "n": n, "ts_event": n} for n in range(200)]


class Outside:
    """Counts who is asked at once; answers while ``open``."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.asked = self.most = self.cancelled = 0

    def __deepcopy__(self, _: Any) -> Outside:
        return self

    async def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        self.asked += 1
        self.most = max(self.most, self.asked)
        try:
            await self.open.wait()
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.asked -= 1
        return {**item, "known": True}


def asking(outside: Outside, sink: Any, batch_items: int = 10, **options: Any) -> Dag:
    dag = Dag("asking")
    dag.add_node(Node("source", ListSource(ROWS, batch_items)))
    dag.add_node(Node("ask", AsyncMap(outside, timeout="1h", **options)))
    dag.add_node(Node("window", TumblingWindow(10)))
    dag.add_node(Node("sink", sink))
    dag.add_edge("source", "ask", key="symbol")
    dag.add_edge("ask", "window")
    dag.add_edge("window", "sink")
    return dag


def numbers(rows: list[Any]) -> list[int]:
    return sorted(item["n"] for window in rows for item in window.items)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("takeovers", [0, 5])
async def test_every_item_once_and_none_behind_its_mark(takeovers: int, ordered: bool) -> None:
    outside = Outside()
    outside.open.set()
    dag = asking(outside, CommittedRows(), concurrency=4, ordered=ordered)
    plan = compile_dag(dag, 2)
    job = MemoryJob(dag, plan, MemoryServer(plan, Limits()), Limits())
    running = asyncio.create_task(job.run())
    for n in range(takeovers):
        for _ in range(30 * (n + 1)):
            await asyncio.sleep(0)
        await job.take_over(n % 2)
    await running
    found = committed_rows(job.server, "sink")
    assert numbers([window for rows in found.values() for window in rows]) == list(range(200))
    assert outside.most <= 2 * 4


async def test_frames_of_one_item_are_asked_side_by_side_and_a_stop_gives_them_up() -> None:
    outside = Outside()
    dag = asking(outside, CommittedRows(), batch_items=1, concurrency=16)
    plan = compile_dag(dag, 1)
    limits = Limits(frame_items=1, linger=0.0)
    job = MemoryJob(dag, plan, MemoryServer(plan, limits), limits)
    source, ask = plan.tasks()
    await job.run_until(lambda: len(job.server.stream(("source.ask", 0))) >= 16, only=[source])
    await job.run_until(lambda: outside.asked == 16, only=[ask])
    for _ in range(50):
        await asyncio.sleep(0)
    assert outside.most == 16
    task, run = job.running[ask]
    task.stop()
    assert await run is False
    assert (outside.asked, outside.cancelled) == (0, 16)
    assert len(job.server.stream(("source.ask", 0))) >= 16
    del job.running[ask]
    outside.open.set()
    await job.run()
    assert numbers(committed_rows(job.server, "sink")[0]) == list(range(200))


@pytest.mark.parametrize("batch_items", [1, 10])
async def test_in_one_process(batch_items: int) -> None:
    outside, sink = Outside(), Collect()
    outside.open.set()
    await DagRuntime(asking(outside, sink, batch_items, concurrency=3)).start()
    assert numbers(sink.items) == list(range(200))
    assert 1 < outside.most <= 3
