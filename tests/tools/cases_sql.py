"""The SQL stores in the suite of all sinks."""

from __future__ import annotations

import sqlite3
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

from market_data_pipeline import PostgresStore, Sink, SqliteStore
from tools.postgres import query, shared_server
from tools.small_disk import SmallDisk

_TRADES = "SELECT symbol, trade_id, price, ts_event_ns FROM trades"


def _trades(rows: list[Any]) -> list[Any]:
    """Ids are text in a SQL store."""
    return [(symbol, int(trade_id), float(price), ts_event) for symbol, trade_id, price, ts_event in rows]


class PostgresStoreCase:
    """A fresh database of the shared server. An outage: the server is killed."""

    keyed = exactly_once = True

    def __init__(self, folder: Path) -> None:
        self._server = shared_server()
        self._database = self._server.database()
        self._url = self._database.__enter__()

    def sink(self) -> Sink:
        return PostgresStore(self._url)

    def expression(self) -> str:
        return f"PostgresStore({self._url!r})"

    def read(self) -> list[Any]:
        there = query(self._url, "SELECT to_regclass('trades') IS NOT NULL")[0][0]
        return _trades(query(self._url, _TRADES)) if there else []

    def outage(self) -> AbstractContextManager[None]:
        return self._server.outage()

    def spoil(self) -> str | None:
        query(self._url, "ALTER TABLE trades ALTER COLUMN price TYPE text")
        return "'price' is of type text, wanted numeric"

    def close(self) -> None:
        self._database.__exit__(None, None, None)


class SqliteStoreCase:
    """A file on a small disk. An outage: the disk is full."""

    keyed = exactly_once = True

    def __init__(self, folder: Path) -> None:
        self._disk = SmallDisk(folder / "disk", 16)
        self._path = self._disk.path / "store.sqlite"

    def sink(self) -> Sink:
        return SqliteStore(self._path)

    def expression(self) -> str:
        return f"SqliteStore({str(self._path)!r})"

    def read(self) -> list[Any]:
        with closing(sqlite3.connect(self._path)) as connection:
            there = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'trades'").fetchall()
            return _trades(connection.execute(_TRADES).fetchall()) if there else []

    def outage(self) -> AbstractContextManager[None]:
        return self._disk.full()

    def spoil(self) -> str | None:
        with closing(sqlite3.connect(self._path)) as connection:
            connection.execute("DROP TABLE trades")
            connection.execute("CREATE TABLE trades (symbol TEXT, price REAL)")
        return "no column 'venue'"

    def close(self) -> None:
        self._disk.close()


def make_postgres(folder: Path) -> PostgresStoreCase:
    return PostgresStoreCase(folder)


def make_sqlite(folder: Path) -> SqliteStoreCase:
    return SqliteStoreCase(folder)
