"""Live sources: the bar of a symbol that trades seldom closes on time, not at its next trade."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tools.fake_clock import FakeClock
from tools.memory_job import CommittedRows, MemoryJob, committed_rows, until
from tools.memory_store import MemoryServer

from market_data_pipeline import Collect, Dag, DagRuntime, Node, Replay, Synthetic, TumblingBars
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.runtime.contract import Limits
from market_data_pipeline.sinks.base import Sink
from market_data_pipeline.sources.base import Source

SECOND = 1_000_000_000
START = 1_767_364_200 * SECOND


class StandingClock(FakeClock):
    """Time stands still unless a test moves it, and a sleep waits for that."""

    sleepers = 0

    def be(self, seconds: float) -> None:
        """It is ``seconds`` after ``START``."""
        self.elapsed += START / 1e9 + seconds - self.time_ns() / 1e9

    async def sleep(self, seconds: float) -> None:
        end = self.elapsed + seconds - 1e-6
        self.sleepers += 1
        await until(lambda: self.elapsed >= end)
        self.sleepers -= 1


def synthetic(live: bool, folder: Path) -> Source:
    """A trade at ``START``, and one 10 s later. Opened 10 s before, they come out at their times."""
    return Synthetic(1, 2, rate=0.1, start=START, idle_after="20ms", live=live)


def replay(live: bool, folder: Path) -> Source:
    """A quiet past and the same trades, in a file."""
    path = folder / "trades.csv"
    rows = [f"S0000,{START + seconds * SECOND},10,1" for seconds in (-10, 0, 10)]
    path.write_text("\n".join(["symbol,ts_event,price,size", *rows, ""]))
    return Replay(path, speed=1.0, idle_after="20ms", live=live)


Make = Callable[[bool, Path], Source]
sources = pytest.mark.parametrize("make", [synthetic, replay])


def dag_of(source: Source, trades: Sink, bars: Sink) -> Dag:
    dag = Dag("live")
    dag.add_node(Node("source", source))
    dag.add_node(Node("bars", TumblingBars("1s")))
    dag.add_node(Node("trades-out", trades))
    dag.add_node(Node("bars-out", bars))
    dag.add_edge("source", "trades-out")
    dag.add_edge("source", "bars", key="symbol")
    dag.add_edge("bars", "bars-out")
    return dag


def seconds_of(items: list[Any], field: str) -> list[int]:
    """When items happened, seconds from ``START``; the quiet past left out."""
    return sorted(s for item in items if (s := (getattr(item, field) - START) // SECOND) >= 0)


@sources
@pytest.mark.parametrize("partitions", [1, 3])
async def test_a_bar_closes_on_time_over_tasks(make: Make, partitions: int, tmp_path: Path) -> None:
    dag = dag_of(make(True, tmp_path), CommittedRows(), CommittedRows())
    plan = compile_dag(dag, partitions)
    job = MemoryJob(dag, plan, MemoryServer(plan, Limits()), Limits())
    job.clock = clock = StandingClock()

    def seen(node: str, field: str) -> list[int]:
        return seconds_of([row for rows in committed_rows(job.server, node).values() for row in rows], field)

    clock.be(-10)
    await job.run_until(lambda: clock.sleepers > 0)
    clock.be(0)
    await job.run_until(lambda: seen("trades-out", "ts_event") == [0])
    clock.be(1.02)
    await job.run_until(lambda: seen("bars-out", "ts_open") == [0])
    assert seen("trades-out", "ts_event") == [0], "no next trade came"
    clock.be(30)
    await job.run()
    assert seen("trades-out", "ts_event") == [0, 10]
    assert seen("bars-out", "ts_open") == [0, 10]


@sources
async def test_a_bar_closes_on_time_in_one_process(make: Make, tmp_path: Path) -> None:
    clock, trades, bars = StandingClock(), Collect(), Collect()
    runtime = DagRuntime(dag_of(make(True, tmp_path), trades, bars), clock=clock)
    clock.be(-10)
    running = asyncio.create_task(runtime.start())
    await until(lambda: clock.sleepers > 0)
    clock.be(0)
    await until(lambda: seconds_of(trades.items, "ts_event") == [0])
    clock.be(1.02)
    await until(lambda: seconds_of(bars.items, "ts_open") == [0])
    assert seconds_of(trades.items, "ts_event") == [0]
    clock.be(30)
    await running
    assert seconds_of(bars.items, "ts_open") == [0, 10]


@sources
async def test_without_live_it_closes_at_the_next_trade(make: Make, tmp_path: Path) -> None:
    clock, trades, bars = StandingClock(), Collect(), Collect()
    runtime = DagRuntime(dag_of(make(False, tmp_path), trades, bars), clock=clock)
    clock.be(-10)
    running = asyncio.create_task(runtime.start())
    await until(lambda: clock.sleepers > 0)
    clock.be(0)
    await until(lambda: seconds_of(trades.items, "ts_event") == [0])
    clock.be(9)
    await asyncio.sleep(0.15)  # several looks at a source that is silent; there is nothing to await
    assert seconds_of(bars.items, "ts_open") == []
    clock.be(30)
    await running
    assert seconds_of(bars.items, "ts_open") == [0, 10]
