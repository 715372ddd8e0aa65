"""The scaling signal from made-up observations: what asks for workers, what must not, and what is said of the rest."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any

import pytest
from mdp_coordinator.autoscale import Autoscaler, Observation, Signal
from tools.memory_job import CommittedRows, ListSource

from market_data_pipeline import Dag, Map, Node, Watermark
from market_data_pipeline.dag.plan import Plan, TaskId
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.runtime.flow import TaskFlow

LOW, P = 16, 8


def plan_of(*stages: str, sinks: tuple[str, ...] = ("sink",), partitions: int = P) -> Plan:
    """source -> each of ``stages`` behind the other by keyed edges; those in ``sinks`` end in a sink of their own."""
    dag = Dag("job")
    dag.add_node(Node("source", ListSource([])))
    for before, name in pairwise(("source", *stages)):
        dag.add_node(Node(name, CommittedRows() if name in sinks else Map(dict)))
        dag.add_edge(before, name, key="symbol")
    return compile_dag(dag, partitions)


def forked() -> Plan:
    """source -> a, source -> b, both sinks."""
    dag = Dag("fork")
    dag.add_node(Node("source", ListSource([])))
    for name in ("a", "b"):
        dag.add_node(Node(name, CommittedRows()))
        dag.add_edge("source", name, key="symbol")
    return compile_dag(dag, P)


class World:
    """A job whose streams and tasks do what a test says, second by second."""

    def __init__(self, plan: Plan, workers: int = 2) -> None:
        self.plan, self.workers, self.now, self.running = plan, workers, 1000.0, True
        self.autoscaler = Autoscaler(plan, LOW)
        self.lengths = {e.name: dict.fromkeys(plan.partitions_of(plan.subgraph_of[e.dst]), 0) for e in plan.channels}
        self.items: dict[str, int] = dict.fromkeys(self.lengths, 0)
        self.used: dict[TaskId, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.times: dict[TaskId, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])

    def fill(self, stage: str, frames: int, items: int | None = None) -> None:
        """So many frames in each stream before ``stage``."""
        for edge in self.plan.inputs(self.plan.subgraph_of[stage]):
            self.lengths[edge.name] = dict.fromkeys(self.lengths[edge.name], frames)
            self.items[edge.name] = frames * len(self.lengths[edge.name]) * 100 if items is None else items

    def work(self, stage: str, items: int = 0, busy: float = 0.0, outside: float = 0.0, paused: float = 0.0) -> None:
        """What each task of ``stage`` does, from one observation to the next."""
        subgraph = self.plan.subgraph_of[stage]
        for partition in self.plan.partitions_of(subgraph):
            task = TaskId(subgraph.name, partition)
            for edge in self.plan.inputs(subgraph):
                self.used[task][edge.name] += items
            for n, seconds in enumerate((busy, outside, paused)):
                self.times[task][n] += seconds

    def look(self, seconds: float = 1.0) -> None:
        flows = {task: TaskFlow({}, dict(self.used[task]), *self.times[task]) for task in self.plan.tasks()}
        self.now += seconds
        lengths = {edge: dict(by) for edge, by in self.lengths.items()}
        self.autoscaler.observe(Observation(self.now, self.running, self.workers, lengths, dict(self.items), flows))

    def run(self, seconds: int, **work: dict[str, Any]) -> None:
        """So many seconds in which the stages named do this work each second."""
        for _ in range(seconds):
            for stage, done in work.items():
                self.work(stage, **done)
            self.look()

    def signal(self, stage: str | None = None, target: int = 20) -> Signal:
        return self.autoscaler.signal(stage, target)


COMPUTES = {"items": 1000, "busy": 0.9, "outside": 0.0}
WAITS = {"items": 1000, "busy": 0.9, "outside": 0.8}


def test_the_stages_are_those_that_read_streams() -> None:
    assert Autoscaler(plan_of("a", "sink"), LOW).stages == ("a", "sink")
    assert Autoscaler(plan_of("a"), LOW).seen_at is None


def test_a_backlog_asks_for_workers() -> None:
    world = World(plan_of("sink"))
    world.fill("sink", 12)
    world.run(12, sink=COMPUTES)
    signal = world.signal("sink")
    assert signal == Signal("sink", 96, 9600, 8000.0, 1.2, 2, 8, 5, False, 0, 0.125, 96)
    assert world.signal() == Signal(None, 96, 9600, 8000.0, 1.2, 2, 8, 5, False, 0, 0.125, 96)
    assert world.autoscaler.seen_at == world.now


@pytest.mark.parametrize(
    ("frames", "target", "desired"),
    [(0, 20, 1), (1, 20, 1), (5, 20, 2), (5, 40, 1), (5, 39, 2), (60, 20, 8), (5, 1, 8)],
)
def test_desired_replicas_are_between_one_and_the_partitions(frames: int, target: int, desired: int) -> None:
    world = World(plan_of("sink"))
    world.fill("sink", frames)
    world.run(3, sink=COMPUTES)
    assert world.signal(target=target).desired_replicas == desired


def test_a_full_stream_before_a_slow_sink_asks_for_no_more_than_there_are() -> None:
    for workers in (1, 2, 5):
        world = World(plan_of("sink"), workers)
        world.fill("sink", 48)
        world.run(12, sink=WAITS)
        signal = world.signal()
        assert (signal.backlog_frames, signal.sink_bound) == (384, True)
        assert (signal.scale_frames, signal.desired_replicas) == (20 * workers, workers)


@pytest.mark.parametrize(("outside", "bound"), [(0.0, False), (0.44, False), (0.45, True), (0.9, True)])
def test_half_of_the_busy_time_is_the_border(outside: float, bound: bool) -> None:
    world = World(plan_of("sink"))
    world.fill("sink", 48)
    world.run(12, sink={"items": 1, "busy": 0.9, "outside": outside})
    assert world.signal().sink_bound is bound


def test_a_slow_sink_that_keeps_up_is_no_bottleneck() -> None:
    world = World(plan_of("sink"))
    world.fill("sink", 2)
    world.run(12, sink=WAITS)
    assert (world.signal().sink_bound, world.signal().scale_frames) == (False, 16)


def test_frames_that_wait_as_a_slow_sink_takes_many_at_once_ask_for_nobody() -> None:
    """No stream is full, but together they are more than one worker's share."""
    world = World(plan_of("sink"), workers=1)
    world.fill("sink", 8)
    world.run(12, sink=WAITS)
    signal = world.signal()
    assert (signal.backlog_frames, signal.sink_bound, signal.desired_replicas) == (64, True, 1)


