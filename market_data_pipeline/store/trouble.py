"""What tasks wait for after an error of the outside: pure, from the worker's heartbeat to the status."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

MOST = 5
"""So many texts a heartbeat holds."""
_LONGEST = 300


class Trouble(NamedTuple):
    """``tasks`` tasks, ``task`` first among them, wait because of ``text``."""

    task: str
    text: str
    tasks: int = 1

    def __str__(self) -> str:
        others = f" and {self.tasks - 1} more" if self.tasks > 1 else ""
        return f"waits: task {self.task}{others}: {self.text}"


def grouped(troubles: Iterable[Trouble]) -> list[Trouble]:
    """Equal texts once, with the sum of their tasks, in order of their first tasks. Texts are one line of at most 300
    characters; empty ones are left out."""
    found: dict[str, Trouble] = {}
    for trouble in troubles:
        text = " ".join(trouble.text.split())
        if len(text) > _LONGEST:
            text = f"{text[: _LONGEST - 3]}..."
        if not text:
            continue
        before = found.get(text)
        first = trouble.task if before is None else before.task
        found[text] = Trouble(first, text, trouble.tasks + (0 if before is None else before.tasks))
    return list(found.values())
