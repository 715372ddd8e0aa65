"""Dag, Node, Edge: what the user declares. Validation finds every kind of mistake before anything runs."""

from __future__ import annotations

import inspect
import re
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from market_data_pipeline.dag.options import ChannelOptions, Retries, checked_type
from market_data_pipeline.errors import ConfigError, DagValidationError
from market_data_pipeline.feedback import StoreFeedback
from market_data_pipeline.hints import nearest_or_all
from market_data_pipeline.operators.base import ON_ERROR, OnError, Operator
from market_data_pipeline.sinks.base import Sink
from market_data_pipeline.sources.base import Source

NodeFn = Callable[[dict[str, Any], dict[str, Any]], Awaitable[None]]
"""A coroutine node: ``async fn(in_ch, out_ch)``; both map neighbour names to channels."""

NodeKind = Literal["source", "operator", "sink", "coroutine"]
_TYPES: dict[str, tuple[type, str]] = {
    "retries": (Retries, "retries=Retries(attempts=5)"),
    "singleton": (bool, "singleton=True"),
    "channel": (ChannelOptions, "channel=ChannelOptions(capacity=256)"),
}
"""Of what is given beside a node or edge, and how it is written."""
NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
"""What a node may be called."""


def checked_name(of: str, name: str) -> str:
    """``name``, which may be wrong still where a job is made of it. Raises :class:`DagValidationError` for what is no text."""
    if not isinstance(name, str):
        raise DagValidationError(f"{of}({name!r:.60}): the name is to be text, such as {of}('bars')")
    return name


@dataclass(frozen=True)
class Node:
    """One step: a name and a Source, Operator, Sink or coroutine function.

    ``singleton``: run once in the whole job instead of once per partition; ``None`` lets the planner decide (a source
    that cannot be split is a singleton, and so is what follows it by forward edges). ``on_error``: what happens to an
    item that the node cannot use (a row that a source cannot read, an item on which an operator raises, one that a sink's
    store refuses): ``dead_letter`` (default), ``skip`` (counted, ``skipped``) or ``fail`` (the job fails). ``retries``: of a
    source's or a sink's outside; ``None``: as the runtime does it. ``feedback``: whom to ask how a sink's store is, beside the
    sink itself.
    """

    name: str
    fn: Source | Operator | Sink | NodeFn
    singleton: bool | None = None
    on_error: OnError = "dead_letter"
    retries: Retries | None = None
    feedback: StoreFeedback | None = None

    @property
    def kind(self) -> NodeKind:
        """By what ``fn`` is."""
        if isinstance(self.fn, Source):
            return "source"
        if isinstance(self.fn, Operator):
            return "operator"
        return "sink" if isinstance(self.fn, Sink) else "coroutine"


def _check_node(given: object) -> None:
    if not isinstance(given, Node):
        made = given.__name__ if isinstance(given, type) else type(given).__name__
        raise DagValidationError(f"add_node takes a Node, not {made}: add_node(Node('a_name', {made}(...)))")


def _check_end(given: object) -> None:
    if not isinstance(given, str):
        name = given.name if isinstance(given, Node) else "a_name"
        raise DagValidationError(
            f"add_edge takes the names of nodes, not {type(given).__name__}: write {name!r} instead"
        )


@dataclass(frozen=True)
class Edge:
    """``src -> dst``. At most one of: ``key`` (repartition by this field), ``broadcast`` (to all partitions),
    ``boundary`` (same partition, but through a stream). ``output`` and ``input`` name a port of an operator that has several:
    which of its results the edge carries (``"late"``), as which of its inputs they arrive (``"right"``). ``channel``: its
    capacity and levels, where they are not those of the settings."""

    src: str
    dst: str
    key: str | None = None
    broadcast: bool = False
    boundary: bool = False
    output: str = ""
    input: str = ""
    channel: ChannelOptions | None = None


