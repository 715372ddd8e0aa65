"""Files: JSON lines and CSV, exactly once.

A task writes to a staging file of its own (``.staging/``, the name holds the owner) and commits how many bytes of it count.
When the file is full, old enough, or the task ends, the commit holds a manifest "staged -> final", and the rename follows.
A new owner repeats the renames of the last manifest, copies the committed bytes of an unfinished file to a staging file of
its own, and goes on: no half line, nothing twice, and a zombie can only write to a file that nobody will read.

Final names are ``<node>-<job>-p<partition>-<number><suffix>``; symbols never become part of a path.
"""

from __future__ import annotations

import asyncio
import csv
import io
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import orjson

from market_data_pipeline.durations import Duration, positive_duration
from market_data_pipeline.errors import ConfigError, CorruptState, SinkError
from market_data_pipeline.frame import Frame, to_rows
from market_data_pipeline.sinks.base import Sink, SinkContext
from market_data_pipeline.sinks.encoding import json_line, plain

log = logging.getLogger(__name__)

STAGING = ".staging"


@dataclass
class _Part:
    """The file being written: where it is staged, its final name, and what waits to be appended."""

    staged: Path
    final: str
    size: int = 0
    fields: list[str] | None = None
    started: float = 0.0
    lines: list[bytes] = field(default_factory=list)


