"""What of a Dag does not go over processes, what of it a plan cannot see, and what of it comes to nothing."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from market_data_pipeline.component import Component
from market_data_pipeline.dag.fields import unknown_fields
from market_data_pipeline.dag.graph import Dag
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.sinks.base import Sink

_NO_VALUES = ("self", "clock")
"""A clock is for tests, and says nothing of what is computed."""


def check_processes(dag: Dag) -> None:
    """Raises ``ConfigError`` for a sink that keeps what it gets in its own process."""
    for node in dag.nodes.values():
        if isinstance(node.fn, Sink) and node.fn.one_process:
            raise ConfigError(
                f"sink {node.name!r}: {type(node.fn).__name__} keeps items in one process, and worker processes would show them"
                " to nobody: run it in process (PipelineRuntime(), DagRuntime), or write to a file or store"
            )


def worries(dag: Dag) -> list[str]:
    """All that a plan does not see, or that is allowed and most likely not meant: a sentence each."""
    return [*unkept(dag), *unheard(dag), *unknown_fields(dag)]


def unheard(dag: Dag) -> list[str]:
    """A sentence for each source and operator that nothing follows."""
    followed = {edge.src for edge in dag.edges}
    return [
        f"{node.kind} {node.name!r}: nothing follows it, so what it gives goes nowhere; end with a sink (Discard() only counts)"
        for node in dag.nodes.values()
        if node.kind in ("source", "operator") and node.name not in followed
    ]


def unkept(dag: Dag) -> list[str]:
    """A sentence for each component with arguments that it does not keep under their names: then plans are equal that were made
    with other values, and a job goes on, or counts as finished, that another one began."""
    return [
        f"{node.kind} {node.name!r}: argument {', '.join(names)} of {type(part).__name__} is not kept"
        f" ({', '.join(f'self.{name}' for name in names)}), so a plan does not tell its values apart; keep it, or"
        " override config()"
        for node in dag.nodes.values()
        for part in _parts(node.fn)
        if (names := _unkept(part))
    ]


def _parts(value: Any) -> Iterator[Component]:
    """``value``, where it is a component, and those that it is made of."""
    if isinstance(value, Component):
        yield value
        for held in vars(value).values():
            yield from _parts(held)
    elif isinstance(value, list | tuple):
        for held in value:
            yield from _parts(held)
    elif isinstance(value, Mapping):
        yield from _parts(list(value.values()))


def _unkept(part: Component) -> list[str]:
    cls = type(part)
    if cls.config is not Component.config or cls.__init__ is object.__init__:
        return []
    names = [name for name in inspect.signature(cls.__init__).parameters if name not in _NO_VALUES]
    return [name for name in names if not hasattr(part, name)]
