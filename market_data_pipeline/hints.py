"""What may have been meant by a name that is not there, for the end of an error."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_LONGEST_NAME, _MOST_NAMES = 100, 1000
"""Comparing takes time by the letter and by the name, and what is compared may be anything that a file says."""


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or nothing where nothing is near."""
    near = _near(name, list(known))
    return f"; did you mean {near!r}?" if near else ""


def nearest_or_all(name: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?``, or ``there are: a, b`` where nothing is near."""
    names = list(known)
    near = _near(name, names)
    return f"did you mean {near!r}?" if near else f"there are: {', '.join(names)}"


def _near(name: str, names: list[str]) -> str:
    near = get_close_matches(name, names[:_MOST_NAMES], 1) if len(name) <= _LONGEST_NAME else []
    return near[0] if near else ""
