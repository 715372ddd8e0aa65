"""How carefully a task works after its process died on an unchanged head. No I/O.

A frame that raises is no danger: the operator's error policy takes its item. One that kills the process (a crash in native
code, memory, ``os._exit``) is found by what the dead left on the server:

* the first start at a commit takes all there is;
* the second takes one frame a commit, so that the head is soon the dangerous one;
* from the third on the frame is fed in ranges of items, each marked on the server before it is fed. The next start divides
  the range in which the last one died, until it is one item;
* an item at which three processes in a row died goes to the dead letters, in the commit of its frame.

Only the operators are watched, not the sinks: whoever is killed while a database blocks has not met a bad item.
"""

from __future__ import annotations

from typing import NamedTuple

from market_data_pipeline.runtime.contract import Attempts

DEATHS = 3
"""Deaths in a row at one item before it is given up."""
POISON = f"the process died {DEATHS} times at this item"
"""The reason that the dead letter of such an item gives."""
_RANGES = 128


class Range(NamedTuple):
    """Items ``[start, stop)`` of a frame. ``poison``: not to be fed."""

    start: int
    stop: int
    poison: bool = False


class Suspicion:
    """What one task knows of its predecessors' deaths. Begins unsuspecting; a new owner asks the server once."""

    def __init__(self, steps: int = 16) -> None:
        """``steps``: how many frames a step may have held, so that this many single ones are past the danger."""
        self._steps = steps
        self.ask = True
        """Whether the server must be asked before the next step with data."""
        self._attempts = Attempts()
        self._careful = 0

    def learned(self, attempts: Attempts) -> None:
        """The server's answer."""
        self._attempts = attempts
        if attempts.starts > 1:
            self._careful = self._steps
        self.ask = False  # until the next commit: to ask is to begin

    def committed(self) -> None:
        """A step that used input succeeded: nobody died at what comes next, yet."""
        self._attempts = Attempts()
        self._careful = max(0, self._careful - 1)
        self.ask = self._careful > 0

    def reloaded(self) -> None:
        """The task loads again, maybe from an earlier commit: what was learned may be of another."""
        self.ask = self.ask or self.careful

    @property
    def careful(self) -> bool:
        """One frame a commit."""
        return self._careful > 0

    @property
    def marking(self) -> bool:
        """Feed in marked ranges."""
        return self._attempts.starts > 2

    @property
    def starts(self) -> int:
        return self._attempts.starts

    def ranges(self, unit: str, items: int) -> list[Range]:
        """How to feed ``items`` items of the frame ``unit``."""
        suspect = self._suspect(unit, items)
        if suspect is None:
            return _divide(0, items)
        start, stop = suspect
        middle = [part._replace(poison=self.poison(unit, part)) for part in _divide(start, stop)]
        return [*_whole(0, start), *middle, *_whole(stop, items)]

    def poison(self, unit: str, part: Range) -> bool:
        """Whether too many processes died at this one item."""
        attempts = self._attempts
        return part.stop - part.start == 1 and attempts.suspect == place_of(unit, part) and attempts.deaths >= DEATHS

    def _suspect(self, unit: str, items: int) -> tuple[int, int] | None:
        found, _, bounds = self._attempts.suspect.rpartition(" ")
        start, _, stop = bounds.partition("-")
        if found != unit or not start.isdigit() or not stop.isdigit():
            return None
        first, last = int(start), int(stop)
        return (first, last) if first < last <= items else None


def place_of(unit: str, part: Range) -> str:
    """The mark of a range."""
    return f"{unit} {part.start}-{part.stop}"


def _whole(start: int, stop: int) -> list[Range]:
    return [Range(start, stop)] if start < stop else []


def _divide(start: int, stop: int) -> list[Range]:
    size = max(1, -(-(stop - start) // _RANGES))
    return [Range(first, min(first + size, stop)) for first in range(start, stop, size)]
