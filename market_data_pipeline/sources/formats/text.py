"""CSV and JSON lines. A place is the byte behind what was read (of the decompressed text), and its line's number.

A CSV row is one line: a quoted field may hold anything but a line break.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from market_data_pipeline.errors import RecordError, SourceError
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.sources.formats.base import (
    Chunk,
    Opened,
    Place,
    Wanted,
    chunk_of_rows,
    missing_column,
    time_of_first_row,
)
from market_data_pipeline.sources.formats.streams import DAMAGE, NAMES, damaged, go_to, open_stream

_CHECK_BYTES = 64 * 1024 * 1024
_HEAD_LINES = 100


class _Lines:
    """Lines of an open file from a place; knows the place behind the last one given out, and ``before`` it."""

    def __init__(self, file: BinaryIO, place: Place) -> None:
        self._file = file
        self.place = self.before = place

    def next(self) -> bytes:
        """The next line, ``b""`` at the end."""
        raw = self._file.readline()
        if raw:
            self.before = self.place
            self.place = self.place[0] + len(raw), self.place[1] + 1
        return raw

    def decoded(self, raw: bytes) -> str:
        return raw.decode("utf-8-sig" if self.place[1] == 1 else "utf-8")

    def __iter__(self) -> Iterator[str]:
        """The lines that are text."""
        while raw := self.next():
            try:
                yield self.decoded(raw)
            except UnicodeDecodeError:
                continue


class TextReader:
    """Reads one file; see the module."""

    def __init__(self, file: Opened, wanted: Wanted, place: Place | None, is_csv: bool) -> None:
        self._opened, self._wanted, self._is_csv = file, wanted, is_csv
        self._error: SourceError | None = None
        try:
            self._file = open_stream(file.path)
        except OSError as error:
            raise SourceError(f"{file.path}: {error.strerror or error}") from error
        try:
            self._header: list[str] = []
            self._lines = _Lines(self._file, (0, 0))
            if is_csv:
                self._header = _header(file.path, self._lines) or []
            if place is not None:
                self._go_on(place)
        except BaseException as error:
            self._file.close()
            if isinstance(error, DAMAGE):
                raise damaged(file.path, error) from error
            if isinstance(error, OSError):
                raise SourceError(f"{file.path}: {error.strerror or error}") from error
            raise

    def _go_on(self, place: Place) -> None:
        self._file.close()
        self._file = open_stream(self._opened.path)
        go_to(self._file, self._opened.path, place[0])
        self._lines = _Lines(self._file, place)

    def read(self, limit: int) -> Chunk | None:
        if self._error is not None:
            raise self._error
        rows: list[Any] = []
        places: list[Place] = []
        letters: list[tuple[int, DeadLetter]] = []
        parse = self._wanted.parser.parse
        while len(rows) + len(letters) < limit:
            self._row: Any = None
            try:
                row = self._next_row()
                if row is None:
                    break
                rows.append(parse(row))
                places.append(self._lines.before)
            except RecordError as error:
                letters.append((len(rows), self._opened.dead(self._lines.place[1], str(error), self._row)))
            except (*DAMAGE, OSError) as error:  # hand over what was read; the next call meets the error again
                line = self._lines.place[1] + 1
                self._error = SourceError(f"{self._opened.path}: line {line}: cannot be read on: {error}")
                break
        if not rows and not letters:
            if self._error is not None:
                raise self._error
            return None
        found = np.array([*places, self._lines.place], dtype=np.int64)
        return chunk_of_rows(rows, found, letters, self._wanted, self._opened)

    def _next_row(self) -> dict[str, Any] | None:
        """The next row, ``None`` at the end; keeps what it has in ``_row`` for a dead letter."""
        while raw := self._lines.next():
            try:
                line = self._lines.decoded(raw)
            except UnicodeDecodeError as error:
                self._row = raw
                raise RecordError("not UTF-8") from error
            if line.strip():
                self._row = line
                row = self._csv(line) if self._is_csv else self._json(line)
                self._row = row
                return row
        return None

    def _csv(self, line: str) -> dict[str, Any]:
        try:
            found = list(csv.reader([line], strict=True))
        except csv.Error as error:
            raise RecordError(f"not valid CSV: {error}") from error
        values = found[0] if len(found) == 1 else []
        if len(values) != len(self._header):
            raise RecordError(f"{len(values)} fields instead of {len(self._header)}")
        return dict(zip(self._header, values, strict=True))

    def _json(self, line: str) -> dict[str, Any]:
        try:
            row = _exact_json(line) if self._wanted.exact else orjson.loads(line)
        except (ValueError, RecursionError) as error:
            raise RecordError(f"not valid JSON: {error}") from error
        self._row = row
        if not isinstance(row, dict):
            raise RecordError("not a JSON object")
        return row

    def close(self) -> None:
        self._file.close()


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _exact_json(line: str) -> Any:
    """As ``orjson.loads``, with each number that has a point or an exponent as its text."""
    value = json.loads(line, parse_float=str, parse_constant=_refused)
    if "\\u" in line:  # an escape may make a surrogate, which could not travel
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _header(path: Path, lines: _Lines) -> list[str] | None:
    """The names in the first line, ``None`` where there is none. Raises ``SourceError``."""
    try:
        return next(csv.reader(lines), None)
    except csv.Error as error:
        raise SourceError(f"{path}: its header is not valid CSV: {error}") from error


class TextFormat:
    """``.csv``, or JSON lines; also compressed. ``unchecked``: of how many bytes of compressed files ``check`` still looks
    whether they are whole."""

    def __init__(self, is_csv: bool) -> None:
        self._is_csv = is_csv
        self._unchecked = _CHECK_BYTES

    def open(self, file: Opened, wanted: Wanted, place: Place | None) -> TextReader:
        return TextReader(file, wanted, place, self._is_csv)

    def first_time(self, file: Opened, wanted: Wanted) -> int:
        return time_of_first_row(self, file, wanted)

    def check(self, path: Path, wanted: Wanted) -> None:
        try:
            with open_stream(path) as file:
                self._check_columns(path, file, wanted)
                size = path.stat().st_size
                if path.suffix in NAMES and size <= self._unchecked:
                    self._unchecked -= size
                    while file.read(1 << 20):
                        pass
        except DAMAGE as error:
            raise damaged(path, error) from error
        except OSError as error:
            raise SourceError(f"{path}: {error.strerror or error}") from error

    def _check_columns(self, path: Path, file: BinaryIO, wanted: Wanted) -> None:
        required, lines = wanted.parser.required(), _Lines(file, (0, 0))
        if self._is_csv:
            header = _header(path, lines)
            if header is None:
                raise SourceError(f"{path}: empty, not even a header line")
            found = header
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
            raise missing_column(path, missing[0], found, wanted)
