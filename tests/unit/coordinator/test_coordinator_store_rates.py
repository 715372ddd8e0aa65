"""Rates made by what stores say of their own queues, in a simulated job; see ``tools/rate_world.py``."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from typing import Any

import pytest
from mdp_coordinator.autoscale import Autoscaler, Observation
from mdp_coordinator.rates import Rates
from mdp_coordinator.store_rates import STEP, StoreRate
from tools.rate_world import CAPACITY, HIGH, LOW, P, Queue, Stage, World, plan_of

from market_data_pipeline.dag.plan import TaskId
from market_data_pipeline.feedback import StoreReading
from market_data_pipeline.runtime.flow import TaskFlow

OFFERED, FULL, SLOW = 50_000.0, 100_000.0, 10_000.0
SLOW_AT, WELL_AT = 60, 360
SETTLED, RECOVERED = 180, 25
"""Seconds after the store became slow, or well."""


def quick_sink() -> Stage:
    """Takes half a million items a second, whatever its store does with them."""
    return Stage("sink", "source.sink", lambda _: 500_000, waits=False)


def world(speed: Any, offers: Any = lambda _: OFFERED, **queue: Any) -> tuple[World, Queue]:
    own = Queue(speed, **queue)
    return World([quick_sink()], offers, queue=own), own


def slow_for_five_minutes(t: float) -> float:
    return SLOW if SLOW_AT <= t < WELL_AT else FULL


@pytest.mark.parametrize("unit", [1.0, 1000.0, 0.005], ids=["items", "batches", "bytes"])
@pytest.mark.parametrize("said_after", [0.2, 1.6])
def test_a_store_with_a_queue_that_is_slow_for_five_minutes_and_recovers(unit: float, said_after: float) -> None:
    """A step is 5 % of the rate. Whatever the unit of the queue: it stays below its high level and what comes in within five
    seconds; each second after settling the rate is within one step; the source has its full rate soon after."""
    job, queue = world(slow_for_five_minutes, unit=unit, said_after=said_after)
    job.run(SLOW_AT)
    assert set(job.rates) == {None}
    job.run(SETTLED)
    settled = len(job.rates)
    job.run(WELL_AT - SLOW_AT - SETTLED)
    limits = [rate for rate in job.rates[settled:] if rate is not None]
    assert len(limits) == len(job.rates) - settled, "limited all the time"
    assert queue.deepest <= queue.high + 5 * OFFERED
    assert job.stages[0].longest < LOW, "the streams show nothing of it"
    for before, now in pairwise(limits):
        assert min(before, now) * (1 + STEP) >= max(before, now) * (1 - 1e-9)
    assert min(limits) * (1 + STEP) >= max(limits) * (1 - 1e-9)
    assert max(limits) == pytest.approx(SLOW, rel=0.06)
    stored = queue.stored
    job.run(RECOVERED)
    assert job.intake(3) == pytest.approx(OFFERED, rel=0.02)
    assert queue.depth < queue.low
    job.run(15)
    assert job.rates[-1] is None
    assert stored >= OFFERED * SLOW_AT + 0.95 * SLOW * (WELL_AT - SLOW_AT), "it was busy nearly all the time"


def test_as_now_with_streams_alone_the_queue_grows_without_bound() -> None:
    """Why it is asked: nothing fills before such a store."""
    job, queue = world(slow_for_five_minutes, answers=lambda _: False)
    job.run(WELL_AT)
    assert set(job.rates) == {None}
    assert queue.deepest > 0.9 * (OFFERED - SLOW) * (WELL_AT - SLOW_AT)


def test_a_dead_store_gets_next_to_nothing_and_everything_again() -> None:
    job, queue = world(lambda t: 0.0 if SLOW_AT <= t < WELL_AT else FULL)
    job.run(WELL_AT)
    assert queue.deepest <= queue.high + 5 * OFFERED
    assert job.rates[-1] is not None
    assert job.rates[-1] <= 10
    job.run(RECOVERED)
    assert job.intake(3) == pytest.approx(OFFERED, rel=0.02)


def test_a_store_a_little_too_slow_costs_little() -> None:
    job, queue = world(lambda t: 48_000.0)
    job.run(300)
    limits = [rate for rate in job.rates[200:] if rate is not None]
    assert len(limits) == 100
    assert 46_000 <= min(limits) <= max(limits) <= 50_500
    assert queue.stored >= 0.97 * 300 * 48_000


def test_a_store_whose_speed_varies_is_used_nearly_in_full() -> None:
    chance = random.Random(5)
    speeds = [chance.uniform(0.7, 1.3) * SLOW for _ in range(901)]
    job, queue = world(lambda t: speeds[int(t)], high=40_000, low=10_000)
    job.run(300)
    queue.deepest, before = 0.0, queue.stored
    job.run(600)
    assert queue.deepest <= queue.high + 2 * OFFERED
    assert queue.stored - before >= 0.9 * sum(speeds[300:900])
    assert all(rate is not None and 0.4 * SLOW <= rate <= 3 * SLOW for rate in job.rates[300:])


def test_a_healthy_store_makes_no_limit() -> None:
    job, _ = world(lambda _: 60_000)
    job.run(120)
    assert set(job.rates) == {None}


def test_streams_and_store_each_make_a_rate_and_the_smaller_holds() -> None:
    """A sink that takes 20,000 a second before a store that stores 10,000, and then the other way round."""
    own = Queue(lambda t: 10_000 if t < 300 else FULL)
    job = World([Stage("sink", "source.sink", lambda _: 20_000)], lambda _: OFFERED, queue=own)
    job.run(300)
    limits = [rate for rate in job.rates[-60:] if rate is not None]
    assert 8_000 <= min(limits) <= max(limits) <= 12_000
    assert job.control.presses == {"source": ["sink"]}
    job.run(120)
    limits = [rate for rate in job.rates[-60:] if rate is not None]
    assert 14_000 <= min(limits) <= max(limits) <= 26_000
    assert job.control.presses == {}, "it is the sink now"


def test_no_pressure_of_a_store_comes_past_a_node_that_absorbs() -> None:
    thin = Stage("thin", "source.thin", lambda _: 500_000, waits=False)
    sink = Stage("sink", "thin.sink", lambda _: 500_000, waits=False)
    job = World([thin, sink], lambda _: OFFERED, absorbing=("thin",), queue=Queue(lambda _: SLOW))
    job.run(60)
    assert set(job.rates) == {None}


def feed(rate: StoreRate, *positions: float | None, intake: float = 100.0) -> float | None:
    for position in positions:
        rate.update(position, [intake])
    return rate.rate


def test_between_its_levels_a_queue_changes_nothing() -> None:
    rate = StoreRate()
    assert feed(rate, *(n / 100 for n in range(100))) is None
    assert feed(rate, 1.0) is not None
    limited = rate.rate
    assert feed(rate, *(n / 100 for n in range(99, 0, -1))) == limited


@pytest.mark.parametrize(("low", "others"), [(0.0, 0.0), (2000.0, 2500.0)], ids=["a level of 0", "others' items"])
def test_a_queue_that_never_quite_reaches_its_low_level_does_not_limit_for_ever(low: float, others: float) -> None:
    """What is being written just now, and what others have put there, stays above it."""
    rate, chance, depth, said = StoreRate(), random.Random(7), 0.0, [None, None, None]
    for t in range(600):
        intake = min(OFFERED, said[0] or OFFERED)
        depth = max(0.0, depth + intake - slow_for_five_minutes(t))
        seen = StoreReading(depth + others + 0.005 * intake * chance.uniform(0.2, 1.0), 10_000.0, low)
        said = [*said[1:], rate.update(seen.position, [intake])]
        assert t < SLOW_AT + SETTLED or t >= WELL_AT or 0.9 * SLOW < (rate.rate or OFFERED) < 1.1 * SLOW
    assert rate.rate is None


def test_a_steep_rise_takes_three_quarters_a_slow_one_a_step() -> None:
    assert feed(StoreRate(), 0.0, 0.0, 0.0, 0.3, 0.7, 1.1) == pytest.approx(25.0)
    assert feed(StoreRate(), 0.8, 0.85, 0.9, 0.95, 1.0) == pytest.approx(100 / 1.05)


def test_a_cut_has_time_to_show_and_the_next_one_is_larger() -> None:
    rate = StoreRate()
    feed(rate, 0.8, 0.85, 0.9, 0.95, 1.0)
    first = rate.rate
    assert first is not None
    assert feed(rate, 1.1, 1.15, 1.2, intake=first) == first
    assert feed(rate, 1.32, intake=first) == pytest.approx(first * (1 - 2 * STEP / (1 + STEP)))
    second = rate.rate
    assert feed(rate, 1.5, 1.4, 1.3, 1.2, 1.15, 1.1, 1.05, intake=80.0) == second, "it falls"


def test_a_store_that_says_nothing_holds_its_rate_for_half_a_minute() -> None:
    rate = StoreRate()
    limited = feed(rate, 0.5, 0.9, 1.2)
    assert limited is not None
    assert feed(rate, *[None] * 29) == limited
    assert feed(rate, None) is None
    assert feed(rate, *[None] * 50) is None


def test_a_rate_is_never_nothing() -> None:
    rate = StoreRate()
    for n in range(200):
        feed(rate, float(n), intake=min(100.0, rate.rate or 100.0))
    assert rate.rate == 1.0


def test_one_that_takes_over_keeps_the_rate_of_a_store() -> None:
    rates = Rates(plan_of("sink"), HIGH, LOW)
    rates.follow({"source": 800.0})
    full = {"sink": StoreReading(100, 80, 20)}
    found = {}
    for now in range(3):
        lengths = {"source.sink": dict.fromkeys(range(P), 0)}
        seen = Observation(float(now), True, 1, lengths, {}, {}, {"source": 800 * now}, full)
        found = rates.observe(seen, ())
    assert found == {"source": 800.0}
    assert rates.presses == {"source": ["sink"]}


@pytest.mark.parametrize(("presses", "known_for"), [({}, 4), ({"source": ["other"]}, 4), ({"source": ["sink"]}, 29)])
def test_one_that_takes_over_waits_long_for_a_word_of_a_store_only_where_the_rate_is_that_stores(
    presses: dict[str, list[str]], known_for: int
) -> None:
    """A rate that comes from a slow sink is for the source alone: else it would hold for half a minute after each takeover."""
    rates = Rates(plan_of("sink"), HIGH, LOW)
    for _ in range(3):  # as a standby
        rates.follow({"source": 800.0}, presses)
    assert rates.presses == ({"source": ["sink"]} if known_for == 29 else {})
    found = []
    for now in range(40):  # what holds the source back is not the outside, so its own rate is lifted soon
        lengths = {"source.sink": dict.fromkeys(range(P), CAPACITY)}
        found.append(rates.observe(Observation(float(now), True, 1, lengths, {}, {}, {"source": 800 * now}), ()))
    assert found == [{"source": 800.0}] * (known_for + 1) + [{}] * (39 - known_for)  # the first one only begins


def observation(now: float, frames: int, depth: float) -> Observation:
    lengths = {"source.sink": dict.fromkeys(range(P), frames)}
    flows = {TaskId("sink", p): TaskFlow({}, {"source.sink": int(now) * 100}, busy=now, outside=0.0) for p in range(P)}
    stores = {} if math.isnan(depth) else {"sink": StoreReading(depth, 80, 20)}
    return Observation(now, True, 2, lengths, {"source.sink": frames * 100}, flows, {}, stores)


@pytest.mark.parametrize(
    ("depths", "bound"),
    [((80.0,), True), ((79.0,), False), ((90.0, 50.0), True), ((90.0, 20.0), False), ((90.0, math.nan), False)],
    ids=["high", "below", "still", "low", "silent"],
)
def test_more_workers_are_no_help_while_a_store_is_full(depths: tuple[float, ...], bound: bool) -> None:
    scaler = Autoscaler(plan_of("sink"), LOW)
    for now in range(5):
        scaler.observe(observation(float(now), CAPACITY, 0.0))
    for now, depth in enumerate(depths, 5):
        scaler.observe(observation(float(now), CAPACITY, depth))
    assert scaler.signal("sink").sink_bound is bound
    assert scaler.signal().sink_bound is bound
    assert scaler.signal().desired_replicas == (2 if bound else P)
    assert scaler.waiting() == ({"sink"} if bound else set())


def test_a_full_store_is_the_bottleneck_though_no_stream_is_full() -> None:
    scaler = Autoscaler(plan_of("sink"), LOW)
    scaler.observe(observation(0.0, 0, 90.0))
    scaler.observe(observation(1.0, 0, 90.0))
    assert scaler.signal().sink_bound
    assert scaler.signal().desired_replicas == 1
