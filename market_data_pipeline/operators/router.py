"""Routers: each item to one or several named outputs.

=============================================== ==========================================================
``Router({"big": lambda t: t.size > 100})``     sizes 50, 200: 50 to the usual output, 200 to ``big``
``... every=True, default=None``                an item goes to every output that wants it; 50 is counted (``unmatched``)
``TableRouter("symbol", {"A": ["x", "y"]})``    A to ``x`` and ``y``, B to the usual output
=============================================== ==========================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import Columns, Dictionary, Frame, to_rows
from market_data_pipeline.operators.base import Operator
from market_data_pipeline.operators.field_names import kept
from market_data_pipeline.operators.keys import check_field
from market_data_pipeline.operators.stateless import apply, check_function
from market_data_pipeline.records import field

UNMATCHED = "unmatched"


def _named(outputs: Iterable[str]) -> tuple[str, ...]:
    """The outputs beside the usual one, each once. Raises ``ConfigError`` for what is no name."""
    names = tuple(dict.fromkeys(outputs))
    for name in names:
        if not isinstance(name, str):
            raise ConfigError(f"output: {name!r} is not a name")
    return tuple(name for name in names if name)


class _Routes(Operator):
    """What both have in common: ``default`` takes what matches nothing; ``None`` drops and counts it."""

    default: str | None

    def required_outputs(self) -> tuple[str, ...]:
        return self.outputs

    def _send(self, parts: Mapping[str, list[Any]]) -> list[Frame]:
        return [Frame(items, port=port) for port, items in parts.items() if items]


class Router(_Routes):
    """Sends an item to the first output whose predicate holds, or with ``every`` to all of them.

    ``routes``: output -> predicate of the item. ``default``: the output for the rest, ``""`` the usual one, ``None`` none:
    such items are counted (``unmatched``) and gone. Every named output must have an edge. An item at which a predicate
    raises goes the way of the node's error policy. No state.
    """

    accepts: ClassVar[Literal["rows"]] = "rows"

    def __init__(
        self, routes: Mapping[str, Callable[[Any], Any]], default: str | None = "", every: bool = False
    ) -> None:
        if not isinstance(routes, Mapping) or not routes:
            raise ConfigError("routes: give at least one output with its predicate")
        for output, wants in routes.items():
            check_function(wants, f"routes: {output!r}")
        self.routes = dict(routes)
        self.default = default
        self.every = every
        self.outputs = _named([*self.routes, *([] if default is None else [default])])

    def _targets(self, item: Any) -> list[str]:
        if self.every:
            return [output for output, wants in self.routes.items() if wants(item)]
        return [
            output
            for output in [next((o for o, wants in self.routes.items() if wants(item)), None)]
            if output is not None
        ]

    fields_given = kept

    def process(self, frame: Frame) -> Iterable[Frame]:
        parts: dict[str, list[Any]] = {}
        for item, targets in apply(self._targets, to_rows(frame.items), self.ctx.failed):
            if not targets and self.default is None:
                self.ctx.count(UNMATCHED)
            for target in targets or ([] if self.default is None else [self.default]):
                parts.setdefault(target, []).append(item)
        return self._send(parts)


class TableRouter(_Routes):
    """Sends an item to the outputs that a table has for the value of one field (``symbol``, say).

    ``table``: value -> output, or several. ``default`` as for :class:`Router`. On columns the table is looked up once per
    distinct symbol. An item without the field goes to the dead letters. No state.
    """

    accepts: ClassVar[Literal["any"]] = "any"

    def __init__(self, by: str, table: Mapping[Any, str | Sequence[str]], default: str | None = "") -> None:
        if not isinstance(table, Mapping) or not table:
            raise ConfigError("table: give at least one value with its output")
        self.by = check_field(by, "by")
        self.table = {value: (to,) if isinstance(to, str) else tuple(to) for value, to in table.items()}
        self.default = default
        self.outputs = _named([*(o for to in self.table.values() for o in to), *([] if default is None else [default])])
        self._rest = () if default is None else (default,)

    def fields_read(self, input: str = "") -> tuple[str, ...]:  # noqa: A002 - what it is
        return (self.by,)

    fields_given = kept

    def process(self, frame: Frame) -> Iterable[Frame]:
        items = frame.items
        if isinstance(items, Columns) and isinstance(items.data.get(self.by), Dictionary):
            return self._columns(items, items.dictionary(self.by))
        parts: dict[str, list[Any]] = {}
        for item, targets in apply(self._of_item, to_rows(items), self.ctx.failed):
            if not targets:
                self.ctx.count(UNMATCHED)
            for target in targets:
                parts.setdefault(target, []).append(item)
        return self._send(parts)

    def _of_item(self, item: Any) -> tuple[str, ...]:
        return self.table.get(field(item, self.by), self._rest)

    def _columns(self, items: Columns, column: Dictionary) -> list[Frame]:
        targets = [self.table.get(name, self._rest) for name in column.names]
        matched = np.array([bool(to) for to in targets], bool)[column.codes]
        self.ctx.count(UNMATCHED, int(len(items) - matched.sum()))
        frames = []
        for port in dict.fromkeys(port for to in targets for port in to):
            wanted = np.array([port in to for to in targets], bool)[column.codes]
            if wanted.any():
                frames.append(Frame(items if wanted.all() else items.take(wanted), port=port))
        return frames
