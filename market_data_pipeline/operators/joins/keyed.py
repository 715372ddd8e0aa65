"""Items with their times and keys, as arrays beside them, and those of them that wait for the watermark."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from market_data_pipeline.frame import (
    Array,
    Columns,
    Dictionary,
    Items,
    compact,
    join_items,
    same_shape,
    to_rows,
)
from market_data_pipeline.operators.buckets import FARTHEST
from market_data_pipeline.operators.keys import check_key
from market_data_pipeline.operators.stateless import apply
from market_data_pipeline.records import SIDES, field

_MERGED_ITEMS = 8192


class Chunk(NamedTuple):
    """``items`` with the time (ns) and the key's code of each: int64 arrays of shape (n,)."""

    ts: Array
    code: Array
    items: Items

    def take(self, index: Array) -> Chunk:
        """The rows at ``index`` (positions or a mask)."""
        items = self.items
        if isinstance(items, Columns):
            return Chunk(self.ts[index], self.code[index], items.take(index))
        chosen = np.flatnonzero(index) if index.dtype == bool else index
        return Chunk(self.ts[index], self.code[index], [items[at] for at in chosen.tolist()])


def joined(chunks: list[Chunk]) -> Chunk:
    """``chunks`` one after another; as rows where their items have different shapes."""
    if len(chunks) == 1:
        return chunks[0]
    items = join_items(chunk.items for chunk in chunks)
    whole = items[0] if len(items) == 1 else [row for part in items for row in to_rows(part)]
    return Chunk(np.concatenate([c.ts for c in chunks]), np.concatenate([c.code for c in chunks]), whole)


class Keys:
    """Numbers the keys that are in use, from 0."""

    def __init__(self) -> None:
        self._codes: dict[Any, int] = {}
        self.names: list[Any] = []
        """By code; ``None`` for a code that is not in use."""
        self._names: tuple[str, ...] | None = None
        self._of_names: Array = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.names)

    def of(self, key: Any) -> int:
        """The code of ``key``, a new one if need be. Raises ``TypeError`` for what would not come back from a snapshot."""
        code = self._codes.get(check_key(key))
        if code is None:
            code = self._codes[key] = len(self.names)
            self.names.append(key)
        return code

    def restored(self, key: Any, code: int) -> None:
        """``key`` has this code, which is above all that were restored before."""
        self.names += [None] * (code - len(self.names))
        self.of(key)

    def of_dictionary(self, column: Dictionary) -> Array:
        """The code of each row; the names are looked up once as long as they are the same."""
        if column.names is not self._names:
            used = np.unique(column.codes).tolist() if len(column.names) > len(column) else range(len(column.names))
            codes = np.full(len(column.names), -1, np.int64)
            for at in used:
                codes[at] = self.of(column.names[at])
            if len(column.names) > len(column):
                return codes[column.codes]
            self._names, self._of_names = column.names, codes
        return self._of_names[column.codes]

    def keep(self, used: Array) -> Array:
        """Forget the keys whose codes are not in ``used``; returns the new code by old code, -1 where forgotten."""
        renumbered = np.full(len(self.names), -1, np.int64)
        renumbered[used] = np.arange(len(used))
        self.names = [self.names[code] for code in used.tolist()]
        self._codes = {name: code for code, name in enumerate(self.names)}
        self._names = None
        return renumbered


def as_columns(items: Items) -> Items:
    """Records of one kind as columns, which is several times as fast, with all fields; anything else, also records with values
    that would change by it (decimals as text), as it is."""
    made = compact(items)
    return made.completed() if isinstance(made, Columns) else made


def place(items: Items, key: str, keys: Keys, failed: Callable[[Any, Exception], None]) -> Chunk:
    """``items`` by their ``ts_event`` and their field ``key``. ``failed`` is told of those that have none that can be used."""
    quick = _place_columns(items, key, keys) if isinstance(items, Columns) else None
    if quick is not None:
        return quick

    def of_item(item: Any) -> tuple[int, int]:
        ts = field(item, "ts_event")
        if type(ts) is not int or not -FARTHEST < ts < FARTHEST:
            raise TypeError(f"ts_event {ts!r} is not a time in ns within 146 years of 1970")
        return ts, keys.of(field(item, key))

    done = apply(of_item, to_rows(items), failed)
    places = np.array([placed for _, placed in done], np.int64).reshape(-1, 2)
    return Chunk(places[:, 0], places[:, 1], [item for item, _ in done])


def _place_columns(items: Columns, key: str, keys: Keys) -> Chunk | None:
    """What :func:`place` returns, where all rows are good and the key is a dictionary."""
    times, column = items.data.get("ts_event"), items.data.get(key)
    if key == "side" and isinstance(column, np.ndarray) and column.dtype == np.int8:
        column = Dictionary(column.astype(np.uint32), SIDES)
    if not isinstance(times, np.ndarray) or times.dtype != np.int64 or not isinstance(column, Dictionary):
        return None
    if not bool(((times > -FARTHEST) & (times < FARTHEST)).all()):
        return None
    return Chunk(times, keys.of_dictionary(column), items)


