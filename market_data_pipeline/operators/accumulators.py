"""The table of open windows: one slot for each window and key.

A slot is a row of one numpy record array (what windows need and the columns of every aggregation), its key, and the objects of
aggregations that keep some. Slots of windows that are gone are used again. A commit writes the blocks of 16 slots that
changed, one blob each: with a million keys in a window and frames of 8,192 items, at most 8,192 of 62,500 blocks, however
the keys are spread. Bytes of a slot: about 33 and the aggregations' own, besides the key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from market_data_pipeline.errors import CodecError, OperatorFailed
from market_data_pipeline.frame import Array
from market_data_pipeline.operators.aggregations import Aggregation, Pairs, State
from market_data_pipeline.operators.base import OperatorContext
from market_data_pipeline.operators.changes import Changes
from market_data_pipeline.operators.fold import Fold, fold
from market_data_pipeline.operators.window_input import as_key
from market_data_pipeline.packing import pack, unpack
from market_data_pipeline.records import MAX_TIME, MIN_TIME

_BLOCK_BITS = 4
_FREE = -1
NOT_SHOWN = MIN_TIME
"""The start of a window that was not emitted yet."""
_OWN: tuple[tuple[str, str, Any], ...] = (("seq", "<i8", _FREE), ("items", "<i8", 0), ("revision", "<i8", 0))
_NUMBERED: tuple[tuple[str, str, Any], ...] = (("window", "<i8", 0),)
_SPANNED: tuple[tuple[str, str, Any], ...] = (
    ("low", "<i8", MAX_TIME),
    ("high", "<i8", MIN_TIME),
    ("shown", "<i8", NOT_SHOWN),
)
_LAST: tuple[tuple[str, str, Any], ...] = (("dirty", "?", False),)


class Accumulators:
    """Slots and what is in them.

    Columns: ``seq`` grows in order of arrival of slots, -1 where free; ``items`` taken; ``revision`` of the next emission;
    ``dirty``: changed since the last one. ``window`` is the window's number, or with ``spans`` ``low`` and ``high`` are the
    smallest and the largest time, and ``shown`` the start under which it was last emitted.
    """

    def __init__(self, aggregations: Sequence[Aggregation], spans: bool = False) -> None:
        self.aggregations = list(aggregations)
        self.keys: list[Any] = []
        self.col: dict[str, Array] = {}
        """The columns of the windows' own, by name."""
        self.ctx = OperatorContext("")
        fields = [*_OWN, *(_SPANNED if spans else _NUMBERED)]
        for number, aggregation in enumerate(self.aggregations):
            fields += [(f"{number}.{n}", t, v) for n, (t, v) in aggregation.layout.items() if t != "O"]
        fields += _LAST  # behind the columns of 8 bytes, so that all are aligned
        self._own = [name for name, _, _ in fields if "." not in name]
        dtype = np.dtype([(name, kind) for name, kind, _ in fields], align=True)
        self._blank = np.array([tuple(value for _, _, value in fields)], dtype)
        self._rows = np.empty(0, dtype)
        self._objects = {
            (number, name): np.empty(0, object)
            for number, aggregation in enumerate(self.aggregations)
            for name, (kind, _) in aggregation.layout.items()
            if kind == "O"
        }
        self._states: list[State] = []
        self._free: list[int] = []
        self._next = 0
        self._changes = Changes()
        self._grow(0)

    def __len__(self) -> int:
        """How many slots are taken."""
        return len(self.keys) - len(self._free)

    def _grow(self, size: int) -> None:
        old = len(self._rows)
        rows = np.repeat(self._blank, size)
        rows[:old] = self._rows
        self._rows = rows
        for where, values in self._objects.items():
            grown = np.empty(size, object)
            grown[:old] = values
            self._objects[where] = grown
        self._free += range(size - 1, old - 1, -1)
        self.keys += [None] * (size - old)
        self._refresh()

    def _refresh(self) -> None:
        self.col = {name: self._rows[name] for name in self._own}
        self._states = [
            {
                name: self._objects[number, name] if kind == "O" else self._rows[f"{number}.{name}"]
                for name, (kind, _) in aggregation.layout.items()
            }
            for number, aggregation in enumerate(self.aggregations)
        ]

    def take(self, keys: Sequence[Any], windows: Array | None = None) -> Array:
        """New slots, empty, for ``keys`` (and their windows' numbers), in this order."""
        n = len(keys)
        if n > len(self._free):
            self._grow(max(16, 2 * len(self.keys), len(self.keys) - len(self._free) + n))
        taken = self._free[len(self._free) - n :][::-1]
        del self._free[len(self._free) - n :]
        slots = np.array(taken, np.int64)
        self._rows[slots] = self._blank[0]
        self.col["seq"][slots] = np.arange(self._next, self._next + n)
        self._next += n
        if windows is not None:
            self.col["window"][slots] = windows
        for slot, key in zip(taken, keys, strict=True):
            self.keys[slot] = key
        for (number, _), values in self._objects.items():
            fresh = self.aggregations[number].fresh
            for slot in taken:
                values[slot] = fresh()
        return slots

    def release(self, slots: Array) -> None:
        """Give ``slots`` back; what was in them is gone."""
        if not len(slots):
            return
        self.touch(slots)
        self.col["seq"][slots] = _FREE
        ordered = sorted(slots.tolist(), reverse=True)
        for slot in ordered:
            self.keys[slot] = None
        for values in self._objects.values():
            values[slots] = None
        self._free += ordered
        if len(self._free) == len(self.keys):
            self._rows, self.keys, self._free = self._rows[:0].copy(), [], []
            self._objects = {where: values[:0] for where, values in self._objects.items()}
            self._refresh()

    def touch(self, slots: Array) -> None:
        """``slots`` changed."""
        blocks = slots >> _BLOCK_BITS
        if len(blocks) < 64:
            self._changes.touch(set(blocks.tolist()))
        else:
            self._changes.touch(np.flatnonzero(np.bincount(blocks)).tolist())

    def add(self, pairs: Pairs) -> None:
        """Take items into their slots."""
        slots = pairs.slots
        np.add.at(self.col["items"], slots, 1)
        if "low" in self.col:
            np.minimum.at(self.col["low"], slots, pairs.ts)
            np.maximum.at(self.col["high"], slots, pairs.ts)
        self.touch(slots)
        both = list(zip(self.aggregations, self._states, strict=True))
        folds = [(one, state) for one, state in both if isinstance(one, Fold)]
        if folds:
            pairs = fold(folds, pairs, self.ctx.failed)
        if not len(pairs):
            return
        self.col["dirty"][pairs.slots] = True
        for aggregation, state in both:
            aggregation.add(state, pairs)

    def merge(self, into: int, other: int) -> None:
        """Make ``into`` the slot of both windows, and release ``other``. A function of the user's that raises costs the later
        window's state of that aggregation."""
        for aggregation, state in zip(self.aggregations, self._states, strict=True):
            try:
                aggregation.merge(state, into, other)
            except OperatorFailed:
                raise
            except Exception as error:  # a user's function may raise anything
                self.ctx.failed([state[name][other] for name in state], error)
        for name, combine in (("low", min), ("high", max), ("seq", min), ("revision", max), ("dirty", max)):
            self.col[name][into] = combine(self.col[name][into], self.col[name][other])
        self.col["items"][into] += self.col["items"][other]
        self.touch(np.array([into]))
        self.release(np.array([other]))

    def results(self, slots: Array) -> list[Array | list[Any]]:
        """Of each aggregation the values of ``slots``."""
        return [one.result(state, slots) for one, state in zip(self.aggregations, self._states, strict=True)]

    def live(self) -> Array:
        """The slots that are taken."""
        return np.flatnonzero(self.col["seq"] >= 0)

    def by_arrival(self, slots: Array) -> Array:
        """``slots`` in the order in which they were taken."""
        return slots[np.argsort(self.col["seq"][slots], kind="stable")]

    def snapshot(self) -> dict[str, bytes | None]:
        return self._changes.take(self._blob)

    def _blob(self, block: int) -> bytes | None:
        where = slice(block << _BLOCK_BITS, (block + 1) << _BLOCK_BITS)
        taken = self.col["seq"][where] >= 0
        if not taken.any():
            return None
        objects = [self._dump(number, values[where]) for (number, _), values in self._objects.items()]
        return pack([self._rows[where].tobytes(), self.keys[where], objects])

    def _dump(self, number: int, values: Array) -> bytes:
        aggregation = self.aggregations[number]
        try:
            return _pack_states(aggregation, values)
        except CodecError:
            for at, value in enumerate(values.tolist()):
                try:
                    _pack_states(aggregation, values[at : at + 1])
                except CodecError as error:
                    values[at], rejected = aggregation.repair(value)
                    for item, reason in rejected or [(value, str(error))]:
                        self.ctx.reject(item, f"cannot be kept as state: {reason}")
            return _pack_states(aggregation, values)

    def restore(self, blobs: Mapping[int, bytes]) -> None:
        """Continue from the blobs by block."""
        if not blobs:
            return
        self._grow((max(blobs) + 1) << _BLOCK_BITS)
        for block, blob in blobs.items():
            rows, keys, objects = unpack(blob)
            start = block << _BLOCK_BITS
            part = np.frombuffer(rows, self._rows.dtype)
            self._rows[start : start + len(part)] = part
            self.keys[start : start + len(part)] = [as_key(key) for key in keys]
            for ((number, _), values), dumped in zip(self._objects.items(), objects, strict=True):
                load = self.aggregations[number].load
                for at, value in enumerate(unpack(dumped)):
                    if value is not None:
                        values[start + at] = load(value)
        seq = self.col["seq"]
        self._free = np.flatnonzero(seq < 0)[::-1].tolist()
        self._next = int(seq.max()) + 1
        self._changes.restored(blobs)


def _pack_states(aggregation: Aggregation, values: Array) -> bytes:
    blob = pack([None if value is None else aggregation.dump(value) for value in values.tolist()])
    if aggregation.foreign:
        unpack(blob)
    return blob
