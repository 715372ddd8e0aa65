"""The text files and the SQLite table, in the suite of all sinks."""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from market_data_pipeline import CsvFiles, GuardedSink, JsonLines, Sink, SqliteTable
from tools.small_disk import SmallDisk


class _OnSmallDisk:
    """What is shared: an outage is a disk that is full."""

    exactly_once = True

    def __init__(self, folder: Path) -> None:
        self.disk = SmallDisk(folder / "disk", 16)
        self.path = self.disk.path / "out"

    @contextmanager
    def outage(self) -> Iterator[None]:
        with self.disk.full():
            yield

    def close(self) -> None:
        self.disk.close()


class JsonLinesCase(_OnSmallDisk):
    keyed = False

    def sink(self) -> Sink:
        return JsonLines(self.path, roll_bytes=20_000)

    def expression(self) -> str:
        return f"JsonLines({str(self.path)!r}, roll_bytes=20_000)"

    def read(self) -> list[Any]:
        rows = [json.loads(line) for path in self.path.glob("*.jsonl") for line in path.read_text().splitlines()]
        return [(row["symbol"], row["trade_id"], row["price"], row["ts_event"]) for row in rows]

    def spoil(self) -> str | None:
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.write_text("not a folder")
        return "out"


class GuardedCase(JsonLinesCase):
    """A sink behind a circuit breaker is as it was."""

    def sink(self) -> Sink:
        return GuardedSink(super().sink())

    def expression(self) -> str:
        return f"GuardedSink({super().expression()})"


class CsvFilesCase(JsonLinesCase):
    def sink(self) -> Sink:
        return CsvFiles(self.path, roll_bytes=20_000)

    def expression(self) -> str:
        return f"CsvFiles({str(self.path)!r}, roll_bytes=20_000)"

    def read(self) -> list[Any]:
        rows: list[dict[str, str]] = []
        for path in self.path.glob("*.csv"):
            with path.open(newline="") as file:
                rows += csv.DictReader(file)
        return [(row["symbol"], int(row["trade_id"]), float(row["price"]), int(row["ts_event"])) for row in rows]


class SqliteTableCase(_OnSmallDisk):
    keyed = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = self.disk.path / "db.sqlite"

    def sink(self) -> Sink:
        return SqliteTable(self.path, "trades", ("symbol", "trade_id"))

    def expression(self) -> str:
        return f"SqliteTable({str(self.path)!r}, 'trades', ('symbol', 'trade_id'))"

    def read(self) -> list[Any]:
        connection = sqlite3.connect(self.path)
        try:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            if not tables:
                return []
            return connection.execute("SELECT symbol, trade_id, price, ts_event FROM trades").fetchall()
        finally:
            connection.close()

    def spoil(self) -> str | None:
        connection = sqlite3.connect(self.path)
        connection.execute("DROP TABLE IF EXISTS trades")
        connection.execute("CREATE TABLE trades (symbol TEXT, trade_id INTEGER, price REAL)")
        connection.close()
        return "no unique index"
