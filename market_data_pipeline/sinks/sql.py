"""What the SQL stores share: which records they take, and the step that stores them."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

from market_data_pipeline.durations import Duration, positive_duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import Frame
from market_data_pipeline.sinks.base import Sink, SinkContext
from market_data_pipeline.sinks.sql_schema import TABLES, Table
from market_data_pipeline.sinks.sql_sheets import Sheet, sheets

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,49}")
"""Names of schemas, and beginnings of names of tables."""


class Stored(NamedTuple):
    """What a step did: rows that are new or replaced, rows that were there already (or an older revision), and rows that the
    database refused."""

    stored: int
    known: int
    refused: list[tuple[Any, str]]


class SqlStore(Sink):
    """Base of the SQL stores. ``tables``: those that are used (``trades``, ``quotes``, ``bars``, ``gaps``); ``prefix`` begins
    their names. ``interval``: what bars have in the column of that name (default: how long each is)."""

    accepts: ClassVar[Literal["any"]] = "any"

    def __init__(self, tables: Sequence[str], prefix: str, interval: Duration | None, create: bool) -> None:
        self.tables = tuple(tables)
        self.prefix = prefix
        self.interval = None if interval is None else positive_duration(interval, "interval")
        self.create = create
        unknown = [name for name in self.tables if name not in TABLES]
        if unknown or isinstance(tables, str) or not self.tables:
            raise ConfigError(f"tables: {tables!r} is not allowed; choose of {', '.join(TABLES)}")
        if prefix and not NAME.fullmatch(prefix):
            raise ConfigError(f"prefix: {prefix!r} is not allowed; letters, digits and _ only, 50 at most")
        self._sheets: list[Sheet] = []

    def named(self) -> tuple[Table, ...]:
        """The tables that are used, under the names that they have in the database, in one order for all writers."""
        return tuple(table._replace(name=self.prefix + name) for name, table in TABLES.items() if name in self.tables)

    async def open(self, ctx: SinkContext, state: Any | None) -> None:
        self._ctx = ctx
        self._by_record = {table.record: table for table in self.named()}
        await self._open()

    async def write(self, frames: Sequence[Frame]) -> None:
        self._sheets += sheets(frames, self._by_record, self.interval, self._ctx.reject)

    async def prepare(self, ended: bool) -> Any | None:
        found, self._sheets = self._sheets, []
        if found:
            done = await self._store(found)
            for item, reason in done.refused:
                self._ctx.reject(item, reason)
            self._ctx.counted("stored", done.stored)
            self._ctx.counted("known", done.known)
        return None

    @abstractmethod
    async def _open(self) -> None:
        """Connect, make what is missing, and look whether the rest will do. Raises ``SinkError``."""

    @abstractmethod
    async def _store(self, found: Sequence[Sheet]) -> Stored:
        """Store all of it in one transaction, durable when this returns. Raises ``SinkError``."""


def by_table(found: Sequence[Sheet]) -> list[tuple[Table, list[Sheet]]]:
    """Sheets of each table, the tables in one order for all writers: else two of them could wait for each other."""
    groups: dict[str, list[Sheet]] = {}
    for sheet in sorted(found, key=lambda one: one.table.name):
        groups.setdefault(sheet.table.name, []).append(sheet)
    return [(group[0].table, group) for group in groups.values()]
