"""Arrow IPC files and streams (``.arrow``, ``.feather``), read one record batch at a time. A place is the record batch, the row
in it, and the row of the file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from market_data_pipeline.errors import SourceError
from market_data_pipeline.extras import extra
from market_data_pipeline.records import RECORDS
from market_data_pipeline.sources.formats.arrow_columns import Batches
from market_data_pipeline.sources.formats.base import (
    Chunk,
    Opened,
    Place,
    Wanted,
    is_shorter,
    missing_column,
    must_be_file,
    time_of_first_row,
)

ROWS = 65_536
"""At most so many rows become columns at once."""


def arrow_library(what: str) -> Any:
    """``pyarrow``. Raises ``ConfigError``."""
    return extra("pyarrow", "parquet", what)


def needed_columns(names: Sequence[str], wanted: Wanted) -> list[str]:
    """Those of a file's columns ``names`` that the records need."""
    if wanted.kind not in RECORDS:
        return list(names)
    needed = {wanted.columns.get(name, name) for name in RECORDS[wanted.kind]._fields}
    return [name for name in names if name in needed]


def check_names(path: Path, names: Sequence[str], wanted: Wanted) -> None:
    """Raises ``SourceError`` where a column is missing."""
    for column in wanted.parser.required():
        if column not in names:
            raise missing_column(path, column, names, wanted)


@contextmanager
def reading(pa: Any, path: Path) -> Iterator[None]:
    """What Arrow's library raises, as ``SourceError``."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SourceError(f"{path}: cannot be read: {reason}") from error


class _Ipc:
    """An Arrow IPC file, or a stream in a file, with the columns that are needed."""

    def __init__(self, pa: Any, path: Path, wanted: Wanted) -> None:
        self._pa, self._ipc = pa, extra("pyarrow.ipc", "parquet", f"Replay of {path.name}")
        self._file = pa.OSFile(str(path), "rb")
        try:
            whole, _ = self._opened(self._ipc.IpcReadOptions())
            self.names: list[str] = whole.schema.names
            needed = needed_columns(self.names, wanted)
            index = [n for n, name in enumerate(self.names) if name in needed]
            self._reader, self._is_file = self._opened(self._ipc.IpcReadOptions(included_fields=index))
        except BaseException:
            self._file.close()
            raise

    def _opened(self, options: Any) -> tuple[Any, bool]:
        self._file.seek(0)
        try:
            return self._ipc.open_file(self._file, options=options), True
        except self._pa.ArrowInvalid:
            self._file.seek(0)
            return self._ipc.open_stream(self._file, options=options), False

    def batches(self, first: int) -> Iterator[Any]:
        """The record batches from number ``first`` on."""
        if self._is_file:
            yield from map(self._reader.get_batch, range(first, self._reader.num_record_batches))
        else:
            yield from itertools.islice(self._reader, first, None)

    def close(self) -> None:
        self._file.close()


class ArrowReader:
    """Reads one file; see the module."""

    def __init__(self, pa: Any, file: Opened, wanted: Wanted, place: Place | None) -> None:
        self._pa, self._file = pa, file
        self._batches = Batches(pa, file, wanted)
        self._group, self._row, self._first = place or (0, 0, 0)
        must_be_file(file.path)
        with reading(pa, file.path):
            self._ipc = _Ipc(pa, file.path, wanted)
        self._source = self._ipc.batches(self._group)
        self._batch: Any = None
        if self._first:
            self._batch = self._next()
            if self._batch is None or self._batch.num_rows < self._row:
                self.close()
                raise is_shorter(
                    file.path, "fewer record batches, or rows in them", f"row {self._row} of batch {self._group}"
                )

    def _next(self) -> Any:
        with reading(self._pa, self._file.path):
            return next(self._source, None)

    def read(self, limit: int) -> Chunk | None:
        while self._batch is None or self._row >= self._batch.num_rows:
            found = self._next()
            if found is None:
                return None
            if self._batch is not None:
                self._group, self._row = self._group + 1, 0
            self._batch = found
        part = self._batch.slice(self._row, ROWS)
        with reading(self._pa, self._file.path):
            chunk = self._batches.chunk(part, self._group, self._row, self._first)
        self._row += part.num_rows
        self._first += part.num_rows
        return chunk

    def close(self) -> None:
        self._ipc.close()


class ArrowFormat:
    """``.arrow`` and ``.feather`` (version 2): Arrow's IPC file format, or its stream format."""

    def __init__(self) -> None:
        self._pa = arrow_library("Replay of .arrow and .feather files")

    def open(self, file: Opened, wanted: Wanted, place: Place | None) -> ArrowReader:
        return ArrowReader(self._pa, file, wanted, place)

    def first_time(self, file: Opened, wanted: Wanted) -> int:
        return time_of_first_row(self, file, wanted)

    def check(self, path: Path, wanted: Wanted) -> None:
        must_be_file(path)
        with reading(self._pa, path):
            ipc = _Ipc(self._pa, path, wanted)
        ipc.close()
        check_names(path, ipc.names, wanted)
