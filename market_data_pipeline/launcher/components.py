"""``mdp components``: what there is by name, and what each of them takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from market_data_pipeline.catalog.arguments import argument_type, arguments_of, default_text, docstring, summary
from market_data_pipeline.catalog.registry import KINDS, ComponentKind, Entry, Registry, registry
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.terminal import visible

_Rows = Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Described:
    """One of them. ``problem``: why it cannot be used; then nothing is known of what it takes. ``arguments``: name, type,
    default (empty where it must be given)."""

    entry: Entry
    summary: str = ""
    text: str = ""
    arguments: tuple[tuple[str, str, str], ...] = ()
    problem: str | None = None

    def row(self) -> tuple[str, ...]:
        """Kind, name, origin, and what it is for."""
        entry = self.entry
        text = f"cannot be used: {self.problem.removeprefix(f'{entry}: ')}" if self.problem else self.summary
        return entry.kind, entry.name, entry.origin, text

    def to_dict(self, whole: bool) -> dict[str, Any]:
        """As plain data. ``whole``: with what it takes."""
        entry = self.entry
        short = {"kind": entry.kind, "name": entry.name, "origin": entry.origin, "summary": self.summary}
        if self.problem:
            short["problem"] = self.problem
        if not whole:
            return short
        arguments = [
            {"name": name, "type": of, "default": default, "required": not default}
            for name, of, default in self.arguments
        ]
        return {**short, "arguments": arguments, "text": self.text}


def components(kind: str | None, name: str | None, known: Registry | None = None) -> list[Described]:
    """All of them, those of ``kind``, or the one of that ``name`` (two, where two give it). Raises ``ConfigError`` with the
    nearest one where there is none."""
    known = known or registry()
    wanted = _kind(kind, known) if kind is not None else None
    if wanted is not None and name is not None and name not in known.names(wanted):
        raise ConfigError(f"no {wanted} {name!r}{known.hint(wanted, name)}")
    entries = [one for one in known.entries() if wanted in (None, one.kind) and name in (None, one.name)]
    return [_looked_at(entry, known) for entry in entries]


def _kind(kind: str, known: Registry) -> ComponentKind:
    for one in KINDS:
        if kind == one:
            return one
    of_that_name = [one for one in KINDS if kind in known.names(one)]
    near = get_close_matches(kind, KINDS, 1)
    if near:
        hint = f"did you mean {near[0]!r}?"
    elif of_that_name:
        hint = f"did you mean 'mdp components {of_that_name[0]} {kind}'?"
    else:
        hint = f"there are: {', '.join(KINDS)}"
    raise ConfigError(f"no kind {kind!r}; {hint}")


def _looked_at(entry: Entry, known: Registry) -> Described:
    try:
        factory = known.get(entry.kind, entry.name)
        arguments = tuple((one.name, argument_type(one), default_text(one)) for one in arguments_of(factory))
    except (ConfigError, TypeError, ValueError) as error:  # the last two: a signature that nobody can read
        return Described(entry, problem=str(error))
    return Described(entry, summary(factory), docstring(factory), arguments)


def print_list(found: Sequence[Described], say: Callable[[str], None]) -> None:
    """For people: a table on a terminal, lines of columns elsewhere."""
    rows, before = [("kind", "name", "from", "what it is")], None
    for one in found:
        twice = one.problem is not None and one.problem == before
        rows.append((*one.row()[:-1], "cannot be used: as said above") if twice else one.row())
        before = one.problem
    _print(rows, say)


def print_one(found: Described, say: Callable[[str], None]) -> None:
    """For people: what it takes, and its docstring. Raises ``ConfigError`` for one that cannot be used."""
    if found.problem:
        raise ConfigError(found.problem)
    say(visible(str(found.entry)))
    say("")
    if found.arguments:
        _print([("argument", "type", "default"), *((n, t, d or "(needed)") for n, t, d in found.arguments)], say)
        say("")
    console = Console()
    if console.is_terminal:
        for block in _blocks(found.text):
            console.print(Text(visible(block, lines=True)))
    else:
        say(visible(found.text, lines=True))


def _blocks(text: str) -> Iterator[str]:
    """The paragraphs of ``text``, each as one line, which a terminal of any width can show; lists, tables and code as they
    stand."""
    for paragraph in re.split(r"(\n{2,})", text):
        plain = all(re.match(r"[\w`(]", line) for line in paragraph.splitlines()) and "  " not in paragraph
        yield paragraph.replace("\n", " ") if plain else paragraph


def _print(rows: _Rows, say: Callable[[str], None]) -> None:
    console = Console()
    rows = [tuple(map(visible, row)) for row in rows]
    if console.is_terminal:
        console.print(_table(rows))
        return
    for line in _lines(rows):
        say(line)


def _table(rows: _Rows) -> Table:
    table = Table(*(Column(name, overflow="fold") for name in rows[0]), box=None, pad_edge=False)
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    return table


def _lines(rows: _Rows) -> Iterable[str]:
    """Columns side by side, however long the last one is."""
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    for row in rows:
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
