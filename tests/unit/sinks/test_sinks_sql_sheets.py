"""Records as checked columns: columns and rows alike, what is refused and why, what COPY reads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_data_pipeline import Bar, Columns, Frame, Gap, PostgresStore, Quote, SqliteStore, Trade, Window
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import Dictionary, columns_from_rows
from market_data_pipeline.sinks.sql_schema import TABLES, Kind
from market_data_pipeline.sinks.sql_sheets import Sheet, sheets
from market_data_pipeline.sinks.sql_text import copied, lines, moments, texts

BY_RECORD = {table.record: table for table in TABLES.values()}
T = Trade("A", 1_000, 2_000, 1.5, 2.0, "buy", 7)
B = Bar("A", 0, 60, 1.0, 2.0, 0.5, 1.5, 10.0, 1.2, 3)
Q = Quote("A", 1_000, 2_000, 1.0, 2.0, 3.0, 4.0, "u1")
Rejected = list[tuple[Any, str]]


def made(*frames: Frame, interval: int | None = None) -> tuple[list[Sheet], Rejected]:
    rejected: Rejected = []
    found = list(sheets(frames, BY_RECORD, interval, lambda item, reason: rejected.append((item, reason))))
    return found, rejected


def plain(sheet: Sheet) -> dict[str, list[str]]:
    return {name: copied(kind, sheet.columns[name]) for name, kind in sheet.table.fields}


@pytest.mark.parametrize("records", [
    [T, T._replace(trade_id="x\ty", venue="v", price=1e-7), T._replace(trade_id="", side="")],
    [Q, Q._replace(bid=math.nan, update_id=""), Q._replace(update_id=5)],
    [B, B._replace(open=math.nan, is_final=False, revision=3), B._replace(ts_open=-60)],
])  # fmt: skip
def test_columns_and_rows_make_the_same(records: list[Any]) -> None:
    columns, bad = columns_from_rows(records)
    assert bad == []
    (by_columns,), none = made(Frame(columns))
    by_rows = [plain(sheet) for record in records for sheet in made(Frame([record]))[0]]
    exact = [
        record._replace(**{"volume" if isinstance(record, Bar) else record._fields[3]: "1.50"}) for record in records
    ]
    assert none == []
    assert plain(by_columns) == {name: [row[name][0] for row in by_rows] for name in by_rows[0]}
    (as_text,), none = made(Frame(exact))
    assert none == []
    assert ["1.50"] * len(records) in plain(as_text).values()


BAD: list[tuple[Any, str]] = [
    (T._replace(price=math.nan), "table trades: price is nan; a finite number is wanted"),
    (T._replace(size=-math.inf), "table trades: size is -inf; a finite number is wanted"),
    (T._replace(symbol="A\0"), "table trades: symbol is 'A\\x00'; text without NUL, and that is Unicode, is wanted"),
    (T._replace(trade_id="\0"), "table trades: trade_id is '\\x00'; text without NUL, and that is Unicode, is wanted"),
    (
        T._replace(conditions="\ud800"),
        "table trades: conditions is '\\ud800'; text without NUL, and that is Unicode, is",
    ),
    (T._replace(ts_event=2**63), "table trades: ts_event is 9223372036854775808; a whole number of 64 bits is wanted"),
    (
        T._replace(ts_event=-(2**63)),
        "table trades: ts_event is -9223372036854775808; a time in ns since 1970 is wanted",
    ),
    (T._replace(ts_event=1.5), "table trades: ts_event is 1.5; a whole number of 64 bits is wanted"),
    (T._replace(price="1,5"), "table trades: price is '1,5'; a finite number is wanted"),
    (T._replace(price="NaN"), "table trades: price is 'NaN'; a finite number is wanted"),
    (T._replace(price=None), "table trades: price is None; a finite number is wanted"),
    (T._replace(symbol=None), "table trades: symbol is None; text is wanted"),
    (Q._replace(bid=math.inf), "table quotes: bid is inf; a finite number is wanted, or NaN for none"),
    (B._replace(volume=math.nan), "table bars: volume is nan; a finite number is wanted"),
    (B._replace(is_final="yes"), "table bars: is_final is 'yes'; true or false is wanted"),
    (Gap("A", 2**64, 2, 1, 0), "table gaps: first is 18446744073709551616; a whole number of 64 bits is wanted"),
    ({"symbol": "A"}, "dict: there is no table for it; stored are records: Bar, Gap, Quote, Trade"),
    (Window("A", 0, 1, []), "Window: there is no table for it; stored are records: Bar, Gap, Quote, Trade"),
]


@pytest.mark.parametrize(("item", "reason"), BAD)
def test_a_bad_row_is_refused_alone(item: Any, reason: str) -> None:
    good = [T, T._replace(trade_id=8)]
    found, rejected = made(Frame([good[0], item, good[1]]))
    assert [sheet.item(n) for sheet in found for n in range(len(sheet))] == good
    assert len(rejected) == 1
    assert repr(rejected[0][0]) == repr(item)
    assert rejected[0][1].startswith(reason)


def test_bad_values_in_columns_are_refused_alone() -> None:
    columns, _ = columns_from_rows([T, T._replace(price=math.inf), T._replace(symbol="B\0"), T._replace(trade_id=9)])
    (sheet,), rejected = made(Frame(columns))
    assert [sheet.item(n) for n in range(len(sheet))] == [T, T._replace(trade_id=9)]
    assert sorted(reason.split()[2] for _, reason in rejected) == ["price", "symbol"]


def test_columns_of_other_types_are_taken_row_by_row() -> None:
    data: dict[str, Any] = {
        "symbol": Dictionary.encode(["A", "B"]), "ts_event": np.array([1.0, 2.5]), "ts_recv": np.array([0, 0]),
        "price": np.array([1, 2]), "size": np.array([1, 2], dtype=np.float32),
        "side": np.array([1, 2], dtype=np.int8), "trade_id": np.array([1, 2]),
    }  # fmt: skip
    found, rejected = made(Frame(Columns("trade", data)))
    assert found == []
    assert [reason for _, reason in rejected] == [
        "table trades: ts_event is 1.0; a whole number of 64 bits is wanted",
        "table trades: ts_event is 2.5; a whole number of 64 bits is wanted",
    ]
    data["ts_event"] = np.array([1, 2])
    (sheet,), rejected = made(Frame(Columns("trade", data)))
    assert rejected == []
    assert [plain(sheet)[name] for name in ("price", "size")] == [["1", "2"], ["1.0", "2.0"]]


def test_items_of_all_kinds_and_lists_are_parted() -> None:
    found, rejected = made(Frame([[T, Q], B, [T]]), Frame([Gap("A", 1, 2, 2, 0)]))
    assert sorted((sheet.table.name, len(sheet)) for sheet in found) == [
        ("bars", 1),
        ("gaps", 1),
        ("quotes", 1),
        ("trades", 2),
    ]
    assert rejected == []


def test_made_up_ids_tell_trades_and_quotes_apart() -> None:
    one = T._replace(trade_id="")
    others = [one._replace(**change) for change in (
        {"ts_event": 1_001}, {"ts_recv": 2_001}, {"price": 1.25}, {"size": 2.5}, {"side": "sell"},
        {"action": "cancel", "ref_trade_id": 7}, {"price": "1.50"},
    )]  # fmt: skip
    ids = [text for sheet in made(Frame([one, *others]), Frame([one]))[0] for text in texts(sheet.columns["trade_id"])]
    assert ids[0] == "~1000/2000/1.5/2.0/buy/new/"
    assert len(set(ids)) == len(others) + 1
    assert ids[-1] == ids[0]


def test_the_interval_is_the_length_or_the_one_given() -> None:
    assert made(Frame([B]))[0][0].columns["interval"].tolist() == [60]  # type: ignore[union-attr]
    assert made(Frame([B]), interval=99)[0][0].columns["interval"].tolist() == [99]  # type: ignore[union-attr]


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))), min_size=1))
def test_text_for_copy_is_one_field_on_one_line(values: list[str]) -> None:
    text = lines([copied(Kind.TEXT, values), copied(Kind.TEXT, Dictionary.encode(values))])
    rows = text.removesuffix("\n").split("\n")
    unescaped = {"\\\\": "\\", "\\t": "\t", "\\n": "\n", "\\r": "\r"}
    assert len(rows) == len(values)
    for row, value in zip(rows, values, strict=True):
        first, second = row.split("\t")
        assert first == second
        assert "\r" not in first
        parts = iter(first)
        assert "".join(unescaped[c + next(parts)] if c == "\\" else c for c in parts) == value


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_a_float_becomes_text_that_reads_as_the_same(values: list[float]) -> None:
    assert [float(text) for text in texts(np.array(values))] == values
    assert texts(np.array(values)) == texts(list(values))


def test_moments() -> None:
    found = moments(np.array([0, 1_767_364_200_123_456_789, -1]), True)
    assert found == [None, "2026-01-02T14:30:00.123456Z", "1969-12-31T23:59:59.999999Z"]


@pytest.mark.parametrize(("options", "message"), [
    ({"tables": ("trades", "fills")}, "choose of trades, quotes, bars, gaps"),
    ({"tables": "trades"}, "choose of trades"),
    ({"tables": ()}, "choose of trades"),
    ({"prefix": "x-"}, "prefix: 'x-' is not allowed"),
    ({"interval": "-1s"}, "interval"),
])  # fmt: skip
def test_options_that_cannot_work(options: dict[str, Any], message: str) -> None:
    for make in (lambda **given: SqliteStore("x.db", **given), lambda **given: PostgresStore("dbname=x", **given)):
        with pytest.raises(ConfigError, match=message):
            make(**options)


BAD_URLS = [
    "postgresql://me:secret/pw@host/db?x", "postgresql://me:secret/pw@host/db", "postgresql://me:123/secret@host/db",
    "postgresql://me:1@secret@host/db", "secret", "",
]  # fmt: skip


@pytest.mark.parametrize("url", BAD_URLS)
def test_an_address_that_cannot_be_read_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match=r"write postgresql://user:password@host:port/database") as refused:
        PostgresStore(url)
    assert "secret" not in str(refused.value)


def test_the_password_shows_nowhere() -> None:
    for url in ("postgresql://me:secret-pw@h:5/db", "host=h port=5 user=me password=secret-pw dbname=db"):
        store = PostgresStore(url)
        assert store.destination() == "postgresql://me:***@h:5/db, schema public"
        shown = repr([store.config(), vars(store), store.fresh()])
        assert "secret-pw" not in shown
