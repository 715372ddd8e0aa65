"""The tables of the SQL store in a SQLite file: the embedded default, exactly once by key."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from market_data_pipeline.durations import Duration
from market_data_pipeline.errors import SinkError
from market_data_pipeline.sinks.sql import SqlStore, Stored, by_table
from market_data_pipeline.sinks.sql_schema import GENERATION, JOB, TIMES, Kind, Table
from market_data_pipeline.sinks.sql_sheets import Sheet
from market_data_pipeline.sinks.sql_text import moments, texts
from market_data_pipeline.sinks.sqlite_file import (
    FileId,
    check_place,
    close_when_idle,
    commit,
    connect,
    explained,
    file_at,
)

_TYPES = {"text": "TEXT", "numeric": "", "bigint": "INTEGER", "timestamptz": "TEXT", "boolean": "INTEGER"}
"""A number has no type, so that it stays what it was: SQLite's NUMERIC would cut text to 15 digits."""
_REFUSALS = (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, UnicodeEncodeError)


class SqliteStore(SqlStore):
    """Writes ``Trade``, ``Quote``, ``Bar`` and ``Gap`` records to the tables ``trades``, ``quotes``, ``bars`` and ``gaps`` of
    the database file ``path``: the schema, keys and guarantee of :class:`PostgresStore` (exactly once by key), without a
    server.

    Units: times are ISO text in microseconds, UTC, beside an integer of ns. A price or size is REAL where it was a float and
    TEXT, as sent, where it was text: compare the latter with ``CAST(price AS REAL)``. A bar's NaN and a quote's missing side
    are NULL; so is ``ts_recv`` where it is 0.

    Retried: a file that another writer holds for longer than half a minute, a full disk, missing rights, a file that was
    removed, moved or replaced are a ``SinkError``: the task waits and loads again. Bad input goes to the dead letters, as
    there. ``fsync`` waits for the disk, for machines that may lose power. All workers must see the same file (one machine):
    the database is in WAL mode.
    """

    def __init__(
        self,
        path: Path | str,
        fsync: bool = False,
        create: bool = True,
        *,
        tables: Sequence[str] = ("trades", "quotes", "bars", "gaps"),
        prefix: str = "",
        interval: Duration | None = None,
    ) -> None:
        super().__init__(tables, prefix, interval, create)
        self.path = Path(path)
        self.fsync = fsync
        self.busy_seconds = 30.0
        self._connection: sqlite3.Connection | None = None
        self._opened: FileId = (0, 0)

    def destination(self) -> str:
        return str(self.path)

    def check(self) -> None:
        with explained(self.path):
            check_place(self.path)
            connection = self._connect()
            try:
                self._look(connection, self.create)
            finally:
                connection.close()

    def _connect(self) -> sqlite3.Connection:
        return connect(self.path, self.fsync, self.busy_seconds)

    def _look(self, connection: sqlite3.Connection, create: bool) -> None:
        """Raises ``SinkError`` unless all tables can be used, or made."""
        for table in self.named():
            found = connection.execute(
                'SELECT lower(name), "notnull" AND dflt_value IS NULL FROM pragma_table_info(?)', (table.name,)
            ).fetchall()
            if found:
                for flaw in _flaws(connection, table, dict(found)):
                    raise SinkError(f"{self.path}: table {table.name}: {flaw}")
            elif not create:
                raise SinkError(f"{self.path}: there is no table {table.name!r}; make it, or create=True")

    async def _open(self) -> None:
        with explained(self.path):
            self._connection = await asyncio.to_thread(self._set_up)
            self._at_work = threading.Lock()

    def _set_up(self) -> sqlite3.Connection:
        connection = self._connect()
        try:
            if self.create:
                connection.execute("BEGIN IMMEDIATE")
                for table in self.named():
                    connection.execute(_create(table))
                connection.execute("COMMIT")
            self._look(connection, False)
            self._opened = file_at(self.path)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _store(self, found: Sequence[Sheet]) -> Stored:
        with explained(self.path):
            return await asyncio.to_thread(self._locked_step, found)

    def _locked_step(self, found: Sequence[Sheet]) -> Stored:
        with self._at_work:
            return self._step(found)

    def _step(self, found: Sequence[Sheet]) -> Stored:
        connection = self._connection
        assert connection is not None
        stored = 0
        refused: list[tuple[Any, str]] = []
        connection.execute("BEGIN IMMEDIATE")
        try:
            for table, group in by_table(found):
                statement = _upsert(table)
                for sheet in group:
                    stored += self._fill(connection, statement, sheet, refused)
            commit(connection, self.path, self._opened)
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return Stored(stored, sum(map(len, found)) - stored - len(refused), refused)

    def _fill(
        self, connection: sqlite3.Connection, statement: str, sheet: Sheet, refused: list[tuple[Any, str]]
    ) -> int:
        values = _rows(sheet, self._ctx.job, self._ctx.generation)
        connection.execute("SAVEPOINT batch")
        try:
            stored = connection.executemany(statement, values).rowcount
        except _REFUSALS:
            connection.execute("ROLLBACK TO batch")
            stored = 0
            for index, row in enumerate(values):
                try:
                    stored += connection.execute(statement, row).rowcount
                except _REFUSALS as error:
                    refused.append((sheet.item(index), f"table {sheet.table.name}: {error}"))
        connection.execute("RELEASE batch")
        return stored

    async def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await close_when_idle(connection, self._at_work)


