"""Sessions: windows that grow with their items, and become one where an item stands between two.

=================================================== ================================================================
``Session("5s")``, times in s                       emitted
=================================================== ================================================================
A 0, A 5; W = 10                                    nothing: an item at 10 would still belong to it
W = 11                                              A ``[0, 10)`` with 2 items
=================================================== ================================================================

With ``late="revise"``, or early emissions, a session that was emitted may later begin earlier, or be swallowed by another.
For a table keyed by (key, ``ts_open``) to be right, what was emitted under the old ``ts_open`` is taken back: a row with the
next ``revision``, ``is_final`` and ``retracted`` true, and ``None`` for every aggregation. The session that took it over has
``revision`` = largest of its parts + 1, and comes out when it is due. A retraction is emitted at the next advance of the
watermark, before everything else of it (with early emissions by count: at the latest before the next one).

============================================================ =======================================================
the same, ``late="revise"``, ``allowed_lateness="20s"``      emitted
============================================================ =======================================================
A 0, A 8; W = 14                                             ``[0, 5)`` and ``[8, 13)``, revision 0, not final
A 4; W = 15                                                  ``[8, 13)`` retracted, revision 1; ``[0, 13)`` revision 1
W = 34                                                       ``[0, 13)`` revision 2, final
============================================================ =======================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from market_data_pipeline.frame import END, NO_MARK, Array
from market_data_pipeline.operators.accumulators import NOT_SHOWN, Accumulators
from market_data_pipeline.operators.aggregations import Pairs
from market_data_pipeline.operators.window_book import Book, Emitting
from market_data_pipeline.operators.window_input import Batch, as_key
from market_data_pipeline.operators.window_results import Emission
from market_data_pipeline.operators.windows import Session
from market_data_pipeline.packing import pack, unpack
from market_data_pipeline.records import MAX_TIME

_RETRACTED = "retracted"


class _Open:
    """A session as ``add`` needs it at hand; everything else is in its slot."""

    __slots__ = ("first", "items", "last", "slot")

    def __init__(self, first: int, last: int, slot: int = -1, items: int = 0) -> None:
        self.first, self.last, self.slot, self.items = first, last, slot, items


class SessionBook(Book):
    """Sessions by key. Items are placed one by one, and taken into their slots together, up to where something must be
    emitted or become one."""

    spans = True

    def __init__(self, store: Accumulators, windows: Session, emitting: Emitting) -> None:
        super().__init__(store, emitting)
        self._gap = windows.gap
        self._open: dict[Any, list[_Open]] = {}
        self._next_end = MAX_TIME
        """No session closes before the watermark is behind this."""
        self._retracted: list[tuple[Any, int, int, int]] = []
        """Key, start, end, revision of what must be taken back."""
        self._retracted_stored: list[tuple[Any, int, int, int]] = []

    def restored(self) -> None:
        col, keys = self.store.col, self.store.keys
        for slot in self.store.live().tolist():
            opened = _Open(int(col["low"][slot]), int(col["high"][slot]), slot, int(col["items"][slot]))
            self._open.setdefault(keys[slot], []).append(opened)
            self._next_end = min(self._next_end, opened.last + self._gap)
        for sessions in self._open.values():
            sessions.sort(key=lambda session: session.first)

    def snapshot(self) -> dict[str, bytes | None]:
        delta = super().snapshot()
        if self._retracted != self._retracted_stored:
            delta[_RETRACTED] = pack(self._retracted) if self._retracted else None
            self._retracted_stored = list(self._retracted)
        return delta

    def restore(self, state: Mapping[str, bytes], watermark: int) -> None:
        super().restore(state, watermark)
        if _RETRACTED in state:
            self._retracted = [(as_key(key), *rest) for key, *rest in unpack(state[_RETRACTED])]
            self._retracted_stored = list(self._retracted)

    def add(self, batch: Batch) -> tuple[list[Emission], Array | None]:
        closed = self.emitting.lateness.closed_by(self.watermark)
        late = np.zeros(len(batch), bool)
        placed = _Placed(batch)
        results: list[Emission] = []
        codes, times = batch.codes.tolist(), batch.ts.tolist()
        for at, (code, ts) in enumerate(zip(codes, times, strict=True)):
            sessions = self._open.setdefault(batch.keys[code], [])
            session = self._session(sessions, batch.keys[code], ts, closed, placed)
            if session is None:
                late[at] = True
                if not sessions:
                    del self._open[batch.keys[code]]
                continue
            placed.at.append(at)
            placed.sessions.append(session)
            session.items += 1
            if self.emitting.items is not None and session.items % self.emitting.items == 0:
                self._flush(placed)
                results += self._emit_early(session)
        self._flush(placed)
        return results, late if late.any() else None

    def _session(self, sessions: list[_Open], key: Any, ts: int, closed: int, placed: _Placed) -> _Open | None:
        """The session of an item at ``ts``, grown to hold it; ``None`` if the item is late."""
        gap = self._gap
        near = [one for one in sessions if one.first - gap <= ts <= one.last + gap]
        if not near:
            if ts + gap < closed:
                return None
            made = _Open(ts, ts)
            placed.new.append((key, made))
            sessions.append(made)
            sessions.sort(key=lambda session: session.first)
            self._next_end = min(self._next_end, ts + gap)
            return made
        session = near[0]
        if len(near) > 1:
            self._flush(placed)
            self._unite(session, near[1])
            sessions.remove(near[1])
        session.first, session.last = min(session.first, ts), max(session.last, ts)
        return session

    def _flush(self, placed: _Placed) -> None:
        """Take what was placed into its slots; new sessions get theirs here, all at once."""
        if not placed.at:
            return
        made = self.store.take([key for key, _ in placed.new]).tolist()
        for (_, session), slot in zip(placed.new, made, strict=True):
            session.slot = slot
        slots = np.fromiter((session.slot for session in placed.sessions), np.int64, len(placed.at))
        self.store.add(Pairs(placed.batch, np.array(placed.at, np.int64), slots))
        placed.clear()

    def _unite(self, session: _Open, other: _Open) -> None:
        """``other``, the later one, becomes part of ``session``."""
        col = self.store.col
        revision, shown = int(col["revision"][other.slot]), int(col["shown"][other.slot])
        if shown != NOT_SHOWN:
            self._retracted.append((self.store.keys[other.slot], shown, other.last + self._gap, revision))
        self.store.merge(session.slot, other.slot)
        session.last = max(session.last, other.last)
        session.items += other.items

    def _emit_early(self, session: _Open) -> list[Emission]:
        slots = np.array([session.slot], np.int64)
        if (self.watermark != NO_MARK and session.last + self._gap < self.watermark) or not self.store.col["dirty"][
            slots[0]
        ]:
            return []
        return self._emit(slots, np.zeros(1, bool))

    def _emit(self, slots: Array, final: Array) -> list[Emission]:
        """What must be taken back, then ``slots``."""
        col = self.store.col
        lows, highs = col["low"][slots], col["high"][slots]
        moved = np.flatnonzero((col["shown"][slots] != NOT_SHOWN) & (col["shown"][slots] != lows))
        for at in moved.tolist():
            slot = int(slots[at])
            start, end = int(col["shown"][slot]), int(highs[at]) + self._gap
            self._retracted.append((self.store.keys[slot], start, end, int(col["revision"][slot])))
        results = self._take_back()
        col["shown"][slots] = lows
        emitted = self.emit(slots, lows, highs + self._gap, final)
        if self.emitting.repeats:
            emitted.retracted = np.zeros(len(emitted.keys), bool)
        return [*results, emitted]

    def _take_back(self) -> list[Emission]:
        taken, self._retracted = self._retracted, []
        if not taken:
            return []
        keys, opens, closes, revision = zip(*taken, strict=True)
        yes = np.ones(len(taken), bool)
        nothing: list[Array | list[Any]] = [[None] * len(taken) for _ in self.store.aggregations]
        return [
            Emission(
                list(keys),
                np.array(opens, np.int64),
                np.array(closes, np.int64),
                np.array(revision, np.int64),
                yes,
                nothing,
                yes,
            )
        ]

    def advance(self, watermark: int) -> list[Emission]:
        before, self.watermark = self.watermark, max(watermark, self.watermark)
        if not self.emitting.repeats and self.watermark <= self._next_end:
            return []
        slots = self.store.live()
        col = self.store.col
        ends = col["high"][slots] + self._gap
        if self.watermark == END:
            closing, due = np.ones(len(slots), bool), np.zeros(len(slots), bool)
        else:
            closing = ends < self.emitting.lateness.closed_by(self.watermark)
            due = (ends < self.watermark) | self.due_early(col["low"][slots], before, self.watermark)
            due &= col["dirty"][slots] & ~closing
        self._next_end = int(ends[~closing].min()) if not closing.all() else MAX_TIME
        chosen = np.flatnonzero(closing | due)
        chosen = chosen[np.lexsort((col["seq"][slots[chosen]], col["low"][slots[chosen]]))]
        if not len(chosen):
            return self._take_back()
        results = self._emit(slots[chosen], closing[chosen])
        self._forget(slots[closing])
        return results

    def _forget(self, slots: Array) -> None:
        for slot in slots.tolist():
            key = self.store.keys[slot]
            left = [session for session in self._open[key] if session.slot != slot]
            if left:
                self._open[key] = left
            else:
                del self._open[key]
        self.store.release(slots)


class _Placed:
    """Items of a batch (by number) with their sessions, not taken into their slots yet; and sessions without a slot."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.clear()

    def clear(self) -> None:
        self.at: list[int] = []
        self.sessions: list[_Open] = []
        self.new: list[tuple[Any, _Open]] = []
