"""The plan: a compiled Dag. Data only, no code; equal in every process that compiled the same program."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from market_data_pipeline.channels.base import Watermark
from market_data_pipeline.dag.options import ChannelOptions

EdgeKind = Literal["forward", "keyed", "broadcast", "boundary", "gather"]
"""How items cross an edge. ``gather``: from every partition to the one where a singleton runs."""


@dataclass(frozen=True)
class PlanNode:
    """A node: its kind, the type and configuration it was declared with, and its policy."""

    name: str
    kind: str
    type: str
    config: dict[str, Any]
    on_error: str


@dataclass(frozen=True)
class PlanEdge:
    """An edge. ``channel``: what its streams have of their own, ``None`` where all is as the settings say."""

    src: str
    dst: str
    kind: EdgeKind
    key: str | None = None
    output: str = ""
    input: str = ""
    channel: ChannelOptions | None = None

    @property
    def name(self) -> str:
        return f"{self.src}.{self.dst}"

    @property
    def path(self) -> PlanEdge:
        """The edge without its channel's options: what frames in flight depend on."""
        return replace(self, channel=None)


@dataclass(frozen=True)
class Subgraph:
    """Nodes joined by forward edges, in topological order. ``home``: the partition where a singleton runs, or None."""

    name: str
    nodes: tuple[str, ...]
    home: int | None = None


@dataclass(frozen=True)
class TaskId:
    """(subgraph, partition): the unit of placement, state and recovery."""

    subgraph: str
    partition: int

    def __str__(self) -> str:
        return f"{self.subgraph}/{self.partition}"


@dataclass(frozen=True)
class Plan:
    """Subgraphs, edges, P. ``channels`` are the edges that cross a stream."""

    name: str
    partitions: int
    nodes: tuple[PlanNode, ...]
    edges: tuple[PlanEdge, ...]
    subgraphs: tuple[Subgraph, ...]

    @cached_property
    def node(self) -> dict[str, PlanNode]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def subgraph_of(self) -> dict[str, Subgraph]:
        """The subgraph of each node."""
        return {name: subgraph for subgraph in self.subgraphs for name in subgraph.nodes}

    @cached_property
    def channels(self) -> tuple[PlanEdge, ...]:
        return tuple(edge for edge in self.edges if edge.kind != "forward")

    @cached_property
    def capacities(self) -> dict[str, int]:
        """Frames that fit in a stream, by the names of the channels that have a capacity of their own."""
        own = {edge.name: edge.channel.capacity for edge in self.channels if edge.channel is not None}
        return {name: capacity for name, capacity in own.items() if capacity is not None}

    def tasks(self) -> Iterator[TaskId]:
        """Every task of the job."""
        for subgraph in self.subgraphs:
            for partition in self.partitions_of(subgraph):
                yield TaskId(subgraph.name, partition)

    def partitions_of(self, subgraph: Subgraph) -> range:
        """The partitions in which a subgraph runs."""
        return range(self.partitions) if subgraph.home is None else range(subgraph.home, subgraph.home + 1)

    def inputs(self, subgraph: Subgraph) -> list[PlanEdge]:
        return [edge for edge in self.channels if edge.dst in subgraph.nodes]

    def outputs(self, subgraph: Subgraph) -> list[PlanEdge]:
        return [edge for edge in self.channels if edge.src in subgraph.nodes]

    def readers(self, edge: PlanEdge) -> range:
        """The partitions in which ``edge`` is read: where it crosses, it has a stream in each."""
        return self.partitions_of(self.subgraph_of[edge.dst])

    def origins(self, edge: PlanEdge, partition: int) -> tuple[str, ...]:
        """The tasks that write to ``edge``'s stream in ``partition``."""
        subgraph = self.subgraph_of[edge.src]
        if edge.kind == "boundary":
            return (str(TaskId(subgraph.name, partition)),)
        return tuple(str(TaskId(subgraph.name, p)) for p in self.partitions_of(subgraph))

    def targets(self, edge: PlanEdge, partition: int) -> range:
        """The partitions to which the task in ``partition`` may write on ``edge``."""
        if edge.kind == "boundary":
            return range(partition, partition + 1)
        return self.readers(edge)

    def behind(self, name: str, absorbing: Collection[str] = ()) -> frozenset[str]:
        """The nodes that the items of ``name`` come to; not those behind a node that is in ``absorbing``."""
        found: set[str] = set()
        going = [name]
        while going:
            node = going.pop()
            nexts = {edge.dst for edge in self.edges if edge.src == node and node not in absorbing} - found
            found |= nexts
            going += nexts
        return frozenset(found)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "partitions": self.partitions,
            "nodes": {node.name: _without_name(node) for node in self.nodes},
            "edges": {edge.name: _edge_dict(edge) for edge in self.edges},
            "subgraphs": {s.name: {"nodes": list(s.nodes), "home": s.home} for s in self.subgraphs},
        }

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


def plan_from_dict(data: dict[str, Any]) -> Plan:
    """The plan whose :meth:`Plan.to_dict` gave ``data``."""
    return Plan(
        data["name"],
        data["partitions"],
        tuple(PlanNode(name, **node) for name, node in data["nodes"].items()),
        tuple(_edge_from(name, edge) for name, edge in data["edges"].items()),
        tuple(Subgraph(name, tuple(s["nodes"]), s["home"]) for name, s in data["subgraphs"].items()),
    )


def _without_name(node: PlanNode) -> dict[str, Any]:
    return {"kind": node.kind, "type": node.type, "config": node.config, "on_error": node.on_error}


def _edge_dict(edge: PlanEdge) -> dict[str, Any]:
    """``channel`` only where it is given, so that options that nobody uses change no fingerprint."""
    data = {"kind": edge.kind, "key": edge.key, "output": edge.output, "input": edge.input}
    if edge.channel is None:
        return data
    levels = edge.channel.levels
    own = {
        "capacity": edge.channel.capacity,
        "bytes": edge.channel.bytes,
        "levels": None if levels is None else {"high": levels.high, "low": levels.low},
    }
    return {**data, "channel": {name: value for name, value in own.items() if value is not None}}


def _edge_from(name: str, data: dict[str, Any]) -> PlanEdge:
    src, dst = name.split(".")
    own = data.get("channel")
    if own is None:
        return PlanEdge(src, dst, **data)
    levels = Watermark(**own["levels"]) if "levels" in own else None
    channel = ChannelOptions(own.get("capacity"), levels, own.get("bytes"))
    return PlanEdge(src, dst, data["kind"], data["key"], data["output"], data["input"], channel)


_LEFT_OUT = ("channel",)
"""Keys that are not there where nothing is given: that is no missing part, and the other side's value says more."""


def first_difference(ours: Any, theirs: Any, path: str = "plan") -> str | None:
    """Where two plans (as dicts) first differ, as ``path: ours X, theirs Y``; ``None`` when they are equal."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted({*ours, *theirs}):
            if (key not in ours or key not in theirs) and key not in _LEFT_OUT:
                return f"{path}.{key}: only in {'ours' if key in ours else 'theirs'}"
            found = first_difference(ours.get(key), theirs.get(key), f"{path}.{key}")
            if found:
                return found
        return None
    return None if ours == theirs else f"{path}: ours {ours!r}, theirs {theirs!r}"
