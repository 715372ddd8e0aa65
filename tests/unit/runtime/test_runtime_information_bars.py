"""Volume bars as whole jobs: in one process, and over partitions whose owners change."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tools.memory_job import CommittedRows, ListSource, MemoryJob, committed_rows
from tools.memory_store import MemoryServer

from market_data_pipeline import Bar, Collect, Dag, DagRuntime, Pipeline, Trade
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.operators.information_bars import Overshoot, VolumeBars
from market_data_pipeline.runtime.contract import Limits
from market_data_pipeline.sinks.base import Sink

LIMITS = Limits(commit_items=20)
_random = random.Random(5)
TRADES = [
    Trade(_random.choice("ABCDEFG"), n, 0, float(n), float(_random.randint(1, 30)), _random.choice(["buy", "sell"]))
    for n in range(400)
]


def job_of(overshoot: Overshoot, sink: Sink) -> Dag:
    pipeline = Pipeline("activity").source(ListSource(TRADES)).key_by("symbol")
    return pipeline.operator(VolumeBars(50, overshoot)).sink(sink, "sink").build()


def check(bars: list[Any], overshoot: Overshoot) -> None:
    assert all(type(bar) is Bar for bar in bars)
    assert {bar.symbol for bar in bars} == set("ABCDEFG")
    for symbol in "ABCDEFG":
        total, bar_volume, wanted = 0.0, 0.0, list[tuple[float, float]]()
        trades = [trade for trade in TRADES if trade.symbol == symbol]
        for trade in trades:
            missing = 50 - total % 50
            total += trade.size
            bar_volume += trade.size
            if trade.size >= missing:
                rest = trade.size - missing if overshoot == "split" else 0.0
                wanted.append((bar_volume - rest, trade.price))
                bar_volume = rest
        if bar_volume:
            wanted.append((bar_volume, trades[-1].price))
        found = [bar for bar in bars if bar.symbol == symbol]
        assert [(bar.volume, bar.close) for bar in found] == wanted
        assert [bar.partial for bar in found] == [False] * (len(found) - 1) + [bool(bar_volume)]
        assert sum(bar.buy_volume for bar in found) == sum(t.size for t in trades if t.side == "buy")


@pytest.mark.parametrize("overshoot", ["carry", "split"])
async def test_in_one_process(overshoot: Overshoot) -> None:
    sink = Collect()
    await DagRuntime(job_of(overshoot, sink)).start()
    check(sink.items, overshoot)


@pytest.mark.parametrize("partitions", [1, 4])
@pytest.mark.parametrize("overshoot", ["carry", "split"])
async def test_over_partitions_whose_owners_change(overshoot: Overshoot, partitions: int) -> None:
    dag = job_of(overshoot, CommittedRows())
    plan = compile_dag(dag, partitions)
    server = MemoryServer(plan, LIMITS)
    job = MemoryJob(dag, plan, server, LIMITS)
    for share in (1, 2, 3):
        await job.run_until(lambda: sum(map(len, committed_rows(server, "sink").values())) >= 20 * share)  # noqa: B023
        for partition in range(partitions):
            await job.take_over(partition)
    await job.run()
    check([bar for part in committed_rows(server, "sink").values() for bar in part], overshoot)