class Pending:
    """Chunks that wait for the watermark. Small neighbours are merged, so that there are few."""

    def __init__(self) -> None:
        self._chunks: list[tuple[int, int, Chunk]] = []

    def add(self, chunk: Chunk) -> None:
        chunks = self._chunks
        if len(chunk.ts):
            chunks.append((int(chunk.ts.min()), int(chunk.ts.max()), chunk))
        while len(chunks) > 1:
            (low, high, first), (other_low, other_high, second) = chunks[-2:]
            small = len(first.ts) <= len(second.ts) <= _MERGED_ITEMS - len(first.ts)
            if not small or not same_shape(first.items, second.items):
                break
            chunks[-2:] = [(min(low, other_low), max(high, other_high), joined([first, second]))]

    def pop_before(self, time: int) -> Chunk | None:
        """Remove and return what is before ``time`` (ns), in order of arrival."""
        due: list[Chunk] = []
        left: list[tuple[int, int, Chunk]] = []
        for low, high, chunk in self._chunks:
            if low >= time:
                left.append((low, high, chunk))
            elif high < time:
                due.append(chunk)
            else:
                before = chunk.ts < time
                due.append(chunk.take(before))
                rest = chunk.take(~before)
                left.append((int(rest.ts.min()), high, rest))
        self._chunks = left
        return joined(due) if due else None

    def whole(self) -> Chunk | None:
        """All that waits, in order of arrival."""
        return joined([chunk for _, _, chunk in self._chunks]) if self._chunks else None

    def codes(self) -> Iterable[Array]:
        return [chunk.code for _, _, chunk in self._chunks]

    def renumber(self, new: Array) -> None:
        """The keys have other codes: ``new`` by old code."""
        self._chunks = [(low, high, c._replace(code=new[c.code])) for low, high, c in self._chunks]


class Latest:
    """The newest item of each key, as columns by code. ``time`` is :data:`NEVER` where there is none."""

    NEVER = -(2**63)

    def __init__(self) -> None:
        self.time: Array = np.empty(0, np.int64)
        self._data: dict[str, Array] = {}

    def update(self, chunk: Chunk) -> Array:
        """Let the items of ``chunk`` (plain arrays) stand where none newer does; of equal times the later arrival. Returns
        the codes that changed."""
        assert isinstance(chunk.items, Columns)
        order = np.lexsort((chunk.ts, chunk.code))
        code = chunk.code[order]
        last = order[np.append(code[1:] != code[:-1], True)]
        self._reserve(int(code[-1]) + 1)
        last = last[chunk.ts[last] >= self.time[chunk.code[last]]]
        at: Array = chunk.code[last]
        self.time[at] = chunk.ts[last]
        for name, column in chunk.items.data.items():
            assert not isinstance(column, Dictionary)
            self._set(name, at, column[last])
        return at

    def _reserve(self, size: int) -> None:
        if size > len(self.time):
            more = max(size, 2 * len(self.time)) - len(self.time)
            self.time = np.append(self.time, np.full(more, self.NEVER))
            self._data = {name: np.append(array, np.zeros(more, array.dtype)) for name, array in self._data.items()}

    def _set(self, name: str, at: Array, values: Array) -> None:
        array = self._data.get(name)
        if array is None:
            array = self._data[name] = np.zeros(len(self.time), values.dtype)
        elif array.dtype != values.dtype:
            array = self._data[name] = array.astype(object)
        array[at] = values

    def of(self, codes: Array, since: int = NEVER) -> Chunk | None:
        """Those of the distinct ``codes`` whose newest item is not before ``since`` (ns)."""
        codes = codes[codes < len(self.time)]
        codes = codes[self.time[codes] >= max(since, self.NEVER + 1)]
        if not len(codes):
            return None
        return Chunk(self.time[codes], codes, Columns("", {name: array[codes] for name, array in self._data.items()}))

    def keep(self, used: Array) -> None:
        """Renumber: code i is what ``used[i]`` was."""
        known = used[used < len(self.time)]
        self.time, self._data = self.time[known], {name: array[known] for name, array in self._data.items()}


def object_array(values: Iterable[Any], count: int) -> Array:
    """An array of any objects, also of tuples."""
    return np.fromiter(values, object, count)


def plain_column(columns: Columns, name: str) -> Array:
    """A column as a plain array: strings for a dictionary or for sides, ``None`` everywhere where it is absent."""
    column = columns.data.get(name)
    if column is None:
        return np.full(len(columns), None, object)
    if name == "side" and not isinstance(column, Dictionary) and column.dtype == np.int8:
        column = Dictionary(column.astype(np.uint32), SIDES)
    if isinstance(column, Dictionary):
        names = object_array(column.names, len(column.names))
        return np.asarray(names[column.codes])
    return column
