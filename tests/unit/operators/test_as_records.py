"""Trades as columns, from whatever rows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from market_data_pipeline.frame import Columns, columns_from_rows
from market_data_pipeline.operators.as_records import keep, record_columns
from market_data_pipeline.operators.base import OperatorContext
from market_data_pipeline.records import Bar, Trade

ROW: dict[str, Any] = {"symbol": "A", "ts_event": 5, "price": 2.0, "size": 3}


def test_columns_and_trades_are_as_they_are() -> None:
    items = [Trade("A", 1, 2, 3.0, 4.0, "buy", 7), Trade("B", 1, 2, 3.0, 4.0, "sell", "x")]
    ctx = OperatorContext("bars")
    columns = columns_from_rows(items)[0]
    assert record_columns(columns, Trade, ctx) is columns
    assert record_columns(items, Trade, ctx).rows() == items
    assert record_columns([], Trade, ctx).rows() == []


def test_rows_have_the_usual_side_conditions_and_action_where_they_name_none() -> None:
    items = [
        {**ROW, "side": "sell"},
        {**ROW, "action": "cancel", "conditions": "I"},
        SimpleNamespace(**ROW),
        Trade(**ROW, ts_recv=9),
    ]
    ctx = OperatorContext("bars")
    usual = Trade("A", 5, 0, 2.0, 3.0)
    made = record_columns(items, Trade, ctx)
    assert made.rows() == [
        usual._replace(side="sell"),
        usual._replace(action="cancel", conditions="I"),
        usual,
        usual._replace(ts_recv=9),
    ]
    assert ctx.dead_letters == []


@pytest.mark.parametrize("bad", [{**ROW, "side": "bid"}, {**ROW, "price": "1_0"}, {"symbol": "A"}, 7, None])
def test_a_row_that_is_no_trade_costs_only_itself(bad: Any) -> None:
    ctx = OperatorContext("bars")
    assert len(record_columns([ROW, bad, ROW], Trade, ctx)) == 2
    assert [letter.item for letter in ctx.dead_letters] == [bad]
    broken = Trade("A", 1, 2, "high", 4.0)  # type: ignore[arg-type]
    assert len(record_columns([broken], Trade, ctx)) == 0
    assert ctx.dead_letters[-1].item == broken


def test_keep_rejects_the_others() -> None:
    ctx = OperatorContext("bars")
    items = Columns("", {"ts_event": np.arange(3)})
    assert keep(items, np.ones(3, bool), "no", ctx) is items
    assert keep(items, np.array([True, False, True]), "odd", ctx).rows() == [{"ts_event": 0}, {"ts_event": 2}]
    assert [(letter.item, letter.reason) for letter in ctx.dead_letters] == [({"ts_event": 1}, "odd")]


def test_columns_that_lack_usual_fields_get_them() -> None:
    ctx = OperatorContext("bars")
    rows = [{"symbol": "A", "ts_open": 0, "ts_close": 5, "open": 1.0, "high": 2.0, "low": 1.0, "close": 2.0}]
    columns = columns_from_rows(rows, tuple(rows[0]))[0]
    made = record_columns(columns, Bar, ctx)
    assert made.rows() == record_columns(rows, Bar, ctx).rows() == [Bar("A", 0, 5, 1.0, 2.0, 1.0, 2.0, 0.0, 2.0, 0)]
