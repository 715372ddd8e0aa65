"""Metrics as a scraper sees them."""

from __future__ import annotations

import math
from collections import Counter

from prometheus_client import generate_latest
from tools.fake_clock import FakeClock

from market_data_pipeline import Collect, Pipeline, Synthetic
from market_data_pipeline.dag.plan import TaskId
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.feedback import StoreReading
from market_data_pipeline.frame import END, NO_MARK
from market_data_pipeline.metrics import CoordinatorMetrics, WorkerMetrics
from market_data_pipeline.runtime.contract import CommitRequest, Consumed


def scraped(metrics: WorkerMetrics | CoordinatorMetrics) -> dict[str, float]:
    lines = generate_latest(metrics.registry).decode().splitlines()
    return {name: float(value) for name, value in (ln.rsplit(" ", 1) for ln in lines if not ln.startswith("#"))}


def test_a_commit_counts_frames_bytes_and_lengths() -> None:
    metrics = WorkerMetrics(FakeClock())
    observer = metrics.observer(TaskId("bars", 3), 64)
    request = CommitRequest(
        "a",
        "b",
        b"",
        consumed=[Consumed(("in.bars", 3), "1-0", "4-0", 4, 99)],
        outputs={("bars.out", 3): [b"xx", b"yyy"]},
    )
    observer.committed(request, {("bars.out", 3): 17}, 0.002)
    observer.committed(request, {("bars.out", 3): 19}, 0.002)
    found = scraped(metrics)
    assert found['mdp_commits_total{subgraph="bars"}'] == 2
    assert found['mdp_frames_in_total{channel="in.bars"}'] == 8
    assert found['mdp_frames_out_total{channel="bars.out"}'] == 4
    assert found['mdp_frame_bytes_out_total{channel="bars.out"}'] == 10
    assert found['mdp_channel_length{channel="bars.out",partition="3"}'] == 19
    assert found['mdp_channel_capacity{channel="bars.out"}'] == 64
    assert found['mdp_commit_seconds_count{subgraph="bars"}'] == 2


def test_counts_since_the_job_began_become_counts_of_this_process() -> None:
    metrics = WorkerMetrics(FakeClock())
    observer = metrics.observer(TaskId("bars", 0), 64)
    observer.restored({"bars": Counter({"in": 1000, "late": 5})})
    observer.counted({"bars": Counter({"in": 1010, "late": 7, "duplicate": 2, "odd": 1, "dead_letter": 3})}, NO_MARK)
    observer.counted({"bars": Counter({"in": 1015, "late": 7, "duplicate": 2, "odd": 1, "dead_letter": 3})}, END)
    found = scraped(metrics)
    assert found['mdp_items_in_total{node="bars"}'] == 15
    assert found['mdp_late_items_total{node="bars"}'] == 2
    assert found['mdp_duplicate_items_total{node="bars"}'] == 2
    assert found['mdp_dead_letters_total{node="bars"}'] == 3
    assert found['mdp_node_events_total{event="odd",node="bars"}'] == 1
    assert not [name for name in found if name.startswith("mdp_watermark_lag")]


def test_lag_is_wall_time_less_watermark() -> None:
    clock = FakeClock()
    metrics = WorkerMetrics(clock)
    metrics.observer(TaskId("bars", 2), 64).counted({}, clock.time_ns() - 1_500_000_000)
    assert scraped(metrics)['mdp_watermark_lag_seconds{partition="2",subgraph="bars"}'] == 1.5


def test_the_lag_of_a_task_that_commits_nothing_grows_until_it_runs_here_no_more() -> None:
    clock = FakeClock()
    metrics = WorkerMetrics(clock)
    name = 'mdp_watermark_lag_seconds{partition="2",subgraph="bars"}'
    observer = metrics.observer(TaskId("bars", 2), 64)
    observer.counted({}, clock.time_ns())
    clock.advance(60.0)
    assert scraped(metrics)[name] == 60.0
    observer.counted({}, clock.time_ns() - 2_000_000_000)
    assert scraped(metrics)[name] == 2.0
    observer.stopped()
    observer.stopped()
    assert name not in scraped(metrics)
    again = metrics.observer(TaskId("bars", 2), 64)
    again.counted({}, clock.time_ns())
    assert scraped(metrics)[name] == 0.0
    again.counted({}, END)
    assert name not in scraped(metrics)


