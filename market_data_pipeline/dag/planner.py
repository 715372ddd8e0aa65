"""Dag -> Plan, pure: which nodes are fused, which edges cross a stream, where singletons run."""

from __future__ import annotations

from market_data_pipeline.component import Component, describe, type_name
from market_data_pipeline.dag.graph import Dag, Edge, Node
from market_data_pipeline.dag.options import ChannelOptions
from market_data_pipeline.dag.plan import EdgeKind, Plan, PlanEdge, PlanNode, Subgraph
from market_data_pipeline.errors import ConfigError, DagValidationError
from market_data_pipeline.operators.base import AsyncOperator
from market_data_pipeline.sources.base import Source

MAX_PARTITIONS = 4096


def compile_dag(dag: Dag, partitions: int, fuse: bool = False) -> Plan:
    """Compile ``dag`` for ``partitions`` hash partitions. ``fuse`` (with one partition, in one process): keyed and
    broadcast edges between operators need no channel either, and options of such a channel have no effect.

    Raises ``DagValidationError`` for a graph that cannot be placed and ``ConfigError`` for P outside 1..4096.
    """
    if not 1 <= partitions <= MAX_PARTITIONS:
        raise ConfigError(f"partitions: {partitions} is not allowed; from 1 to {MAX_PARTITIONS}")
    if fuse and partitions != 1:
        raise ConfigError(f"partitions: {partitions}; edges are fused only with 1")
    order = dag.validate()
    singleton = _singletons(dag, order)
    kinds = {edge: _edge_kind(edge, dag, singleton, fuse) for edge in dag.edges}
    _split_fan_in(dag, order, singleton, kinds)
    groups = _groups(dag, order, kinds)
    subgraphs: list[Subgraph] = []
    homes = 0
    for names in groups:
        home = None
        if singleton[names[0]]:
            home, homes = homes % partitions, homes + 1
        subgraphs.append(Subgraph(names[0], names, home))
    nodes = tuple(_plan_node(dag.nodes[name]) for name in order)
    edges = tuple(_plan_edge(edge, kinds[edge], fuse) for edge in dag.edges)
    return Plan(dag.name, partitions, nodes, edges, tuple(subgraphs))


def _singletons(dag: Dag, order: tuple[str, ...]) -> dict[str, bool]:
    """Whether each node runs once. A node follows its forward inputs; a source that cannot be split starts it."""
    singleton: dict[str, bool] = {}
    for name in order:
        node = dag.nodes[name]
        inputs = [edge for edge in dag.edges if edge.dst == name]
        forward = {singleton[edge.src]: edge.src for edge in inputs if edge.key is None and not edge.broadcast}
        split = isinstance(node.fn, Source) and node.fn.splittable
        if node.kind == "source" and node.singleton is False and not split:
            raise DagValidationError(
                f"source {name!r} cannot be split by partition: with singleton=False every partition would read it all"
            )
        if node.singleton is not None:
            singleton[name] = node.singleton
        elif not inputs:
            singleton[name] = not split
        elif len(forward) == 2:
            raise DagValidationError(
                f"node {name!r} joins {forward[True]!r}, which runs once, with {forward[False]!r}, which runs in every"
                f" partition: give one of the edges a key, or the node singleton=True"
            )
        else:
            singleton[name] = next(iter(forward), False)
        source = forward.get(True)
        if source is not None and not singleton[name]:
            raise DagValidationError(
                f"edge {source} -> {name}: {source!r} runs once and {name!r} in every partition: give the edge a key"
                " or broadcast=True"
            )
    return singleton


def _edge_kind(edge: Edge, dag: Dag, singleton: dict[str, bool], fuse: bool) -> EdgeKind:
    coroutine = "coroutine" in (dag.nodes[edge.src].kind, dag.nodes[edge.dst].kind)
    waits = isinstance(dag.nodes[edge.dst].fn, AsyncOperator)  # it begins a subgraph: its task awaits it
    crosses = edge.key is not None or edge.broadcast or singleton[edge.src] != singleton[edge.dst]
    if coroutine or waits or edge.boundary or (crosses and not fuse):
        return _crossing_kind(edge, singleton)
    return "forward"


