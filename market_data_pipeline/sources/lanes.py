"""Several logs read as one source, pure: what is handed out next, so that event time goes on in step.

A log (a Kafka partition, a Redis stream) has an order of its own; between logs there is none. One that is read faster than
another would push the watermark past what the other still holds. So items are merged by event time, and nothing is handed out
beyond the newest item of the log that is furthest behind. A log that has been read to its end holds nobody back.

=========================================== ==========================================
A: 1, 5, 9 (more to come)  B: 2, 3 (end)    1 A, 2 B, 3 B, 5 A, 9 A
A: 1, 5, 9 (more to come)  B: 2, 3 (more)   1 A, 2 B, 3 B; 5 and 9 wait for B
A: 5, 1, 9 (out of order)  B: 3, 6 (end)    3 B, 5 A, 1 A, 6 B, 9 A: A's order is kept
=========================================== ==========================================
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from itertools import islice
from operator import itemgetter
from typing import Any, Generic, NamedTuple, TypeVar

L = TypeVar("L", bound=Hashable)

_NO_TIME = -(2**63)
_Entry = tuple[int, Any, Any]
"""The largest time in its lane so far, the place behind the item, the item."""


class Taken(NamedTuple, Generic[L]):
    """What comes next, in order, and the place behind the last of it in each lane that gave some."""

    items: list[Any]
    places: dict[L, Any]


class _Lane:
    __slots__ = ("caught_up", "entries", "heard", "newest")

    def __init__(self) -> None:
        self.entries: deque[_Entry] = deque()
        self.newest = _NO_TIME
        self.heard = False
        self.caught_up = False


class Lanes(Generic[L]):
    """``merge``: whether to keep the lanes in step; else everything is handed out as it came. ``most``: a lane that holds so
    many items is :meth:`full`."""

    def __init__(self, names: Iterable[L], merge: bool, most: int) -> None:
        self._lanes = {name: _Lane() for name in names}
        self._merge = merge
        self._most = most

    def open(self, name: L) -> None:
        """One more lane."""
        self._lanes.setdefault(name, _Lane())

    def add(self, name: L, item: Any, place: Any, time: int | None) -> None:
        """``item`` came from ``name``; ``place`` is where to go on behind it; ``time`` is ``None`` where it has none."""
        lane = self._lanes[name]
        if time is not None and time > lane.newest:
            lane.newest = time
        lane.heard, lane.caught_up = True, False
        lane.entries.append((lane.newest, place, item))

    def caught_up(self, name: L) -> None:
        """``name`` has nothing more for now."""
        self._lanes[name].caught_up = True

    def full(self, name: L) -> bool:
        """Whether ``name`` holds so much that it should not be read."""
        return len(self._lanes[name].entries) >= self._most

    @property
    def empty(self) -> bool:
        return not any(lane.entries for lane in self._lanes.values())

    def take(self, limit: int) -> Taken[L]:
        """At most ``limit`` items."""
        bound = self._bound()
        if bound is None:
            return Taken([], {})
        candidates: list[tuple[int, Any, Any, L]] = []
        for name, lane in self._lanes.items():
            for key, place, item in islice(lane.entries, limit):
                if key > bound:
                    break
                candidates.append((key, place, item, name))
        if self._merge:
            candidates.sort(key=itemgetter(0))  # stable: a lane's own order stays
        places: dict[L, Any] = {}
        for _, place, _, name in candidates[:limit]:
            self._lanes[name].entries.popleft()
            places[name] = place
        return Taken([item for _, _, item, _ in candidates[:limit]], places)

    def _bound(self) -> int | None:
        """The latest time that may be handed out; ``None`` where a lane that may be behind was not heard of yet."""
        waited_for = [lane for lane in self._lanes.values() if not lane.caught_up]
        if not self._merge or not waited_for:
            return 2**63
        return min(lane.newest for lane in waited_for) if all(lane.heard for lane in waited_for) else None
