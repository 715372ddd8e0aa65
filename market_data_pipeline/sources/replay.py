"""Replay of recorded files: CSV and JSON lines, plain or gzip.

The position is the byte behind the last row read (of the decompressed text) and its line number, so a resume is exact. A
row that cannot be used becomes a dead letter with file, line and reason; the rows around it are used.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson

from market_data_pipeline.clock import Clock
from market_data_pipeline.durations import Duration, parse_duration
from market_data_pipeline.errors import ConfigError, RecordError, SourceError
from market_data_pipeline.frame import columns_from_rows
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.records import Bar
from market_data_pipeline.sources.base import Batch, Source, SourceContext, checked_idleness
from market_data_pipeline.sources.rows import RowParser

_GZIP_CHECK_BYTES = 64 * 1024 * 1024
_HEAD_LINES = 100
_GZIP_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile)


class _Lines:
    """Text lines of an open file from a byte offset; knows the offset and number behind the last line given out (and before
    it, in ``before``), and which lines were not UTF-8."""

    def __init__(self, file: BinaryIO, offset: int, number: int) -> None:
        self._file = file
        self.offset = offset
        self.number = number
        self.before = offset, number
        self.undecodable: list[tuple[int, bytes]] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while True:
            raw = self._file.readline()
            if not raw:
                raise StopIteration
            self.before = self.offset, self.number
            self.offset += len(raw)
            self.number += 1
            try:
                return raw.decode("utf-8-sig" if self.number == 1 else "utf-8")
            except UnicodeDecodeError:
                self.undecodable.append((self.number, raw))


class Replay(Source):
    """The rows of ``path`` (``.csv``, ``.jsonl``, each also ``.gz``) as records, in file order.

    A CSV row is one line: a quoted field may hold anything but a line break. ``kind``: ``trade`` (default), ``quote``,
    ``bar``, or ``rows`` for plain dicts. ``columns``: record field -> column of the file where the names differ.
    ``time_unit``: ``ns`` (default), ``us``, ``ms``, ``s``, ``iso``. ``symbol``: for a file of one symbol without such a
    column. ``speed``: ``None`` as fast as possible, else real time x ``speed`` by ``ts_event``. ``max_delay``: how far
    out of order the rows may be (default 0); ``None``: any disorder, so that nothing is late and windows close at the end
    of the file. ``idle_after``, ``live``: see :class:`Source`; they matter with a ``speed`` only, and ``live`` where the
    recorded times are about the present ones. Exactly once: the position is part of the commit.
    """

    def __init__(  # noqa: PLR0913 - what the file is like, and how it is played; all but the first by keyword
        self,
        path: Path | str,
        kind: str = "trade",
        columns: Mapping[str, str] | None = None,
        time_unit: str = "ns",
        symbol: str | None = None,
        speed: float | None = None,
        max_delay: Duration | None = 0,
        batch_items: int = 8192,
        *,
        idle_after: Duration | None = None,
        live: bool = False,
    ) -> None:
        self.path = Path(path)
        self.kind = kind
        self.columns = columns
        self.time_unit = time_unit
        self.symbol = symbol
        self.speed = speed
        self.max_delay = None if max_delay is None else parse_duration(max_delay, "max_delay")
        self.batch_items = batch_items
        self.idle_after, self.live = checked_idleness(idle_after, live), live
        if speed is not None and (speed <= 0 or kind == "rows"):
            raise ConfigError(f"speed: {speed} must be greater than 0, and needs records (kind is {kind!r})")
        if batch_items < 1:
            raise ConfigError(f"batch_items: {batch_items} must be at least 1")
        suffixes = [s for s in self.path.suffixes if s != ".gz"]
        self._is_csv = suffixes[-1:] == [".csv"]
        if not self._is_csv and suffixes[-1:] not in ([".jsonl"], [".ndjson"]):
            raise ConfigError(
                f"replay: {self.path.name}: unknown format; allowed: .csv, .jsonl, .ndjson, each also .gz"
            )
        self._parser = RowParser(kind, columns, time_unit, symbol)

    def check(self) -> None:
        try:
            with self._open_file() as file:
                self._check_columns(_Lines(file, 0, 0))
                if self.path.suffix == ".gz" and self.path.stat().st_size <= _GZIP_CHECK_BYTES:
                    while file.read(1 << 20):
                        pass
        except _GZIP_ERRORS as error:
            raise SourceError(f"{self.path}: not a complete gzip file ({error})") from error
        except OSError as error:
            raise SourceError(f"{self.path}: {error.strerror or error}") from error

    def _check_columns(self, lines: _Lines) -> None:
        required = self._parser.required()
        if self._is_csv:
            found = next(csv.reader(lines), None)
            if found is None:
                raise SourceError(f"{self.path}: empty, not even a header line")
            missing = [column for column in required if column not in found]
        else:
            seen: set[str] = set()
            for _, line in zip(range(_HEAD_LINES), lines, strict=False):
                try:
                    row = orjson.loads(line)
                except orjson.JSONDecodeError:
                    continue
                seen.update(row if isinstance(row, dict) else ())
            found = sorted(seen)
            missing = [column for column in required if seen and column not in seen]
        if missing:
            raise SourceError(
                f"{self.path}: no column {missing[0]!r}; it has: {', '.join(found)}; map it with columns="
                f"{{'{missing[0]}': '...'}}"
            )

    def _open_file(self) -> BinaryIO:
        if not self.path.is_file():
            reason = "is not a file" if self.path.exists() else "no such file"
            raise SourceError(f"{self.path}: {reason}")
        return cast("BinaryIO", gzip.open(self.path, "rb") if self.path.suffix == ".gz" else self.path.open("rb"))

    async def open(self, ctx: SourceContext, position: Any | None) -> None:
        self._node = ctx.node
        self._clock: Clock = ctx.clock
        try:
            self._file = self._open_file()
        except OSError as error:
            raise SourceError(f"{self.path}: {error.strerror or error}") from error
        self._header: list[str] = []
        start = position or {"offset": 0, "line": 0}
        if self._is_csv:
            head = _Lines(self._file, 0, 0)
            self._header = next(csv.reader(head), [])
            if position is None:
                start = {"offset": head.offset, "line": head.number}
        self._read_at(start["offset"])
        self._lines = _Lines(self._file, start["offset"], start["line"])
        self._pace: tuple[float, int] | None = None
        self._held: Any = None

    def _read_at(self, offset: int) -> None:
        try:
            self._file.seek(offset)
        except _GZIP_ERRORS as error:
            raise SourceError(f"{self.path}: not a complete gzip file ({error})") from error

    async def read(self) -> Batch | None:
        rows: list[Any] = []
        bad: list[DeadLetter] = []
        self._fill(rows, bad)
        bad += [self._dead(number, "not UTF-8", raw) for number, raw in self._lines.undecodable]
        self._lines.undecodable.clear()
        if not rows and not bad:
            return None
        if self.speed is not None and rows:
            await self._wait_for(rows)
        offset, line = (self._lines.offset, self._lines.number) if self._held is None else self._lines.before
        position = {"offset": offset, "line": line}
        if self.kind == "rows":
            return Batch(rows, position, tuple(bad))
        if not rows:
            return Batch([], position, tuple(bad))
        columns, unfit = columns_from_rows(rows)
        bad += [self._dead(self._lines.number, reason, item) for item, reason in unfit]
        return Batch(columns, position, tuple(bad))

    def _fill(self, rows: list[Any], bad: list[DeadLetter]) -> None:
        """Read up to a batch. With a speed, a row that is due 10 ms of wall time behind the first is held for the next one,
        so that none waits for those behind it."""
        if self._held is not None:
            rows.append(self._held)
            self._held = None
        while len(rows) + len(bad) < self.batch_items:
            try:
                raw = self._next_row()
                if raw is None:
                    return
                record = self._parser.parse(raw)
            except RecordError as error:
                bad.append(self._dead(self._lines.number, str(error), self._row))
                continue
            except (*_GZIP_ERRORS, OSError) as error:
                if rows or bad:
                    return  # hand over what was read; the next call meets the error again
                raise SourceError(f"{self.path}: line {self._lines.number + 1}: cannot be read on: {error}") from error
            if self.speed is not None and rows and _when(record) - _when(rows[0]) >= 10_000_000 * self.speed:
                self._held = record
                return
            rows.append(record)

    def _next_row(self) -> Mapping[str, Any] | None:
        """The next row as a mapping, ``None`` at the end; keeps what it has in ``_row`` for a dead letter."""
        self._row: Any = None
        line = next((line for line in self._lines if line.strip()), None)
        if line is None:
            return None
        self._row = line
        if self._is_csv:
            try:
                found = list(csv.reader([line], strict=True))
            except csv.Error as error:
                raise RecordError(f"not valid CSV: {error}") from error
            values = found[0] if len(found) == 1 else []
            if len(values) != len(self._header):
                raise RecordError(f"{len(values)} fields instead of {len(self._header)}")
            self._row = dict(zip(self._header, values, strict=True))
        else:
            try:
                self._row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise RecordError(f"not valid JSON: {error}") from error
            if not isinstance(self._row, dict):
                raise RecordError("not a JSON object")
        return cast("Mapping[str, Any]", self._row)

    def _dead(self, line: int, reason: str, item: Any) -> DeadLetter:
        return DeadLetter(self._node, reason, item, where=f"{self.path.name}:{line}")

    async def _wait_for(self, rows: list[Any]) -> None:
        assert self.speed is not None
        last = _when(rows[-1])
        if self._pace is None:
            self._pace = (self._clock.monotonic(), _when(rows[0]))
        since, origin = self._pace
        due = since + (last - origin) / 1e9 / self.speed
        await self._clock.sleep(max(0.0, due - self._clock.monotonic()))

    async def close(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


def _when(record: Any) -> int:
    """When a record happened: a bar at its opening."""
    return int(record.ts_open if isinstance(record, Bar) else record.ts_event)
