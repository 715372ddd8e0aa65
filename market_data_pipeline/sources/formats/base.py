"""What a format is: something that opens a file at a place and reads it in chunks, each row with its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from market_data_pipeline.errors import SourceError
from market_data_pipeline.frame import Array, Columns, Items, columns_from_rows
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.records import MIN_TIME
from market_data_pipeline.sources.rows import RowParser

Place = tuple[int, ...]
"""Where to go on in a file; what the numbers are, the format says."""

_FIRST_TRIES = 64


class Wanted(NamedTuple):
    """What is to be read of a file: the options of a ``Replay`` that its rows depend on. ``columns``: record field -> column
    of the file."""

    kind: str
    columns: dict[str, str]
    time_unit: str
    symbol: str | None
    exact: bool
    parser: RowParser
    start: int | None = None
    end: int | None = None


class Opened(NamedTuple):
    """A file to read: its path, what dead letters call it, and their node."""

    path: Path
    label: str
    node: str

    def dead(self, row: int, reason: str, item: Any) -> DeadLetter:
        return DeadLetter(self.node, reason, item, where=f"{self.label}:{row}")


@dataclass(slots=True)
class Chunk:
    """Rows of a file, in its order.

    ``times``: int64 of shape (n,), by which files are merged. ``places``: int64 of shape (n + 1, numbers of a place): the
    place of each row, and the one behind all. ``letters``: rows that cannot be used, each with the number of rows before it.
    ``skipped``: int64 of shape (n + 1,): how many rows were left out before each, and in all.
    """

    items: Items
    times: Array
    places: Array
    letters: Sequence[tuple[int, DeadLetter]] = ()
    skipped: Array | None = None

    @property
    def end(self) -> Place:
        return place_of(self.places[-1])


class Reader(Protocol):
    """An open file."""

    def read(self, limit: int) -> Chunk | None:
        """The next rows, about ``limit`` or as many as the format has at once; ``None`` at the end. Raises ``SourceError``."""

    def close(self) -> None: ...


class Format(Protocol):
    """Reads files of one kind."""

    def check(self, path: Path, wanted: Wanted) -> None:
        """Look whether the file can be read: it is one, and has the columns. Raises ``SourceError``."""

    def open(self, file: Opened, wanted: Wanted, place: Place | None) -> Reader:
        """Begin at ``place``, or at the first row. Raises ``SourceError``, also when the file ends before the place."""

    def first_time(self, file: Opened, wanted: Wanted) -> int:
        """A time that is not later than the first row's; ``MIN_TIME`` where none is known. Raises ``SourceError``."""


def place_of(numbers: Array) -> Place:
    return tuple(numbers.tolist())


def time_of_first_row(reads: Format, file: Opened, wanted: Wanted) -> int:
    """The time of the first row that can be used, if there is one near the beginning."""
    reader = reads.open(file, wanted, None)
    try:
        for _ in range(_FIRST_TRIES):
            chunk = reader.read(1)
            if chunk is None:
                break
            if len(chunk.times):
                return int(chunk.times[0])
        return MIN_TIME
    finally:
        reader.close()


def chunk_of_rows(
    rows: list[Any], places: Array, letters: list[tuple[int, DeadLetter]], wanted: Wanted, file: Opened
) -> Chunk:
    """A chunk of parsed rows: as columns, but dicts, and what is to be exact, as rows. ``places`` as in :class:`Chunk`, with
    the row's number last. A record that no column takes becomes a dead letter too."""
    if wanted.kind == "rows":
        return Chunk(rows, np.full(len(rows), MIN_TIME, np.int64), places, letters)
    if wanted.exact:
        return Chunk(rows, np.fromiter((row.ts_event for row in rows), np.int64, len(rows)), places, letters)
    columns, unfit = columns_from_rows(rows) if rows else (Columns("", {}), [])
    if unfit:
        reasons = {id(item): reason for item, reason in unfit}
        good = np.array([id(row) not in reasons for row in rows], dtype=bool)
        before = np.concatenate([[0], np.cumsum(good)])
        late = [
            (int(before[n]), file.dead(int(places[n, -1]) + 1, reasons[id(row)], row))
            for n, row in enumerate(rows)
            if not good[n]
        ]
        letters = sorted([*((int(before[at]), letter) for at, letter in letters), *late], key=lambda found: found[0])
        places = places[np.append(good, True)]
    return Chunk(columns, times_of(columns), places, letters)


def times_of(columns: Columns) -> Array:
    """``ts_event`` of each row; 0 where the column is left out, as a bar's may be."""
    times = columns.data.get("ts_event")
    return times if isinstance(times, np.ndarray) else np.zeros(len(columns), np.int64)


def within(chunk: Chunk, start: int | None, end: int | None) -> Chunk:
    """The rows of ``chunk`` in ``[start, end)``; the others are counted."""
    keep = np.ones(len(chunk.times), dtype=bool)
    if start is not None:
        keep &= chunk.times >= start
    if end is not None:
        keep &= chunk.times < end
    if keep.all():
        return chunk
    index = np.flatnonzero(keep)
    n = len(keep)
    skipped = np.append(index, n) - np.arange(len(index) + 1)
    if chunk.skipped is not None:
        skipped += chunk.skipped[np.append(index, n)]
    before = np.concatenate([[0], np.cumsum(keep)])
    items = chunk.items.take(index) if isinstance(chunk.items, Columns) else [chunk.items[i] for i in index.tolist()]
    return replace(
        chunk,
        items=items,
        times=chunk.times[index],
        places=chunk.places[np.append(index, n)],
        letters=[(int(before[at]), letter) for at, letter in chunk.letters],
        skipped=skipped,
    )


def must_be_file(path: Path) -> None:
    """Raises ``SourceError`` where ``path`` is none."""
    if not path.is_file():
        raise SourceError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")


def missing_column(path: Path, missing: str, found: Sequence[str], wanted: Wanted) -> SourceError:
    field = next((field for field, column in wanted.columns.items() if column == missing), missing)
    return SourceError(
        f"{path}: no column {missing!r}; it has: {', '.join(found)}; map it with columns={{{field!r}: '...'}}"
    )


def is_shorter(path: Path, has: str, place: str) -> SourceError:
    """The error of a file that ends before the place where reading is to go on."""
    return SourceError(f"{path}: is shorter than when it was read: it has {has}, and the job is at {place}")
