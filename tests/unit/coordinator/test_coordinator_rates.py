"""Rates of sources, decided in a simulated job; see ``tools/rate_world.py``."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from mdp_coordinator.autoscale import Observation
from mdp_coordinator.rates import Press, Rates, SourceRate
from tools.rate_world import CAPACITY, HIGH, LOW, P, Stage, World, plan_of, store

from market_data_pipeline import Watermark
from market_data_pipeline.dag.plan import TaskId
from market_data_pipeline.runtime.flow import TaskFlow


def test_a_healthy_job_is_never_limited() -> None:
    world = World([store(lambda _: 60_000)], lambda _: 50_000)
    world.run(120)
    assert set(world.rates) == {None}


@pytest.mark.parametrize("frame_items", [20, 100, 1000, 8192])
def test_a_store_that_is_slow_for_five_minutes_and_recovers(frame_items: int) -> None:
    """A tenth of its speed: the streams keep to their capacity, the rate comes to what the store takes and stays there, and
    the source has its full rate again soon after."""
    full, slow = 100_000.0, 10_000.0
    world = World([store(lambda t: slow if 60 <= t < 360 else full, frame_items=frame_items)], lambda _: 50_000)
    world.run(60)
    assert set(world.rates) == {None}
    fill = CAPACITY * P * frame_items / 40_000  # the streams take so much before anything presses
    world.run(75 + fill)
    settled = len(world.rates)
    world.run(225 - fill)
    limits = [rate for rate in world.rates[settled:] if rate is not None]
    assert world.stages[0].longest <= CAPACITY
    if fill < 120:
        assert len(limits) == len(world.rates) - settled, "limited all the time"
        assert 0.7 * slow <= min(limits) <= max(limits) <= 1.3 * slow
        assert world.intake(120) == pytest.approx(slow, rel=0.06)
    before = world.brought
    world.run(30)
    assert world.intake(5) == pytest.approx(50_000, rel=0.02)
    assert world.brought - before >= 0.4 * 30 * 50_000
    world.run(30)
    assert world.rates[-1] is None
    assert world.stages[0].longest <= CAPACITY


@pytest.mark.parametrize("speed", [1_000.0, 20_000.0, 1_000_000.0])
def test_a_source_without_end_keeps_a_store_busy_at_any_speed(speed: float) -> None:
    """Reading as fast as it can into a store: what the limit costs is little."""
    world = World([store(lambda _: speed, frame_items=max(1, int(speed / 2000)))], lambda _: 20 * speed)
    world.run(300)
    limits = [rate for rate in world.rates[60:] if rate is not None]
    assert limits
    assert max(limits) <= 1.35 * speed
    assert min(limits) >= 0.7 * speed
    assert world.stages[0].used >= 0.93 * 300 * speed


def test_a_stage_that_computes_makes_no_limit() -> None:
    """More workers would help it: its backlog must be seen."""
    world = World([store(lambda _: 20_000, waits=False)], lambda _: 50_000)
    world.run(120)
    assert set(world.rates) == {None}
    assert world.stages[0].longest >= HIGH


def test_a_locked_store_leaves_a_trickle_and_comes_back() -> None:
    world = World([store(lambda t: 0.0 if 60 <= t < 180 else 100_000)], lambda _: 50_000)
    world.run(178)
    assert world.rates[-1] == pytest.approx(2_500, rel=0.1)
    assert world.stages[0].longest <= CAPACITY
    world.run(22)
    assert world.intake(3) == pytest.approx(50_000, rel=0.05)
    world.run(20)
    assert world.rates[-1] is None


def test_what_a_deep_bottleneck_uses_is_counted_in_items_of_the_source() -> None:
    """Of a hundred trades one comes to the store, which takes 200 a second: that is 20,000 trades."""
    thin = Stage("thin", "source.thin", lambda _: 500_000, waits=False, keeps=100)
    slow = Stage("sink", "thin.sink", lambda t: 200 if t >= 30 else 2000, frame_items=10)
    world = World([thin, slow], lambda _: 50_000)
    world.run(300)
    limits = [rate for rate in world.rates[150:] if rate is not None]
    assert len(limits) == len(world.rates[150:])
    assert 15_000 <= min(limits) <= max(limits) <= 26_000


def test_no_pressure_comes_past_a_node_that_absorbs() -> None:
    thin = Stage("thin", "source.thin", lambda _: 500_000, waits=False, keeps=1000)
    slow = Stage("sink", "thin.sink", lambda _: 0.0)
    world = World([thin, slow], lambda _: 50_000, absorbing=("thin",))
    world.run(120)
    assert set(world.rates) == {None}


def test_a_job_that_stands_still_or_has_no_workers_says_nothing() -> None:
    rates = Rates(plan_of("sink"), HIGH, LOW)
    rates.follow({"source": 5.0, "other": 1.0})
    full = {"source.sink": dict.fromkeys(range(P), CAPACITY)}
    for running, workers in ((True, 0), (False, 2)):
        for now in range(20):
            seen = Observation(float(now), running, workers, full, {"source.sink": 10_000}, {}, {"source": 50})
            assert rates.observe(seen, {"sink"}) == {"source": 5.0}


def test_a_rolled_back_server_is_no_progress() -> None:
    rates = Rates(plan_of("sink"), HIGH, LOW)
    counts: defaultdict[float, int] = defaultdict(lambda: 1000, {1.0: 5000, 2.0: 6000})
    for now in (1.0, 2.0, 3.0, 4.0):
        used = Counter({"source.sink": counts[now]})
        flows = {TaskId("sink", 0): TaskFlow({}, used), TaskId("source", 0): TaskFlow({"source.sink": counts[now]})}
        lengths = {"source.sink": dict.fromkeys(range(P), HIGH)}
        seen = Observation(now, True, 1, lengths, {"source.sink": 100}, flows, {"source": counts[now]})
        found = rates.observe(seen, {"sink"})
        assert all(rate >= 1.0 for rate in found.values())


def test_one_that_takes_over_goes_on_from_what_was_said() -> None:
    source = SourceRate()
    source.follow(800.0)
    assert source.update(Press(False, False, 700.0)) == 800.0
    assert source.update(Press(True, False, 700.0, drain=400.0)) == pytest.approx(380.0)
    source.follow(None)
    assert source.update(Press(False, True, 700.0)) is None


@pytest.mark.parametrize(("own", "limited"), [({}, False), ({"source.sink": Watermark(8, 2)}, True)])
def test_a_source_is_pressed_at_the_high_level_of_its_own_edge(own: dict[str, Watermark], limited: bool) -> None:
    """The same backlog: far from the high level of a usual stream, and above that of a narrow one."""
    plan = plan_of("sink")
    rates = Rates(plan, HIGH, LOW, levels=own)
    for second in range(4):
        flows = {
            task: TaskFlow({"source.sink": 8000}, {}) if task.subgraph == "source" else
            TaskFlow({}, {"source.sink": 1000 * second}, 0.95 * second, 0.9 * second)
            for task in plan.tasks()
        }  # fmt: skip
        lengths = {"source.sink": dict.fromkeys(range(P), 8)}
        seen = Observation(float(second), True, 2, lengths, {"source.sink": 800}, flows, {"source": 10_000 + second})
        rates.observe(seen, {"sink"})
    assert bool(rates.rates) is limited