def test_stages_before_a_slow_sink_are_held_by_it() -> None:
    """The first is CPU-bound, as far as its own time tells: its outputs are full all the same."""
    world = World(plan_of("a", "b", "sink"))
    for stage in ("a", "b", "sink"):
        world.fill(stage, 48)
    world.run(12, a=COMPUTES, b=COMPUTES, sink=WAITS)
    assert [world.signal(name).sink_bound for name in ("a", "b", "sink")] == [True] * 3
    signal = world.signal()
    assert (signal.sink_bound, signal.backlog_frames, signal.desired_replicas) == (True, 3 * 384, 2)


def test_a_cpu_bound_stage_behind_which_nothing_is_full_is_the_bottleneck() -> None:
    """Though the stage with the sink spends its time waiting, it is not what the job waits for."""
    world = World(plan_of("a", "sink"))
    world.fill("a", 48)
    world.fill("sink", 3)
    world.run(12, a=COMPUTES, sink=WAITS)
    assert world.signal("a").desired_replicas == 8
    signal = world.signal()
    assert (signal.sink_bound, signal.desired_replicas) == (False, 8)
    assert signal.scale_frames == 384, "what waits for the sink is no reason"


def test_a_cpu_bound_stage_behind_a_waiting_one_is_the_bottleneck() -> None:
    world = World(plan_of("a", "b", sinks=()))
    world.fill("a", 48)
    world.fill("b", 48)
    world.run(12, a=WAITS, b=COMPUTES)
    assert not world.signal().sink_bound
    assert not world.signal("a").sink_bound
    assert world.signal().desired_replicas == 8


def test_of_two_branches_the_one_that_computes_is_helped() -> None:
    world = World(forked())
    world.fill("a", 48)
    world.fill("b", 30)
    world.run(12, a=WAITS, b=COMPUTES)
    assert (world.signal("a").sink_bound, world.signal("b").sink_bound) == (True, False)
    signal = world.signal()
    assert (signal.sink_bound, signal.scale_frames, signal.desired_replicas) == (False, 240, 8)
    world.fill("b", 1)
    world.run(12, a=WAITS, b=COMPUTES)
    assert (world.signal().sink_bound, world.signal().scale_frames) == (True, 40)


def test_streams_that_are_full_in_bytes_hold_their_producer_too() -> None:
    """Few large frames: the producer pauses though no stream is above its low level."""
    world = World(plan_of("a", "sink"))
    world.fill("a", 48)
    world.fill("sink", 10)
    world.run(12, a={"items": 1, "busy": 0.1, "paused": 0.8}, sink=WAITS)
    assert world.signal("a").sink_bound
    world.run(12, a=COMPUTES, sink=WAITS)
    assert not world.signal("a").sink_bound


