"""Names of fields that no item has: what sources and operators say of their items, followed along the edges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from market_data_pipeline.dag.graph import Dag, Edge
from market_data_pipeline.hints import nearest_or_all
from market_data_pipeline.operators.base import Operator
from market_data_pipeline.records import FieldNames
from market_data_pipeline.sources.base import Source


def unknown_fields(dag: Dag) -> list[str]:
    """A sentence for each name that an edge or an operator has for a field, where it is certain that no item there has it. What
    functions return, and what components of others give, nobody knows: behind them nothing is said."""
    found: list[str] = []
    taken: dict[str, dict[str, FieldNames]] = {}
    for name in dag.validate():
        edges = [edge for edge in dag.edges if edge.dst == name]
        carried = [(edge, _given(dag.nodes[edge.src].fn, edge.output, taken[edge.src])) for edge in edges]
        taken[name] = {edge.input: _all(carried, edge.input) for edge in edges}
        for edge, fields in carried:
            found += [f"edge {edge.src} -> {name}: the key {why}" for why in _not_in(fields, (edge.key,))]
        fn = dag.nodes[name].fn
        if isinstance(fn, Operator) and _says(fn, "fields_read"):
            for port, fields in taken[name].items():
                found += [f"operator {name!r}: {why}" for why in _not_in(fields, fn.fields_read(port))]
    return found


def _given(fn: Any, output: str, taken: Mapping[str, FieldNames]) -> FieldNames:
    if not _says(fn, "fields_given"):
        return None
    if isinstance(fn, Source):
        return fn.fields_given(output)
    given: FieldNames = fn.fields_given(taken.get(""), output)
    return given


def _says(fn: Any, method: str) -> bool:
    """Whether the class of ``fn`` says it itself: one that is derived from it may do anything."""
    return isinstance(fn, Source | Operator) and method in vars(type(fn))


def _all(carried: list[tuple[Edge, FieldNames]], port: str) -> FieldNames:
    """What the items of all edges to one input may have."""
    together: frozenset[str] = frozenset()
    for edge, fields in carried:
        if edge.input == port:
            if fields is None:
                return None
            together |= fields
    return together


def _not_in(fields: FieldNames, names: tuple[str | None, ...]) -> Iterator[str]:
    if fields is None:
        return
    for name in dict.fromkeys(names):
        if name is not None and name not in fields:
            yield f"{name!r} is a field that no item there has; {nearest_or_all(name, sorted(fields))}"
