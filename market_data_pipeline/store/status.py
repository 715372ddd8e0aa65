"""The state of a job as one document, read from the store: what ``/api/status``, ``mdp status`` and the progress table show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from graphlib import TopologicalSorter
from typing import Any

import redis.asyncio

from market_data_pipeline.dag.plan import Plan, PlanEdge, TaskId
from market_data_pipeline.feedback import StoreReading
from market_data_pipeline.frame import END, NO_MARK
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.packing import unpack, unseal
from market_data_pipeline.runtime.flow import TaskFlow
from market_data_pipeline.runtime.latency import LatencyHistogram
from market_data_pipeline.store.control import Control, Heartbeat, JobInfo, Owner
from market_data_pipeline.store.rates import presses_in, rates_in, stores_in
from market_data_pipeline.store.stores import StoreWord, together
from market_data_pipeline.store.trouble import Trouble, grouped


@dataclass
class ChannelStatus:
    """Frames waiting per partition; ``capacity`` is each stream's. ``items``: how many are in all these frames."""

    name: str
    lengths: dict[int, int]
    capacity: int
    items: int = 0

    @property
    def backlog(self) -> int:
        return sum(self.lengths.values())


@dataclass
class JobStatus:
    """Everything at one moment. Counts are committed ones. Watermarks are ns, ``None`` before the first."""

    job: str
    uid: str
    state: str
    error: str
    fingerprint: str
    partitions: int
    tasks: int
    tasks_ended: int
    workers: list[dict[str, Any]]
    owners: dict[int, str]
    channels: list[ChannelStatus]
    nodes: dict[str, dict[str, int]]
    watermarks: dict[str, int | None]
    latency: dict[str, float | None]
    """Seconds from entering the job to the committed sink: ``p50``, ``p90``, ``p99``, ``p99.9``, ``max``."""
    dead_letters: int
    first_dead_letter: str = ""
    """Node, place and reason of the oldest one."""
    sources: list[str] = field(default_factory=list)
    sinks: list[str] = field(default_factory=list)
    has_leader: bool = False
    flows: dict[TaskId, TaskFlow] = field(default_factory=dict)
    """What each task has committed of its progress; left out of the document."""
    rates: dict[str, float] = field(default_factory=dict)
    """Items per second that a source may bring in, as the leader says; without those that are not limited."""
    troubles: list[Trouble] = field(default_factory=list)
    """What tasks wait for after an error of the outside, as their workers said last."""

    stores: dict[str, StoreReading] = field(default_factory=dict)
    """How the stores are, by node, of those that say it."""
    presses: dict[str, list[str]] = field(default_factory=dict)
    """The nodes whose stores press a source that is limited."""
    words: dict[str, StoreWord] = field(default_factory=dict)
    """What each worker says of stores, by its token; left out of the document."""

    def total(self, count: str) -> int:
        """The counter ``count`` summed over all nodes."""
        return sum(counts.get(count, 0) for counts in self.nodes.values())

    @property
    def brought(self) -> dict[str, int]:
        """Items that each source brought in; what it says on its further outputs is none. A coroutine only puts."""
        counts = {name: self.nodes.get(name, {}) for name in self.sources}
        return {name: count.get("in", count.get("out", 0)) for name, count in counts.items()}

    @property
    def items_in(self) -> int:
        """Items that the sources brought in."""
        return sum(self.brought.values())

    @property
    def items_out(self) -> int:
        """Items that the sinks took."""
        return sum(self.nodes.get(name, {}).get("in", 0) for name in self.sinks)

    def problems(self) -> list[str]:
        """Why the job does not work, one sentence each: it failed, nobody leads, partitions without a living owner. A job
        that has finished has none."""
        if self.state == "finished":
            return []
        if self.state != "running":
            return [f"job {self.job!r} is {self.state}{': ' + self.error if self.error else ''}"]
        found = [] if self.has_leader else [f"job {self.job!r}: no coordinator leads"]
        orphans = [partition for partition in range(self.partitions) if not self.owners.get(partition)]
        return found + [f"job {self.job!r}: partition {partition} has no living owner" for partition in orphans]

    def to_dict(self) -> dict[str, Any]:
        document = asdict(replace(self, flows={}, words={}))
        del document["flows"], document["words"]
        document["stores"] = {node: reading._asdict() for node, reading in self.stores.items()}
        document["troubles"] = [trouble._asdict() for trouble in self.troubles]
        for channel in document["channels"]:
            channel["lengths"] = {str(partition): n for partition, n in channel["lengths"].items()}
        document["owners"] = {str(partition): worker for partition, worker in self.owners.items()}
        document["items_in"], document["items_out"] = self.items_in, self.items_out
        return document


