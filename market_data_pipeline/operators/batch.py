"""Micro-batches: lists of items, by count, bytes or time.

============================================== =========================================================
Batcher(2)                                     output
============================================== =========================================================
1, 2, 3, 4                                     ``[1, 2]``, ``[3, 4]``
5, then END                                    ``[5]``
``Batcher(max_bytes=4)``: "a", "b", "cccc"     ``["a", "b"]`` (2 bytes each, as msgpack), ``["cccc"]`` (5 bytes)
``Batcher(max_time="1s")``: 1 at 0 s, 2 at 1 s  ``[1]`` when a second has passed
============================================== =========================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from market_data_pipeline.durations import Duration, positive_duration
from market_data_pipeline.errors import CodecError, ConfigError
from market_data_pipeline.frame import END, NO_MARK, Frame, to_rows
from market_data_pipeline.operators.base import Operator, pack_items
from market_data_pipeline.packing import pack, unpack


class Batcher(Operator):
    """Lists of items in order of arrival, each of the most items that all limits allow; at the end of input a shorter last one.

    ``max_items``: how many items; a list of so many goes out at once. ``max_bytes``: the sum of the items' sizes as msgpack; an
    item that is larger by itself makes a list of its own, and one that msgpack has no word for goes the way of the error
    policy. ``max_time``: how long (by the clock, so a restart may cut elsewhere) the oldest item waits at most. At least one
    must be given. State: the items of the list that is not full.
    """

    accepts: ClassVar[Literal["rows"]] = "rows"

    def __init__(
        self, max_items: int | None = None, max_bytes: int | None = None, max_time: Duration | None = None
    ) -> None:
        if max_items is None and max_bytes is None and max_time is None:
            raise ConfigError("batch: give at least one of max_items, max_bytes, max_time")
        for name, limit in (("max_items", max_items), ("max_bytes", max_bytes)):
            if limit is not None and (type(limit) is not int or limit < 1):
                raise ConfigError(f"batch: {name}={limit!r} must be at least 1")
        self.max_items = max_items
        self.max_bytes = max_bytes
        self.max_time = None if max_time is None else positive_duration(max_time, "max_time")
        self.keeps = "" if max_time is None else "items that wait for their batch"
        self._waiting: list[Any] = []
        self._bytes = 0
        self._since = 0
        self._changed = False

    @property
    def waiting(self) -> int:
        """How many items are in the batch that is not full yet."""
        return len(self._waiting)

    def process(self, frame: Frame) -> Iterable[Frame]:
        due = self.wake_at()
        overdue = [] if due is None or due > self.ctx.now else self._cut()
        batches = [*overdue, *self._take(to_rows(frame.items))]
        return (Frame(batches),) if batches else ()

    def take(self, items: list[Any]) -> Iterable[Frame]:
        """Add ``items``; full batches come out."""
        batches = self._take(items)
        return (Frame(batches),) if batches else ()

    def _take(self, items: list[Any]) -> list[Any]:
        if not items:
            return []
        self._changed = True
        if not self._waiting:
            self._since = self.ctx.now
        batches = self._by_count(items) if self.max_bytes is None else self._by_bytes(items, self.max_bytes)
        if batches:
            self._since = self.ctx.now  # what waits now is of this frame
        return batches

    def _by_count(self, items: list[Any]) -> list[Any]:
        self._waiting += items
        if self.max_items is None:
            return []
        full = len(self._waiting) // self.max_items * self.max_items
        batches: list[Any] = [self._waiting[i : i + self.max_items] for i in range(0, full, self.max_items)]
        del self._waiting[:full]
        return batches

    def _by_bytes(self, items: list[Any], max_bytes: int) -> list[Any]:
        batches: list[Any] = []
        for item in items:
            try:
                size = len(pack(item))
            except CodecError as error:
                self.ctx.reject(item, f"has no size in bytes: {error}")
                continue
            if self._waiting and self._bytes + size > max_bytes:
                batches += self._cut()
            self._waiting.append(item)
            self._bytes += size
            if self._bytes >= max_bytes or len(self._waiting) == self.max_items:
                batches += self._cut()
        return batches

    def _cut(self) -> list[Any]:
        """What is waiting, as one batch, if anything is."""
        rest, self._waiting, self._bytes = self._waiting, [], 0
        self._changed = self._changed or bool(rest)
        return [rest] if rest else []

    def flush(self) -> Iterable[Frame]:
        """What is waiting, as a shorter batch."""
        batches = self._cut()
        return (Frame(batches),) if batches else ()

    def advance(self, watermark: int) -> Iterable[Frame]:
        return self.flush() if watermark == END else ()

    def wake_at(self) -> int | None:
        return None if self.max_time is None or not self._waiting else self._since + self.max_time

    def tick(self, now: int) -> Iterable[Frame]:
        due = self.wake_at()
        return () if due is None or due > now else self.flush()

    def snapshot(self) -> dict[str, bytes | None]:
        if not self._changed:
            return {}
        self._changed = False
        before = len(self._waiting)
        blob = pack_items(self._waiting, self.ctx)
        if self.max_bytes is not None and len(self._waiting) < before:
            self._bytes = sum(len(pack(item)) for item in self._waiting)
        return {"waiting": pack([self._since, self._bytes, blob]) if self._waiting else None}

    def restore(self, state: Mapping[str, bytes], watermark: int = NO_MARK) -> None:
        if "waiting" in state:
            self._since, self._bytes, blob = unpack(state["waiting"])
            self._waiting = unpack(blob)