def _crossing_kind(edge: Edge, singleton: dict[str, bool]) -> EdgeKind:
    if singleton[edge.dst]:
        return "gather"
    if edge.key is not None:
        return "keyed"
    return "broadcast" if edge.broadcast else "boundary"


def _split_fan_in(dag: Dag, order: tuple[str, ...], singleton: dict[str, bool], kinds: dict[Edge, EdgeKind]) -> None:
    """A task reads one source or streams, never both: where a source's branch meets anything else, the forward edges
    become streams."""
    roots: dict[str, frozenset[str]] = {}
    for name in order:
        inputs = [edge for edge in dag.edges if edge.dst == name]
        forward = [edge for edge in inputs if kinds[edge] == "forward"]
        found = frozenset[str]().union(*(roots[edge.src] for edge in forward))
        if len(forward) < len(inputs):
            found |= {"streams"}
        if dag.nodes[name].kind == "source":
            found = frozenset({f"source {name}"})
        if len(found) > 1:
            for edge in forward:
                kinds[edge] = _crossing_kind(edge, singleton)
            found = frozenset({"streams"})
        roots[name] = found


def _groups(dag: Dag, order: tuple[str, ...], kinds: dict[Edge, EdgeKind]) -> list[tuple[str, ...]]:
    """Nodes joined by forward edges, each group in topological order, groups by their first node."""
    group = {name: name for name in order}

    def find(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for edge in dag.edges:
        if kinds[edge] == "forward":
            a, b = sorted((find(edge.src), find(edge.dst)), key=order.index)
            group[b] = a
    members: dict[str, list[str]] = {}
    for name in order:
        members.setdefault(find(name), []).append(name)
    groups = [tuple(names) for names in members.values()]
    _check_acyclic(dag, kinds, {name: names[0] for names in groups for name in names})
    return groups


def _check_acyclic(dag: Dag, kinds: dict[Edge, EdgeKind], group: dict[str, str]) -> None:
    """Two nodes of one subgraph must not also be joined through another: it would wait for itself when full."""
    quotient = Dag(f"{dag.name} subgraphs")
    for name in dict.fromkeys(group.values()):
        quotient.add_node(Node(name, _nothing))
    for src, dst in dict.fromkeys(
        (group[e.src], group[e.dst]) for e in dag.edges if kinds[e] != "forward" and group[e.src] != group[e.dst]
    ):
        quotient.add_edge(src, dst)
    for edge in dag.edges:
        if kinds[edge] != "forward" and group[edge.src] == group[edge.dst]:
            raise DagValidationError(
                f"edge {edge.src} -> {edge.dst} crosses a stream but both nodes are fused by forward edges: make one"
                " of the parallel edges boundary=True too"
            )
    try:
        quotient.topological_order()
    except DagValidationError as error:
        raise DagValidationError(f"{error}; add boundary=True to a parallel forward edge") from None


def _plan_edge(edge: Edge, kind: EdgeKind, fuse: bool) -> PlanEdge:
    channel = None if edge.channel == ChannelOptions() else edge.channel
    if channel is not None and kind == "forward":
        if not fuse:
            raise DagValidationError(
                f"edge {edge.src} -> {edge.dst} has options for its channel ({channel}), but there is none, its nodes are"
                " fused: give the edge a key or boundary=True"
            )
        channel = None
    return PlanEdge(edge.src, edge.dst, kind, edge.key, edge.output, edge.input, channel)


async def _nothing(in_ch: dict[str, object], out_ch: dict[str, object]) -> None:
    """Stands for a subgraph while the plan is checked for cycles."""


def _plan_node(node: Node) -> PlanNode:
    if isinstance(node.fn, Component):
        return PlanNode(node.name, node.kind, type_name(node.fn), node.fn.config(), node.on_error)
    return PlanNode(node.name, node.kind, "coroutine", {"fn": describe(node.fn)}, node.on_error)
