"""Every metric of the system. Names start with ``mdp_``; times are in seconds."""

from __future__ import annotations

import math
from collections import Counter as Tally
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from market_data_pipeline.clock import SYSTEM_CLOCK, Clock
from market_data_pipeline.dag.plan import Plan, TaskId
from market_data_pipeline.feedback import StoreReading
from market_data_pipeline.frame import END, NO_MARK
from market_data_pipeline.gauges import GaugeName
from market_data_pipeline.runtime.contract import CommitRequest, Stream
from market_data_pipeline.runtime.observe import TaskObserver

Metric = TypeVar("Metric", bound=MetricWrapperBase)

_LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SINK_BUCKETS = (*_LATENCY_BUCKETS, 30.0, 60.0)


class NodeMetrics:
    """What nodes took, gave and did not use, by node."""

    def __init__(self, r: CollectorRegistry) -> None:
        node = ["node"]
        self.items_in = Counter("mdp_items_in", "Items that entered a node", node, registry=r)
        self.items_out = Counter("mdp_items_out", "Items that a node emitted", node, registry=r)
        self.late = Counter("mdp_late_items", "Items behind the watermark, dropped", node, registry=r)
        self.duplicates = Counter("mdp_duplicate_items", "Items dropped as duplicates", node, registry=r)
        self.dead_letters = Counter("mdp_dead_letters", "Items that could not be used", node, registry=r)
        self.events = Counter(
            "mdp_node_events", "What else a node counts: unkeyed, skipped ...", ["node", "event"], registry=r
        )
        self.counters = {
            "in": self.items_in,
            "out": self.items_out,
            "late": self.late,
            "duplicate": self.duplicates,
            "dead_letter": self.dead_letters,
        }
        """Those of the names that chains count by which have a metric of their own; all others are ``events``."""


class ChannelMetrics:
    """What went through the streams that this worker reads and writes, and how full they are."""

    def __init__(self, r: CollectorRegistry) -> None:
        channel = ["channel"]
        self.frames_in = Counter("mdp_frames_in", "Frames consumed", channel, registry=r)
        self.frames_out = Counter("mdp_frames_out", "Frames appended", channel, registry=r)
        self.bytes_out = Counter("mdp_frame_bytes_out", "Bytes of frames appended", channel, registry=r)
        self.length = Gauge(
            "mdp_channel_length", "Frames in a stream, seen at a commit", ["channel", "partition"], registry=r
        )
        self.capacity = Gauge("mdp_channel_capacity", "Capacity of a stream in frames", channel, registry=r)
        self.crossings = Counter(
            "mdp_channel_crossings", "Crossings of a stream's levels", ["channel", "level"], registry=r
        )


class TaskMetrics:
    """What tasks commit, how far they are behind, and what held them up, by subgraph."""

    def __init__(self, r: CollectorRegistry) -> None:
        subgraph = ["subgraph"]
        self.commits = Counter("mdp_commits", "Commits", subgraph, registry=r)
        self.commit_seconds = Histogram(
            "mdp_commit_seconds", "Time of a commit, waiting included", subgraph, buckets=_LATENCY_BUCKETS, registry=r
        )
        self.latency = Histogram(
            "mdp_latency_seconds", "Source to committed sink", buckets=_LATENCY_BUCKETS, registry=r
        )
        self.lag = Gauge(
            "mdp_watermark_lag_seconds",
            "Wall time less watermark, now; also of a task to which nothing comes",
            ["subgraph", "partition"],
            registry=r,
        )
        self.paused = Counter("mdp_paused_seconds", "Time a task waited for its outputs", subgraph, registry=r)
        self.reloads = Counter("mdp_reloads", "Times a task threw its memory away", subgraph, registry=r)


class OutsideMetrics:
    """What stands between the job and the outside: sources' rates, circuits and routes, sinks' times."""

    def __init__(self, r: CollectorRegistry) -> None:
        self.rate_limit = Gauge(
            "mdp_source_rate_limit",
            "Items per second that a source may bring in, in all workers, as this worker obeys it; +Inf: no limit",
            ["source"],
            registry=r,
        )
        self.sink_seconds = Histogram(
            "mdp_sink_write_seconds",
            "Time a sink took for one step: writing, preparing and publishing, without the commit",
            ["node"],
            buckets=_SINK_BUCKETS,
            registry=r,
        )
        self.waiting = Gauge(
            "mdp_tasks_waiting",
            "Tasks that wait for the outside after an error: a sink, or a source's venue",
            registry=r,
        )
        circuit = Gauge(
            "mdp_circuit_state",
            "Circuit breaker of a source's feed or of a sink: 0 closed, 1 half-open, 2 open",
            ["node", "partition", "circuit"],
            registry=r,
        )
        route = Gauge(
            "mdp_route_symbols",
            "Symbols that a provider brings to a router now",
            ["node", "partition", "provider"],
            registry=r,
        )
        self.gauges: dict[GaugeName, Gauge] = {"circuit_state": circuit, "route_symbols": route}
        """What sources and sinks measure themselves, by the name they say it with."""