def test_a_stage_whose_first_step_takes_long_is_not_scaled_before_it_has_shown_why() -> None:
    world = World(plan_of("a", "sink"), workers=1)
    world.fill("sink", 48)
    world.look()
    assert (world.signal().sink_bound, world.signal().desired_replicas) == (True, 1)
    world.run(2, sink=COMPUTES)
    assert (world.signal().sink_bound, world.signal().desired_replicas) == (False, 8)


def test_a_stage_without_a_sink_needs_to_show_nothing() -> None:
    world = World(plan_of("a", "sink"), workers=1)
    world.fill("a", 48)
    world.look()
    assert (world.signal().sink_bound, world.signal().desired_replicas) == (False, 8)


def test_a_sink_that_hangs_is_waited_for() -> None:
    """A locked database: no step ends, so no commit tells of it."""
    world = World(plan_of("sink"))
    world.fill("sink", 48)
    world.run(12, sink=COMPUTES)
    assert not world.signal().sink_bound
    world.run(4)
    assert not world.signal().sink_bound
    world.run(2)
    assert (world.signal().sink_bound, world.signal().desired_replicas) == (True, 2)
    world.run(1, sink=COMPUTES)
    assert not world.signal().sink_bound


def test_a_stage_that_had_nothing_to_do_did_not_hang() -> None:
    world = World(plan_of("sink"))
    world.run(3, sink=COMPUTES)
    world.run(60)
    world.fill("sink", 48)
    world.look()
    assert (world.signal().sink_bound, world.signal().desired_replicas) == (False, 8)


def test_without_workers_the_backlog_asks_for_them() -> None:
    world = World(plan_of("sink"), workers=0)
    world.fill("sink", 48)
    world.run(12)
    assert (world.signal().sink_bound, world.signal().desired_replicas) == (False, 8)
    waited = World(plan_of("sink"), workers=2)
    waited.fill("sink", 48)
    waited.run(12, sink=WAITS)
    waited.workers = 0
    waited.look()
    assert waited.signal().desired_replicas == 1, "it is still the sink's fault, but one worker there must be"


def test_a_coordinator_that_starts_takes_the_shares_since_the_job_began() -> None:
    world = World(plan_of("sink"))
    world.fill("sink", 48)
    world.work("sink", items=500_000, busy=100.0, outside=70.0)
    world.look()
    signal = world.signal()
    assert (signal.sink_bound, signal.items_per_second, signal.drain_seconds) == (True, 0.0, None)
    world.run(1, sink=WAITS)
    assert world.signal().items_per_second == 8000, "what was done before it looked is no rate"


def test_the_window_forgets() -> None:
    world = World(plan_of("sink"))
    world.fill("sink", 48)
    world.run(30, sink=WAITS)
    world.run(11, sink=COMPUTES)
    assert not world.signal().sink_bound
    world.run(10, sink={**COMPUTES, "items": 10})
    assert world.signal().items_per_second == 80


def test_after_a_pause_of_the_coordinator_rates_are_over_the_pause() -> None:
    world = World(plan_of("sink"))
    world.run(5, sink=COMPUTES)
    world.work("sink", items=60_000, busy=54.0)
    world.look(60.0)
    assert world.signal().items_per_second == 8000


def test_counters_that_go_back_are_no_progress_and_no_less() -> None:
    world = World(plan_of("sink"))
    world.fill("sink", 48)
    world.run(12, sink=COMPUTES)
    for task in world.plan.tasks():
        world.used[task].clear()
        world.times[task] = [0.0, 0.0, 0.0]
    world.look()
    signal = world.signal()
    assert 0 < signal.items_per_second < 8000
    assert signal.drain_seconds is not None
    world.run(20)
    assert world.signal().items_per_second == 0.0
    assert world.signal().drain_seconds is None
    world.run(12, sink=COMPUTES)
    assert world.signal().items_per_second == 8000


def test_one_task_that_goes_back_does_not_hide_the_others() -> None:
    world = World(plan_of("sink"))
    world.run(3, sink=COMPUTES)
    back = TaskId(world.plan.subgraph_of["sink"].name, 3)
    world.used[back].clear()
    world.run(1, sink=COMPUTES)
    assert world.signal().items_per_second == pytest.approx((8 + 8 + 7) * 1000 / 3)


def test_draining_takes_as_long_as_the_slowest_stage() -> None:
    world = World(plan_of("a", "sink"))
    world.fill("a", 10)
    world.fill("sink", 20)
    world.run(12, a=COMPUTES, sink=COMPUTES)
    assert (world.signal("a").drain_seconds, world.signal("sink").drain_seconds) == (1.0, 2.0)
    assert world.signal().drain_seconds == 2.0
    world.run(12, a=COMPUTES)
    assert world.signal("sink").drain_seconds is None
    assert world.signal().drain_seconds is None
    world.fill("sink", 0)
    world.look()
    assert world.signal("sink").drain_seconds == 0.0, "nothing waits"


