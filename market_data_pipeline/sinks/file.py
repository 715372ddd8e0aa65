"""Files: JSON lines and CSV, exactly once.

How they become visible with a commit, once: see ``staging.py``. A file is finished when it is full, old enough, or the task
ends.

Final names are ``<node>-<job>-p<partition>-<number><suffix>``; symbols never become part of a path.
"""

from __future__ import annotations

import asyncio
import csv
import io
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from market_data_pipeline.durations import Duration, positive_duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import Frame, to_rows
from market_data_pipeline.sinks.base import Sink, SinkContext
from market_data_pipeline.sinks.encoding import json_line, plain
from market_data_pipeline.sinks.staging import STAGING, Staging, append

__all__ = ["STAGING", "CsvFiles", "FileSink", "JsonLines"]


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
        self._staging = Staging(self.path, fsync)
        self._number = 0
        self._part: _Part | None = None
        self._full: list[_Part] = []
        self._sealed: list[list[Any]] = []

    def destination(self) -> str:
        return str(self.path)

    def others(self) -> list[str]:
        return self._staging.others(self.path.glob(f"*{self.suffix}"))

    def check(self) -> None:
        self._staging.check()

    async def open(self, ctx: SinkContext, state: Any | None) -> None:
        self._staging.begin(ctx)
        with self._staging.explained():
            await asyncio.to_thread(self._recover, state)

    def _recover(self, state: dict[str, Any] | None) -> None:
        """Continue behind ``state``."""
        self._number = state["number"] if state else 0
        known: set[str] = set()
        if state is not None:
            self._staging.publish(state["sealed"])
            if state["part"] is not None:
                self._adopt(state["part"])
                known.add(state["part"]["final"])
        own = {self._part.staged} if self._part else set()
        self._staging.find_stale(self.path.glob(f"{self._staging.stem}-*{self.suffix}"), self._number, known, own)

    def _adopt(self, committed: dict[str, Any]) -> None:
        """Go on with a former owner's file; after a rollback of the server it may be finished already."""
        final, size = str(committed["final"]), int(committed["size"])
        self._part = part = self._new_part(final)
        self._staging.adopt(final, str(committed["staged"]), size, also=[self.path / final])
        part.size, part.fields = size, committed["fields"]

    def _new_part(self, final: str) -> _Part:
        return _Part(self._staging.staged(final), final, started=time.monotonic())

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
            self._part = self._new_part(f"{self._staging.stem}-{self._number:06d}{self.suffix}")
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
        with self._staging.explained():
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
            append(part.staged, part.size, data, self.fsync)
            part.size += len(data)
            part.lines.clear()

    async def committed(self) -> None:
        with self._staging.explained():
            self._staging.sweep({part.staged for part in [*self._full, *([self._part] if self._part else [])]})
            if self._sealed:
                await asyncio.to_thread(self._staging.publish, self._sealed)
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
    return json_line(value)[:-1].decode() if isinstance(value, list | dict) else value


def _csv_row(values: list[Any]) -> bytes:
    buffer = io.StringIO()
    odd = any(isinstance(value, str) and "\r" in value for value in values)  # the writer would not quote it
    quoting: Literal[0, 1] = csv.QUOTE_ALL if odd else csv.QUOTE_MINIMAL
    csv.writer(buffer, lineterminator="\n", quoting=quoting).writerow(values)
    return buffer.getvalue().encode("utf-8", "backslashreplace")
