"""A set of 64-bit hashes in order of arrival, of which the oldest are forgotten; all operations on arrays.

Open addressing with linear probing (Knuth, The Art of Computer Programming 3, 6.4) over a table of 4-byte positions in the
list of hashes, a whole batch at a time. The table is never fuller than two fifths, so that a few looks find a place; with the
list that is 25 to 50 bytes a hash in all. What is forgotten stays as a tombstone until the table is made anew.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from market_data_pipeline.frame import Array

_LEAST = 1 << 11
_FEW = 24
"""So many are looked up one by one: a round over arrays takes as long for one as for these."""
_HALF, _LOW = np.uint64(32), np.uint64(2**32 - 1)
MARK, CONTENT = np.uint32(1 << 31), np.uint32((1 << 31) - 1)
"""The bits of a content: the mark, and what is compared."""


class Added(NamedTuple):
    """Of each row, bool of shape (n,): whether its key was new, and whether it was there with another content. ``unmarked``:
    the rows without a mark, first of their key, whose key had one; it is off now. ``changed``: the numbers of those keys."""

    fresh: Array
    other: Array
    unmarked: Array
    changed: Array


_NONE: Array = np.empty(0, np.int64)


class KeySet:
    """Hashes (uint64, well mixed) with a 32-bit ``content`` each: 31 bits and a :data:`MARK`. A number counts all that were
    ever added, from 0."""

    def __init__(self) -> None:
        self._first = 0  # the number of what is at position 0
        self._start = self._end = 0  # positions of the oldest that is not forgotten, and behind the newest
        self._make(_LEAST)

    def _make(self, room: int) -> None:
        self._capacity = room * 5 // 2
        self._table: Array = np.full(self._capacity, -1, np.int32)
        self._keys: Array = np.empty(room, np.uint64)
        self._content: Array = np.empty(room, np.uint32)

    def __len__(self) -> int:
        return self._end - self._start

    @property
    def numbers(self) -> range:
        """The numbers of those in the set."""
        return range(self._first + self._start, self._first + self._end)

    def take(self, begin: int, end: int) -> tuple[Array, Array]:
        """Hashes and contents from number ``begin`` to ``end``."""
        rows = slice(begin - self._first, end - self._first)
        return self._keys[rows], self._content[rows]

    def forget(self, before: int) -> None:
        """Forget all with a number below ``before``."""
        self._start = min(max(self._start, before - self._first), self._end)

    def begin_at(self, number: int) -> None:
        """The next one added to this empty set has this number."""
        self._first = number - self._end

    def add(self, keys: Array, content: Array) -> Added:
        """Add what is not there yet. Inputs of shape (n,)."""
        if self._end + len(keys) > len(self._keys):
            self._rebuild(len(keys))
        known = self._insert(keys, content)
        fresh = known < 0
        other = np.zeros(len(keys), bool)
        if fresh.all():
            return Added(fresh, other, _NONE, _NONE)
        again = np.flatnonzero(~fresh)
        at = known[again]
        stored = self._content[at]
        other[again] = (stored ^ content[again]) & CONTENT != 0
        without = stored & ~content[again] & MARK != 0
        if not without.any():
            return Added(fresh, other, _NONE, _NONE)
        places, first = np.unique(at[without], return_index=True)
        self._content[places] &= CONTENT
        return Added(fresh, other, again[without][first], self._first + places)

    def _rebuild(self, more: int) -> None:
        keys, content = (a[self._start : self._end] for a in (self._keys, self._content))
        self._first += self._start
        self._start, self._end = 0, len(keys)
        need = len(keys) + more
        if 4 * need < 3 * len(self._keys) and 2 * len(self._keys) <= 5 * need:
            self._table.fill(-1)
        else:
            self._make(max(_LEAST, 2 * need))
        self._keys[: len(keys)], self._content[: len(keys)] = keys, content
        # by slot, which grows with the key: each goes to its own or, if that is taken, behind the one before it
        order = np.sort((keys >> _HALF << _HALF) | np.arange(len(keys), dtype=np.uint64))
        slots = self._slots(order)
        steps = np.arange(len(keys))
        places = np.maximum.accumulate(slots - steps) + steps
        inside = int(np.searchsorted(places, self._capacity))
        positions = (order & _LOW).astype(np.int64)
        self._table[places[:inside]] = positions[:inside]
        for position in positions[inside:].tolist():  # a run that went over the end goes on at the beginning
            place = 0
            while self._table[place] >= 0:
                place += 1
            self._table[place] = position

    def _slots(self, keys: Array) -> Array:
        """Where to look first: the upper half of each key as a share of the table (Lemire 2019: no division)."""
        return ((keys >> _HALF) * np.uint64(self._capacity) >> _HALF).astype(np.int64)

    def _insert(self, keys: Array, content: Array) -> Array:
        """Where (position) each key stands that was there before its row; -1 where the row was new."""
        n, end = len(keys), self._end
        self._keys[end : end + n] = keys  # for now at a position of its own each; the new ones move together below
        known = np.full(n, -1, np.int64)
        slots = self._slots(keys)
        rows, at, mine = np.arange(n), slots, keys
        while len(rows) > _FEW:
            found = self._table.take(at)
            free = found < 0
            if self._start:
                self._free_stale(free, found, mine)
            takers = np.flatnonzero(free)
            places = at.take(takers)
            self._table[places[::-1]] = (end + rows.take(takers))[
                ::-1
            ]  # of several the first is written last, and stays
            found[takers] = self._table.take(places)
            lost = np.flatnonzero(found != end + rows)
            rows, at, mine, found = rows.take(lost), at.take(lost), mine.take(lost), found.take(lost)
            same = self._keys.take(found) == mine
            known[rows.compress(same)] = found.compress(same)
            other = np.flatnonzero(~same)
            rows, at, mine = rows.take(other), at.take(other) + 1, mine.take(other)
            at[at == self._capacity] = 0
            slots[rows] = at
        for row, place, key in zip(rows.tolist(), at.tolist(), mine.tolist(), strict=True):
            slots[row], known[row] = self._insert_one(end + row, place, key)
        self._settle(keys, content, known, slots)
        return known

    def _insert_one(self, position: int, place: int, key: int) -> tuple[int, int]:
        """The same for one key, from ``place`` on: its place, and where it stands already, or -1."""
        while True:
            found = self._table.item(place)
            same = found >= 0 and self._keys.item(found) == key
            if found < 0 or (same and found < self._start):
                self._table[place] = position
                return place, -1
            if same:
                return place, found
            place = (place + 1) % self._capacity

    def _free_stale(self, free: Array, found: Array, keys: Array) -> None:
        """A place is free, too, where the key itself was forgotten; another one that was is in the way."""
        stale = np.flatnonzero((found < self._start) & ~free)
        free[stale] = self._keys.take(found.take(stale)) == keys.take(stale)

    def _settle(self, keys: Array, content: Array, known: Array, slots: Array) -> None:
        """The new rows get the next positions, in order."""
        end = self._end
        new = np.flatnonzero(known < 0)
        if len(new) < len(keys):
            place = np.full(len(keys), -1, np.int64)
            place[new] = np.arange(end, end + len(new))
            behind = known >= end  # a row of this batch is what they repeat
            known[behind] = place[known[behind] - end]
            self._keys[end : end + len(new)] = keys.take(new)
            self._table[slots.take(new)] = place.take(new)
            content = content.take(new)
        self._content[end : end + len(new)] = content
        self._end += len(new)