class WorkerMetrics:
    """The metrics of one worker process."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self.registry = r = CollectorRegistry()
        self.clock = clock
        self.nodes = NodeMetrics(r)
        self.channels = ChannelMetrics(r)
        self.tasks = TaskMetrics(r)
        self.outside = OutsideMetrics(r)
        self.owned = Gauge("mdp_partitions_owned", "Partitions this worker owns", registry=r)
        self.fenced = Counter(
            "mdp_fenced_commits",
            "Refusals because another worker owns the partition; cause: moved (the leader moved it) or silent (no heartbeat of"
            " this worker got through for a lease's time)",
            ["cause"],
            registry=r,
        )
        for cause in ("moved", "silent"):
            self.fenced.labels(cause)

    def limits(self, plan: Plan, rates: Mapping[str, float]) -> None:
        """The rates that the sources of ``plan`` obey now."""
        _show_limits(self.outside.rate_limit, plan, rates)

    def observer(self, task: TaskId, capacity: int, own: Mapping[str, int] = MappingProxyType({})) -> TaskObserver:
        """The observer for one task. ``capacity``: frames that fit in a stream; ``own``: in those of the channels that have a
        capacity of their own."""
        return _Observer(self, task, capacity, own)


def _show_limits(gauge: Gauge, plan: Plan, rates: Mapping[str, float]) -> None:
    gauge.clear()
    for node in plan.nodes:
        if node.kind == "source":
            gauge.labels(node.name).set(rates.get(node.name, math.inf))


class _Observer(TaskObserver):
    def __init__(self, metrics: WorkerMetrics, task: TaskId, capacity: int, own: Mapping[str, int]) -> None:
        self._m = metrics
        self._task = task
        self._capacity, self._own = capacity, own
        self._seen: dict[str, Tally[str]] = {}
        self._watermark, self._lagging = NO_MARK, False
        self._lag_labels = (task.subgraph, str(task.partition))
        self._children: dict[tuple[MetricWrapperBase, tuple[str, ...]], MetricWrapperBase] = {}
        self._measured: set[tuple[GaugeName, str, str]] = set()

    def _of(self, metric: Metric, *labels: str) -> Metric:
        """``metric`` with ``labels``. The client checks them and takes a lock each time: ten times as slow as to remember."""
        key = (metric, labels)
        if key not in self._children:
            self._children[key] = metric.labels(*labels)
        return self._children[key]  # type: ignore[return-value] # what labels() gives is of its own type

    def committed(self, request: CommitRequest, lengths: Mapping[Stream, int], seconds: float) -> None:
        tasks, channels = self._m.tasks, self._m.channels
        self._of(tasks.commits, self._task.subgraph).inc()
        self._of(tasks.commit_seconds, self._task.subgraph).observe(seconds)
        for consumed in request.consumed:
            self._of(channels.frames_in, consumed.stream[0]).inc(consumed.entries)
        for (channel, partition), frames in request.outputs.items():
            self._of(channels.frames_out, channel).inc(len(frames))
            self._of(channels.bytes_out, channel).inc(sum(map(len, frames)))
            self._of(channels.length, channel, str(partition)).set(lengths[channel, partition])
            self._of(channels.capacity, channel).set(self._own.get(channel, self._capacity))

    def restored(self, counts: Mapping[str, Tally[str]]) -> None:
        self._seen = {node: Tally(tally) for node, tally in counts.items()}

    def counted(self, counts: Mapping[str, Tally[str]], watermark: int) -> None:
        for node, tally in counts.items():
            before = self._seen.get(node, Tally())
            for name, total in tally.items():
                if total > before[name]:
                    self._count(node, name, total - before[name])
            self._seen[node] = Tally(tally)
        self._watermark = watermark
        if watermark in (NO_MARK, END):
            self.rests()
        elif not self._lagging:
            self._lagging = True
            self._m.tasks.lag.labels(*self._lag_labels).set_function(self._lag)

    def _lag(self) -> float:
        """Asked for by each scrape: the lag of a task that commits nothing grows."""
        return (self._m.clock.time_ns() - self._watermark) / 1e9

    def rests(self) -> None:
        if self._lagging:
            self._lagging = False
            self._m.tasks.lag.remove(*self._lag_labels)

    def stopped(self) -> None:
        self.rests()
        for name, node, of in self._measured:
            self._m.outside.gauges[name].remove(node, str(self._task.partition), of)
        self._measured.clear()

    def _count(self, node: str, name: str, n: int) -> None:
        nodes = self._m.nodes
        if name in nodes.counters:
            self._of(nodes.counters[name], node).inc(n)
        else:
            self._of(nodes.events, node, name).inc(n)

    def latency(self, nanos: int) -> None:
        self._m.tasks.latency.observe(nanos / 1e9)

    def stored(self, node: str, seconds: float) -> None:
        self._of(self._m.outside.sink_seconds, node).observe(seconds)

    def gauge(self, node: str, name: GaugeName, of: str, value: float) -> None:
        self._m.outside.gauges[name].labels(node, str(self._task.partition), of).set(value)
        self._measured.add((name, node, of))

    def paused(self, seconds: float) -> None:
        self._of(self._m.tasks.paused, self._task.subgraph).inc(seconds)

    def crossed(self, stream: Stream, level: str) -> None:
        self._of(self._m.channels.crossings, stream[0], level).inc()

    def reloaded(self) -> None:
        self._of(self._m.tasks.reloads, self._task.subgraph).inc()


class ScaleMetrics:
    """What the autoscaler saw, by stage, and what it asks for."""

    def __init__(self, r: CollectorRegistry) -> None:
        stage = ["stage"]
        self.backlog_frames = Gauge("mdp_scale_backlog_frames", "Frames that wait for a stage", stage, registry=r)
        self.backlog_items = Gauge("mdp_scale_backlog_items", "Items that wait for a stage", stage, registry=r)
        self.drain = Gauge(
            "mdp_scale_drain_seconds",
            "Time to work the backlog off at the present rate; NaN when nothing moves",
            stage,
            registry=r,
        )
        self.hot_share = Gauge(
            "mdp_scale_hot_partition_share", "Share of the fullest partition in a stage's backlog", stage, registry=r
        )
        self.desired = Gauge("mdp_scale_desired_replicas", "Workers that the backlog asks for", registry=r)
        self.sink_bound = Gauge(
            "mdp_scale_sink_bound", "1 while the outside is the bottleneck and more workers would wait too", registry=r
        )


class RateMetrics:
    """What sources may bring in, and the stores that decide about it."""

    def __init__(self, r: CollectorRegistry) -> None:
        node = ["node"]
        self.limit = Gauge(
            "mdp_source_rate_limit",
            "Items per second that a source may bring in, as it is published; +Inf: no limit",
            ["source"],
            registry=r,
        )
        self.store_depth = Gauge(
            "mdp_store_queue_depth",
            "What the store behind a node has taken and not yet stored, in its own unit, as it says",
            node,
            registry=r,
        )
        self.store_high = Gauge(
            "mdp_store_queue_high", "From so much on the store behind a node slows its sources down", node, registry=r
        )
        self.store_seconds = Gauge(
            "mdp_store_write_seconds", "Time of a write of the store behind a node, as it says", node, registry=r
        )


class CoordinatorMetrics:
    """The metrics of one coordinator process."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self.leader = Gauge("mdp_coordinator_leader", "1 while this coordinator leads", registry=r)
        self.workers = Gauge("mdp_workers", "Workers that live", registry=r)
        self.unassigned = Gauge("mdp_partitions_unassigned", "Partitions without a living owner", registry=r)
        self.assignments = Counter("mdp_assignments", "Partitions assigned", registry=r)
        self.length = Gauge("mdp_channel_length", "Frames in a stream", ["channel", "partition"], registry=r)
        self.capacity = Gauge("mdp_channel_capacity", "Capacity of a stream in frames", ["channel"], registry=r)
        self.tasks_ended = Gauge("mdp_tasks_ended", "Tasks that have ended", registry=r)
        self.scale = ScaleMetrics(r)
        self.rates = RateMetrics(r)

    def limits(self, plan: Plan, rates: Mapping[str, float]) -> None:
        """The rates that are published for the sources of ``plan``."""
        _show_limits(self.rates.limit, plan, rates)

    def stores(self, readings: Mapping[str, StoreReading]) -> None:
        """What the stores say now; of those that say nothing any more nothing is shown."""
        for gauge in (self.rates.store_depth, self.rates.store_high, self.rates.store_seconds):
            gauge.clear()
        for node, reading in readings.items():
            self.rates.store_depth.labels(node).set(reading.queue_depth)
            self.rates.store_high.labels(node).set(reading.high)
            self.rates.store_seconds.labels(node).set(reading.write_seconds)