async def read_status(
    client: redis.asyncio.Redis, control: Control, job: JobInfo, plan: Plan, capacity: int
) -> JobStatus:
    """Read everything in a few round trips. ``capacity``: frames that fit in a stream whose edge says nothing of it."""
    now = await control.now()
    tasks = list(plan.tasks())
    pipe = client.pipeline(transaction=False)
    for task in tasks:
        pipe.hget(control.keys.task(task), "meta")
    streams = [(edge, p) for edge in plan.channels for p in plan.readers(edge)]
    for edge, partition in streams:
        pipe.xlen(control.keys.stream(edge, partition))
    pipe.xrange(control.keys.dead_letters, count=1)
    pipe.xlen(control.keys.dead_letters)
    pipe.scard(control.keys.ended)
    pipe.exists(control.keys.leader)
    replies = await pipe.execute()
    metas = [_meta(blob) for blob in replies[: len(tasks)]]
    lengths = replies[len(tasks) : len(tasks) + len(streams)]
    flows = {task: TaskFlow.of(meta) for task, meta in zip(tasks, metas, strict=True)}
    workers, owners = await control.workers(), await control.assignment()
    said = now.rates if replies[-1] else ""
    words = {beat.token: beat.stores for beat in workers.values()}
    return JobStatus(
        job.name, job.uid, now.state or "gone", now.error, job.fingerprint, job.partitions, len(tasks), int(replies[-2]),
        _workers(workers, owners), _owners(owners, workers), _channels(streams, lengths, capacity, plan.capacities, flows),
        _nodes(plan, metas), _watermarks(tasks, metas),
        _latency(metas).summary(), int(replies[-3]),
        first_dead_letter=_first_letter(replies[-4]), sources=_entries(plan),
        sinks=[n.name for n in plan.nodes if n.kind == "sink"], has_leader=bool(replies[-1]), flows=flows,
        rates=rates_in(said), presses=presses_in(said), words=words,
        stores=together([*(word.readings for word in words.values()), stores_in(said)]),
        troubles=grouped(trouble for beat in workers.values() for trouble in beat.troubles),
    )  # fmt: skip


def _entries(plan: Plan) -> list[str]:
    fed = {edge.dst for edge in plan.edges}
    return [node.name for node in plan.nodes if node.name not in fed]


def _first_letter(entries: list[Any]) -> str:
    if not entries:
        return ""
    letter = unpack(entries[0][1][b"d"])
    return DeadLetter(letter["node"], letter["reason"], None, letter["where"], letter["traceback"]).told()


def _meta(blob: bytes | None) -> dict[str, Any]:
    return dict(unpack(unseal(blob, "meta"))) if blob else {}


def _workers(workers: dict[str, Heartbeat], owners: dict[int, Owner]) -> list[dict[str, Any]]:
    return [
        {
            "name": beat.worker,
            "pid": beat.pid,
            "host": beat.host,
            "http_port": beat.http_port,
            "pins": list(beat.pins),
            "partitions": sorted(p for p, owner in owners.items() if owner.token == beat.token),
        }
        for beat in workers.values()
    ]


def _owners(owners: dict[int, Owner], workers: dict[str, Heartbeat]) -> dict[int, str]:
    alive = {beat.token for beat in workers.values()}
    return {p: owner.worker if owner.token in alive else "" for p, owner in sorted(owners.items())}


def items_waiting(edge: str, flows: Mapping[TaskId, TaskFlow]) -> int:
    """Items in the streams of ``edge``: what its producers sent less what its consumers used. The tasks are read one after
    the other, so it may be off by what moved meanwhile, but is never below zero. What a frame held that was damaged counts as
    waiting for as long as anything does."""
    return max(0, sum(flow.sent.get(edge, 0) - flow.used.get(edge, 0) for flow in flows.values()))


def _channels(
    streams: Sequence[tuple[PlanEdge, int]],
    lengths: Sequence[int],
    capacity: int,
    own: Mapping[str, int],
    flows: Mapping[TaskId, TaskFlow],
) -> list[ChannelStatus]:
    channels: dict[str, ChannelStatus] = {}
    for (edge, partition), length in zip(streams, lengths, strict=True):
        of = channels.setdefault(edge.name, ChannelStatus(edge.name, {}, own.get(edge.name, capacity)))
        of.lengths[partition] = int(length)
    for (
        channel
    ) in channels.values():  # without a frame there is no item, whatever a frame that was damaged has left uncounted
        channel.items = items_waiting(channel.name, flows) if channel.backlog else 0
    return list(channels.values())


def _nodes(plan: Plan, metas: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """In the order in which items pass them; a plan that was read again has its nodes by name."""
    nodes: dict[str, Counter[str]] = {}
    for meta in metas:
        for name, counts in meta.get("counts", {}).items():
            nodes.setdefault(name, Counter()).update(counts)
    before = {node.name: [edge.src for edge in plan.edges if edge.dst == node.name] for node in plan.nodes}
    order = [name for name in TopologicalSorter(before).static_order() if name in nodes]
    return {name: dict(nodes[name]) for name in dict.fromkeys([*order, *nodes])}


def _watermarks(tasks: Sequence[TaskId], metas: Sequence[dict[str, Any]]) -> dict[str, int | None]:
    lowest: dict[str, int] = {}
    for task, meta in zip(tasks, metas, strict=True):
        mark = meta.get("watermark", NO_MARK)
        lowest[task.subgraph] = min(lowest.get(task.subgraph, END), mark)
    return {name: None if mark == NO_MARK else mark for name, mark in lowest.items()}


def _latency(metas: Sequence[dict[str, Any]]) -> LatencyHistogram:
    histogram = LatencyHistogram()
    for meta in metas:
        histogram.merge(meta.get("latency", {}))
    return histogram
