"""Items as windows see them: rows, rows that are alike, and columns give the same, and reject the same."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.frame import Columns, Dictionary, columns_from_rows
from market_data_pipeline.operators.base import OperatorContext
from market_data_pipeline.operators.window_input import Batch, Key, WindowInput
from market_data_pipeline.records import Trade


def read(items: Any, key: Key = "symbol", **fields: tuple[str, ...]) -> tuple[Batch, OperatorContext]:
    ctx = OperatorContext("w")
    made = WindowInput("ts_event", key, fields.get("numbers", ()), fields.get("scalars", ()))
    return made.read(items, ctx), ctx


def plain(batch: Batch) -> list[Any]:
    """What is in a batch, item by item."""
    numbers = {name: column.tolist() for name, column in batch.numbers.items()}
    scalars = {name: column.tolist() for name, column in batch.scalars.items()}
    return [
        (batch.keys[code], ts, {n: v[at] for n, v in numbers.items()}, {n: v[at] for n, v in scalars.items()})
        for at, (code, ts) in enumerate(zip(batch.codes.tolist(), batch.ts.tolist(), strict=True))
    ]


TIMES = st.one_of(st.integers(-5, 5), st.sampled_from([2**62, -(2**62), 2**63 - 1, -(2**63)]))
PRICES = st.sampled_from([1.0, -0.5, math.nan, math.inf, 1e300])
TRADES = st.builds(
    Trade, st.sampled_from(["A", "B", ""]), TIMES, st.just(0), PRICES, st.just(2.0), st.sampled_from(["", "buy"]),
    st.integers(0, 3), st.just(""), st.just("new"), st.just(""),
)  # fmt: skip


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    trades=st.lists(TRADES, min_size=1, max_size=8),
    key=st.sampled_from(["symbol", "trade_id", ("symbol", "trade_id"), ("side", "symbol"), None]),
)
def test_rows_and_columns_give_the_same(trades: list[Trade], key: Key) -> None:
    fields = {"numbers": ("price", "size"), "scalars": ("trade_id", "side", "price")}
    columns, bad = columns_from_rows(trades)
    assert bad == []
    usable = [trade for trade in trades if math.isfinite(trade.price) and abs(trade.ts_event) < 2**62]
    forms: list[Any] = [trades, columns, [trade._asdict() for trade in trades], [*trades[:-1], trades[-1]._asdict()]]
    for form in forms:
        batch, ctx = read(form, key, **fields)
        names = key if isinstance(key, tuple) else ()
        assert plain(batch) == [
            (
                tuple(getattr(t, name) for name in names) if names else None if key is None else getattr(t, str(key)),
                t.ts_event,
                {"price": t.price, "size": t.size},
                {"trade_id": t.trade_id, "side": t.side, "price": t.price},
            )
            for t in usable
        ]
        assert len(ctx.dead_letters) == len(trades) - len(usable)
    reasons = [[letter.reason for letter in read(form, key, **fields)[1].dead_letters] for form in forms[:2]]
    assert reasons[0] == reasons[1]


def test_reasons() -> None:
    good = {"symbol": "A", "ts_event": 1, "price": 1}
    bad: list[tuple[Any, str]] = [
        ({**good, "price": None}, "RecordError: price: None is not a finite number"),
        ({**good, "price": "1_0"}, "RecordError: price: '1_0' is no decimal number"),
        ({**good, "price": "1e999"}, "RecordError: price: '1e999' is too large for a float"),
        ({**good, "price": True}, "RecordError: price: True is not a finite number"),
        ({**good, "price": math.nan}, "RecordError: price: nan is not a finite number"),
        ({**good, "price": 10**400}, "OverflowError: int too large to convert to float"),
        ({"symbol": "A", "ts_event": 1}, "KeyError: 'price'"),
        ({**good, "ts_event": 2**62}, f"RecordError: time {2**62}: more than 146 years from 1970, in ns"),
        ({**good, "symbol": 2**64}, "CodecError: int cannot travel"),
        ({**good, "symbol": "\ud800"}, "CodecError: "),
        ({**good, "symbol": math.nan}, "TypeError: a window's key may be None, bool, int"),
        ({**good, "symbol": 1j}, "TypeError: a window's key may be None, bool, int"),
        ({**good, "symbol": ("A", [1])}, "TypeError: "),
    ]
    for item, reason in bad:
        batch, ctx = read([good, item, good], numbers=("price",))
        assert [row[0] for row in plain(batch)] == ["A", "A"]
        assert [letter.item for letter in ctx.dead_letters] == [item]
        assert ctx.dead_letters[0].reason.startswith(reason)


@pytest.mark.parametrize("value", [2**64, "\ud800", math.inf, None, [1], {}])
def test_scalars_that_cannot_be_kept_are_rejected_alone(value: Any) -> None:
    rows = [{"symbol": "A", "ts_event": 1, "venue": v} for v in ("X", value, 7, 1.5, True, b"x", np.int64(3))]
    batch, ctx = read(rows, scalars=("venue",))
    assert [row[3]["venue"] for row in plain(batch)] == ["X", 7, 1.5, True, b"x", 3]
    assert [letter.item for letter in ctx.dead_letters] == [rows[1]]


def test_texts_in_columns_that_cannot_be_written_are_rejected_alone() -> None:
    names = ("A", "\ud800")
    columns = Columns("", {"symbol": Dictionary(np.array([0, 1, 0], np.uint32), names), "ts_event": np.arange(3)})
    batch, ctx = read(columns)
    assert [row[:2] for row in plain(batch)] == [("A", 0), ("A", 2)]
    assert len(ctx.dead_letters) == 1


def test_columns_of_other_kinds_are_read_as_rows() -> None:
    columns = Columns("", {"symbol": np.array([True, False]), "ts_event": np.array([1.0, 2.0])})
    batch, _ = read(columns)
    assert [row[:2] for row in plain(batch)] == [(True, 1), (False, 2)]


def test_a_field_may_be_missing_in_columns() -> None:
    batch, ctx = read(Columns("", {"ts_event": np.arange(2)}))
    assert (len(batch), len(ctx.dead_letters)) == (0, 2)


def test_only() -> None:
    items = [Trade("A", ts, 0, 1.0, 1.0) for ts in range(3)]
    odd = np.array([False, True, False])
    assert read(items)[0].only(odd) == [items[1]]
    columns = read(columns_from_rows(items)[0])[0].only(odd)
    assert isinstance(columns, Columns)
    assert columns.rows() == [items[1]]
