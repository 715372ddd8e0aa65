"""Replay of recorded files: CSV, JSON lines, Parquet, Arrow IPC, Databento DBN; one file, or many merged by time.

The position is the place in each open file, so a resume is exact. A row that cannot be used becomes a dead letter with
file, line (or row) and reason; the rows around it are used.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from market_data_pipeline.clock import Clock
from market_data_pipeline.durations import Duration, parse_duration
from market_data_pipeline.errors import ConfigError, SourceError
from market_data_pipeline.frame import Columns, Items
from market_data_pipeline.records import MAX_TIME, MIN_TIME, FieldNames, fields_of
from market_data_pipeline.sources.base import Batch, Source, SourceContext, checked_idleness
from market_data_pipeline.sources.file_merge import FileMerge, joined_items
from market_data_pipeline.sources.formats.base import Opened, Wanted, times_of
from market_data_pipeline.sources.formats.files import Formats, check_name, files_of, is_one_file
from market_data_pipeline.sources.rows import RowParser, iso_ns

Moment = str | int | datetime
"""A time: ISO 8601 text (UTC where it names no zone), int nanoseconds, or a ``datetime``."""

HOLD_NS = 10_000_000


class Replay(Source):
    """The rows of recorded files as records, in order of ``ts_event``.

    ``path``: a file (``.csv``, ``.jsonl``, ``.ndjson``, each also ``.gz`` or ``.zst``; ``.parquet``; ``.arrow``, ``.feather``;
    ``.dbn``, ``.dbn.zst``), a folder (all such files in it, at any depth), a pattern (``trades-*.parquet``, ``**``), or a
    sequence of these. Many files are merged by ``ts_event``, ties by file name; each is opened when the merge gets to its
    first row, so that many files behind each other need one handle and the memory of one.

    ``kind``: ``trade`` (default), ``quote``, ``bar``, or ``rows`` for plain dicts (of many files: one after the other, by
    name). ``columns``: record field -> column of the file where the names differ. ``time_unit``: ``ns`` (default), ``us``,
    ``ms``, ``s``, ``iso``; Arrow's own timestamps have their own unit. ``symbol``: for files of one symbol without such a
    column. ``start``, ``end``: only rows with ``start <= ts_event < end``; each an ISO text, int ns or ``datetime``, UTC where
    it names no zone. The others are counted (``out_of_range``); row groups of Parquet whose statistics say that they lie
    outside are not read. ``exact``: prices and sizes that are text or decimals in the file (numbers, in JSON) stay the text
    that was sent, and come as rows. ``speed``: ``None`` as fast as possible, else real time x ``speed`` by ``ts_event``.
    ``max_delay``: how far out of order the rows of a file may be (default 0); ``None``: any disorder, so that nothing is
    late and windows close at the end of the files. ``idle_after``, ``live``: see :class:`Source`; they matter with a
    ``speed`` only, and ``live`` where the recorded times are about the present ones.

    Units: times become int ns UTC; prices and sizes floats in the venue's own units (DBN's fixed prices x 1e-9). A CSV row is
    one line: a quoted field may hold anything but a line break. A DBN file has its own names and units: ``columns`` and
    ``time_unit`` do not matter there. Guarantee: exactly once; the position is part of the commit. Nothing is retried here: a
    file that is missing, damaged, or shorter than at the last commit is a ``SourceError``. A row that cannot be used becomes a
    dead letter with file and line (or row) and reason. Memory: of each open file one chunk of text or DBN, the needed columns
    of one row group of Parquet, one record batch of Arrow. Extras: ``parquet`` (Parquet, Arrow), ``databento`` (DBN, ``.zst``).
    """

    def __init__(  # noqa: PLR0913 - what the files are like, and how they are played; all but the first by keyword
        self,
        path: Path | str | Sequence[Path | str],
        kind: str = "trade",
        columns: Mapping[str, str] | None = None,
        time_unit: str = "ns",
        symbol: str | None = None,
        speed: float | None = None,
        max_delay: Duration | None = 0,
        batch_items: int = 8192,
        *,
        start: Moment | None = None,
        end: Moment | None = None,
        exact: bool = False,
        idle_after: Duration | None = None,
        live: bool = False,
    ) -> None:
        given = [path] if isinstance(path, Path | str) else list(path)
        self._given = str(path) if isinstance(path, Path | str) else [str(one) for one in given]
        self._paths = [Path(one) for one in given]
        self.path = self._paths[0] if isinstance(path, Path | str) else self._paths
        self.kind, self.columns, self.time_unit, self.symbol = kind, columns, time_unit, symbol
        self.speed, self.exact, self.batch_items = speed, exact, batch_items
        self.max_delay = None if max_delay is None else parse_duration(max_delay, "max_delay")
        self.idle_after, self.live = checked_idleness(idle_after, live), live
        self.start, self.end = _moment(start, "start"), _moment(end, "end")
        self._check_numbers()
        self._wanted = Wanted(
            kind, dict(columns or {}), time_unit, symbol, exact,
            RowParser(kind, columns, time_unit, symbol, exact), self.start, self.end,
        )  # fmt: skip
        formats = Formats()
        for one, text in zip(self._paths, map(str, given), strict=True):
            check_name(one, text)
            if is_one_file(one):
                formats.of(one)  # a missing extra is told before anything starts

    def fields_given(self, output: str = "") -> FieldNames:
        return fields_of(self.kind)

    def made_with(self) -> dict[str, Any]:
        """Paths as they were given: a ``/`` at the end of one says that it is a folder, also one that is not there yet."""
        return {"path": self._given}

    def _check_numbers(self) -> None:
        if not self._paths:
            raise ConfigError("path: an empty sequence; give a file, a folder, a pattern, or several of these")
        if self.speed is not None and (self.speed <= 0 or self.kind == "rows"):
            raise ConfigError(f"speed: {self.speed} must be greater than 0, and needs records (kind is {self.kind!r})")
        if self.batch_items < 1:
            raise ConfigError(f"batch_items: {self.batch_items} must be at least 1")
        if self.kind == "rows" and (self.start, self.end) != (None, None):
            raise ConfigError("start, end: need records (kind is 'rows')")
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise ConfigError(f"end: {self.end} must be later than start, {self.start} (ns)")

    def check(self) -> None:
        formats = Formats()
        for path in files_of(self._paths):
            formats.of(path).check(path, self._wanted)

    async def open(self, ctx: SourceContext, position: Any | None) -> None:
        self._clock: Clock = ctx.clock
        self._ctx = ctx
        self._pace: tuple[float, int] | None = None
        self._failed: SourceError | None = None
        self._reading = threading.Lock()
        self._merge = await asyncio.to_thread(self._begin, position)

    def _begin(self, position: Any | None) -> FileMerge:
        paths = files_of(self._paths)
        unique = len({path.name for path in paths}) == len(paths)
        files = {str(p): Opened(p, p.name if unique else str(p), self._ctx.node) for p in paths}
        one = len(self._paths) == 1 and is_one_file(self._paths[0])
        merge = FileMerge(files, Formats().of, self._wanted, by_time=not one and self.kind != "rows")
        try:
            merge.begin(position)
        except BaseException:
            merge.close()
            raise
        return merge

    async def read(self) -> Batch | None:
        batch, skipped = await asyncio.to_thread(self._next_batch)
        if skipped:
            self._ctx.counted("out_of_range", skipped)
        if batch is not None and self.speed is not None and len(batch.items):
            await self._wait_for(batch.items)
        return batch

    def _next_batch(self) -> tuple[Batch | None, int]:
        with self._reading:
            return self._collect()

    def _collect(self) -> tuple[Batch | None, int]:
        """A batch, and how many rows were left out before its end. With a speed, a row that is due 10 ms of wall time behind
        the first is held for the next one, so that none waits for those behind it."""
        merge, parts, n = self._merge, list[Items](), 0
        hold = None if self.speed is None else int(min(HOLD_NS * self.speed, MAX_TIME / 4))
        while self._failed is None and n + len(merge.letters) < self.batch_items:
            try:
                items = merge.next(self.batch_items - n - len(merge.letters), self.batch_items, hold)
            except SourceError as error:  # hand over what was read; the next call tells the error
                self._failed = error
                break
            if items is None:
                break
            parts.append(items)
            n += len(items)
            if self.speed is not None:
                break
        skipped, merge.skipped = merge.skipped, 0
        bad, merge.letters = tuple(merge.letters), []
        if not parts and not bad:
            if self._failed is not None:
                raise self._failed
            return None, skipped
        return Batch(joined_items(parts) if parts else [], merge.position(), bad), skipped

    async def _wait_for(self, items: Items) -> None:
        assert self.speed is not None
        first, last = _time(items, 0), _time(items, -1)
        if self._pace is None:
            self._pace = (self._clock.monotonic(), first)
        since, origin = self._pace
        due = since + (last - origin) / 1e9 / self.speed
        await self._clock.sleep(max(0.0, due - self._clock.monotonic()))

    async def close(self) -> None:
        if hasattr(self, "_merge"):
            self._merge.cancelled = True
            await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._reading:  # a read that was cancelled may still run in its thread
            self._merge.close()


def _moment(value: Moment | None, name: str) -> int | None:
    """``value`` in ns. Raises ``ConfigError``."""
    if value is None or (isinstance(value, int) and MIN_TIME < value < MAX_TIME and not isinstance(value, bool)):
        return value
    try:
        if isinstance(value, str | datetime):
            return iso_ns(value.isoformat() if isinstance(value, datetime) else value)
    except ValueError:
        pass
    raise ConfigError(
        f"{name}: {value!r} is no time; write for example '2026-01-02T14:30:00Z', ns as an int, a datetime"
    )


def _time(items: Items, at: int) -> int:
    if isinstance(items, Columns):
        return int(times_of(items)[at])
    return int(items[at].ts_event)
