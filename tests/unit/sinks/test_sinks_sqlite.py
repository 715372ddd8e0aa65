"""The SQLite table: one row per key, whoever writes late."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from market_data_pipeline import Bar, Frame, Pipeline, SqliteTable, Synthetic, Trade
from market_data_pipeline.errors import ConfigError, SinkError
from market_data_pipeline.runtime.local import DagRuntime
from market_data_pipeline.sinks.base import SinkContext

Rejected = list[tuple[Any, str]]


def context(generation: int, rejected: Rejected | None = None) -> SinkContext:
    def reject(item: Any, reason: str) -> None:
        assert rejected is not None, reason
        rejected.append((item, reason))

    return SinkContext("out", generation=generation, reject=reject)


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[list[SqliteTable]]:
    """Sinks to close afterwards."""
    sinks: list[SqliteTable] = []
    yield sinks
    for sink in sinks:
        await sink.close()


def query(path: Path, sql: str) -> list[Any]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


async def put(sink: SqliteTable, *items: Any) -> None:
    await sink.write([Frame(list(items))])
    assert await sink.prepare(False) is None
    await sink.committed()


async def table(
    tmp_path: Path, opened: list[SqliteTable], generation: int = 1, key: Any = ("k",), rejected: Rejected | None = None
) -> SqliteTable:
    sink = SqliteTable(tmp_path / "db.sqlite", "items", key)
    sink.check()
    await sink.open(context(generation, rejected), None)
    opened.append(sink)
    return sink


async def test_the_last_item_of_a_key_stays(tmp_path: Path, opened: list[SqliteTable]) -> None:
    sink = await table(tmp_path, opened)
    await put(sink, {"k": 1, "v": 1.5}, {"k": 2, "v": 2.5}, {"k": 1, "v": 9.5})
    await put(sink, {"k": 2, "v": 7.5})
    assert query(tmp_path / "db.sqlite", "SELECT k, v FROM items ORDER BY k") == [(1, 9.5), (2, 7.5)]


async def test_a_zombie_does_not_overwrite_its_successors_rows(tmp_path: Path, opened: list[SqliteTable]) -> None:
    zombie = await table(tmp_path, opened, generation=1)
    await put(zombie, {"k": 1, "v": "old"}, {"k": 2, "v": "old"})
    successor = await table(tmp_path, opened, generation=2)
    await put(successor, {"k": 1, "v": "new"}, {"k": 3, "v": "new"})
    for late in ({"k": 1, "v": "late"}, {"k": 3, "v": "late"}):
        with pytest.raises(SinkError, match="holds rows of a later owner than generation 1"):
            await put(zombie, {"k": 2, "v": "late"}, late, {"k": 4, "v": "late"})
    found = dict(query(tmp_path / "db.sqlite", "SELECT k, v FROM items"))
    assert found == {1: "new", 2: "old", 3: "new"}, "nothing of the zombie's steps"


async def test_what_is_not_prepared_is_not_written(tmp_path: Path, opened: list[SqliteTable]) -> None:
    sink = await table(tmp_path, opened)
    await sink.write([Frame([{"k": 1}])])
    assert query(tmp_path / "db.sqlite", "SELECT count(*) FROM sqlite_master") == [(0,)]


async def test_records_make_the_table(tmp_path: Path, opened: list[SqliteTable]) -> None:
    sink = await table(tmp_path, opened, key=("symbol", "trade_id"))
    await put(sink, Trade("A'\"B", 5, 6, 1.5, 2.0, "buy", 7), Trade("\x00../é", 5, 6, 1.5, 2.0, "sell", 8))
    rows = query(tmp_path / "db.sqlite", "SELECT symbol, ts_event, price, side, trade_id, typeof(ts_event) FROM items")
    assert sorted(rows) == [("\x00../é", 5, 1.5, "sell", 8, "integer"), ("A'\"B", 5, 1.5, "buy", 7, "integer")]
    keys = query(tmp_path / "db.sqlite", "SELECT name FROM pragma_table_info('items') WHERE pk ORDER BY pk")
    assert keys == [("symbol",), ("trade_id",)]


async def test_odd_values_are_kept(tmp_path: Path, opened: list[SqliteTable]) -> None:
    sink = await table(tmp_path, opened)
    await put(
        sink, {"k": 1, "v": 2**63 - 1}, {"k": 2, "v": -(2**63)}, {"k": 4, "v": [1, {"a": None}]},
        {"k": 5, "v": math.nan}, {"k": 6, "v": None}, {"k": 7, "v": True}, {"k": 8, "v": math.inf}, {"k": 9, "v": ""},
    )  # fmt: skip
    found = dict(query(tmp_path / "db.sqlite", "SELECT k, v FROM items"))
    assert found == {
        1: 2**63 - 1, 2: -(2**63), 4: '[1,{"a":null}]', 5: None, 6: None, 7: 1, 8: math.inf, 9: "",
    }  # fmt: skip


async def test_what_the_fast_writer_refuses_inside_lists_is_kept(tmp_path: Path, opened: list[SqliteTable]) -> None:
    sink = await table(tmp_path, opened)
    await put(sink, {"k": 1, "v": [2**70]}, {"k": 2, "v": {"a": "\ud800"}}, {"k": 3, "v": [float("nan")]})
    found = query(tmp_path / "db.sqlite", "SELECT v FROM items ORDER BY k")
    assert found == [("[1180591620717411303424]",), ('{"a": "\\ud800"}',), ("[null]",)]


async def test_numbers_of_numpy_are_numbers(tmp_path: Path, opened: list[SqliteTable]) -> None:
    rejected: Rejected = []
    sink = await table(tmp_path, opened, rejected=rejected)
    await put(sink, {"k": np.int64(1), "v": np.float32(1.5)}, {"k": 1, "v": 2.5}, {"k": np.uint64(2**64 - 1), "v": 1.0})
    assert query(tmp_path / "db.sqlite", "SELECT k, v FROM items") == [(1, 2.5)]
    assert [reason for _, reason in rejected] == ["table items: field 'k' does not fit into 64 bits"]


async def test_later_items_may_have_other_fields(tmp_path: Path, opened: list[SqliteTable]) -> None:
    sink = await table(tmp_path, opened)
    await put(sink, {"k": 1, "a": 1}, {"b": 2.5, "k": 2}, {"k": 3, "a": 3, "b": 3.5})
    assert query(tmp_path / "db.sqlite", "SELECT k, a, b FROM items ORDER BY k") == [
        (1, 1, None),
        (2, None, 2.5),
        (3, 3, 3.5),
    ]


async def test_two_tasks_make_the_table_at_once(tmp_path: Path, opened: list[SqliteTable]) -> None:
    first, second = await table(tmp_path, opened), await table(tmp_path, opened)
    await put(first, {"k": 1, "a": 1})
    await put(second, {"k": 2, "b": 2})
    await put(first, {"k": 3, "c": 3})
    await put(second, {"k": 4, "c": 4})
    assert query(tmp_path / "db.sqlite", "SELECT k, a, b, c FROM items ORDER BY k") == [
        (1, 1, None, None), (2, None, 2, None), (3, None, None, 3), (4, None, None, 4),
    ]  # fmt: skip


async def test_bad_items_are_rejected_and_good_ones_kept(tmp_path: Path, opened: list[SqliteTable]) -> None:
    rejected: Rejected = []
    sink = await table(tmp_path, opened, rejected=rejected)
    bad = [
        {"v": 1},
        {"k": None},
        7,
        {"k": 1, "K": 2},
        {"k": 1, "a b": 2},
        {"k": 1, "_mdp_generation": 2},
        {"k": 2**63},
        {"k": "\ud800"},
    ]
    await put(sink, {"k": 1}, *bad, {"k": 2})
    assert [item for item, _ in rejected] == bad
    assert all(reason.startswith("table items: ") for _, reason in rejected)
    assert query(tmp_path / "db.sqlite", "SELECT k FROM items ORDER BY k") == [(1,), (2,)]


async def test_the_tables_own_constraints_reject_single_rows(tmp_path: Path, opened: list[SqliteTable]) -> None:
    with sqlite3.connect(tmp_path / "db.sqlite") as connection:
        connection.execute("CREATE TABLE items (k INTEGER PRIMARY KEY, v REAL CHECK (v > 0))")
    connection.close()
    rejected: Rejected = []
    sink = await table(tmp_path, opened, rejected=rejected)
    await put(sink, {"k": 1, "v": 1.0}, {"k": 2, "v": -1.0}, {"k": 3, "v": 3.0})
    assert [item["k"] for item, _ in rejected] == [2]
    assert query(tmp_path / "db.sqlite", "SELECT k, v FROM items ORDER BY k") == [(1, 1.0), (3, 3.0)]


def test_a_table_without_the_unique_index_is_refused_at_the_start(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "db.sqlite") as connection:
        connection.execute("CREATE TABLE items (k INTEGER, v REAL)")
    connection.close()
    with pytest.raises(SinkError, match=r"no unique index on \(k\); create one"):
        SqliteTable(tmp_path / "db.sqlite", "items", "k").check()
    with pytest.raises(SinkError, match="no column 'x'"):
        SqliteTable(tmp_path / "db.sqlite", "items", ("k", "x")).check()


def test_what_is_no_database_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database at all, but long enough to be looked at\n" * 100)
    with pytest.raises(SinkError, match="not a database"):
        SqliteTable(tmp_path / "text", "items").check()
    with pytest.raises(SinkError, match="does not exist"):
        SqliteTable(tmp_path / "nowhere" / "db", "items").check()


@pytest.mark.parametrize("name", ["", "a b", "1a", 'a"b', "a;b", "x" * 64])
def test_names_are_checked(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="table: "):
        SqliteTable(tmp_path / "db", name)
    with pytest.raises(ConfigError, match="key: "):
        SqliteTable(tmp_path / "db", "t", (name,))


async def test_a_locked_database_is_a_sink_error_and_nothing_is_lost(
    tmp_path: Path, opened: list[SqliteTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("market_data_pipeline.sinks.sqlite._BUSY_SECONDS", 0.05)
    sink = await table(tmp_path, opened)
    await put(sink, {"k": 1})
    other = sqlite3.connect(tmp_path / "db.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    await sink.write([Frame([{"k": 2}])])
    with pytest.raises(SinkError, match="locked"):
        await sink.prepare(False)
    other.execute("ROLLBACK")
    other.close()
    again = await table(tmp_path, opened, generation=2)  # the task opens again and does the step again
    await put(again, {"k": 2})
    assert query(tmp_path / "db.sqlite", "SELECT k FROM items ORDER BY k") == [(1,), (2,)]


async def test_bars_in_one_process(tmp_path: Path) -> None:
    path = tmp_path / "bars.sqlite"
    source = Synthetic(symbols=5, items=5_000, event_rate=1_000, seed=1)
    job = DagRuntime(Pipeline("p").source(source).key_by("symbol").bars("1s").sink(SqliteTable(path, "bars")))
    await job.start()
    assert query(path, "SELECT sum(trade_count) FROM bars") == [(5_000,)]
    columns = [name for (name,) in query(path, "SELECT name FROM pragma_table_info('bars')")]
    assert columns == [*Bar._fields, "_mdp_generation"]
