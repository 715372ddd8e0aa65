"""How a run is doing, in the same words wherever it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from market_data_pipeline.runtime.local import DagRuntime
from market_data_pipeline.store.status import JobStatus

RunState = Literal["running", "finished", "failed", "stopped"]


@dataclass(frozen=True)
class RunStatus:
    """A run at one moment. ``state``: ``finished`` when all sources have come to their end, ``stopped`` when they were asked to
    end before that. ``error``: why it failed, or what :meth:`stop` cut short; empty where all is well.

    ``nodes``: counters by node that are not zero (``in``, ``out``, ``duplicate``, ``late``, ``dead_letter`` and others); over
    processes the committed ones, a quarter of a second old. ``items_in``: what the sources brought in; ``items_out``: what the
    sinks took. ``channels``: how much waits in each channel, in frames; in items next to a coroutine node in this process.
    ``first_dead_letter``: the first item that could not be used: node, place and reason; empty where there is none.
    """

    name: str
    where: str
    """``in process``, or the number of workers: ``2 workers``."""
    state: RunState
    error: str = ""
    nodes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    items_in: int = 0
    items_out: int = 0
    dead_letters: int = 0
    channels: Mapping[str, int] = field(default_factory=dict)
    first_dead_letter: str = ""


def status_of_job(name: str, where: str, state: RunState, error: str, job: JobStatus | None) -> RunStatus:
    """Of a job over processes; ``None`` before anybody has looked at it."""
    if job is None:
        return RunStatus(name, where, state, error)
    channels = {channel.name: channel.backlog for channel in job.channels}
    return RunStatus(
        name, where, state, error, _told(job.nodes), job.items_in, job.items_out, job.dead_letters, channels,
        job.first_dead_letter,
    )  # fmt: skip


def status_of_dag(name: str, where: str, state: RunState, error: str, runtime: DagRuntime) -> RunStatus:
    """Of a Dag in this process, now. What a coroutine node was given and has put is told by its channels."""
    plan = runtime.plan
    nodes = {node.name: Counter(runtime.counts.get(node.name, {})) for node in plan.nodes}
    for edge in plan.channels:
        channel = runtime.channel(edge)
        if plan.node[edge.src].kind == "coroutine":
            nodes[edge.src]["out"] += channel.puts
        if plan.node[edge.dst].kind == "coroutine":
            nodes[edge.dst]["in"] += channel.puts - len(channel)
    fed = {edge.dst for edge in plan.edges}
    brought = [nodes[node.name] for node in plan.nodes if node.name not in fed]
    return RunStatus(
        name,
        where,
        state,
        error,
        _told(nodes),
        sum(counts.get("in", counts.get("out", 0)) for counts in brought),
        sum(nodes[node.name]["in"] for node in plan.nodes if node.kind == "sink"),
        sum(counts["dead_letter"] for counts in nodes.values()),
        {edge.name: len(runtime.channel(edge)) for edge in plan.channels},
        runtime.dead_letters[0].told() if runtime.dead_letters else "",
    )


def _told(nodes: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    return {node: {name: n for name, n in counts.items() if n} for node, counts in nodes.items()}
