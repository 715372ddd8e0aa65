"""Drop items whose key was seen before, with memory bounded by event time and by count.

================================ =================
Dedupe("symbol", "trade_id")     output
================================ =================
(A, 1), (A, 2), (A, 1), (B, 1)   (A, 1), (A, 2), (B, 1)
(A, "") twice (no id)            both; counted as ``unkeyed``
================================ =================

Keys are kept as 64-bit hashes in segments. A segment is forgotten as a whole: when every key in it is older than
``within`` behind the watermark, or when newer segments alone hold ``max_keys``. So a key is remembered for at least
``within`` of event time unless ``max_keys`` newer ones came, and a commit writes only the segment that grew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from market_data_pipeline.codec import pack, unpack
from market_data_pipeline.durations import Duration, positive_duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import END, NO_MARK, Array, Columns, Frame
from market_data_pipeline.operators.base import Operator
from market_data_pipeline.operators.changes import Changes
from market_data_pipeline.operators.hashing import hash_columns, hash_row
from market_data_pipeline.records import MAX_TIME, MIN_TIME
from market_data_pipeline.records import field as field_of

_SEGMENT_KEYS = 4096


@dataclass
class _Segment:
    number: int
    newest: int = NO_MARK
    keys: list[int] = field(default_factory=list)


class Dedupe(Operator):
    """The first item of each key ``fields`` passes, later ones are dropped and counted (``duplicate``).

    ``within``: how long (event time) a key is remembered, ``None`` for as long as the count allows. ``max_keys``: how many
    keys a task remembers at least. About 90 bytes of memory per key; ``hashing`` says how unlikely a collision is.
    """

    def __init__(self, *fields: str, within: Duration | None = "1h", max_keys: int = 1_000_000) -> None:
        if not fields or not all(isinstance(name, str) for name in fields):
            raise ConfigError("dedupe: name at least one key field, for example dedupe('symbol', 'trade_id')")
        if max_keys < 1:
            raise ConfigError(f"dedupe: max_keys={max_keys} must be at least 1")
        self.fields = fields
        self.within = None if within is None else positive_duration(within, "within")
        self.max_keys = max_keys
        self._seen: set[int] = set()
        self._segments: deque[_Segment] = deque([_Segment(0)])
        self._changes = Changes()
        self._watermark = NO_MARK

    def process(self, frame: Frame) -> Iterable[Frame]:
        items = frame.items
        if isinstance(items, Columns):
            keep, newest = self._columns(items)
            return (Frame(items if keep is None else items.take(keep)),) if newest is not None else (frame,)
        return (Frame(self._rows(items)),)

    def _columns(self, items: Columns) -> tuple[Array | None, int | None]:
        """Which rows to keep (``None``: all), and the newest event time (``None`` where no row has a key)."""
        hashes, keyed = hash_columns(items, self.fields)
        unkeyed = len(items) - int(keyed.sum())
        self.ctx.count("unkeyed", unkeyed)
        if unkeyed == len(items):
            return None, None
        times = items.data.get("ts_event")
        newest = int(times.max()) if isinstance(times, np.ndarray) else self._watermark
        keys = hashes[keyed] if unkeyed else hashes
        fresh = set(keys.tolist())
        again = self._seen & fresh
        fresh -= again
        duplicates = len(keys) - len(fresh)
        self._remember(fresh, newest)
        if not duplicates:
            return None, newest
        self.ctx.count("duplicate", duplicates)
        first = np.zeros(len(keys), bool)
        first[np.unique(keys, return_index=True)[1]] = True
        if again:
            first &= ~np.isin(keys, np.fromiter(again, np.uint64, len(again)))
        keep = ~keyed
        keep[keyed] = first
        return keep, newest

    def _rows(self, items: list[Any]) -> list[Any]:
        kept: list[Any] = []
        fresh: set[int] = set()
        newest = self._watermark
        for item in items:
            key = hash_row(item, self.fields)
            if key is None:
                self.ctx.count("unkeyed")
            elif key in self._seen or key in fresh:
                self.ctx.count("duplicate")
                continue
            else:
                fresh.add(key)
                newest = max(newest, _time(item, newest))
            kept.append(item)
        self._remember(fresh, newest)
        return kept

    def _remember(self, keys: set[int], newest: int) -> None:
        if not keys:
            return
        self._seen |= keys
        segment = self._segments[-1]
        segment.keys.extend(keys)
        segment.newest = max(segment.newest, newest)
        self._changes.touch((segment.number,))
        if len(segment.keys) >= _SEGMENT_KEYS:
            self._segments.append(_Segment(segment.number + 1))
            while len(self._seen) - len(self._segments[0].keys) >= self.max_keys:
                self._forget()

    def _forget(self) -> None:
        segment = self._segments.popleft()
        self._seen.difference_update(segment.keys)
        self._changes.touch((segment.number,))

    def advance(self, watermark: int) -> Iterable[Frame]:
        self._watermark = max(watermark, self._watermark)
        if self.within is not None and watermark != END:
            while len(self._segments) > 1 and self._segments[0].newest + self.within <= watermark:
                self._forget()
        return ()

    def snapshot(self) -> dict[str, bytes | None]:
        return self._changes.take(self._blob)

    def _blob(self, number: int) -> bytes | None:
        index = number - self._segments[0].number
        if index < 0:
            return None
        segment = self._segments[index]
        return pack([segment.newest, np.array(segment.keys, np.uint64).tobytes()])

    def restore(self, state: Mapping[str, bytes], watermark: int = NO_MARK) -> None:
        self._watermark = watermark
        for number in sorted(map(int, state)):
            newest, keys = unpack(state[str(number)])
            self._segments.append(_Segment(number, newest, np.frombuffer(keys, np.uint64).tolist()))
            self._seen.update(self._segments[-1].keys)
        if state:
            self._segments.popleft()
            if len(self._segments[-1].keys) >= _SEGMENT_KEYS:
                self._segments.append(_Segment(self._segments[-1].number + 1))
        self._changes.restored(map(int, state))


def _time(item: Any, default: int) -> int:
    try:
        ts = field_of(item, "ts_event")
    except (KeyError, AttributeError, TypeError):
        return default
    return ts if type(ts) is int and MIN_TIME < ts < MAX_TIME else default
