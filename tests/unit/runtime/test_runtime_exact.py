"""Decimals as text through a job: unchanged for who looks at rows, floats for who needs columns."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.memory_job import CommittedRows, ListSource, MemoryJob, committed_rows
from tools.memory_store import MemoryServer

from market_data_pipeline import (
    AsofJoin,
    Bar,
    Conflate,
    Dag,
    Dedupe,
    Map,
    Node,
    Quote,
    Sum,
    Trade,
    Tumble,
    TumblingBars,
    WindowAggregate,
)
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import RecordError
from market_data_pipeline.frame import Columns, columns_from_rows, compact, make_column
from market_data_pipeline.operators.hashing import hash_columns, hash_content, hash_content_columns, hash_row
from market_data_pipeline.runtime.contract import Limits

LIMITS = Limits(
    frame_items=16, frame_bytes=4096, commit_items=40, commit_frames=2, channel_capacity=6, channel_bytes=64 * 1024,
    high=4, low=1, linger=0.0, mark_interval=0.0,
)  # fmt: skip
FAST = settings(max_examples=100, deadline=None, derandomize=True)
DECIMALS = st.from_regex(r"\A[+-]?([0-9]{1,30}(\.[0-9]{0,30})?|\.[0-9]{1,30})([eE][+-]?[0-9]{1,2})?\Z")
PRICES = ["10.10", "10.1", "0.00000001", "1E+2", "99999999999.123456789012345678"]
ITEMS = [Trade(f"S{n % 3}", n * 100_000_000, 0, PRICES[n % 5], "1.50", "", n) for n in range(60)]  # type: ignore[arg-type]
BAD = ITEMS[0]._replace(trade_id=-1, price="1_0")  # type: ignore[arg-type]


async def outputs(dag: Dag) -> dict[str, list[Any]]:
    plan = compile_dag(dag, 2)
    server = MemoryServer(plan, LIMITS)
    await MemoryJob(dag, plan, server, LIMITS).run()
    names = [node for node in dag.nodes if isinstance(dag.nodes[node].fn, CommittedRows)]
    return {name: [row for rows in committed_rows(server, name).values() for row in rows] for name in names}


def by_id(items: list[Any]) -> list[Any]:
    return sorted(items, key=lambda item: item.trade_id)


async def test_rows_keep_the_text_and_columns_get_floats() -> None:
    dag = Dag("exact")
    for node in (
        Node("source", ListSource([ITEMS[0], BAD, *ITEMS, *ITEMS[:7]])),
        Node("dedupe", Dedupe("symbol", "trade_id")),
        Node("seen", Map(lambda trade: trade._replace(venue=str(trade.price)))),
        Node("bars", TumblingBars("1s")),
        Node("sums", WindowAggregate(Tumble("1s"), {"n": Sum("size")}, key="symbol")),
        *(Node(name, CommittedRows()) for name in ("kept", "out", "summed")),
    ):
        dag.add_node(node)
    dag.add_edge("source", "dedupe", key="symbol")
    for src, dst in (("dedupe", "seen"), ("seen", "kept"), ("dedupe", "bars"), ("bars", "out"), ("dedupe", "sums")):
        dag.add_edge(src, dst)
    dag.add_edge("sums", "summed")
    found = await outputs(dag)
    usable = [item for item in found["kept"] if item != BAD._replace(venue="1_0")]
    assert by_id(usable) == [item._replace(venue=item.price) for item in ITEMS]
    assert len(found["kept"]) == len(ITEMS) + 1, "for rows it is text like any other"
    bars = {(bar.symbol, bar.ts_open): bar for bar in found["out"]}
    for (symbol, start), bar in bars.items():
        own = [t for t in ITEMS if t.symbol == symbol and start <= t.ts_event < start + 10**9]
        prices = [float(Decimal(t.price)) for t in own]
        assert (bar.open, bar.high, bar.low, bar.close) == (prices[0], max(prices), min(prices), prices[-1])
        assert (bar.volume, bar.trade_count) == (1.5 * len(own), len(own))
    assert sum(bar.trade_count for bar in bars.values()) == len(ITEMS)
    assert all(type(bar) is Bar for bar in found["out"])
    assert sum(row["n"] for row in found["summed"]) == 1.5 * (len(ITEMS) + 1)


async def test_joins_and_conflate_keep_the_text() -> None:
    quotes = [Quote(t.symbol, t.ts_event, 0, t.price, "1", t.price, "2") for t in ITEMS]
    dag = Dag("joined")
    for node in (
        Node("trades", ListSource(ITEMS)),
        Node("quotes", ListSource(quotes)),
        Node("join", AsofJoin(["bid"])),
        Node("last", Conflate("1s")),
        Node("pairs", CommittedRows()),
        Node("conflated", CommittedRows()),
    ):
        dag.add_node(node)
    dag.add_edge("trades", "join", key="symbol")
    dag.add_edge("quotes", "join", key="symbol", input="right")
    dag.add_edge("join", "pairs")
    dag.add_edge("trades", "last", key="symbol")
    dag.add_edge("last", "conflated")
    found = await outputs(dag)
    assert {row["trade_id"]: (row["price"], row["bid"]) for row in found["pairs"]} == {
        t.trade_id: (t.price, t.price) for t in ITEMS
    }
    newest = {(t.symbol, t.ts_event // 10**9): t for t in ITEMS}
    assert by_id(found["conflated"]) == by_id(list(newest.values()))


def test_text_that_is_no_number_is_a_dead_letter_where_columns_are_needed() -> None:
    bad = [ITEMS[0]._replace(price=text) for text in ("nan", "inf", "1_0", " 1", "junk", "1e999")]
    columns, rejected = columns_from_rows([ITEMS[1], *bad, ITEMS[2]])
    assert [row.price for row in columns.rows()] == [10.1, 1e-8]
    assert [item for item, _ in rejected] == bad
    assert all("price: " in reason and repr(item.price) in reason for item, reason in rejected)


@FAST
@given(DECIMALS, st.floats(allow_nan=False))
def test_a_column_has_the_nearest_floats_and_compact_leaves_text_alone(text: str, number: float) -> None:
    column = make_column("price", [text, number])
    assert column.tolist() == [float(Decimal(text)), number]
    trade = Trade("A", 1, 2, number, 1.0)
    rows = [trade, trade._replace(price=text)]  # type: ignore[arg-type]
    assert compact(rows) is rows
    assert isinstance(compact([trade]), Columns)


@FAST
@given(st.text(max_size=5))
def test_a_column_takes_finite_decimals_only(text: str) -> None:
    try:
        wanted = float(Decimal(text)) if text.isascii() and "_" not in text and text.strip() == text else None
    except ArithmeticError:
        wanted = None
    if wanted is None or not math.isfinite(wanted):
        with pytest.raises(RecordError, match="size"):
            make_column("size", [text])
    else:
        assert make_column("size", [text]).tolist() == [wanted]


@pytest.mark.parametrize("fields", [("symbol", "trade_id"), ("symbol", "price")])
def test_text_and_its_float_are_the_same_content_and_key(fields: tuple[str, ...]) -> None:

    item = ITEMS[0]
    columns = columns_from_rows([item])[0]
    same = item._replace(price=10.1, size=1.5)
    assert hash_row(item, fields) == hash_row(same, fields) == int(hash_columns(columns, fields)[0][0])
    assert hash_content(item, None) == hash_content(same, None) == int(hash_content_columns(columns, None)[0])
    hash_row(item._replace(price="junk"), fields)
    hash_row(item._replace(price=10**400), fields)
