"""A SQLite table with one row per key, exactly once."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from market_data_pipeline.errors import ConfigError, SinkError
from market_data_pipeline.frame import Frame, to_rows
from market_data_pipeline.sinks.base import Sink, SinkContext
from market_data_pipeline.sinks.encoding import json_line, plain
from market_data_pipeline.sinks.sqlite_file import (
    FileId,
    check_place,
    close_when_idle,
    commit,
    connect,
    explained,
    file_at,
)

GENERATION = "_mdp_generation"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_BUSY_SECONDS = 30.0
_TYPES = {int: "INTEGER", bool: "INTEGER", float: "REAL", str: "TEXT", bytes: "BLOB"}
_INT64 = range(-(2**63), 2**63)

Row = dict[str, Any]


class SqliteTable(Sink):
    """Writes records (or dicts) to ``table`` of the database file ``path``, one row per ``key``.

    Guarantee: exactly once by key. An item replaces the row with its key, unless a later owner of the partition wrote that
    row: each row holds in ``_mdp_generation`` when its writer began (server time, microseconds), and an older writer's
    step does not apply. A step is one transaction, made durable before the step is committed; ``fsync`` waits for the
    disk, for machines that may lose power.

    The table and columns that are missing are created from the first items (``key`` becomes the primary key). An existing
    table must have a unique index on exactly ``key``. Lists and dicts are stored as JSON, NaN as NULL. An item
    without its key, with an integer over 64 bits, or that the table's own constraints refuse goes to the dead letters. All
    workers must see the same file (one machine): the database is in WAL mode. Raises ``SinkError`` when the file cannot be
    written, and when it was removed, moved or replaced since it was opened.
    """

    accepts: ClassVar[Literal["rows"]] = "rows"

    def __init__(self, path: Path | str, table: str, key: Sequence[str] = ("symbol", "ts_open"), fsync: bool = False):
        self.path = Path(path)
        self.table = table
        self.key = (key,) if isinstance(key, str) else tuple(key)
        self.fsync = fsync
        if not _NAME.fullmatch(table):
            raise ConfigError(f"table: {table!r} is not allowed; letters, digits and _ only, 63 at most")
        if not self.key or not all(map(_NAME.fullmatch, self.key)):
            raise ConfigError(f"key: {self.key!r} is not allowed; name one column at least, of letters, digits and _")
        self._rows: list[Row] = []
        self._columns: dict[str, str] = {}
        self._connection: sqlite3.Connection | None = None
        self._opened: FileId = (0, 0)

    def destination(self) -> str:
        return f"{self.path}, table {self.table}"

    def check(self) -> None:
        with explained(self.path):
            check_place(self.path)
            connection = self._connect()
            try:
                self._look(connection)
                if self._columns:
                    self._check_key(connection)
            finally:
                connection.close()

    def _check_key(self, connection: sqlite3.Connection) -> None:
        missing = [name for name in self.key if name.lower() not in self._columns]
        if missing:
            raise SinkError(f"{self.path}: table {self.table} has no column {missing[0]!r}, which is part of the key")
        try:
            connection.execute(f"EXPLAIN {self._upsert(list(self.key), GENERATION.lower() in self._columns)}", self.key)
        except sqlite3.ProgrammingError:
            return  # the statement is good, the number of values is not: they are not needed
        except sqlite3.OperationalError as error:
            raise SinkError(
                f"{self.path}: table {self.table} has no unique index on ({', '.join(self.key)}); create one: {error}"
            ) from error

    async def open(self, ctx: SinkContext, state: Any | None) -> None:
        self._ctx = ctx
        with explained(self.path):
            self._connection = await asyncio.to_thread(self._connect)
            self._opened = file_at(self.path)
            self._at_work = threading.Lock()
            self._look(self._connection)

    def _connect(self) -> sqlite3.Connection:
        return connect(self.path, self.fsync, _BUSY_SECONDS)

    def _look(self, connection: sqlite3.Connection) -> None:
        """Learn the table's columns; SQLite does not tell upper from lower case in names."""
        found = connection.execute("SELECT name FROM pragma_table_info(?)", (self.table,)).fetchall()
        self._columns = {name.lower(): name for (name,) in found}

    async def write(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            for item in to_rows(frame.items):
                row = _scalars(plain(item))
                reason = self._flaw(row)
                if reason:
                    self._ctx.reject(item, reason)
                else:
                    self._rows.append({name: _value(value) for name, value in row.items()})

    def _flaw(self, row: Any) -> str:
        """Why ``row`` cannot be stored; empty when it can."""
        if not isinstance(row, dict):
            return f"table {self.table}: only records and dicts can be stored"
        missing = [name for name in self.key if row.get(name) is None]
        if missing:
            return f"table {self.table}: the key field {missing[0]!r} is missing"
        names = [name.lower() for name in row]
        if len(set(names)) < len(names) or GENERATION in names or not all(map(_NAME.fullmatch, row)):
            return f"table {self.table}: field names must be different words of letters, digits and _"
        wide = [name for name, value in row.items() if isinstance(value, int) and value not in _INT64]
        if wide:
            return f"table {self.table}: field {wide[0]!r} does not fit into 64 bits"
        return ""

    async def prepare(self, ended: bool) -> Any | None:
        rows, self._rows = self._rows, []
        if rows:
            with explained(self.path):
                await asyncio.to_thread(self._locked_store, rows)
        return None

    def _locked_store(self, rows: list[Row]) -> None:
        with self._at_work:
            self._store(rows)

    def _store(self, rows: list[Row]) -> None:
        connection = self._connection
        assert connection is not None
        connection.execute("BEGIN IMMEDIATE")
        try:
            for names, group in groupby(rows, key=tuple):
                batch = list(group)
                self._make_columns(connection, batch[0])
                self._store_batch(connection, list(names), batch)
            commit(connection, self.path, self._opened)
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._columns = {}
            raise

    def _store_batch(self, connection: sqlite3.Connection, names: list[str], rows: list[Row]) -> None:
        statement = self._upsert(names, True)
        values = [(*row.values(), self._ctx.generation) for row in rows]
        connection.execute("SAVEPOINT batch")
        try:
            self._check_applied(connection.executemany(statement, values), len(values))
        except (sqlite3.IntegrityError, sqlite3.DataError, UnicodeEncodeError):
            connection.execute("ROLLBACK TO batch")
            for row, parameters in zip(rows, values, strict=True):
                try:
                    self._check_applied(connection.execute(statement, parameters), 1)
                except (sqlite3.IntegrityError, sqlite3.DataError, UnicodeEncodeError) as error:
                    self._ctx.reject(row, f"table {self.table}: {error}")
        connection.execute("RELEASE batch")

    def _check_applied(self, done: sqlite3.Cursor, rows: int) -> None:
        """A row that was not taken belongs to a later owner. Should we be the owner all the same, then the server's clock
        went back, and loading again after a while helps; silence would lose the row."""
        if done.rowcount != rows:
            raise SinkError(
                f"{self.path}: table {self.table} holds rows of a later owner than generation {self._ctx.generation}"
            )

    def _make_columns(self, connection: sqlite3.Connection, row: Row) -> None:
        if not self._columns:
            self._look(connection)  # another task may have made the table meanwhile
        if not self._columns:
            columns = [f"{_quoted(name)} {_TYPES.get(type(value), '')}" for name, value in row.items()]
            key = ", ".join(map(_quoted, self.key))
            body = ", ".join([*columns, f"{GENERATION} INTEGER", f"PRIMARY KEY ({key})"])
            connection.execute(f"CREATE TABLE {_quoted(self.table)} ({body})")
            self._look(connection)
        wanted = {**row, GENERATION: 0}
        if any(name.lower() not in self._columns for name in wanted):
            self._look(connection)
            for name, value in wanted.items():
                if name.lower() not in self._columns:
                    kind = _TYPES.get(type(value), "")
                    connection.execute(f"ALTER TABLE {_quoted(self.table)} ADD COLUMN {_quoted(name)} {kind}")
            self._look(connection)

    def _upsert(self, names: list[str], versioned: bool) -> str:
        """The statement. ``versioned``: a row that a later owner wrote is left alone."""
        columns = [*map(_quoted, names), *([GENERATION] if versioned else [])]
        changes = ", ".join(f"{column} = excluded.{column}" for column in columns)
        guard = f" WHERE excluded.{GENERATION} >= coalesce({_quoted(self.table)}.{GENERATION}, 0)" if versioned else ""
        return (
            f"INSERT INTO {_quoted(self.table)} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
            f" ON CONFLICT ({', '.join(map(_quoted, self.key))}) DO UPDATE SET {changes}{guard}"
        )

    async def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await close_when_idle(connection, self._at_work)


def _quoted(name: str) -> str:
    return f'"{name}"'


def _scalars(row: Any) -> Any:
    """``row`` with numpy's numbers as Python's: they would be stored as text."""
    if not isinstance(row, dict) or not any(isinstance(value, np.generic) for value in row.values()):
        return row
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}


def _value(value: Any) -> Any:
    """What SQLite can store."""
    if value is None or isinstance(value, float | str | int):
        return value
    if isinstance(value, list | dict):
        return json_line(value)[:-1].decode()
    return str(value)
