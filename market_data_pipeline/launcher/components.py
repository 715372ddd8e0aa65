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

from market_data_pipeline.catalog.arguments import argument_type, default_text, docstring, summary
from market_data_pipeline.catalog.nested import nested_in
from market_data_pipeline.catalog.parameters import Accepted, accepted_by
from market_data_pipeline.catalog.registry import KINDS, ComponentKind, Entry, Factory, Registry, registry
from market_data_pipeline.catalog.schema import makes
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.terminal import visible

_AS_IT_STANDS = re.compile(r"^(\s|[=|]|[*-] |>>>)", re.MULTILINE)
_Rows = Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Described:
    """One of them. ``problem``: why it cannot be used; then nothing is known of what it takes. ``arguments``: name, type,
    default (empty where it must be given). ``named``: how a file names what an argument is made of."""

    entry: Entry
    summary: str = ""
    text: str = ""
    arguments: tuple[tuple[str, str, str], ...] = ()
    problem: str | None = None
    named: tuple[str, ...] = ()

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
    return [_looked_at(entry, known, whole=name is not None) for entry in entries]


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


def _looked_at(entry: Entry, known: Registry, whole: bool) -> Described:
    try:
        factory = known.get(entry.kind, entry.name)
        accepted = accepted_by(factory)
    except ConfigError as error:
        return Described(entry, problem=str(error))
    arguments = tuple((one.name, argument_type(one), default_text(one)) for one in accepted.arguments)
    named = tuple(_named(accepted, known)) if whole else ()
    return Described(entry, summary(factory), docstring(factory), arguments, named=named)


def _named(accepted: Accepted, known: Registry) -> Iterator[str]:
    """A line for each argument that is made of components of its own: how a file names them."""
    for argument, shape in accepted.shapes.items():
        for one in nested_in(shape):
            fitting = [name for name in known.names(one.kind) if makes(_known(known, one.kind, name), one.bases)]
            if fitting:
                yield f"{argument}: {one.words} in a file; NAME: {', '.join(fitting)}"


def _known(known: Registry, kind: ComponentKind, name: str) -> Factory | None:
    try:
        return known.get(kind, name)
    except ConfigError:
        return None


def print_list(found: Sequence[Described], say: Callable[[str], None]) -> None:
    """For people: a table on a terminal, lines of columns elsewhere."""
    rows: list[tuple[str, ...]] = [("kind", "name", "from", "what it is")]
    before = None
    for one in found:
        twice = one.problem is not None and one.problem == before
        rows.append((*one.row()[:-1], "cannot be used: as said above") if twice else one.row())
        before = one.problem
    _print(rows, say)


def print_one(found: Described, say: Callable[[str], None]) -> None:
    """For people: what it takes, and its docstring. Raises ``ConfigError`` for one that cannot be used."""
    if found.problem:
        raise ConfigError(f"{found.entry}: {found.problem.removeprefix(f'{found.entry}: ')}")
    say(visible(str(found.entry)))
    say("")
    if found.arguments:
        _print([("argument", "type", "default"), *((n, t, d or "(needed)") for n, t, d in found.arguments)], say)
        say("")
    for line in found.named:
        say(visible(line))
    if found.named:
        say("")
    console = Console()
    if console.is_terminal:
        console.print(Text(visible(in_lines_of_any_width(found.text), lines=True)))
    else:
        say(visible(found.text, lines=True))


def in_lines_of_any_width(text: str) -> str:
    """``text`` with each paragraph as one line, which a terminal wraps; lists, tables and code stay as they stand."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(one if _AS_IT_STANDS.search(one) else one.replace("\n", " ") for one in paragraphs)


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
