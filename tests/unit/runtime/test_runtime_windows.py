"""Windows in whole jobs: the same in one process and over any number of partitions, also when owners change on the way."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from tools.memory_job import CommittedRows, ListSource, MemoryJob, committed_rows
from tools.memory_store import MemoryServer

from market_data_pipeline import Collect, Dag, DagRuntime, Node, Trade
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.operators.aggregations import Count, Last, Std, Vwap
from market_data_pipeline.operators.fold import Fold
from market_data_pipeline.operators.window import WindowAggregate
from market_data_pipeline.operators.windows import CountWindow, Hop, Session, Tumble, Windows
from market_data_pipeline.runtime.contract import Limits

LIMITS = Limits(frame_items=16, frame_bytes=4096, commit_items=40, commit_frames=2, linger=0.0, mark_interval=0.0)
AGGREGATIONS = {
    "n": Count(), "vwap": Vwap(), "std": Std("price"), "last": Last("trade_id"),
    "ids": Fold(list, lambda ids, trade: [*ids, trade.trade_id], lambda a, b: a + b),
}  # fmt: skip


def trades(n: int = 400) -> list[Trade]:
    """At most 20 out of order; prices exact in binary."""
    rng = random.Random(7)
    return [
        Trade(f"S{rng.randrange(9)}", at * 5 + rng.randrange(20), 0, rng.randrange(64) / 8, rng.randrange(1, 4), "", at)
        for at in range(n)
    ]


def dag_of(windows: Windows, sink: Any) -> Dag:
    dag = Dag("windows")
    dag.add_node(Node("source", ListSource(trades(), max_delay=30)))
    dag.add_node(Node("windows", WindowAggregate(windows, AGGREGATIONS)))
    dag.add_node(Node("sink", sink))
    dag.add_edge("source", "windows", key="symbol")
    dag.add_edge("windows", "sink")
    return dag


def expected(windows: Windows) -> dict[tuple[str, int], list[Trade]]:
    """By symbol and start, the trades of each window (of each count window: by symbol and ordinal)."""
    groups: dict[tuple[str, int], list[Trade]] = {}
    for symbol in {trade.symbol for trade in trades()}:
        mine = [trade for trade in trades() if trade.symbol == symbol]
        for at, trade in enumerate(sorted(mine, key=lambda t: t.ts_event) if isinstance(windows, Session) else mine):
            if isinstance(windows, CountWindow):
                starts = [at // windows.n]
            elif isinstance(windows, Hop):
                first = trade.ts_event // windows.slide * windows.slide
                starts = [
                    s for s in range(first, first - windows.size, -windows.slide) if s + windows.size > trade.ts_event
                ]
            else:
                starts = [max((s for k, s in groups if k == symbol), default=trade.ts_event)]
                held = groups.get((symbol, starts[0]))
                if held and trade.ts_event - held[-1].ts_event > windows.gap:
                    starts = [trade.ts_event]
            for start in starts:
                groups.setdefault((symbol, start), []).append(trade)
    return groups


def check(rows: list[Any], windows: Windows) -> None:
    wanted = {
        (
            symbol,
            start if isinstance(windows, Hop) else min(t.ts_event for t in ts),
            *sorted(t.trade_id for t in ts),
        ): ts
        for (symbol, start), ts in expected(windows).items()
    }
    found = {(row["symbol"], row["ts_open"], *sorted(row["ids"])): row for row in rows}
    assert found.keys() == wanted.keys()
    assert len(rows) == len(wanted)
    for key, items in wanted.items():
        row, prices = found[key], [t.price for t in items]
        mean = sum(prices) / len(prices)
        assert row["n"] == len(items)
        assert row["vwap"] == sum(t.price * t.size for t in items) / sum(t.size for t in items)
        assert math.isclose(row["std"], math.sqrt(sum((p - mean) ** 2 for p in prices) / len(prices)), abs_tol=1e-9)
        newest = max(t.ts_event for t in items)
        assert row["last"] == max(t.trade_id for t in items if t.ts_event == newest)
        assert (row["is_final"], row["revision"]) == (True, 0)


WINDOWS: list[Windows] = [Tumble(100), Hop(100, 50), Session(40), CountWindow(7)]


@pytest.mark.parametrize("windows", WINDOWS, ids=repr)
async def test_in_one_process(windows: Windows) -> None:
    sink = Collect()
    await DagRuntime(dag_of(windows, sink)).start()
    check(sink.items, windows)


@pytest.mark.parametrize("partitions", [1, 4])
@pytest.mark.parametrize("windows", WINDOWS, ids=repr)
async def test_over_partitions_whose_owners_change(windows: Windows, partitions: int) -> None:
    dag = dag_of(windows, CommittedRows())
    plan = compile_dag(dag, partitions)
    server = MemoryServer(plan, LIMITS)
    job = MemoryJob(dag, plan, server, LIMITS)
    for share in (1, 2):
        await job.run_until(lambda: sum(map(len, committed_rows(server, "sink").values())) >= 15 * share)  # noqa: B023
        for partition in range(partitions):
            await job.take_over(partition)
    await job.run()
    check([row for part in committed_rows(server, "sink").values() for row in part], windows)
