"""What may have been meant by a name that is not there, for the end of an error."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest_or_all(name: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?``, or ``there are: a, b`` where nothing is near."""
    names = list(known)
    near = get_close_matches(name, names, 1)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names)}"