class Dag:
    """A graph of nodes and edges, built in any order, immutable once validated."""

    def __init__(self, name: str = "dag") -> None:
        self.name = checked_name("Dag", name)
        self._nodes: list[Node] = []
        self._edges: list[Edge] = []
        self._order: tuple[str, ...] | None = None

    @property
    def nodes(self) -> dict[str, Node]:
        """Nodes by name, in order of declaration."""
        return {node.name: node for node in self._nodes}

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Edges, in order of declaration."""
        return tuple(self._edges)

    def add_node(self, node: Node) -> Node:
        """Add ``node``; mistakes in it are reported by :meth:`validate`. Returns the node."""
        self._changeable()
        _check_node(node)
        self._nodes.append(node)
        return node

    def add_edge(
        self,
        src: str,
        dst: str,
        key: str | None = None,
        boundary: bool = False,
        broadcast: bool = False,
        output: str = "",
        input: str = "",  # noqa: A002 - what it is
        channel: ChannelOptions | None = None,
    ) -> Edge:
        """Join two nodes by name, at the usual ports or at named ones (see :class:`Edge`). Returns the edge."""
        self._changeable()
        _check_end(src)
        _check_end(dst)
        edge = Edge(src, dst, key, broadcast, boundary, output, input, channel)
        self._edges.append(edge)
        return edge

    @property
    def absorbing(self) -> frozenset[str]:
        """The operators that keep what they cannot hand on to themselves, so that pressure ends at them."""
        return frozenset(n.name for n in self._nodes if isinstance(n.fn, Operator) and n.fn.absorbs)

    def upstream(self, name: str) -> list[str]:
        """The nodes that feed ``name``."""
        return [edge.src for edge in self._edges if edge.dst == name]

    def downstream(self, name: str) -> list[str]:
        """The nodes that ``name`` feeds."""
        return [edge.dst for edge in self._edges if edge.src == name]

    def validate(self) -> tuple[str, ...]:
        """Check everything; returns the node names in topological order (Kahn 1962, ties in order of declaration).

        Raises :class:`DagValidationError`: no nodes, duplicate or bad name, unknown node, duplicate edge, cycle (as a
        path), a node that nothing feeds, a node that no edge reaches, a source with an input, a sink with an output.
        """
        if self._order is None:
            self._check_nodes()
            self._check_edges()
            order = self.topological_order()
            self._check_flow()
            self._order = order
        return self._order

    def _changeable(self) -> None:
        if self._order is not None:
            raise DagValidationError(f"dag {self.name!r} is already validated and cannot be changed; build a new one")

    def _check_nodes(self) -> None:
        if not self._nodes:
            raise DagValidationError(f"dag {self.name!r} has no nodes")
        seen: set[str] = set()
        for node in self._nodes:
            if not isinstance(node.name, str) or not NODE_NAME.fullmatch(node.name):
                raise DagValidationError(f"node name {node.name!r} must match {NODE_NAME.pattern}")
            if node.name in seen:
                raise DagValidationError(f"duplicate node {node.name!r}: every node needs a name of its own")
            seen.add(node.name)
            if node.on_error not in ON_ERROR:
                raise DagValidationError(
                    f"node {node.name!r}: on_error={node.on_error!r}; allowed: {', '.join(ON_ERROR)}"
                )
            self._check_fn(node)
            self._check_types(f"node {node.name!r}", retries=node.retries, singleton=node.singleton)
            if node.retries is not None and node.kind not in ("source", "sink"):
                raise DagValidationError(
                    f"{node.kind} {node.name!r}: retries are for sources and sinks; AsyncMap has an argument of that name"
                )
            if node.feedback is not None and not callable(getattr(node.feedback, "reading", None)):
                raise DagValidationError(
                    f"node {node.name!r}: feedback {node.feedback!r:.100} has no method reading, as a StoreFeedback has"
                )

    def _check_types(self, where: str, **given: Any) -> None:
        try:
            for name, value in given.items():
                checked_type(name, value, *_TYPES[name])
        except ConfigError as error:
            raise DagValidationError(f"{where}: {error}") from None

    def _check_fn(self, node: Node) -> None:
        fn = node.fn
        if isinstance(fn, type):
            raise DagValidationError(
                f"node {node.name!r}: {fn.__name__} is a class; give an instance: {fn.__name__}(...)"
            )
        if node.kind == "coroutine" and not is_coroutine_function(fn):
            raise DagValidationError(
                f"node {node.name!r}: {fn!r} is neither a Source, Operator or Sink nor an 'async def fn(in_ch, out_ch)'"
            )
        reading = getattr(fn, "reading", None)
        if node.kind == "sink" and inspect.ismethod(reading) and not inspect.iscoroutinefunction(reading):
            raise DagValidationError(
                f"node {node.name!r}: {reading.__qualname__} is no 'async def', so nobody could ask it (see StoreFeedback);"
                " write 'async def reading(self)', or give it another name"
            )

    def _check_edges(self) -> None:
        names = list(self.nodes)
        seen: set[tuple[str, str]] = set()
        for edge in self._edges:
            for end in (edge.src, edge.dst):
                if end not in names:
                    hint = nearest_or_all(end, names)
                    raise DagValidationError(f"edge {edge.src} -> {edge.dst}: unknown node {end!r}; {hint}")
            if (edge.src, edge.dst) in seen:
                raise DagValidationError(f"duplicate edge {edge.src} -> {edge.dst}")
            seen.add((edge.src, edge.dst))
            if edge.key is not None and not isinstance(edge.key, str):
                raise DagValidationError(f"edge {edge.src} -> {edge.dst}: key {edge.key!r} is not the name of a field")
            self._check_types(f"edge {edge.src} -> {edge.dst}", channel=edge.channel)
            if (edge.key is not None) + edge.broadcast + edge.boundary > 1:
                raise DagValidationError(f"edge {edge.src} -> {edge.dst}: choose one of key, broadcast, boundary")
            self._check_ports(edge)
        for node in self._nodes:
            self._check_ports_used(node)

    def _check_ports(self, edge: Edge) -> None:
        src, dst = self.nodes[edge.src].fn, self.nodes[edge.dst].fn
        outputs = ("", *src.outputs) if isinstance(src, Operator | Source) else ("",)
        inputs = (dst.inputs or ("",)) if isinstance(dst, Operator) else ("",)
        for what, name, allowed in (("output", edge.output, outputs), ("input", edge.input, inputs)):
            if name not in allowed:
                end = edge.src if what == "output" else edge.dst
                raise DagValidationError(
                    f"edge {edge.src} -> {edge.dst}: node {end!r} has no {what} {name!r}; it has:"
                    f" {', '.join(repr(port) for port in allowed)}"
                )

    def _check_ports_used(self, node: Node) -> None:
        if not isinstance(node.fn, Operator):
            return
        fed = {edge.input for edge in self._edges if edge.dst == node.name}
        for port in node.fn.inputs:
            if port not in fed:
                raise DagValidationError(f"node {node.name!r}: no edge leads to its input {port!r}")
        taken = {edge.output for edge in self._edges if edge.src == node.name}
        for port in node.fn.required_outputs():
            if port not in taken:
                raise DagValidationError(
                    f"node {node.name!r} sends items to its output {port!r}, and no edge takes them: add_edge({node.name!r},"
                    f" ..., output={port!r})"
                )

    def topological_order(self) -> tuple[str, ...]:
        """Node names, each behind its inputs. Raises :class:`DagValidationError` showing a cycle where there is one."""
        waiting = {name: len(self.upstream(name)) for name in self.nodes}
        ready = deque(name for name, count in waiting.items() if count == 0)
        order: list[str] = []
        while ready:
            name = ready.popleft()
            order.append(name)
            for dst in self.downstream(name):
                waiting[dst] -= 1
                if waiting[dst] == 0:
                    ready.append(dst)
        if len(order) < len(waiting):
            path = self._cycle({name for name in waiting if name not in order})
            raise DagValidationError(f"dag {self.name!r} has a cycle: {' -> '.join(path)}")
        return tuple(order)

    def _cycle(self, within: set[str]) -> list[str]:
        """A cycle among ``within``, where every node has a predecessor: walk back until one is met again."""
        name = next(node for node in self.nodes if node in within)
        path = [name]
        while True:
            name = next(src for src in self.upstream(name) if src in within)
            if name in path:
                cycle = [name, *reversed(path[path.index(name) :])]
                start = cycle.index(min(cycle[:-1], key=list(self.nodes).index))
                return [*cycle[start:-1], *cycle[:start], cycle[start]]
            path.append(name)

    def _check_flow(self) -> None:
        for node in self._nodes:
            fed, feeds = self.upstream(node.name), self.downstream(node.name)
            if node.kind == "source" and fed:
                raise DagValidationError(f"source {node.name!r} cannot have an input, but {fed[0]!r} feeds it")
            if node.kind == "sink" and feeds:
                raise DagValidationError(f"sink {node.name!r} cannot have an output, but it feeds {feeds[0]!r}")
            if node.kind in ("operator", "sink") and not fed:
                raise DagValidationError(f"{node.kind} {node.name!r} has no source: no edge leads to it")
            if not fed and not feeds and len(self._nodes) > 1:
                raise DagValidationError(f"node {node.name!r} is unreachable: no edge joins it to the others")


def is_coroutine_function(fn: object) -> bool:
    """Whether calling ``fn`` gives a coroutine: an ``async def``, a partial of one, or an object with async call."""
    inner = getattr(fn, "func", fn)
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(getattr(inner, "__call__", None))  # noqa: B004
