"""Where one is in a Redis stream, and whether entries went before they were read. Pure.

A stream says how many entries were ever added and how many it has; a reader keeps how many it has passed. What went from the
stream beyond that is lost.

===================================== ==================================== =========================
read up to 5-0, 5 passed              added 10, has 6-0 to 10-0            nothing lost, all trimmed was read
the same                              added 10, has 8-0 to 10-0            2 lost (6-0, 7-0)
the same                              added 3, last is 3-0                 another stream: made anew, or rolled back
===================================== ==================================== =========================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

START = "0-0"


class Place(NamedTuple):
    """Behind the entry ``id``; ``passed``: how many entries the stream had up to there, ``None`` where nobody knows."""

    id: str
    passed: int | None


class StreamState(NamedTuple):
    """What the server says of a stream. ``first`` is empty where it has no entries."""

    added: int
    length: int
    first: str
    last: str

    @property
    def gone(self) -> int:
        """Entries that were added and are not there any more."""
        return self.added - self.length


NO_STREAM = StreamState(0, 0, "", START)


class Loss(NamedTuple):
    """Entries ``first`` to ``last``, counted from the stream's beginning, ``missing`` of them; 0 where nobody knows. ``anew``:
    the stream is not the one that was read."""

    first: int
    last: int
    missing: int
    anew: bool


def stream_state(info: Mapping[str, Any]) -> StreamState:
    """From the answer to ``XINFO STREAM``. Raises ``KeyError`` for a server before 7.0, which does not count."""
    first = info["first-entry"]
    return StreamState(
        int(info["entries-added"]),
        int(info["length"]),
        _text(first[0]) if first else "",
        _text(info["last-generated-id"]),
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def parsed_id(text: str) -> tuple[int, int]:
    """``ms-number`` for comparing; a bare ``ms`` is its number 0. Raises ``ValueError``."""
    ms, _, number = text.partition("-")
    if not (ms.isascii() and ms.isdigit()) or (number and not (number.isascii() and number.isdigit())):
        raise ValueError(f"{text!r} is not an entry's id")
    return int(ms), int(number or 0)


def beginning(state: StreamState, start: str) -> Place:
    """Where ``start`` (``earliest``, ``latest``, or an id) is."""
    if start == "earliest":
        return Place(START, state.gone)
    if start == "latest":
        return Place(state.last, state.added)
    return known(Place(start, None), state)


def known(place: Place, state: StreamState) -> Place:
    """``place`` with the number that follows from being at the end: entries that were deleted one by one are forgotten."""
    return Place(place.id, state.added) if place.id == state.last else place


def loss(place: Place, state: StreamState) -> Loss | None:
    """What went between ``place`` and the first entry that is there; ``None``: nothing that is known."""
    here = parsed_id(place.id)
    if parsed_id(state.last) < here or (place.passed or 0) > state.added:
        return Loss(0, 0, 0, True)
    if place.passed is None or state.gone <= place.passed or parsed_id(state.last) == here:
        return None
    if state.first and parsed_id(state.first) <= here:
        return None
    return Loss(place.passed + 1, state.gone, state.gone - place.passed, False)


def behind(found: Loss, state: StreamState) -> Place:
    """Where to go on after ``found``: before the first entry that is there."""
    if found.anew or not state.first:
        return Place(START if found.anew else state.last, state.gone)
    ms, number = parsed_id(state.first)
    return Place(f"{ms}-{number - 1}" if number else f"{ms - 1}-{2**64 - 1}", state.gone)