def _flaws(connection: sqlite3.Connection, table: Table, found: dict[str, int]) -> Iterator[str]:
    wanted = {column.name.lower() for column in table.columns()}
    for column in table.columns():
        if column.name.lower() not in found:
            yield f"found no column {column.name!r}, wanted one of type {_TYPES[column.type] or 'REAL, or none'}"
    for name, needed in found.items():
        if needed and name not in wanted:
            yield f"column {name!r} is NOT NULL without a default, and nothing is written to it"
    keys = connection.execute(
        "SELECT (SELECT group_concat(lower(i.name)) FROM pragma_index_info(l.name) AS i)"
        ' FROM pragma_index_list(?) AS l WHERE l."unique" AND NOT l.partial',
        (table.name,),
    ).fetchall()
    if set(table.key) not in [set((key or "").split(",")) for (key,) in keys]:
        yield f"found no unique key on ({', '.join(table.key)}), wanted one, not partial"


def _quoted(name: str) -> str:
    return f'"{name}"'


def _create(table: Table) -> str:
    columns = [
        f"{_quoted(column.name)} {_TYPES[column.type]}{' NOT NULL' if column.required else ''}"
        for column in table.columns()
    ]
    key = ", ".join(map(_quoted, table.key))
    return f"CREATE TABLE IF NOT EXISTS {_quoted(table.name)} ({', '.join(columns)}, PRIMARY KEY ({key}))"


def _upsert(table: Table) -> str:
    names = [column.name for column in table.columns()]
    action = "NOTHING"
    if table.replaced:
        changes = ", ".join(f"{_quoted(name)} = excluded.{_quoted(name)}" for name in names if name not in table.key)
        present = _quoted(table.name)
        action = (
            f"UPDATE SET {changes} WHERE CASE WHEN {present}.{JOB} = excluded.{JOB}"
            f" AND {present}.{GENERATION} <> excluded.{GENERATION}"
            f" THEN excluded.{GENERATION} > {present}.{GENERATION} ELSE excluded.revision > {present}.revision END"
        )
    key = ", ".join(map(_quoted, table.key))
    return (
        f"INSERT INTO {_quoted(table.name)} ({', '.join(map(_quoted, names))})"
        f" VALUES ({', '.join('?' * len(names))}) ON CONFLICT ({key}) DO {action}"
    )


def _rows(sheet: Sheet, job: str, generation: int) -> list[tuple[Any, ...]]:
    """The values of each row, in the order of the table's columns."""
    columns: list[list[Any]] = []
    for name, kind in sheet.table.fields:
        values = sheet.columns[name]
        if kind is Kind.TEXT:
            columns.append(texts(values))
        elif isinstance(values, list):
            columns.append(values)
        elif kind in TIMES:
            columns += [moments(values, kind is Kind.SEEN), values.tolist()]  # type: ignore[arg-type]
        else:
            columns.append(values.tolist())
    if sheet.table.replaced:
        columns += [[job] * len(sheet), [generation] * len(sheet)]
    return list(zip(*columns, strict=True))