class FileSink(Sink):
    """What the text formats share."""

    accepts: ClassVar[Literal["rows"]] = "rows"
    suffix: ClassVar[str] = ""

    def __init__(
        self,
        path: Path | str,
        roll_bytes: int = 128 * 1024 * 1024,
        roll_interval: Duration = "60s",
        fsync: bool = False,
    ) -> None:
        self.path = Path(path)
        self.roll_bytes = roll_bytes
        self.roll_interval = positive_duration(roll_interval, "roll_interval")
        self.fsync = fsync
        if roll_bytes < 1:
            raise ConfigError(f"roll_bytes: {roll_bytes} must be at least 1")
        self._number = 0
        self._part: _Part | None = None
        self._full: list[_Part] = []
        self._sealed: list[list[Any]] = []
        self._stale: list[Path] = []

    def destination(self) -> str:
        return str(self.path)

    def check(self) -> None:
        try:
            (self.path / STAGING).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SinkError(f"output folder {self.path}: {error.strerror or error}") from error
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise SinkError(f"output folder {self.path}: permission denied")

    async def open(self, ctx: SinkContext, state: Any | None) -> None:
        self.check()
        self._stem = f"{ctx.node}-{ctx.job[:8]}-p{ctx.partition:04d}"
        self._owner = f"e{ctx.epoch}-{ctx.owner[:8]}"
        with self._explained():
            await asyncio.to_thread(self._recover, state)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of the file system inside come out as ``SinkError``: the task waits and tries again."""
        try:
            yield
        except OSError as error:
            raise SinkError(f"{self.path}: {error.strerror or error}") from error

    def _recover(self, state: dict[str, Any] | None) -> None:
        """Continue behind ``state``. Nothing is deleted yet: we may be a zombie, which only a commit can tell."""
        self._number = state["number"] if state else 0
        known: set[str] = set()
        if state is not None:
            self._rename(state["sealed"])
            if state["part"] is not None:
                self._adopt(state["part"])
                known.add(state["part"]["final"])
        own = {self._part.staged} if self._part else set()
        self._stale = [p for p in (self.path / STAGING).glob(f"{self._stem}-*") if p not in own]
        for published in self.path.glob(f"{self._stem}-*{self.suffix}"):
            number = published.name.removesuffix(self.suffix).rpartition("-")[2]
            if published.name in known or (number.isdigit() and int(number) >= self._number):
                self._stale.append(published)  # from commits that a server which was rolled back does not know

    def _adopt(self, committed: dict[str, Any]) -> None:
        """Copy the committed bytes of a former owner's file to one of our own."""
        size = committed["size"]
        source = self._where_it_is(committed)
        _check_size(source, size)
        part = self._new_part(committed["final"])
        if part.staged == source:
            os.truncate(source, size)
        else:
            with source.open("rb") as old, part.staged.open("wb") as new:
                shutil.copyfileobj(_Limited(old, size), new)
        part.size, part.fields = size, committed["fields"]
        self._part = part

    def _where_it_is(self, committed: dict[str, Any]) -> Path:
        """The file that begins with the committed bytes. After a rollback of the server that may be the final one, or
        the copy of an owner that the server does not know any more: it adopted these bytes, and added to them."""
        staging, final = self.path / STAGING, str(committed["final"])
        size = int(committed["size"])
        named = staging / str(committed["staged"])
        later = [
            p for p in staging.glob(f"{final}.e*") if _epoch(p.name) > _epoch(named.name) and p.stat().st_size >= size
        ]
        places = [named, self.path / final, *sorted(later, key=lambda path: _epoch(path.name))]
        return next((place for place in places if place.exists()), named)

    def _rename(self, sealed: Sequence[Sequence[Any]]) -> None:
        for staged, final, size in sealed:
            source, target = self.path / STAGING / staged, self.path / final
            if source.exists():
                _check_size(source, size)
            try:
                source.replace(target)
            except FileNotFoundError:
                if target.exists():
                    _check_size(target, size)
                else:  # published before, most likely, and taken away by whoever reads the folder
                    log.warning("%s was committed, and is neither staged nor there any more", target)
        if sealed and self.fsync:
            _sync_folder(self.path)

    def _new_part(self, final: str) -> _Part:
        staged = self.path / STAGING / f"{final}.{self._owner}"
        return _Part(staged, final, started=time.monotonic())

    async def write(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            for item in to_rows(frame.items):
                self._add(plain(item))

    def _add(self, item: Any) -> None:
        fields = self._fields(item)
        if self._part is not None and fields is not None and self._part.fields != fields:
            self._full.append(self._part)
            self._part = None
        if self._part is None:
            self._part = self._new_part(f"{self._stem}-{self._number:06d}{self.suffix}")
            self._number += 1
            self._part.fields = fields
            self._part.lines += self._header(fields)
        self._part.lines.append(self._line(item, fields))

    def _fields(self, item: Any) -> list[str] | None:
        return None

    def _header(self, fields: list[str] | None) -> list[bytes]:
        return []

    def _line(self, item: Any, fields: list[str] | None) -> bytes:
        raise NotImplementedError

    async def prepare(self, ended: bool) -> Any | None:
        with self._explained():
            await asyncio.to_thread(self._flush)
        if self._part is not None and (ended or self._is_full(self._part)):
            self._full.append(self._part)
            self._part = None
        self._sealed = [[part.staged.name, part.final, part.size] for part in self._full]
        part = self._part
        committed = part and {"staged": part.staged.name, "final": part.final, "size": part.size, "fields": part.fields}
        return {"number": self._number, "sealed": self._sealed, "part": committed}

    def due(self) -> bool:
        return self._part is not None and self._is_full(self._part)

    def _is_full(self, part: _Part) -> bool:
        return part.size >= self.roll_bytes or (time.monotonic() - part.started) * 1e9 >= self.roll_interval

    def _flush(self) -> None:
        for part in [*self._full, *([self._part] if self._part else [])]:
            if not part.lines:
                continue
            data = b"".join(part.lines)
            with part.staged.open("r+b" if part.size else "wb") as file:
                file.seek(part.size)
                file.write(data)
                file.flush()
                if self.fsync:
                    os.fsync(file.fileno())
            part.size += len(data)
            part.lines.clear()

    async def committed(self) -> None:
        if self._stale:  # the commit was ours to make, so what it does not know is nobody's
            mine = {part.staged for part in [*self._full, *([self._part] if self._part else [])]}
            for path in self._stale:
                if path not in mine:  # a task that loads again under the same epoch uses the same names again
                    path.unlink(missing_ok=True)
            self._stale = []
        if self._sealed:
            with self._explained():
                await asyncio.to_thread(self._rename, self._sealed)
        self._sealed, self._full = [], []


class JsonLines(FileSink):
    """One JSON object per line, in ``path/*.jsonl``: records with their field names, other items as they are.

    ``roll_bytes`` and ``roll_interval``: when a file is finished and gets its final name (also at the end, and when a
    worker leaves politely). ``fsync``: force every commit to the disk, for machines that may lose power. Exactly once.
    """

    suffix: ClassVar[str] = ".jsonl"

    def _line(self, item: Any, fields: list[str] | None) -> bytes:
        return json_line(item)


class CsvFiles(FileSink):
    """CSV with a header, in ``path/*.csv``. Items must be records or dicts; items with other fields than the file's header
    start a file of their own. Arguments and guarantee as for :class:`JsonLines`."""

    suffix: ClassVar[str] = ".csv"

    def _fields(self, item: Any) -> list[str] | None:
        return list(item) if isinstance(item, dict) else ["value"]

    def _header(self, fields: list[str] | None) -> list[bytes]:
        return [_csv_row(fields or [])]

    def _line(self, item: Any, fields: list[str] | None) -> bytes:
        values = list(item.values()) if isinstance(item, dict) else [item]
        return _csv_row([_csv_value(value) for value in values])


def _csv_value(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return ""  # as JSON has null
    return orjson.dumps(value).decode() if isinstance(value, list | dict) else value


def _csv_row(values: list[Any]) -> bytes:
    buffer = io.StringIO()
    odd = any(isinstance(value, str) and "\r" in value for value in values)  # the writer would not quote it
    quoting: Literal[0, 1] = csv.QUOTE_ALL if odd else csv.QUOTE_MINIMAL
    csv.writer(buffer, lineterminator="\n", quoting=quoting).writerow(values)
    return buffer.getvalue().encode("utf-8", "backslashreplace")


def _check_size(path: Path, size: int) -> None:
    """Raises ``CorruptState`` unless ``path`` has the committed ``size`` at least."""
    found = path.stat().st_size if path.exists() else None
    if found is None or found < size:
        raise CorruptState(
            f"{path}: {size} bytes were committed, {'the file is gone' if found is None else f'{found} are there'};"
            " was it deleted, or did the machine lose power with fsync=False?"
        )


def _epoch(staged: str) -> int:
    """The epoch in a staging file's name, ``<final>.e<epoch>-<owner>``."""
    digits = staged.rpartition(".e")[2].partition("-")[0]
    return int(digits) if digits.isdigit() else 0


class _Limited(io.RawIOBase):
    """The first ``size`` bytes of a file."""

    def __init__(self, file: io.BufferedReader, size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
