"""What is made once for each list of names of a dictionary-encoded column, not once for each frame that uses it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

Names = tuple[str, ...]

_MOST_NAMES = 500_000


class PerNames(Generic[T]):
    """Remembers what ``make`` made of a tuple of names, by the tuple's identity: to hash or compare a hundred thousand names
    would cost what is to be saved. Keeps those used last, of ``limit`` names (default 500,000) in all."""

    def __init__(self, make: Callable[[Names], T], limit: int = _MOST_NAMES) -> None:
        self._make = make
        self._limit = limit
        self._made: OrderedDict[int, tuple[Names, T]] = OrderedDict()
        self._size = 0

    def __call__(self, names: Names) -> T:
        """``make(names)``, or what it gave before. What it raises comes out, and is not remembered."""
        found = self._made.get(id(names))
        if found is not None:  # it is the same tuple: the one that is kept here cannot have given its id away
            self._made.move_to_end(id(names))
            return found[1]
        made = self._make(names)
        self._made[id(names)] = (names, made)
        self._size += len(names) + 1
        while self._size > self._limit and len(self._made) > 1:
            _, (old, _) = self._made.popitem(last=False)
            self._size -= len(old) + 1
        return made
