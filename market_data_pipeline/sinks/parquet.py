"""Parquet files, partitioned by table and date, exactly once.

A Parquet file cannot be appended to. So a step's rows go to a staging file in the frames that also travel between workers
(columns with a checksum each), and its commit holds how many bytes of it count: see ``staging.py``. When a file is full, old,
or the task ends, its rows are sorted and written as Parquet, still staged, before the commit that seals it; the rename
follows that commit. A new owner that finds the seal missing makes the same file again from the committed rows.

The rows of a sealed file stay for a while: a server that comes back without its last commits asks for them again.
"""

from __future__ import annotations

import asyncio
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from market_data_pipeline.codec import decode, encode_items
from market_data_pipeline.durations import Duration, parse_duration, positive_duration
from market_data_pipeline.errors import CodecError, ConfigError, CorruptState
from market_data_pipeline.frame import Columns, Frame, concat, to_rows
from market_data_pipeline.packing import Rejected
from market_data_pipeline.sinks.base import Sink, SinkContext
from market_data_pipeline.sinks.encoding import records
from market_data_pipeline.sinks.parquet_format import (
    BY_KIND,
    COMPRESSIONS,
    TABLES,
    Table,
    check_extra,
    is_sound,
    tables_of,
    write_file,
)
from market_data_pipeline.sinks.staging import DONE, Staging, append, check_size

_DAY = 86_400_000_000_000
_LENGTH = struct.Struct("<I")
_FRAME_ITEMS, _FRAME_BYTES = 65_536, 64 * 1024 * 1024
_ONE_AT_A_TIME = threading.Lock()
"""A process sorts one file at a time: it has that file's rows in memory."""

Key = tuple[str, str]


@dataclass
class _Part:
    """A file being written: its number, where its rows are staged, what waits to be appended."""

    number: int
    staged: Path
    size: int = 0
    started: float = 0.0
    waiting: list[Columns] = field(default_factory=list)


