"""How many workers a job should have: observations in, a signal out. No clock, no socket.

A *stage* is a subgraph that reads streams. Its backlog is what waits in them, and ``backlog / target`` workers are asked for.
That is right as long as workers are what a job lacks. They are not when it waits for the outside, because

* the outside is shared: ten workers that wait for one locked table wait as long as one;
* a job has as many tasks as its partitions give it, however many workers run them. Waiting is something that all tasks of
  one process do side by side, so more processes add no waiting places, only computing.

So a stage *waits* when its tasks spend at least half of their busy time waiting for the outside, and that (``runtime/flow.py``)
is the time in a call of a sink less what the process computed meanwhile. It is small where several tasks share one busy
process, even if each call is long: then another worker helps. It becomes large once workers have less to do than the outside
has; then the number holds. So the number grows up to where the outside is the bottleneck, and rests there.

A slow stage fills the streams before it, up to the source, so a long backlog need not be the fault of the stage that has it.
The *bottleneck* is the last stage whose inputs are full (above the low level, where a producer that paused goes on) while its
outputs are not. A stage with full outputs is held by whoever reads them, and is as much bound by a sink as that one is. A
CPU-bound stage before a waiting one is therefore no reason for workers while the streams between them are full, and is one
when they are not. Where no stream is full, each stage stands for itself.

A stage whose sink's store says that its own queue is full (from its high level on, until it is at the low one) waits for the
outside, too, though it takes its items quickly and no stream before it is full.

The signal to scale on (``scale_frames``) is the backlog of all stages that workers can help, or, if it is larger, the whole
backlog cut off at ``target x workers``: a stage that is bound by a sink can keep workers, but never ask for more. Of two
branches one of which waits, the other is helped. A stage that runs in one partition counts for one worker at most.

Rates and shares are of the last ten seconds. Counters go back when the server is rolled back; a task's counter that is smaller
than it was counts as no progress, never as less than none.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from types import MappingProxyType
from typing import NamedTuple

from market_data_pipeline.channels.base import Watermark
from market_data_pipeline.dag.plan import Plan, TaskId
from market_data_pipeline.feedback import StoreReading
from market_data_pipeline.runtime.flow import TaskFlow

DEFAULT_TARGET = 20
"""Frames that a worker should have waiting, where nobody says otherwise."""
WINDOW_SECONDS = 10.0
_WAITING_SHARE = 0.5
_STUCK_SECONDS = 5.0
"""A stage that may wait for the outside and has not moved for so long, though frames wait, is taken to do just that."""


@dataclass(frozen=True)
class Observation:
    """The job at one moment. ``now`` is monotonic seconds, ``lengths`` frames by edge and partition, ``items`` by edge,
    ``brought``: items that came in since the job began, by source; ``stores``: what the stores of nodes say, where they do."""

    now: float
    running: bool
    workers: int
    lengths: Mapping[str, Mapping[int, int]]
    items: Mapping[str, int]
    flows: Mapping[TaskId, TaskFlow]
    brought: Mapping[str, int] = field(default_factory=dict)
    stores: Mapping[str, StoreReading] = field(default_factory=dict)


@dataclass(frozen=True)
class Signal:
    """Of one stage, or of the whole job (``stage`` None). All zero and one worker when the job does not run.

    ``drain_seconds`` is None when something waits and nothing moves; of a job it is that of its slowest stage.
    ``hot_partition`` holds the share ``hot_partition_share`` of the backlog, the largest, over the last ten seconds; None where
    there was no backlog, or one partition. What waits in one partition no number of workers can divide.
    """

    stage: str | None
    backlog_frames: int
    backlog_items: int
    items_per_second: float
    drain_seconds: float | None
    workers: int
    partitions: int
    desired_replicas: int
    sink_bound: bool
    hot_partition: int | None
    hot_partition_share: float
    scale_frames: int


class _Moved(NamedTuple):
    """What a stage did between two observations: items used, seconds."""

    items: int = 0
    busy: float = 0.0
    outside: float = 0.0
    paused: float = 0.0


class _Stage(NamedTuple):
    """``followers``: the stages that read its outputs, with the edges to them."""

    name: str
    inputs: tuple[str, ...]
    followers: tuple[tuple[str, str], ...]
    partitions: int
    may_wait: bool


class _Step(NamedTuple):
    seen: Observation
    moved: Mapping[str, _Moved]


class Autoscaler:
    """Remembers the observations of the last ten seconds. ``low``: the low level of a stream, in frames, where ``levels`` has
    none for its edge."""

    def __init__(self, plan: Plan, low: int, levels: Mapping[str, Watermark] = MappingProxyType({})) -> None:
        self._plan = plan
        self._low = {edge.name: levels[edge.name].low if edge.name in levels else low for edge in plan.channels}
        self._stages: dict[str, _Stage] = {}
        for subgraph in plan.subgraphs:
            inputs = tuple(edge.name for edge in plan.inputs(subgraph))
            followers = tuple((edge.name, plan.subgraph_of[edge.dst].name) for edge in plan.outputs(subgraph))
            may_wait = any(plan.node[name].kind in ("sink", "coroutine") for name in subgraph.nodes)
            if inputs:
                count = len(plan.partitions_of(subgraph))
                self._stages[subgraph.name] = _Stage(subgraph.name, inputs, followers, count, may_wait)
        self._steps: deque[_Step] = deque()
        self._share: dict[str, float] = {}
        self._moved_at: dict[str, float] = {}
        self._full_stores: set[str] = set()

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages, in topological order."""
        return tuple(self._stages)

    @property
    def seen_at(self) -> float | None:
        """When the last observation was made; None before the first."""
        return self._steps[-1].seen.now if self._steps else None

    def observe(self, seen: Observation) -> None:
        """Take the next observation."""
        self._full_stores = {
            node for node, said in seen.stores.items()
            if said.position >= 1 or (said.position > 0 and node in self._full_stores)
        }  # fmt: skip
        before = self._steps[-1].seen.flows if self._steps else seen.flows
        moved = {name: _moved(before, seen.flows, name) for name in self._stages}
        self._steps.append(_Step(seen, moved))
        while len(self._steps) > 2 and self._steps[1].seen.now <= seen.now - WINDOW_SECONDS:
            self._steps.popleft()
        for name in self._stages:
            if len(self._steps) == 1 or moved[name].busy > 0 or not self._frames(name):
                self._moved_at[name] = seen.now
            busy, outside = self._sum(name, "busy"), self._sum(name, "outside")
            if len(self._steps) == 1:  # nothing better is known than how it was since the job began
                mine = [flow for task, flow in seen.flows.items() if task.subgraph == name]
                busy, outside = sum(flow.busy for flow in mine), sum(flow.outside for flow in mine)
            if busy > 0:
                self._share[name] = outside / busy

    def waiting(self) -> frozenset[str]:
        """The stages that hold the job back because they themselves wait for the outside."""
        return frozenset(name for name in self._stages if not self._holders(name) and self._sink_bound(name))

    def signal(self, stage: str | None = None, target: int = DEFAULT_TARGET) -> Signal:
        """The signal of ``stage`` (one of :attr:`stages`) or of the job; ``target`` frames should wait for each worker. There
        must have been an observation."""
        names = self.stages if stage is None else (stage,)
        partitions = self._plan.partitions if stage is None else self._stages[stage].partitions
        seen = self._steps[-1].seen
        if not seen.running:
            return Signal(stage, 0, 0, 0.0, 0.0, seen.workers, partitions, 1, False, None, 0.0, 0)
        frames, items = sum(map(self._frames, names)), sum(map(self._items, names))
        drains = [self._drain(name) for name in names]
        drain = None if None in drains else max((d for d in drains if d is not None), default=0.0)
        helped = sum(self._counted(name, target) for name in names if not self._sink_bound(name))
        counted = sum(self._counted(name, target) for name in names)
        scale = max(helped, min(counted, target * max(1, seen.workers)))
        desired = min(max(1, math.ceil(scale / target)), partitions)
        sink_bound = self._job_is_sink_bound() if stage is None else self._sink_bound(stage)
        hot, share = self._hottest(names)
        return Signal(
            stage, frames, items, sum(map(self._rate, names)), drain, seen.workers, partitions, desired, sink_bound,
            hot, share, scale,
        )  # fmt: skip

    def _frames(self, name: str) -> int:
        lengths = self._steps[-1].seen.lengths
        return sum(sum(lengths.get(edge, {}).values()) for edge in self._stages[name].inputs)

    def _counted(self, name: str, target: int) -> int:
        frames = self._frames(name)
        return min(frames, target) if self._stages[name].partitions == 1 else frames

    def _items(self, name: str) -> int:
        return sum(self._steps[-1].seen.items.get(edge, 0) for edge in self._stages[name].inputs)

    def _sum(self, name: str, what: str) -> float:
        """Of all that a stage did in the window; the first observation only says where it begins."""
        return sum((step.moved[name]._asdict()[what] for step in list(self._steps)[1:]), 0.0)

    def _rate(self, name: str) -> float:
        seconds = self._steps[-1].seen.now - self._steps[0].seen.now
        return self._sum(name, "items") / seconds if seconds > 0 else 0.0

    def _drain(self, name: str) -> float | None:
        items, rate = self._items(name), self._rate(name)
        if not items:
            return 0.0
        return items / rate if rate > 0 else None

    def _mean_lengths(self, edge: str) -> dict[int, float]:
        partitions = self._steps[-1].seen.lengths.get(edge, {})
        return {p: fmean(step.seen.lengths.get(edge, {}).get(p, 0) for step in self._steps) for p in partitions}

    def _full(self, edge: str) -> bool:
        return max(self._mean_lengths(edge).values(), default=0.0) > self._low[edge]

    def _waits(self, name: str) -> bool:
        """Whether its tasks spend their time waiting for the outside. Before anything is known, a stage that may do so is
        taken to do it: its first step is under way, and how long it takes is what it must show first."""
        seen = self._steps[-1].seen
        if self._store_is_full(name):
            return True
        told_nothing = name not in self._share or seen.now - self._moved_at[name] >= _STUCK_SECONDS
        if told_nothing and self._stages[name].may_wait and seen.workers:
            return True
        return self._share.get(name, 0.0) >= _WAITING_SHARE

    def _store_is_full(self, name: str) -> bool:
        return not self._full_stores.isdisjoint(self._plan.subgraph_of[name].nodes)

    def _holders(self, name: str) -> list[str]:
        """The stages that hold it: those whose inputs from it are full; where none are (streams can be full in bytes) but it
        pauses for most of its time, the one for which the most frames wait."""
        followers = self._stages[name].followers
        full = [follower for edge, follower in followers if self._full(edge)]
        paused, busy = self._sum(name, "paused"), self._sum(name, "busy")
        if full or not followers or paused <= busy:
            return full
        return [max((follower for _, follower in followers), key=self._frames)]

    def _sink_bound(self, name: str) -> bool:
        holders = self._holders(name)
        if holders:
            return any(map(self._sink_bound, holders))
        if self._store_is_full(name):
            return True
        inputs = self._stages[name].inputs
        mean = sum(sum(self._mean_lengths(edge).values()) for edge in inputs)
        return max(self._frames(name), mean) > min(self._low[edge] for edge in inputs) and self._waits(name)

    def _job_is_sink_bound(self) -> bool:
        full = [name for name, stage in self._stages.items() if any(map(self._full, stage.inputs))]
        bottlenecks = [name for name in full if not self._holders(name)]
        if not full and self._stages:
            held = [name for name in self._stages if self._store_is_full(name)]
            bottlenecks = held or [max(self._stages, key=self._frames)]
        return bool(bottlenecks) and all(map(self._sink_bound, bottlenecks))

    def _hottest(self, names: tuple[str, ...]) -> tuple[int | None, float]:
        by_partition: dict[int, float] = {}
        for name in names:
            for edge in self._stages[name].inputs if self._stages[name].partitions > 1 else ():
                for partition, mean in self._mean_lengths(edge).items():
                    by_partition[partition] = by_partition.get(partition, 0.0) + mean
        total = sum(by_partition.values())
        if not total:
            return None, 0.0
        hottest = max(by_partition, key=lambda partition: by_partition[partition])
        return hottest, by_partition[hottest] / total


def _moved(before: Mapping[TaskId, TaskFlow], now: Mapping[TaskId, TaskFlow], stage: str) -> _Moved:
    """What the tasks of a stage did between two observations, each at least nothing."""
    moved = _Moved()
    for task, flow in now.items():
        if task.subgraph == stage:
            was = before.get(task, flow)
            moved = _Moved(
                moved.items + sum(max(0, used - was.used.get(edge, 0)) for edge, used in flow.used.items()),
                moved.busy + max(0.0, flow.busy - was.busy),
                moved.outside + max(0.0, flow.outside - was.outside),
                moved.paused + max(0.0, flow.paused - was.paused),
            )
    return moved
