"""Drop items whose key was seen before, with memory bounded by event time and by count.

================================ ==============================================================
Dedupe("symbol", "trade_id")     output
================================ ==============================================================
(A, 1), (A, 2), (A, 1), (B, 1)   (A, 1), (A, 2), (B, 1); counted as ``duplicate``
(A, 1) with another price        nothing; counted as ``duplicate`` and as ``conflict``
(A, "") twice (no id)            both; counted as ``unkeyed``
(A, 1) of a snapshot, then live  both, once each; the second counted as ``promoted``
(A, 1) live, then of a snapshot  the first
================================ ==============================================================

**Snapshots.** Many feeds begin with history (``phase`` ``snapshot``), and the same trades may come live behind it. Bars leave
the history out, so a live item passes though its key came in a snapshot: once, counted (``promoted``). A store that has a
key writes it over the first. What takes both phases and has no key (a file, bars of all phases) wants ``promote=False``.

Keys are kept as 64-bit hashes, with 31 bits of their content, in segments of 4,096 in order of arrival. A segment is
forgotten as a whole: when every key in it is older than ``within`` behind the watermark, or when newer segments alone hold
``max_keys``. So a key is remembered for at least ``within`` of event time unless ``max_keys`` newer ones came, and a commit
writes only the segments that grew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from market_data_pipeline.durations import Duration, positive_duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import END, NO_MARK, Array, Columns, Dictionary, Frame, Items, columns_from_rows
from market_data_pipeline.operators.base import Operator
from market_data_pipeline.operators.changes import Changes
from market_data_pipeline.operators.field_names import kept
from market_data_pipeline.operators.hashing import hash_columns, hash_content, hash_content_columns, hash_row
from market_data_pipeline.operators.keyset import CONTENT, MARK, KeySet
from market_data_pipeline.packing import pack, unpack
from market_data_pipeline.records import KINDS, MAX_TIME, MIN_TIME
from market_data_pipeline.records import field as field_of

_SEGMENT_KEYS = 4096
_RECEIVED, _PHASE, _SNAPSHOT = "ts_recv", "phase", "snapshot"
_MARKED = 1
"""In a stored segment: the content has marks."""


class Dedupe(Operator):
    """The first item of each key ``fields`` passes, later ones are dropped and counted (``duplicate``).

    An item whose content differs from the first one's is counted as ``conflict`` too. ``content`` names the fields that are
    compared; ``None``: all but the key, ``ts_recv`` and ``phase`` (in which two connections to one feed differ); ``()``: none.

    ``promote``: the first live item of a key that came only in snapshots passes too, counted (``promoted``); else the first
    item of a key is the only one, whatever its phase.

    ``within``: how long (event time) a key is remembered, ``None`` for as long as the count allows. ``max_keys``: how many
    keys a task remembers at least. 25 to 50 bytes of memory per key, 12 stored; ``hashing`` says how unlikely a collision is.
    """

    def __init__(
        self,
        *fields: str,
        within: Duration | None = "1h",
        max_keys: int = 1_000_000,
        content: tuple[str, ...] | None = None,
        promote: bool = True,
    ) -> None:
        if not fields or not all(isinstance(name, str) for name in fields):
            raise ConfigError("dedupe: name at least one key field, for example dedupe('symbol', 'trade_id')")
        if max_keys < 1:
            raise ConfigError(f"dedupe: max_keys={max_keys} must be at least 1")
        if isinstance(content, str) or not all(isinstance(name, str) for name in content or ()):
            raise ConfigError(f"dedupe: content={content!r} is not a tuple of field names")
        self.fields = fields
        self.within = None if within is None else positive_duration(within, "within")
        self.max_keys = max_keys
        self.content = None if content is None else tuple(content)
        if not isinstance(promote, bool):
            raise ConfigError(f"dedupe: promote={promote!r} is not allowed; True or False")
        self.promote = promote
        self._seen = KeySet()
        self._oldest = 0  # the number of the first segment
        self._newest: deque[int] = deque()  # of each segment from there on, the largest event time
        self._changes = Changes()
        self._watermark = NO_MARK

    def fields_read(self, input: str = "") -> tuple[str, ...]:  # noqa: A002 - what it is
        return (*self.fields, *(self.content or ()))

    fields_given = kept

    def process(self, frame: Frame) -> Iterable[Frame]:
        items = frame.items
        keys, content, times, keyed = self._hashed(items)
        unkeyed = len(items) - int(np.count_nonzero(keyed))
        self.ctx.count("unkeyed", unkeyed)
        if unkeyed == len(items):
            return (frame,)
        if unkeyed:
            keys, content, times = keys[keyed], content[keyed], times[keyed]
        fresh = self._add(keys, content, times)
        if fresh.all():
            return (frame,)
        keep = ~keyed
        keep[keyed] = fresh
        kept = np.flatnonzero(keep)  # cheaper for several columns than a mask
        return (Frame(items.take(kept) if isinstance(items, Columns) else [items[at] for at in kept.tolist()]),)

    def _hashed(self, items: Items) -> tuple[Array, Array, Array, Array]:
        """Of each item the key's hash, the content's, its event time (the watermark where it has none) and whether it has a
        key."""
        if not isinstance(items, Columns) and len(kinds := set(map(type, items))) == 1 and kinds <= KINDS.keys():
            columns, bad = columns_from_rows(items)
            items = items if bad else columns
        but = {*self.fields, _RECEIVED, _PHASE} if self.content is None else ()
        if isinstance(items, Columns):
            keys, keyed = hash_columns(items, self.fields)
            content = self._marked(hash_content_columns(items, self.content, but), _snapshots(items))
            found = items.data.get("ts_event")
            plain = isinstance(found, np.ndarray) and found.dtype.kind == "i"
            return keys, content, found if plain else np.full(len(items), self._watermark), keyed  # type: ignore[return-value]
        hashes = [hash_row(item, self.fields) for item in items]
        content = np.array([hash_content(item, self.content, but) for item in items], np.uint32)
        return (
            np.array([key or 0 for key in hashes], np.uint64),
            self._marked(content, np.array([_is_snapshot(item) for item in items], bool)),
            np.array([_time(item, self._watermark) for item in items], np.int64),
            np.array([key is not None for key in hashes], bool),
        )

    def _marked(self, content: Array, snapshots: Array | None) -> Array:
        """``content`` with a mark on the items of snapshots, which live ones may follow."""
        content &= CONTENT
        if self.promote and snapshots is not None:
            content[snapshots] |= MARK
        return content

    def _add(self, keys: Array, content: Array, times: Array) -> Array:
        """Which rows pass. Rows are added up to the end of a segment at a time where the oldest may
        have to go then: what is forgotten must not depend on how items were batched."""
        if len(self._seen) + len(keys) < self.max_keys:
            return self._add_some(keys, content, times)
        parts: list[Array] = []
        begin = 0
        while begin < len(keys):
            end = begin + _SEGMENT_KEYS - self._seen.numbers.stop % _SEGMENT_KEYS
            parts.append(self._add_some(keys[begin:end], content[begin:end], times[begin:end]))
            begin = end
            if self._seen.numbers.stop % _SEGMENT_KEYS == 0:  # a segment is full: the only time when others go
                while len(self._seen) - _SEGMENT_KEYS >= self.max_keys:
                    self._forget()
        return np.concatenate(parts)

    def _add_some(self, keys: Array, content: Array, times: Array) -> Array:
        begin = self._seen.numbers.stop
        fresh, other, promoted, changed = self._seen.add(keys, content)
        end = self._seen.numbers.stop
        self.ctx.count("duplicate", len(keys) - (end - begin) - len(promoted))
        self.ctx.count("conflict", int(np.count_nonzero(other)))
        if end > begin:
            added = times if end - begin == len(times) else times[fresh]
            for number in range(begin // _SEGMENT_KEYS, (end - 1) // _SEGMENT_KEYS + 1):
                low, high = max(number * _SEGMENT_KEYS, begin) - begin, min((number + 1) * _SEGMENT_KEYS, end) - begin
                self._note(number, int(added[low:high].max()))
        if len(promoted):
            self.ctx.count("promoted", len(promoted))
            self._changes.touch(set((changed // _SEGMENT_KEYS).tolist()))
            fresh[promoted] = True
        return fresh

    def _note(self, number: int, newest: int) -> None:
        at = number - self._oldest
        if at == len(self._newest):
            self._newest.append(newest)
        else:
            self._newest[at] = max(self._newest[at], newest)
        self._changes.touch((number,))

    def _forget(self) -> None:
        self._newest.popleft()
        self._changes.touch((self._oldest,))
        self._oldest += 1
        self._seen.forget(self._oldest * _SEGMENT_KEYS)

    def advance(self, watermark: int) -> Iterable[Frame]:
        self._watermark = max(watermark, self._watermark)
        if self.within is not None and watermark != END:
            while self._is_full() and self._newest[0] + self.within <= watermark:
                self._forget()
        return ()

    def _is_full(self) -> bool:
        """Whether the first segment does not grow any more."""
        return self._seen.numbers.stop >= (self._oldest + 1) * _SEGMENT_KEYS

    def snapshot(self) -> dict[str, bytes | None]:
        return self._changes.take(self._blob)

    def _blob(self, number: int) -> bytes | None:
        if number < self._oldest:
            return None
        keys, content = self._seen.take(
            number * _SEGMENT_KEYS, min((number + 1) * _SEGMENT_KEYS, self._seen.numbers.stop)
        )
        return pack([self._newest[number - self._oldest], keys.tobytes(), content.tobytes(), _MARKED])

    def restore(self, state: Mapping[str, bytes], watermark: int = NO_MARK) -> None:
        self._watermark = watermark
        numbers = sorted(map(int, state))
        if numbers:
            self._oldest = numbers[0]
            self._seen.begin_at(self._oldest * _SEGMENT_KEYS)
        for number in numbers:
            newest, keys, blob, *marked = unpack(state[str(number)])
            content = np.frombuffer(blob, np.uint32)
            # what was stored before there were marks has 32 bits of content
            self._seen.add(np.frombuffer(keys, np.uint64), content if marked else content & CONTENT)
            self._newest.append(newest)
        self._changes.restored(numbers)


def _snapshots(items: Columns) -> Array | None:
    """Which of ``items`` are of a snapshot, bool of shape (n,); ``None`` for none."""
    column = items.data.get(_PHASE)
    if not isinstance(column, Dictionary):
        return None if column is None else np.array([value == _SNAPSHOT for value in column.tolist()], bool)
    return column.codes == column.names.index(_SNAPSHOT) if _SNAPSHOT in column.names else None


def _is_snapshot(item: Any) -> bool:
    try:
        return bool(field_of(item, _PHASE) == _SNAPSHOT)
    except (KeyError, AttributeError, TypeError):
        return False


def _time(item: Any, default: int) -> int:
    try:
        ts = field_of(item, "ts_event")
    except (KeyError, AttributeError, TypeError):
        return default
    return ts if type(ts) is int and MIN_TIME < ts < MAX_TIME else default
