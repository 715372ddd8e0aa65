"""A bench's place in a page: what stands between ``<!-- bench:NAME -->`` and ``<!-- /bench:NAME -->``. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence


class NoPlace(Exception):
    """The page has no place, or not exactly one, for a bench."""


def markers(name: str) -> tuple[str, str]:
    """The lines between which the bench ``name`` stands."""
    return f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"


def places(page: str) -> list[str]:
    """The names of all benches that the page has a first marker for, in order."""
    return re.findall(r"^<!-- bench:(\S+) -->$", page, re.MULTILINE)


def check_place(page: str, name: str) -> None:
    """Raises ``NoPlace`` unless each of the markers of ``name`` is there once, as a line of its own, and in order."""
    lines = page.split("\n")
    for marker in markers(name):
        if lines.count(marker) != 1:
            raise NoPlace(f"the line {marker!r} is there {lines.count(marker)} times, not once")
    first, last = map(lines.index, markers(name))
    if first > last:
        raise NoPlace(f"{markers(name)[1]!r} stands before {markers(name)[0]!r}")


def rewritten(page: str, name: str, text: str) -> str:
    """``page`` with ``text`` in the place of ``name``, everything else as it was. Raises ``NoPlace``."""
    check_place(page, name)
    lines = page.split("\n")
    first, last = map(lines.index, markers(name))
    return "\n".join([*lines[: first + 1], *text.strip("\n").split("\n"), *lines[last:]])


def is_tables(text: str) -> bool:
    """Whether ``text`` is Markdown tables and nothing else: header, separator, rows of equal length, an empty line between."""
    tables = [block.split("\n") for block in text.strip("\n").split("\n\n")]
    return all(_is_table(lines) for lines in tables)


def _is_table(lines: Sequence[str]) -> bool:
    if len(lines) < 3 or not all(line.startswith("| ") and line.endswith(" |") for line in lines):
        return False
    cells = [line[2:-2].split(" | ") for line in lines]
    return len({len(row) for row in cells}) == 1 and all(re.fullmatch(r":?-+:?", cell.strip()) for cell in cells[1])
