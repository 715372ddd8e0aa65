"""The SQL store in a SQLite file: values, revisions, zombies, bad rows, tables that are there."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from market_data_pipeline import Bar, Frame, Quote, SqliteStore, SqliteTable, Trade
from market_data_pipeline.errors import SinkError
from market_data_pipeline.sinks.base import SinkContext

T = Trade("A", 1_767_364_200_000_000_001, 0, 1.5, 2.0, "buy", 7)
B = Bar("A", 0, 60, 1.0, 2.0, 0.5, 1.5, 10.0, 1.2, 3)
Open = Callable[..., Awaitable[SqliteStore]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
def rejected() -> list[tuple[Any, str]]:
    return []


@pytest.fixture
async def opened(path: Path, rejected: list[tuple[Any, str]]) -> AsyncIterator[Open]:
    sinks: list[SqliteStore] = []

    async def opening(generation: int = 1, job: str = "job", **options: Any) -> SqliteStore:
        sink = SqliteStore(path, **options).fresh()
        sink.check()
        sink.busy_seconds = 0.05
        reject = lambda item, reason: rejected.append((item, reason))  # noqa: E731
        await sink.open(SinkContext("out", job, generation=generation, reject=reject), None)
        sinks.append(sink)
        return sink

    yield opening
    for sink in sinks:
        await sink.close()


async def put(sink: SqliteStore, *items: Any) -> None:
    await sink.write([Frame(list(items))])
    assert await sink.prepare(False) is None
    await sink.committed()


def query(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(sql).fetchall()


async def test_values_are_what_they_were(path: Path, opened: Open) -> None:
    exact = "1.10000000000000000000000001"
    await put(await opened(), T, T._replace(trade_id=8, price=exact), Quote("A", 5, 6, math.nan, 2.0, 3.0, 4.0, 1))
    rows = query(path, "SELECT trade_id, price, typeof(price), ts_event, ts_event_ns, ts_recv FROM trades ORDER BY 1")
    assert rows == [
        ("7", 1.5, "real", "2026-01-02T14:30:00.000000Z", T.ts_event, None),
        ("8", exact, "text", "2026-01-02T14:30:00.000000Z", T.ts_event, None),
    ]
    assert query(path, "SELECT bid, bid_size, update_id FROM quotes") == [(None, 2.0, "1")]


async def test_revisions_and_zombies(path: Path, opened: Open) -> None:
    zombie, successor = await opened(1), await opened(2)
    await put(zombie, B._replace(revision=1, close=1.0), B._replace(revision=0, close=0.0), T)
    assert query(path, "SELECT revision, close FROM bars") == [(1, 1.0)]
    await put(zombie, B._replace(revision=5, close=5.0))
    await put(successor, B._replace(revision=1, close=2.0), T._replace(price=9.0))
    await put(zombie, B._replace(revision=9, close=9.0))
    await put(await opened(7, "another job"), B._replace(revision=1, close=7.0))
    assert query(path, "SELECT revision, close FROM bars") == [(1, 2.0)]
    assert query(path, "SELECT price FROM trades") == [(1.5,)]


async def test_what_a_constraint_refuses_is_refused_alone(path: Path, opened: Open, rejected: list[Any]) -> None:
    sink = await opened()
    query(
        path,
        "CREATE TRIGGER sane BEFORE INSERT ON trades WHEN new.price > 10 BEGIN SELECT RAISE(ABORT, 'too dear'); END",
    )
    dear = T._replace(trade_id=2, price=11.0)
    await put(sink, T, dear, T._replace(trade_id=3), B)
    assert query(path, "SELECT trade_id FROM trades ORDER BY 1") == [("3",), ("7",)]
    assert rejected == [(dear, "table trades: too dear")]


async def test_a_file_that_somebody_holds_is_an_error_and_loses_nothing(path: Path, opened: Open) -> None:
    sink = await opened()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SinkError, match=r"store\.sqlite: database is locked"):
            await put(sink, T)
    await put(sink, T)
    assert query(path, "SELECT count(*) FROM trades") == [(1,)]


@pytest.mark.parametrize(("change", "message"), [
    ("ALTER TABLE trades DROP COLUMN phase", "table trades: found no column 'phase', wanted one of type TEXT"),
    ("ALTER TABLE bars RENAME TO x; CREATE TABLE bars AS SELECT * FROM x", r"table bars: found no unique key on \(symbol, i"),
    ("ALTER TABLE gaps RENAME TO x; CREATE TABLE gaps(symbol PRIMARY KEY, desk NOT NULL)", "table gaps: found no column"),
])  # fmt: skip
async def test_a_table_that_will_not_do_is_refused(path: Path, opened: Open, change: str, message: str) -> None:
    await (await opened()).close()
    for statement in change.split("; "):
        query(path, statement)
    with pytest.raises(SinkError, match=message):
        SqliteStore(path).check()


async def test_what_is_missing_is_told(tmp_path: Path, path: Path) -> None:
    with pytest.raises(SinkError, match="there is no table 'trades'; make it, or create=True"):
        SqliteStore(path, create=False).check()
    with pytest.raises(SinkError, match=r"the folder .* does not exist"):
        SqliteStore(tmp_path / "no" / "x.db").check()


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    for sink in (SqliteStore(tmp_path), SqliteTable(tmp_path, "t", ["symbol"])):
        with pytest.raises(SinkError, match="is a folder; give a file in it"):
            sink.check()
