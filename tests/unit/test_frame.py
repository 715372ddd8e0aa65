"""Frames: rows and columns, conversions both ways, joining and cutting."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.errors import RecordError
from market_data_pipeline.frame import (
    END,
    NO_MARK,
    Columns,
    Dictionary,
    Frame,
    columns_from_rows,
    compact,
    concat,
    cut_items,
    join_items,
    make_column,
    same_shape,
    to_rows,
)
from market_data_pipeline.records import Bar, Quote, Trade

FAST = settings(max_examples=60, deadline=None, derandomize=True)
TIMES = st.integers(-(2**63) + 1, 2**63 - 2)
FLOATS = st.floats(allow_nan=False)
TEXT = st.text(st.characters(codec="utf-8"), max_size=6)
IDS = st.one_of(st.integers(-(2**63), 2**63 - 1), TEXT)
SIDES = st.sampled_from(["", "buy", "sell"])
PHASES = st.sampled_from(["live", "live", "snapshot"])
CONDITIONS, ACTIONS = st.sampled_from(["", "@ F"]), st.sampled_from(["new", "new", "cancel"])
TRADES = st.builds(
    Trade,
    TEXT,
    TIMES,
    TIMES,
    FLOATS,
    FLOATS,
    SIDES,
    IDS,
    CONDITIONS,
    ACTIONS,
    st.one_of(st.just(""), IDS),
    TEXT,
    PHASES,
)
QUOTES = st.builds(Quote, TEXT, TIMES, TIMES, FLOATS, FLOATS, FLOATS, FLOATS, IDS, TEXT, PHASES)
COUNTS = st.integers(0, 2**40)
BARS = st.builds(
    Bar, TEXT, TIMES, TIMES, *[FLOATS] * 6, COUNTS, TIMES, FLOATS, FLOATS, COUNTS, st.booleans(), st.booleans()
)
BATCHES = st.one_of(*(st.lists(records, min_size=1, max_size=20) for records in (TRADES, QUOTES, BARS)))


def trades(*symbols: str) -> list[Trade]:
    return [Trade(symbol, i, 0, float(i), 1.0, "buy", i) for i, symbol in enumerate(symbols)]


def columns(items: list[Any]) -> Columns:
    made, bad = columns_from_rows(items)
    assert bad == []
    return made


def test_marks_are_the_ends_of_the_int64_range() -> None:
    assert (np.iinfo(np.int64).min, np.iinfo(np.int64).max) == (NO_MARK, END)
    assert Frame([]) == Frame([], NO_MARK, 0)


@FAST
@given(st.lists(TEXT, max_size=30))
def test_a_dictionary_is_its_values(values: list[str]) -> None:
    column = Dictionary.encode(values)
    assert column.tolist() == values
    assert column.names == tuple(dict.fromkeys(values))
    assert len(column) == len(values)
    assert column.take(slice(1, None)).tolist() == values[1:]


@FAST
@given(BATCHES)
def test_records_survive_the_way_through_columns(items: list[Any]) -> None:
    made = columns(items)
    assert len(made) == len(items)
    assert made.rows() == items
    assert [type(row) for row in made.rows()] == [type(item) for item in items]


@FAST
@given(BATCHES, st.data())
def test_take_is_indexing(items: list[Any], data: st.DataObject) -> None:
    index = data.draw(st.lists(st.integers(0, len(items) - 1), max_size=10))
    assert columns(items).take(np.array(index, np.int64)).rows() == [items[i] for i in index]


def test_columns_compare_by_their_rows() -> None:
    a, b = columns(trades("A", "B")), columns(trades("A", "B"))
    b.data["symbol"] = Dictionary(np.array([1, 0], np.uint32), ("B", "A"))
    assert a == b
    assert a != columns(trades("A", "C"))
    assert a != a.rows()


def test_column_access_by_type() -> None:
    made = columns(trades("A", "B"))
    assert made.array("price").tolist() == [0.0, 1.0]
    assert made.dictionary("symbol").names == ("A", "B")
    with pytest.raises(RecordError, match="no numeric column 'symbol'"):
        made.array("symbol")
    with pytest.raises(RecordError, match="no dictionary column 'price'; there are: symbol, ts_event"):
        made.dictionary("price")
    with pytest.raises(RecordError, match="no numeric column 'nope'"):
        made.array("nope")


def test_rows_of_columns_in_another_order_are_still_records() -> None:
    made = columns(trades("A"))
    shuffled = Columns("trade", dict(reversed(made.data.items())))
    assert shuffled.rows() == trades("A")


def test_plain_dicts_become_only_the_needed_columns() -> None:
    items = [{"symbol": "A", "price": 1, "extra": "x"}, {"symbol": "B", "price": 2.5}]
    made, bad = columns_from_rows(items, ("symbol", "price"))
    assert bad == []
    assert made.kind == ""
    assert made.rows() == [{"symbol": "A", "price": 1.0}, {"symbol": "B", "price": 2.5}]


def test_mixed_records_become_the_needed_columns() -> None:
    items = [Trade("A", 5, 0, 1.0, 1.0), Quote("B", 6, 0, 1.0, 1.0, 2.0, 1.0)]
    made, bad = columns_from_rows(items, ("symbol", "ts_event"))
    assert bad == []
    assert made.rows() == [{"symbol": "A", "ts_event": 5}, {"symbol": "B", "ts_event": 6}]


def test_rows_that_cannot_be_columns_are_handed_back_with_the_reason_and_the_others_stay() -> None:
    items = [{"symbol": "A", "price": 1.0}, {"symbol": "B"}, 17, {"symbol": "C", "price": "dear"}]
    items.append({"symbol": "D", "price": 4.0})
    made, bad = columns_from_rows(items, ("symbol", "price"))
    assert made.rows() == [{"symbol": "A", "price": 1.0}, {"symbol": "D", "price": 4.0}]
    assert [item for item, _ in bad] == items[1:4]
    assert "needs symbol, price: KeyError: 'price'" in bad[0][1]
    assert "AttributeError" in bad[1][1]
    assert "price: 'dear' is no decimal number" in bad[2][1]


def test_a_trade_with_an_impossible_side_or_time_is_handed_back() -> None:
    good = Trade("A", 1, 0, 1.0, 1.0)
    bad_side, bad_time = good._replace(side="up"), good._replace(ts_event=2**63)
    made, bad = columns_from_rows([bad_side, good, bad_time])
    assert made.rows() == [good]
    assert [item for item, _ in bad] == [bad_side, bad_time]


def test_ids_are_an_int_column_where_all_are_ints_and_objects_otherwise() -> None:
    ints, mixed = make_column("trade_id", [1, 2]), make_column("trade_id", [1, "x"])
    assert isinstance(ints, np.ndarray)
    assert isinstance(mixed, np.ndarray)
    assert (ints.dtype, mixed.dtype) == (np.dtype(np.int64), np.dtype(object))
    assert mixed.tolist() == [1, "x"]


def test_to_rows_of_rows_is_the_same_list() -> None:
    rows = [1, "a"]
    assert to_rows(rows) is rows
    assert to_rows(columns(trades("A"))) == trades("A")


@FAST
@given(st.lists(st.lists(TRADES, min_size=1, max_size=6), min_size=1, max_size=5))
def test_concat_is_list_addition(parts: list[list[Trade]]) -> None:
    joined = concat([columns(part) for part in parts])
    assert joined.rows() == [trade for part in parts for trade in part]


def test_concat_of_slices_keeps_the_shared_names() -> None:
    made = columns(trades("A", "B", "A", "C"))
    joined = concat([made.take(slice(0, 2)), made.take(slice(2, 4))])
    assert joined.rows() == made.rows()
    assert joined.dictionary("symbol").names is made.dictionary("symbol").names


def test_same_shape() -> None:
    made = columns(trades("A"))
    assert same_shape([1], ["x"])
    assert not same_shape([1], made)
    assert not same_shape(made, Columns("", made.data))
    assert not same_shape(made, Columns("trade", {"symbol": made.data["symbol"]}))


def test_join_keeps_order_and_drops_the_empty() -> None:
    a, b, c = trades("A"), trades("B"), trades("C", "D")
    joined = join_items([a, [], b, columns(a), columns(b), Columns("", {}), columns(c), c])
    assert [isinstance(items, Columns) for items in joined] == [False, True, False]
    assert [to_rows(items) for items in joined] == [a + b, a + b + c, c]
    assert join_items([]) == join_items([[], []]) == []


def test_join_does_not_change_its_inputs() -> None:
    first, second = [1], [2]
    assert join_items([first, second]) == [[1, 2]]
    assert (first, second) == ([1], [2])


@FAST
@given(n=st.integers(0, 30), size=st.integers(1, 12), as_columns=st.booleans())
def test_cut_is_chunking(n: int, size: int, as_columns: bool) -> None:
    rows = trades(*(f"S{i % 3}" for i in range(n)))
    chunks = [rows[i : i + size] for i in range(0, n, size)] or [[]]
    parts = cut_items(columns(rows) if as_columns and rows else rows, size)
    assert [to_rows(part) for part in parts] == chunks


def test_columns_may_leave_out_optional_fields_and_be_completed() -> None:
    items = trades("A", "B")
    made = columns(items)
    assert set(made.data) == set(Trade._fields) - {"conditions", "action", "ref_trade_id", "venue", "phase"}
    assert (made.kind, made.rows()) == ("trade", items)
    full = made.completed()
    assert list(full.data) == list(Trade._fields)
    assert full.rows() == items
    assert full.completed() is full
    odd = [*items, items[0]._replace(action="cancel")]
    assert set(columns(odd).data) == set(made.data) | {"action"}  # the others have their defaults in all
    assert columns(odd).rows() == odd


@pytest.mark.parametrize("bad", [2**64, -(2**63) - 1, "\ud800"])
def test_ids_that_cannot_travel_cost_only_their_row(bad: Any) -> None:
    good = Trade("A", 1, 0, 1.0, 1.0, "", 2**64 - 1)
    made, rejected = columns_from_rows([good, good._replace(trade_id=bad), good._replace(ref_trade_id=bad)])
    assert made.rows() == [good]
    assert len(rejected) == 2


def test_a_symbol_that_is_no_unicode_costs_only_its_row() -> None:
    good = Trade("A", 1, 0, 1.0, 1.0)
    made, rejected = columns_from_rows([good, good._replace(symbol="\ud800")])
    assert (made.rows(), len(rejected)) == ([good], 1)


def test_an_id_may_be_of_numpy() -> None:
    made, rejected = columns_from_rows(
        [Trade("A", 1, 0, 1.0, 1.0, "", np.int64(7)), Trade("A", 1, 0, 1.0, 1.0, "", "x")]
    )  # type: ignore[arg-type]
    assert rejected == []
    assert [(type(row.trade_id), row.trade_id) for row in made.rows()] == [(int, 7), (str, "x")]


EXACT_TRADE = Trade("A", 1, 2, 3.5, 4.0, "buy", 7)


@pytest.mark.parametrize(
    "items",
    [
        [EXACT_TRADE],
        [EXACT_TRADE, EXACT_TRADE._replace(symbol="Ä", trade_id="text", conditions="@")],
        [EXACT_TRADE._replace(price=np.float64(1.25)), EXACT_TRADE._replace(price=math.inf)],
        [Quote("A", 1, 2, 3.0, 4.0, 5.0, 6.0)],
        [Bar("A", 0, 10, 1.0, 2.0, 0.5, 1.5, 9.0, 1.2, 3, revision=2, is_final=False)],
        [EXACT_TRADE._replace(trade_id=2**63)],
    ],
)
def test_records_become_columns_where_nothing_changes_by_it(items: list[Any]) -> None:
    columns = compact(items)
    assert isinstance(columns, Columns)
    assert columns.rows() == items
    assert [list(map(type, row)) for row in columns.rows()] == [
        [float if isinstance(value, float) else type(value) for value in row] for row in items
    ]
    assert compact(columns) is columns


@pytest.mark.parametrize(
    "items",
    [
        [],
        [{"symbol": "A"}],
        [EXACT_TRADE, Quote("A", 1, 2, 3.0, 4.0, 5.0, 6.0)],
        [EXACT_TRADE, EXACT_TRADE._replace(price=3)],
        [EXACT_TRADE._replace(price=None)],
        [EXACT_TRADE._replace(side="none")],
        [EXACT_TRADE._replace(ts_event=2**63)],
        [EXACT_TRADE._replace(trade_id=2**64)],
        [EXACT_TRADE._replace(trade_id=True)],
        [EXACT_TRADE._replace(symbol="\ud800")],
        [Bar("A", 0, 10, 1.0, 2.0, 0.5, 1.5, 9.0, 1.2, 3, is_final=0)],
    ],
)
def test_rows_that_would_change_stay_rows(items: list[Any]) -> None:
    assert compact(items) is items
