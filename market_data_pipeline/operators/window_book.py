"""The book of open windows: which there are, when they fire, what late items do. One kind for each kind of window.

:class:`Book` is what they share; :class:`TimeBook` is tumbling and sliding windows, :class:`CountBook` count windows, and
:class:`~market_data_pipeline.operators.session.SessionBook` sessions. An operator gives a batch to ``add`` and a watermark to
``advance``, and gets what is to be emitted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from market_data_pipeline.frame import END, NO_MARK, Array
from market_data_pipeline.operators.accumulators import Accumulators
from market_data_pipeline.operators.aggregations import Pairs
from market_data_pipeline.operators.base import OperatorContext
from market_data_pipeline.operators.lateness import Lateness
from market_data_pipeline.operators.window_input import Batch
from market_data_pipeline.operators.window_results import Emission, joined
from market_data_pipeline.operators.windows import CountWindow, Hop

_DENSE = 65_536
"""Groups are found by counting where there can be at most so many, else by sorting."""
_WIDE = 2**31


@dataclass(frozen=True)
class Emitting:
    """When windows are emitted: behind their end as ``lateness`` says; before it each ``items`` items and each ``every`` ns."""

    lateness: Lateness = field(default_factory=Lateness)
    items: int | None = None
    every: int | None = None

    @property
    def repeats(self) -> bool:
        """Whether a window may be emitted more than once."""
        return self.lateness.policy == "revise" or self.items is not None or self.every is not None


class Book(ABC):
    """Open windows in ``store``."""

    spans = False
    """Whether windows are told by the smallest and the largest time in them, and not by a number."""

    def __init__(self, store: Accumulators, emitting: Emitting) -> None:
        self.store, self.emitting = store, emitting
        self.watermark = NO_MARK
        self.ctx = OperatorContext("")

    @abstractmethod
    def add(self, batch: Batch) -> tuple[list[Emission], Array | None]:
        """Take items; what they made complete, and which of them (bool) are late for all their windows, if any."""

    @abstractmethod
    def advance(self, watermark: int) -> list[Emission]:
        """Event time has reached ``watermark``."""

    @abstractmethod
    def restored(self) -> None:
        """``store`` holds what it held at a snapshot: note which windows there are."""

    def snapshot(self) -> dict[str, bytes | None]:
        """What changed since the last call."""
        return self.store.snapshot()

    def restore(self, state: Mapping[str, bytes], watermark: int) -> None:
        """Continue from snapshots, and from the ``watermark`` of the last ``advance``."""
        self.watermark = watermark
        self.store.restore({int(name): blob for name, blob in state.items() if name.lstrip("-").isdigit()})
        self.restored()

    def emit(self, slots: Array, opens: Array, closes: Array, final: Array) -> Emission:
        """The results of ``slots`` as they are, the next revision of each. Slots that no item got into are left out."""
        store = self.store
        used = store.col["dirty"][slots] | (store.col["revision"][slots] > 0)
        if not used.all():
            slots, opens, closes, final = slots[used], opens[used], closes[used], final[used]
        revision = store.col["revision"][slots]
        results = Emission(
            [store.keys[slot] for slot in slots.tolist()], opens, closes, revision, final, store.results(slots)
        )
        store.col["revision"][slots] += 1
        store.col["dirty"][slots] = False
        store.touch(slots)
        return results

    def due_early(self, opens: Array, before: int, watermark: int) -> Array:
        """For windows that begin at ``opens``, whether ``watermark`` passed a multiple of ``every`` behind their beginning that
        ``before`` had not."""
        every = self.emitting.every
        if every is None or watermark == NO_MARK:
            return np.zeros(len(opens), bool)
        steps = _steps(watermark, opens, every)
        return (steps > 0) & (steps > (0 if before == NO_MARK else _steps(before, opens, every)))


def _steps(watermark: int, opens: Array, every: int) -> Array:
    apart = np.full_like(opens, watermark) - np.minimum(opens, watermark)
    steps: Array = apart.view(np.uint64) // np.uint64(every)  # apart may be over 2**63 and wrap around
    return steps


class TimeBook(Book):
    """Windows with numbers: :class:`Hop` and :class:`Tumble`."""

    def __init__(self, store: Accumulators, windows: Hop, emitting: Emitting) -> None:
        super().__init__(store, emitting)
        self._windows = windows
        self._open: dict[int, dict[Any, int]] = {}
        self._changed: set[int] = set()
        """Windows in which something changed since their last emission."""

    def restored(self) -> None:
        col = self.store.col
        for slot in self.store.by_arrival(self.store.live()).tolist():
            window = int(col["window"][slot])
            self._open.setdefault(window, {})[self.store.keys[slot]] = slot
            if col["dirty"][slot]:
                self._changed.add(window)

    def _marks(self) -> tuple[int, int]:
        """The smallest number of a window that is not closed, and of one that has not fired."""
        if self.watermark == NO_MARK:
            return -(2**63), -(2**63)
        windows = self._windows
        closed = windows.first_open(self.emitting.lateness.closed_by(self.watermark))
        return closed, windows.first_open(self.watermark)

    def add(self, batch: Batch) -> tuple[list[Emission], Array | None]:
        low, high = self._windows.spans(batch.ts)
        closed, _ = self._marks()
        none = low > high
        late = (high < closed) & ~none
        if none.any():
            self.ctx.count("outside", int(none.sum()))
        is_late = bool(late.any())
        if closed > -(2**63):
            behind = low < closed
            self.ctx.count("late_partly", int((behind & ~late & ~none).sum()))
            low = np.where(behind, min(closed, 2**63 - 1), low)
        counts = np.maximum(high - low + 1, 0)
        if (counts == 1).all():
            at, number = np.arange(len(batch)), low
        else:
            at = np.repeat(np.arange(len(batch)), counts)
            number = low[at] + (np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts))
        results: list[Emission] = []
        if len(at):
            pairs = Pairs(batch, at, self._slots(number, batch.codes[at], batch))
            results = self._take(pairs, number)
        return results, late if is_late else None

    def _slots(self, number: Array, code: Array, batch: Batch) -> Array:
        """The slot of each pair of window and key; new ones are made in order of arrival."""
        first, inverse = groups(number, code, len(batch.keys))
        windows, codes = number[first].tolist(), code[first].tolist()
        keys = [batch.keys[one] for one in codes]
        get = {window: self._open.setdefault(window, {}).get for window in set(windows)}
        slots = [get[window](key, -1) for window, key in zip(windows, keys, strict=True)]
        new = [at for at, slot in enumerate(slots) if slot < 0]
        if new:
            made = self.store.take([keys[at] for at in new], np.array([windows[at] for at in new], np.int64)).tolist()
            for at, slot in zip(new, made, strict=True):
                self._open[windows[at]][keys[at]] = slots[at] = slot
        self._changed.update(windows)
        return np.array(slots, np.int64)[inverse]

    def _take(self, pairs: Pairs, number: Array) -> list[Emission]:
        n = self.emitting.items
        if n is None:
            self.store.add(pairs)
            return []
        before, rank = self.store.col["items"][pairs.slots], ranks(pairs.slots)
        trigger = ((before + rank + 1) % n == 0) & (number >= self._marks()[1])
        turn = (before + rank) // n - before // n
        parts: list[Emission] = []
        places: list[Array] = []
        for one in range(int(turn.max()) + 1):
            chosen = turn == one
            self.store.add(pairs.only(chosen))
            shown = np.flatnonzero(chosen & trigger)
            if len(shown):
                slots = pairs.slots[shown]
                shown = shown[self.store.col["dirty"][slots]]
                parts.append(self._emit(pairs.slots[shown], number[shown], np.zeros(len(shown), bool)))
                places.append(shown)
        return [joined(parts).ordered(np.argsort(np.concatenate(places), kind="stable"))] if parts else []

    def _emit(self, slots: Array, number: Array, final: Array) -> Emission:
        opens = self._windows.start(number)
        return self.emit(slots, opens, opens + self._windows.size, final)

    def advance(self, watermark: int) -> list[Emission]:
        before, self.watermark = self.watermark, max(watermark, self.watermark)
        closed, fired = self._marks()
        ready = sorted(self._open if self.watermark == END else (w for w in self._open if w < closed))
        again = [] if self.watermark == END else self._again(ready, fired, before)
        slots, number = self._slots_of(ready)
        more, more_number = self._slots_of(again)
        dirty = self.store.col["dirty"][more]
        more, more_number = more[dirty], more_number[dirty]
        if not len(slots) and not len(more):
            return []
        final = np.arange(len(slots) + len(more)) < len(slots)
        results = self._emit(np.concatenate((slots, more)), np.concatenate((number, more_number)), final)
        for window in ready:
            del self._open[window]
        self._changed.difference_update(ready)
        self._changed.difference_update(again)
        self.store.release(slots)
        return [results]

    def _again(self, closing: list[int], fired: int, before: int) -> list[int]:
        """Windows to be emitted though they stay open: those that fired and changed, and early ones."""
        if not self.emitting.repeats or not self._changed:
            return []
        changed = np.array(sorted(self._changed.difference(closing)), np.int64)
        due = (changed < fired) | self.due_early(self._windows.start(changed), before, self.watermark)
        again: list[int] = changed[due].tolist()
        return again

    def _slots_of(self, windows: list[int]) -> tuple[Array, Array]:
        """The slots of ``windows``, by window and in order of arrival, and their windows' numbers."""
        slots = [np.fromiter(self._open[window].values(), np.int64) for window in windows]
        number = np.repeat(np.array(windows, np.int64), [len(part) for part in slots])
        return np.concatenate([np.empty(0, np.int64), *slots]), number


