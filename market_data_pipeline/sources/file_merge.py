"""Many files read as one, by time. A file is opened when the merge gets to its first row, and closed at its end.

The position says which files are open and the place in each, and how far the list is done: files are opened in order of
(time of the first row, name), so the last one opened and a checksum of the names say which those were.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from market_data_pipeline.errors import SourceError
from market_data_pipeline.frame import Array, Columns, Items, concat, to_rows
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.records import MAX_TIME, MIN_TIME
from market_data_pipeline.sources.formats.base import (
    Chunk,
    Format,
    Opened,
    Place,
    Reader,
    Wanted,
    place_of,
    within,
)
from market_data_pipeline.sources.merge import keys_of, pick

Position = dict[str, Any]


class Turn(NamedTuple):
    """When a file is opened: the time of its first row, then its name."""

    first: int
    name: str


@dataclass(slots=True)
class _File:
    """An open file: the rows read and not given out, ``given`` of ``chunk`` out of all; -1: not even what is before its first
    row."""

    name: str
    reader: Reader
    place: Place | None
    chunk: Chunk | None = None
    keys: Array | None = None
    given: int = -1

    def left(self) -> Array:
        assert self.keys is not None
        return self.keys[max(self.given, 0) :]

    def times(self, n: int) -> Array:
        """Of the next ``n`` rows."""
        assert self.chunk is not None
        return self.chunk.times[max(self.given, 0) :][:n]


class FileMerge:
    """Reads ``files`` (label and path by name) in order of time. ``by_time`` false: one after the other, by name."""

    def __init__(
        self, files: dict[str, Opened], format_of: Callable[[Path], Format], wanted: Wanted, *, by_time: bool
    ) -> None:
        self._files, self._format_of, self._wanted, self._by_time = files, format_of, wanted, by_time
        self._open: list[_File] = []
        self._waiting: list[Turn] = []
        self._next = self._crc = 0
        self.letters: list[DeadLetter] = []
        self.skipped = 0
        self.cancelled = False

    def begin(self, position: Position | None) -> None:
        """Look at the first row of each file; open those that were open. Raises ``SourceError`` where the files are not those
        of the position any more."""
        begun = {} if position is None else position["files"]
        gone = [name for name in begun if name not in self._files]
        if gone:
            raise SourceError(f"{gone[0]}: no such file; the job was reading it and has to go on there")
        self._waiting = sorted(Turn(self._first(name), name) for name in self._files)
        if position is None:
            return
        self._check_list(position)
        for name in sorted(begun):
            place = None if begun[name] is None else tuple(begun[name])
            self._open.append(_File(name, self._reader(name, place), place))

    def _first(self, name: str) -> int:
        file = self._files[name]
        if not self._by_time:
            return MIN_TIME
        if not file.path.is_file():
            raise SourceError(f"{file.path}: no such file")
        try:
            return self._format_of(file.path).first_time(file, self._wanted)
        except SourceError:
            return MIN_TIME  # opened at once, where the error is told

    def _check_list(self, position: Position) -> None:
        if position["last"] is not None:
            last = Turn(*position["last"])
            self._next = sum(turn <= last for turn in self._waiting)
            self._crc = zlib.crc32("\n".join(turn.name for turn in self._waiting[: self._next]).encode())
            if (self._next, self._crc) != (position["opened"], position["crc"]):
                raise SourceError(
                    f"{last.name}: the files up to this one are not those that were read: {position['opened']} then, "
                    f"{self._next} now, or others; put them back as they were, new ones only behind"
                )
        if len(self._waiting) < position["of"]:
            raise SourceError(f"{len(self._waiting)} files are there, and {position['of']} were: some are missing")

    def position(self) -> Position:
        """Where to go on, as plain data."""
        last = list(self._waiting[self._next - 1]) if self._next else None
        return {
            "files": {file.name: None if file.place is None else list(file.place) for file in self._open},
            "opened": self._next, "crc": self._crc, "last": last, "of": len(self._waiting),
        }  # fmt: skip

    def _reader(self, name: str, place: Place | None) -> Reader:
        file = self._files[name]
        return self._format_of(file.path).open(file, self._wanted, place)

    def next(self, limit: int, chunk: int, hold: int | None) -> Items | None:
        """The next rows, at most ``limit``; ``None`` at the end, or where ``limit`` dead letters wait. Files are read ``chunk``
        rows at a time. ``hold``: rows by so much (ns) or more behind the first one are left for the next time."""
        self._fill(chunk, limit)
        if not self._open or any(file.chunk is None for file in self._open):
            return None
        stop = None
        if self._next < len(self._waiting):
            turn = self._waiting[self._next]
            stop = turn.first, sum(file.name < turn.name for file in self._open)
        keys = [file.left() for file in self._open]
        counts, order = pick(keys, limit, stop)
        if hold is not None:
            counts, order = pick(keys, self._soon(counts, order, hold), stop)
        parts = [self._take(file, n) for file, n in zip(list(self._open), counts, strict=True) if n]
        return _ordered(parts, order)

    def _soon(self, counts: list[int], order: Array | None, hold: int) -> int:
        """How many of the rows that were picked come less than ``hold`` ns behind the first."""
        times = np.concatenate([file.times(n) for file, n in zip(self._open, counts, strict=True)])
        times = times if order is None else times[order]
        late = np.flatnonzero(times >= min(int(times[0]) + hold, MAX_TIME))
        return int(late[0]) if len(late) else len(times)

    def _fill(self, chunk: int, limit: int) -> None:
        """Have rows of every open file, and open those whose first row may be next."""
        while not self.cancelled:
            for file in list(self._open):
                self._load(file, chunk, limit)
            if len(self.letters) >= limit or self._next == len(self._waiting):
                return
            turn = self._waiting[self._next]
            if self._open and min(Turn(int(file.left()[0]), file.name) for file in self._open) < turn:
                return
            self._open.append(_File(turn.name, self._reader(turn.name, None), None))
            self._open.sort(key=lambda file: file.name)
            self._crc = zlib.crc32((f"\n{turn.name}" if self._next else turn.name).encode(), self._crc)
            self._next += 1

    def _load(self, file: _File, size: int, limit: int) -> None:
        """Read on until ``file`` has a row, or has none any more, or enough dead letters wait."""
        while file.chunk is None and len(self.letters) < limit and not self.cancelled:
            found = file.reader.read(size)
            if found is None:
                file.reader.close()
                self._open.remove(file)
                return
            found = within(found, self._wanted.start, self._wanted.end)
            file.chunk, file.keys, file.given = found, keys_of(found.times), -1
            if not len(found.times):
                self._give(file, 0)

    def _take(self, file: _File, n: int) -> Items:
        assert file.chunk is not None
        items, first = file.chunk.items, max(file.given, 0)
        last = first + n
        self._give(file, last)
        if first == 0 and last == len(items):
            return items
        return items.take(slice(first, last)) if isinstance(items, Columns) else items[first:last]

    def _give(self, file: _File, last: int) -> None:
        """Rows up to ``last`` of the chunk are out, and what lies between them and before the next one."""
        chunk, given = file.chunk, file.given
        assert chunk is not None
        self.letters += [letter for at, letter in chunk.letters if given < at <= last]
        if chunk.skipped is not None:
            self.skipped += int(chunk.skipped[last]) - (int(chunk.skipped[given]) if given >= 0 else 0)
        file.place = place_of(chunk.places[last])
        file.given = last
        if last == len(chunk.times):
            file.chunk = file.keys = None

    def close(self) -> None:
        for file in self._open:
            file.reader.close()


def _ordered(parts: Sequence[Items], order: Array | None) -> Items:
    joined = joined_items(parts)
    if order is None:
        return joined
    return joined.take(order) if isinstance(joined, Columns) else [joined[n] for n in order.tolist()]


def joined_items(parts: Sequence[Items]) -> Items:
    """``parts`` one after another: as columns where all are, else as rows."""
    if len(parts) == 1:
        return parts[0]
    columns = [part for part in parts if isinstance(part, Columns)]
    if columns and len(columns) == len(parts):
        return concat(columns)
    return [row for part in parts for row in to_rows(part)]