def test_crossings_pauses_latency_and_reloads() -> None:
    metrics = WorkerMetrics(FakeClock())
    observer = metrics.observer(TaskId("bars", 0), 64)
    observer.crossed(("bars.out", 0), "high")
    observer.crossed(("bars.out", 1), "high")
    observer.paused(0.25)
    observer.paused(0.5)
    observer.latency(2_000_000)
    observer.reloaded()
    found = scraped(metrics)
    assert found['mdp_channel_crossings_total{channel="bars.out",level="high"}'] == 2
    assert found['mdp_paused_seconds_total{subgraph="bars"}'] == 0.75
    assert found["mdp_latency_seconds_sum"] == 0.002
    assert found['mdp_reloads_total{subgraph="bars"}'] == 1


def test_two_processes_do_not_share_a_registry() -> None:
    one, two = WorkerMetrics(), WorkerMetrics()
    one.owned.set(3)
    assert scraped(one)["mdp_partitions_owned"] == 3
    assert scraped(two)["mdp_partitions_owned"] == 0
    coordinator = CoordinatorMetrics()
    coordinator.leader.set(1)
    assert scraped(coordinator)["mdp_coordinator_leader"] == 1


def test_limits_of_sources_and_times_of_sinks() -> None:
    plan = compile_dag(Pipeline("limits").source(Synthetic()).sink(Collect()).build(), 1)
    for metrics in (WorkerMetrics(FakeClock()), CoordinatorMetrics()):
        metrics.limits(plan, {})
        assert scraped(metrics)['mdp_source_rate_limit{source="source"}'] == math.inf
        metrics.limits(plan, {"source": 1234.5})
        assert scraped(metrics)['mdp_source_rate_limit{source="source"}'] == 1234.5
    worker = WorkerMetrics(FakeClock())
    worker.observer(TaskId("out", 0), 64).stored("out", 0.3)
    assert scraped(worker)['mdp_sink_write_seconds_sum{node="out"}'] == 0.3


def test_a_channel_with_a_capacity_of_its_own_shows_that_one() -> None:
    metrics = WorkerMetrics(FakeClock())
    observer = metrics.observer(TaskId("bars", 3), 64, {"bars.own": 256})
    request = CommitRequest("a", "b", b"", outputs={("bars.own", 3): [b"x"], ("bars.out", 3): [b"x"]})
    observer.committed(request, {("bars.own", 3): 1, ("bars.out", 3): 1}, 0.002)
    found = scraped(metrics)
    assert found['mdp_channel_capacity{channel="bars.own"}'] == 256
    assert found['mdp_channel_capacity{channel="bars.out"}'] == 64


def test_what_a_sink_measured_holds_while_its_task_waits_and_goes_with_it() -> None:
    metrics = WorkerMetrics(FakeClock())
    observer, other = metrics.observer(TaskId("out", 2), 64), metrics.observer(TaskId("out", 3), 64)
    name = 'mdp_circuit_state{circuit="sink",node="out",partition="2"}'
    observer.gauge("out", "circuit_state", "sink", 2.0)
    other.gauge("out", "circuit_state", "sink", 1.0)
    for mark in (NO_MARK, END, 7):
        observer.counted({}, mark)
        assert scraped(metrics)[name] == 2.0, "a commit says nothing of it"
    observer.rests()
    found = scraped(metrics)
    assert found[name] == 2.0
    assert not [name for name in found if name.startswith("mdp_watermark_lag")]
    observer.stopped()
    assert [found for found in scraped(metrics) if found.startswith("mdp_circuit_state")] == [name.replace("2", "3")]


def test_stores_are_shown_for_as_long_as_they_speak() -> None:
    metrics = CoordinatorMetrics()
    metrics.stores({"db": StoreReading(90, 80, 20, 0.5), "log": StoreReading(1, 4, 2)})
    found = scraped(metrics)
    assert found['mdp_store_queue_depth{node="db"}'] == 90
    assert found['mdp_store_queue_high{node="db"}'] == 80
    assert found['mdp_store_write_seconds{node="db"}'] == 0.5
    assert found['mdp_store_queue_depth{node="log"}'] == 1
    metrics.stores({"db": StoreReading(10, 80, 20)})
    assert {name: value for name, value in scraped(metrics).items() if name.startswith("mdp_store")} == {
        'mdp_store_queue_depth{node="db"}': 10, 'mdp_store_queue_high{node="db"}': 80, 'mdp_store_write_seconds{node="db"}': 0,
    }  # fmt: skip
