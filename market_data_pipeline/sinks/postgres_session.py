"""The session of a task with PostgreSQL: connect, look, make tables, and a step as one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from market_data_pipeline.errors import ConfigError, SinkError
from market_data_pipeline.sinks import postgres_schema as schemas
from market_data_pipeline.sinks.postgres_schema import Found, Statements, parameters
from market_data_pipeline.sinks.sql import Stored, by_table
from market_data_pipeline.sinks.sql_schema import Table
from market_data_pipeline.sinks.sql_sheets import Sheet
from market_data_pipeline.sinks.sql_text import copied, lines

_BLOCK = 8192
"""Rows that are made into text at a time: the server reads them while the next are made."""
_ATTEMPTS = 6
_PATIENCE_SECONDS, _LAST_SECONDS = 2.0, 0.2
"""How long a step that is cancelled is waited for."""
_USUAL = {
    "application_name": "market-data-pipeline",
    "client_encoding": "UTF8",
    "connect_timeout": "5",
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
"""Unless the address says otherwise. A statement has no time limit: a lock that is held slows, and does not fail."""
_SECRETS = ("password", "sslpassword", "oauth_client_secret")
_FORM = "postgresql://user:password@host:port/database"
_ROW_CLASSES = ("22", "23", "54", "P0")
"""Classes of SQLSTATE by which a row is at fault: data, constraints, limits, what a trigger raises."""


@dataclass(frozen=True)
class Where:
    """An address. ``conninfo`` holds the password; as text it does not show."""

    conninfo: str
    schema: str

    def __repr__(self) -> str:
        return f"Where({self})"

    def __str__(self) -> str:
        words = conninfo_to_dict(self.conninfo)
        user = f"{words['user']}{':***' if 'password' in words else ''}@" if "user" in words else ""
        port = f":{words['port']}" if "port" in words else ""
        return f"postgresql://{user}{words.get('host', '')}{port}/{words.get('dbname', '')}"


def where_of(url: str, schema: str) -> Where:
    """``url`` taken apart. Raises ``ConfigError``, which never repeats any of it."""
    try:
        words = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    except psycopg.Error:
        raise _malformed() from None
    port = words.get("port", "")
    strays = "@" in words.get("host", "") + words.get("dbname", "")  # of a password that was cut at a wrong place
    if "://" in url and (strays or not f"0{port}".replace(",", "").isdigit()):
        raise _malformed()
    if not words:
        raise ConfigError(f"PostgresStore: url: is empty; write {_FORM}")
    return Where(make_conninfo(**{**_USUAL, **words}), schema)


def _malformed() -> ConfigError:
    reason = "cannot be taken apart (not shown, it may hold a password; : / ? # @ in one must be percent-encoded)"
    return ConfigError(f"PostgresStore: url: {reason}; write {_FORM}")


@contextmanager
def explained(where: Where) -> Iterator[None]:
    """Errors of the database inside come out as ``SinkError``, with the address and without its password."""
    try:
        yield
    except (psycopg.Error, OSError) as error:
        words = conninfo_to_dict(where.conninfo)
        text = " ".join(str(error).split())
        for secret in filter(None, (words.get(name) for name in _SECRETS)):
            text = text.replace(str(secret), "***")
        raise SinkError(f"{where}: {text or type(error).__name__}") from None


# --- tables that are there ------------------------------------------------------------------------------------------


def check(where: Where, tables: Sequence[Table], create: bool) -> None:
    """Look whether a task could open a session. Raises ``SinkError``."""
    with explained(where), psycopg.connect(where.conninfo, autocommit=True) as connection:
        rights = connection.execute(schemas.SCHEMA, [where.schema]).fetchone()
        may_create = rights or connection.execute(schemas.DATABASE).fetchone() or (False,)
        found = connection.execute(schemas.LOOK, [where.schema, [table.name for table in tables]]).fetchall()
    _judge(where, tables, found, create)
    if len(found) < len(tables) and not all(may_create):
        what = "create tables in the schema" if rights else "create the schema"
        raise SinkError(f"{where}: this user may not {what} {where.schema!r}")


def _judge(where: Where, tables: Sequence[Table], rows: Sequence[Any], create: bool) -> None:
    """Raises ``SinkError`` unless all of ``tables`` can be used, or made."""
    found = {row[0]: Found(row[0], _letter(row[1]), *row[2:]) for row in rows}
    for table in tables:
        if table.name in found:
            for flaw in schemas.flaws(found[table.name], table):
                raise SinkError(f"{where}, schema {where.schema}: {flaw}")
        elif not create:
            raise SinkError(
                f"{where}: there is no table {table.name!r} in the schema {where.schema!r}; make it, or create=True"
            )


def _letter(kind: str | bytes) -> str:
    return kind.decode() if isinstance(kind, bytes) else kind


# --- the session ----------------------------------------------------------------------------------------------------


class _Refused(Exception):
    """The database refused some row of a batch."""


class Session:
    """An open connection, its staging tables made."""

    def __init__(self, where: Where, connection: psycopg.AsyncConnection[Any], tables: Sequence[Table]) -> None:
        self._where = where
        self._connection = connection
        self._statements = {table.name: Statements.of(where.schema, table) for table in tables}

    @classmethod
    async def open(cls, where: Where, tables: Sequence[Table], create: bool) -> Session:
        """Connect, and make the tables that are missing. Raises ``SinkError``."""
        with explained(where):
            connection = await psycopg.AsyncConnection.connect(where.conninfo, autocommit=True)
        session = cls(where, connection, tables)
        try:
            with explained(where):
                await session._set_up(tables, create)
        except BaseException:
            await connection.close()
            raise
        return session

    async def _set_up(self, tables: Sequence[Table], create: bool) -> None:
        await self._connection.execute("SET work_mem = '64MB'")  # a step is sorted by its key
        found = await self._look(tables)
        if create and len(found) < len(tables):
            async with self._connection.transaction():
                await self._create(tables)
            found = await self._look(tables)
        _judge(self._where, tables, found, False)
        for statements in self._statements.values():
            await self._connection.execute(statements.stage)

    async def _look(self, tables: Sequence[Table]) -> list[Any]:
        names = [table.name for table in tables]
        return await (await self._connection.execute(schemas.LOOK, [self._where.schema, names])).fetchall()

    async def _create(self, tables: Sequence[Table]) -> None:
        """What is missing. A table that is there already is left as it is."""
        schema = self._where.schema
        await self._connection.execute(schemas.LOCK)
        if not await (await self._connection.execute(schemas.SCHEMA, [schema])).fetchone():
            await self._connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        extension = await (await self._connection.execute(schemas.TIMESCALE)).fetchone()
        there = {row[0] for row in await self._look(tables)}
        for table in tables:
            if table.name not in there:
                await self._connection.execute(schemas.create(schema, table))
                if extension and table.time:
                    await self._connection.execute(schemas.hypertable(extension[0], schema, table))

    async def store(self, found: Sequence[Sheet], job: str, generation: int) -> Stored:
        """A step. Raises ``SinkError``; nothing of the step is stored then, or all of it."""
        step = asyncio.ensure_future(self._retried(found, job, generation))
        try:
            with explained(self._where):
                return await asyncio.shield(step)
        except asyncio.CancelledError:
            await self._give_up(step)
            raise

    async def _give_up(self, step: asyncio.Future[Stored]) -> None:
        """Ask the server to stop, for a moment; then let go of the connection: what was not committed is undone all the same.
        A server that is frozen never answers, and psycopg would wait for it."""
        step.add_done_callback(lambda done: None if done.cancelled() else done.exception())
        for patience in (_PATIENCE_SECONDS, _LAST_SECONDS):
            step.cancel()
            if (await asyncio.wait({step}, timeout=patience))[0]:
                return
        self._connection.pgconn.finish()
        step.cancel()
        await asyncio.wait({step}, timeout=_LAST_SECONDS)

    async def _retried(self, found: Sequence[Sheet], job: str, generation: int) -> Stored:
        careful = False
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._step(found, job, generation, careful)
            except _Refused:
                careful = True
            except (errors.SerializationFailure, errors.DeadlockDetected):
                if attempt == _ATTEMPTS:
                    raise
        raise SinkError(f"{self._where}: a step failed {_ATTEMPTS} times")

    async def _step(self, found: Sequence[Sheet], job: str, generation: int, careful: bool) -> Stored:
        stored = 0
        refused: list[tuple[Any, str]] = []
        async with self._connection.transaction():
            for table, group in by_table(found):
                given = parameters(table, job, generation)
                if careful:
                    for sheet in group:
                        stored += await self._carefully(sheet, given, refused)
                else:
                    stored += await self._fill(table, group, given)
        return Stored(stored, sum(map(len, found)) - stored - len(refused), refused)

    async def _fill(self, table: Table, group: Sequence[Sheet], given: list[Any] | None) -> int:
        with _refusals():
            async with self._copying(table) as copy:
                for sheet in group:
                    for start in range(0, len(sheet), _BLOCK):
                        await copy.write(_block(sheet, start, start + _BLOCK))
            return await self._upsert(table, given)

    @asynccontextmanager
    async def _copying(self, table: Table) -> AsyncIterator[psycopg.AsyncCopy]:
        async with (
            self._connection.cursor() as cursor,
            cursor.copy(self._statements[table.name].copy) as copy,
        ):
            yield copy

    async def _upsert(self, table: Table, given: list[Any] | None) -> int:
        return (await self._connection.execute(self._statements[table.name].upsert, given)).rowcount

    async def _carefully(self, sheet: Sheet, given: list[Any] | None, refused: list[tuple[Any, str]]) -> int:
        """Store what can be stored; a part that fails is halved until one row is left, which is refused."""
        stored, parts = 0, [(0, len(sheet))]
        while parts:
            start, stop = parts.pop()
            try:
                async with self._connection.transaction():
                    async with self._copying(sheet.table) as copy:
                        await copy.write(_block(sheet, start, stop))
                    stored += await self._upsert(sheet.table, given)
                    await self._connection.execute(self._statements[sheet.table.name].empty)
            except psycopg.Error as error:
                if not _by_row(error):
                    raise
                if stop - start == 1:
                    refused.append((sheet.item(start), f"table {sheet.table.name}: {' '.join(str(error).split())}"))
                else:
                    middle = (start + stop) // 2
                    parts += [(middle, stop), (start, middle)]
        return stored

    async def close(self) -> None:
        """End the session. What was not committed is undone by the server."""
        await self._connection.close()


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        if _by_row(error):
            raise _Refused from error
        raise


def _by_row(error: psycopg.Error) -> bool:
    return (error.sqlstate or "")[:2] in _ROW_CLASSES


def _block(sheet: Sheet, start: int, stop: int) -> bytes:
    """Rows as COPY reads them."""
    columns = sheet.part(start, stop)
    return lines([copied(kind, columns[name]) for name, kind in sheet.table.fields]).encode()