def test_a_hot_partition_is_named_with_its_share() -> None:
    world = World(plan_of("sink"))
    world.fill("sink", 1)
    world.lengths["source.sink"][5] = 21
    world.run(12, sink=COMPUTES)
    assert (world.signal().hot_partition, world.signal().hot_partition_share) == (5, 0.75)
    world.fill("sink", 0)
    world.run(12)
    assert (world.signal().hot_partition, world.signal().hot_partition_share) == (None, 0.0)


def test_one_partition_cannot_be_hotter_than_others() -> None:
    world = World(plan_of("sink", partitions=1))
    world.fill("sink", 48)
    world.run(12, sink=COMPUTES)
    assert (world.signal().hot_partition, world.signal().hot_partition_share) == (None, 0.0)
    assert (world.signal().partitions, world.signal().desired_replicas) == (1, 1)


def test_a_stage_in_one_partition_counts_for_one_worker() -> None:
    dag = Dag("gathered")
    dag.add_node(Node("source", ListSource([])))
    dag.add_node(Node("a", Map(dict)))
    dag.add_node(Node("one", CommittedRows(), singleton=True))
    dag.add_edge("source", "a", key="symbol")
    dag.add_edge("a", "one")
    world = World(compile_dag(dag, P))
    world.fill("one", 60)
    world.run(12, a=COMPUTES, one=COMPUTES)
    assert world.signal("one").partitions == 1
    assert (world.signal().backlog_frames, world.signal().scale_frames, world.signal().desired_replicas) == (60, 20, 1)


@pytest.mark.parametrize("bound", [COMPUTES, WAITS])
def test_a_job_that_is_over_asks_for_one(bound: dict[str, Any]) -> None:
    world = World(plan_of("sink"))
    world.fill("sink", 48)
    world.run(12, sink=bound)
    world.running = False
    world.look()
    assert world.signal() == Signal(None, 0, 0, 0.0, 0.0, 2, 8, 1, False, None, 0.0, 0)
    assert world.signal("sink") == Signal("sink", 0, 0, 0.0, 0.0, 2, 8, 1, False, None, 0.0, 0)


def test_a_job_without_streams_asks_for_one() -> None:
    world = World(plan_of())
    world.run(3)
    assert world.signal() == Signal(None, 0, 0, 0.0, 0.0, 2, 8, 1, False, None, 0.0, 0)


def test_levels_that_swing_between_high_and_low_are_full() -> None:
    """A producer pauses at high and goes on at low: the sink is the bottleneck all the time."""
    world = World(plan_of("sink"))
    for n in range(40):
        world.fill("sink", 48 if n % 8 < 4 else LOW - 8)
        world.run(1, sink=WAITS)
        assert world.signal().sink_bound
        assert world.signal().desired_replicas <= 2


def test_what_stands_before_a_stream_that_swings_is_held_all_the_time() -> None:
    world = World(plan_of("a", "sink"))
    world.fill("a", 48)
    for n in range(40):
        world.fill("sink", 48 if n % 8 < 4 else LOW - 8)
        world.run(1, a=COMPUTES, sink=WAITS)
        assert world.signal("a").sink_bound
        assert world.signal().desired_replicas <= 2


def test_growth_ends_where_the_sink_becomes_the_bottleneck() -> None:
    """Each step computes 40 ms, waits 100 ms for the sink, and as long as the other tasks of its process compute. Of the wait
    what others compute meanwhile is not waiting: the share grows with the number of workers, until that rests."""
    world = World(plan_of("sink"), workers=1)
    world.fill("sink", 48)
    seen = []
    for _ in range(10):
        others = 0.04 * (P / world.workers - 1)
        world.run(12, sink={"items": 10, "busy": 0.14 + others, "outside": max(0.0, 0.1 - others)})
        seen.append(world.workers)
        world.workers = min(world.workers + 1, world.signal().desired_replicas)
    assert seen == [1, 2, 3, 4, 5, 6, 6, 6, 6, 6]


def test_a_stream_is_full_above_the_low_level_of_its_own_edge() -> None:
    """Of two equal branches with equal backlogs, the one whose edge says so holds its producer."""
    plan = forked()
    own = {"source.a": Watermark(4, 1)}
    for levels, bound in (({}, False), (own, True)):
        world = World(plan)
        world.autoscaler = Autoscaler(plan, 2 * LOW, levels)
        world.fill("a", 2)
        world.run(3, a=WAITS, b=COMPUTES)
        assert world.signal("a").sink_bound is bound
        assert world.autoscaler.waiting() == ({"a"} if bound else set())