class ParquetFiles(Sink):
    """Writes Trade, Quote, Bar and Gap records (rows or columns, also in the lists of a ``Batcher``) to
    ``path/table=<trades|quotes|bars|gaps>/date=<YYYY-MM-DD>/part-*.parquet``. The date is that of ``ts_event``, of bars that of
    ``ts_open``, in UTC. Needs the extra ``parquet``.

    A file is sorted by symbol and time. It has the record's fields as columns: times as int64 nanoseconds, prices and sizes as
    doubles (exact text is rounded to them), names and sides as dictionary-encoded strings, ids as text; nothing is null. The
    metadata key ``mdp.schema`` is ``1``.

    ``roll_bytes``: bytes of rows as staged (some 45 for a trade; the Parquet file is a quarter to a half of it) from which on a
    file is finished. That takes about three times as much memory; a process finishes one at a time.
    ``roll_interval``: how old a file gets, by wall time. ``compression``: ``"zstd"``, ``"snappy"``, ``"lz4"``, ``"gzip"`` or
    ``"none"``. ``open_parts``: unfinished files of a task at most, one per table and date; over it the one that was not written
    to for longest is finished. ``fsync``: force every commit to the disk, for machines that may lose power. ``keep_staged``:
    how long the staged rows of a finished file stay, for a server that comes back without its last commits.

    Guarantee: exactly once, also for late data, which opens its date's part again. Two items that are equal are both written.
    A full disk or lacking permission is a ``SinkError``: the task waits and goes on from its last commit. Items that are none
    of these records, or have a value of the wrong type, go to the dead letters. All workers must see the same folder.
    """

    accepts: ClassVar[Literal["any"]] = "any"

    def __init__(
        self,
        path: Path | str,
        roll_bytes: int = 128 * 1024 * 1024,
        roll_interval: Duration = "5m",
        compression: str = "zstd",
        *,
        open_parts: int = 64,
        fsync: bool = False,
        keep_staged: Duration = "60s",
    ) -> None:
        check_extra("ParquetFiles")
        self.path = Path(path)
        self.roll_bytes = roll_bytes
        self.roll_interval = positive_duration(roll_interval, "roll_interval")
        self.compression = compression
        self.open_parts = open_parts
        self.fsync = fsync
        self.keep_staged = parse_duration(keep_staged, "keep_staged")
        for name, value in (("roll_bytes", roll_bytes), ("open_parts", open_parts)):
            if value < 1:
                raise ConfigError(f"{name}: {value} must be at least 1")
        if compression not in COMPRESSIONS:
            raise ConfigError(f"compression: {compression!r} is not allowed; choose from {', '.join(COMPRESSIONS)}")
        self._staging = Staging(self.path, fsync)
        self._number = 0
        self._parts: dict[Key, _Part] = {}
        self._sealed: list[list[Any]] = []
        self._used_up: list[Path] = []

    def destination(self) -> str:
        return str(self.path)

    def others(self) -> list[str]:
        return self._staging.others(self.path.glob("table=*/date=*/*.parquet"))

    def check(self) -> None:
        self._staging.check()

    async def open(self, ctx: SinkContext, state: Any | None) -> None:
        self._ctx = ctx
        # without a server (epoch 0) there is none that could come back in the past
        self._keep = self.keep_staged / 1e9 if ctx.epoch else 0.0
        self._staging.begin(ctx)
        with self._staging.explained():
            await asyncio.to_thread(self._recover, state)

    # --- taking over ---

    def _recover(self, state: dict[str, Any] | None) -> None:
        """Continue behind ``state``."""
        self._number = state["number"] if state else 0
        if state is not None:
            self._staging.publish(state["sealed"])
            for committed in state["parts"]:
                self._adopt(committed)
        own = {part.staged for part in self._parts.values()}
        known = {Path(self._final(key, part.number)).name for key, part in self._parts.items()}
        published = self.path.glob(f"table=*/date=*/part-{self._staging.stem}-*.parquet")
        self._staging.find_stale(published, self._number, known, own)

    def _adopt(self, committed: dict[str, Any]) -> None:
        number, size, former = int(committed["number"]), int(committed["size"]), str(committed["staged"])
        name, folder = self._rows_name(number), self._staging.folder
        also = [folder / f"{DONE}{former}", *sorted(folder.glob(f"{DONE}{name}.e*"))]
        also = [place for place in also if place.exists() and place.stat().st_size >= size]
        staged = self._staging.adopt(name, former, size, also)
        self._parts[committed["table"], committed["date"]] = _Part(number, staged, size, time.monotonic())

    def _rows_name(self, number: int) -> str:
        return f"{self._staging.stem}-{number:06d}.rows"

    def _final(self, key: Key, number: int) -> str:
        return f"table={key[0]}/date={key[1]}/part-{self._staging.stem}-{number:06d}.parquet"

    # --- writing ---

    async def write(self, frames: Sequence[Frame]) -> None:
        for items in records(frames):
            if isinstance(items, Columns) and items.kind and is_sound(items):
                self._add(BY_KIND[items.kind], items)
                continue
            found, bad = tables_of(to_rows(items))
            for table, columns in found:
                self._add(table, columns)
            for item, reason in bad:
                self._ctx.reject(item, reason)

    def _add(self, table: Table, columns: Columns) -> None:
        if not len(columns):
            return
        days = columns.array(table.time) // _DAY
        first, last = int(days.min()), int(days.max())
        if first == last:
            self._part_of(table, first).waiting.append(columns)
            return
        for day in np.unique(days).tolist():
            self._part_of(table, day).waiting.append(columns.take(np.flatnonzero(days == day)))

    def _part_of(self, table: Table, day: int) -> _Part:
        """The open part of a table and date, which now is the one that was used last."""
        key = (table.name, datetime.fromtimestamp(day * 86400, UTC).strftime("%Y-%m-%d"))
        part = self._parts.pop(key, None)
        if part is None:
            part = _Part(self._number, self._staging.staged(self._rows_name(self._number)), started=time.monotonic())
            self._number += 1
        self._parts[key] = part
        return part

    async def prepare(self, ended: bool) -> Any | None:
        with self._staging.explained():
            try:
                await self._make_durable(ended)
            except OSError:  # of a full disk the next attempt has what nobody will ask for
                await asyncio.to_thread(sweep_done, self._staging.folder, self._keep)
                raise
        parts = [
            {"table": table, "date": date, "number": part.number, "staged": part.staged.name, "size": part.size}
            for (table, date), part in self._parts.items()
        ]
        return {"number": self._number, "sealed": self._sealed, "parts": parts}

    async def _make_durable(self, ended: bool) -> None:
        refused = await asyncio.to_thread(self._flush)
        for item, reason in refused:
            self._ctx.reject(item, reason)
        for key in [key for key, part in self._parts.items() if not part.size]:
            del self._parts[key]  # all of its rows were refused
        sealing = self._to_seal(ended)
        if sealing:
            await asyncio.to_thread(self._seal, sealing)

    def _flush(self) -> list[Rejected]:
        """Append what waits; gives back what cannot be written."""
        refused: list[Rejected] = []
        for part in self._parts.values():
            if not part.waiting:
                continue
            rows = concat(part.waiting)
            frames, bad = encode_items("", rows, frame_items=_FRAME_ITEMS, frame_bytes=_FRAME_BYTES)
            refused += bad
            data = b"".join(piece for frame in frames for piece in (_LENGTH.pack(len(frame.blob)), frame.blob))
            if data:
                append(part.staged, part.size, data, self.fsync)
            part.size += len(data)
            part.waiting.clear()
        return refused

    # --- finishing ---

    def due(self) -> bool:
        return any(map(self._is_full, self._parts.values()))

    def _is_full(self, part: _Part) -> bool:
        return part.size >= self.roll_bytes or (time.monotonic() - part.started) * 1e9 >= self.roll_interval

    def _to_seal(self, ended: bool) -> list[Key]:
        full = {key: True for key, part in self._parts.items() if ended or self._is_full(part)}
        left = [key for key in self._parts if key not in full]
        return list(full) + left[: max(0, len(left) - self.open_parts)]

    def _seal(self, keys: list[Key]) -> None:
        for key in keys:
            part = self._parts[key]
            staged = self._staging.staged(f"{self._staging.stem}-{part.number:06d}.parquet")
            try:
                with _ONE_AT_A_TIME:
                    size = write_file(TABLES[key[0]], list(_rows_of(part.staged, part.size)), staged, self.compression)
                if self.fsync:
                    _sync(staged)
            except BaseException:
                staged.unlink(missing_ok=True)  # a full disk would be fuller by half a file
                raise
            self._sealed.append([staged.name, self._final(key, part.number), size])
            self._used_up.append(part.staged)
            del self._parts[key]

    async def committed(self) -> None:
        mine = {part.staged for part in self._parts.values()} | {
            self._staging.folder / name for name, *_ in self._sealed
        }
        mine |= set(self._used_up)
        with self._staging.explained():
            await asyncio.to_thread(self._publish, mine)
        self._sealed, self._used_up = [], []

    def _publish(self, mine: set[Path]) -> None:
        self._staging.sweep(mine, retire=_retire)
        self._staging.publish(self._sealed)
        for path in self._used_up:
            _retire(path)
        if self._sealed:
            sweep_done(self._staging.folder, self._keep)


def _retire(path: Path) -> bool:
    """Let staged rows stay for a while; whether these are such."""
    if ".rows." not in path.name or path.name.startswith(DONE):
        return False
    try:
        os.utime(path)
        path.replace(path.with_name(DONE + path.name))
    except FileNotFoundError:
        pass
    return True


def sweep_done(folder: Path, older_than: float, now: Callable[[], float] = time.time) -> None:
    """Delete staged rows that were published more than ``older_than`` seconds ago, whosever they are."""
    for path in folder.glob(f"{DONE}*"):
        try:
            if now() - path.stat().st_mtime >= older_than:
                path.unlink()
        except FileNotFoundError:
            pass  # another task was quicker


def _rows_of(path: Path, size: int) -> Iterator[Columns]:
    """The committed rows. Raises ``CorruptState`` where a frame is broken."""
    check_size(path, size)
    with path.open("rb") as file:
        while file.tell() < size:
            at = file.tell()
            head = file.read(_LENGTH.size)
            length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
            try:
                items = decode(file.read(length), _FRAME_BYTES).frame.items
            except CodecError as error:
                raise CorruptState(f"{path}: at byte {at}: {error}") from error
            assert isinstance(items, Columns)
            yield items


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
