"""Joins in whole jobs: keyed and broadcast inputs over partitions, owners that change, and in one process."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from tools.memory_job import CommittedRows, ListSource, MemoryJob, committed_rows
from tools.memory_store import MemoryServer

from market_data_pipeline import Collect, Dag, DagRuntime, Node, Operator
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.operators.joins.asof import AsofJoin
from market_data_pipeline.operators.joins.interval import IntervalJoin
from market_data_pipeline.operators.joins.reference import ReferenceJoin
from market_data_pipeline.runtime.contract import Limits

RNG = random.Random(5)
TRADES = [{"symbol": f"S{RNG.randrange(9)}", "ts_event": ts, "n": ts} for ts in range(0, 600, 2)]
QUOTES = [{"symbol": f"S{RNG.randrange(9)}", "ts_event": ts, "bid": ts} for ts in range(0, 600, 3)]
TABLE = [{"symbol": f"S{n % 9}", "ts_event": n * 20, "tick": n} for n in range(27)]


def newest(items: list[dict[str, Any]], trade: dict[str, Any], name: str) -> Any:
    found = [i[name] for i in items if i["symbol"] == trade["symbol"] and i["ts_event"] <= trade["ts_event"]]
    return found[-1] if found else None


JOINS: dict[str, tuple[Operator, list[dict[str, Any]], dict[str, Any], list[dict[str, Any]]]] = {
    "as-of": (
        AsofJoin(["bid"]),
        QUOTES,
        {"key": "symbol", "input": "right"},
        [{**trade, "bid": newest(QUOTES, trade, "bid")} for trade in TRADES],
    ),
    "interval": (
        IntervalJoin(-10, 10, ["bid"]),
        QUOTES,
        {"key": "symbol", "input": "right"},
        [
            {**trade, "bid": quote["bid"]}
            for trade in TRADES
            for quote in QUOTES
            if trade["symbol"] == quote["symbol"] and abs(trade["ts_event"] - quote["ts_event"]) <= 10
        ],
    ),
    "reference": (
        ReferenceJoin(["tick"]),
        TABLE,
        {"broadcast": True, "input": "reference"},
        [{**trade, "tick": newest(TABLE, trade, "tick")} for trade in TRADES],
    ),
}


def joined(name: str, sink: Any, batch_items: int = 10) -> Dag:
    operator, right, edge, _ = JOINS[name]
    dag = Dag("joined")
    dag.add_node(Node("trades", ListSource(TRADES)))
    dag.add_node(Node("others", ListSource(right, batch_items)))
    dag.add_node(Node("join", operator))
    dag.add_node(Node("sink", sink))
    dag.add_edge("trades", "join", key="symbol")
    dag.add_edge("others", "join", **edge)
    dag.add_edge("join", "sink")
    return dag


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["n"], row.get("bid") or 0))


@pytest.mark.parametrize("takeovers", [0, 6])
@pytest.mark.parametrize("partitions", [1, 4])
@pytest.mark.parametrize("name", JOINS)
async def test_over_partitions(name: str, partitions: int, takeovers: int) -> None:
    dag = joined(name, CommittedRows())
    plan = compile_dag(dag, partitions)
    assert plan.partitions_of(plan.subgraph_of["join"]) == range(partitions)
    job = MemoryJob(dag, plan, MemoryServer(plan, Limits()), Limits())
    running = asyncio.create_task(job.run())
    for n in range(takeovers):
        for _ in range(40 * (n + 1)):
            await asyncio.sleep(0)
        await job.take_over(n % partitions)
    await running
    found = committed_rows(job.server, "sink")
    assert in_order([row for rows in found.values() for row in rows]) == in_order(JOINS[name][3])
    assert all(
        [row["n"] for row in rows] == sorted(row["n"] for row in rows) or name == "interval" for rows in found.values()
    )


@pytest.mark.parametrize("batch_items", [1, 100])
@pytest.mark.parametrize("name", JOINS)
async def test_in_one_process(name: str, batch_items: int) -> None:
    sink = Collect()
    await DagRuntime(joined(name, sink, batch_items)).start()
    assert in_order(sink.items) == in_order(JOINS[name][3])