class CountBook(Book):
    """Each ``n`` items of a key, whatever the watermark."""

    spans = True

    def __init__(self, store: Accumulators, windows: CountWindow, emitting: Emitting) -> None:
        super().__init__(store, emitting)
        self._n = windows.n
        self._open: dict[Any, int] = {}

    def restored(self) -> None:
        self._open = {self.store.keys[slot]: slot for slot in self.store.live().tolist()}

    def add(self, batch: Batch) -> tuple[list[Emission], Array | None]:
        first, key = groups(np.zeros(len(batch), np.int64), batch.codes, len(batch.keys))
        keys = [batch.keys[code] for code in batch.codes[first].tolist()]
        opened = np.array([self._open.get(one, -1) for one in keys], np.int64)
        items = np.zeros_like(opened)
        items[opened >= 0] = self.store.col["items"][opened[opened >= 0]]
        ordinal = (items[key] + ranks(key)) // self._n  # of each item's window among those of its key; 0: the open one
        first, window = groups(ordinal, key, len(keys))
        owner = key[first]
        slots = np.where(ordinal[first] == 0, opened[owner], -1)
        new = np.flatnonzero(slots < 0)
        slots[new] = self.store.take([keys[one] for one in owner[new].tolist()])
        self.store.add(Pairs(batch, np.arange(len(batch)), slots[window]))
        full = self.store.col["items"][slots] == self._n
        for slot, one, is_full in zip(slots.tolist(), owner.tolist(), full.tolist(), strict=True):
            if is_full:
                self._open.pop(keys[one], None)
            else:
                self._open[keys[one]] = slot
        filled_by = np.zeros(len(slots), np.int64)
        filled_by[window] = np.arange(len(batch))  # of several items of a window the last stays
        order = np.argsort(filled_by[full])
        return self._close(slots[full][order]), None

    def advance(self, watermark: int) -> list[Emission]:
        self.watermark = max(watermark, self.watermark)
        if watermark != END:
            return []
        self._open.clear()
        return self._close(self.store.by_arrival(self.store.live()))

    def _close(self, slots: Array) -> list[Emission]:
        if not len(slots):
            return []
        col = self.store.col
        results = self.emit(slots, col["low"][slots], col["high"][slots] + 1, np.ones(len(slots), bool))
        self.store.release(slots)
        return [results]


def groups(number: Array, code: Array, codes: int) -> tuple[Array, Array]:
    """Where each distinct pair of ``number`` and ``code`` (below ``codes``) stands first, in that order; and which of them each
    pair is. Shapes (g,) and (n,)."""
    low, high = int(number.min()), int(number.max())
    if (high - low + 1) * codes > _WIDE:
        distinct, number = np.unique(number, return_inverse=True)
        low, high = 0, len(distinct) - 1
    both = (number - low) * codes + code
    size = (high - low + 1) * codes
    if size > max(_DENSE, 4 * len(both)):
        _, first, inverse = np.unique(both, return_index=True, return_inverse=True)
    else:
        where = np.full(size, -1, np.int64)
        where[both[::-1]] = np.arange(len(both) - 1, -1, -1)
        present = np.flatnonzero(where >= 0)
        first = where[present]
        where[present] = np.arange(len(present))
        inverse = where[both]
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return first[order], place[inverse]


def ranks(group: Array) -> Array:
    """How many earlier ones of its group each has."""
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - np.repeat(starts, np.diff(np.append(starts, len(group))))
    return rank
