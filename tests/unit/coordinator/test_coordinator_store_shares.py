"""Rates of several sources before stores with queues of their own: bounded, shared, and lifted again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from mdp_coordinator.rates import Rates
from mdp_coordinator.store_rates import StoreRate
from tools.store_world import Queued, StoreWorld

OFFERED, FULL, SLOW = 50_000.0, 100_000.0, 10_000.0
SLOW_AT, WELL_AT = 60, 660


def slow(t: float) -> float:
    return SLOW if SLOW_AT <= t < WELL_AT else FULL


@pytest.mark.parametrize(
    ("second", "fair"),
    [
        (lambda t: 20_000 * (t >= 200), SLOW / 2),
        (lambda t: 3 if t < 200 else 20_000, SLOW / 2),
        (lambda t: 500 if t < 200 else 20_000, SLOW / 2),
        (lambda t: 20_000 * (int(t) % 5 == 0), SLOW / 10),
        (lambda _: 100, 100),
        (lambda _: 5_000, SLOW / 2),
    ],
    ids=["idle at first", "next to nothing at first", "little at first", "now and then", "little", "half"],
)
def test_no_source_starves_before_a_store_that_is_slow(second: Callable[[float], float], fair: float) -> None:
    """However little a source had when the store became slow, it gets as much as the other one, or all it has."""
    store = Queued(slow, 20_000, 5_000, (0, 1))
    job = StoreWorld([lambda _: OFFERED, second], [store])
    job.run(WELL_AT)
    assert store.deepest <= store.high + 5 * (OFFERED + 20_000)
    assert job.intake(1, 200) >= 0.8 * fair
    assert job.intake(0, 200) + job.intake(1, 200) >= 0.85 * SLOW
    job.run(60)
    assert job.rates[-1] == [None, None]
    assert job.intake(0, 5) == pytest.approx(OFFERED)


def test_who_has_nothing_is_not_limited_by_what_others_put_into_a_store() -> None:
    rate = StoreRate()
    assert [rate.update(1.5, [0.0, 0.0]) for _ in range(10)] == [None] * 10
    assert rate.update(1.6, [0.0, 100.0]) is not None


def test_the_cut_is_made_where_most_comes_from() -> None:
    rate = StoreRate()
    for position in (0.0, 0.3, 0.6, 0.9, 1.2):
        rate.update(position, [1000.0, 10.0, 30.0])
    assert rate.rate == pytest.approx(1040 / 4 - 40), "a quarter of all is left"


def test_a_source_before_two_stores_of_which_one_was_dead_is_lifted_again() -> None:
    """A rate of one item a second, of which whole items are seen."""
    half = Queued(lambda t: OFFERED / 2 if SLOW_AT <= t < WELL_AT else FULL, 150_000, 0, (0,))
    dead = Queued(lambda t: 0.0 if SLOW_AT <= t < WELL_AT else FULL, 20_000, 10_000, (0,))
    job = StoreWorld([lambda _: OFFERED], [half, dead], said_after=2)
    job.run(WELL_AT + 100)
    assert job.rates[-1] == [None]
    assert job.intake(0, 5) == pytest.approx(OFFERED)


def test_a_limit_that_the_source_does_not_use_up_goes_away_when_the_store_is_empty() -> None:
    rate = StoreRate()
    for position in (0.2, 0.4, 0.6, 0.8, 1.0, 1.1):
        rate.update(position, [100.0])
    for _ in range(60):  # its venue has no more than this
        rate.update(0.0, [min(70.0, rate.rate or 70.0)])
    assert rate.rate is None


def test_a_dead_store_with_levels_far_apart_gets_not_much_more() -> None:
    """It takes twelve seconds from one to the other, as with a store that is only a little too slow."""
    store = Queued(lambda t: FULL if t < SLOW_AT else 0.0, 620_000, 20_000, (0,))
    job = StoreWorld([lambda _: OFFERED], [store])
    job.run(300)
    assert store.deepest <= store.high + (store.high - store.low) * 4 / 3


def test_a_queue_that_rises_a_little_costs_a_little_though_the_first_cut_was_large() -> None:
    rate = StoreRate()
    for position in (0.0, 0.3, 0.6, 0.9, 1.2):
        rate.update(position, [100.0])
    first = rate.rate
    for n in range(60):
        rate.update(1.2 + 0.002 * n, [rate.rate or 100.0])
    assert first is not None
    assert rate.rate == pytest.approx(first / 1.05)


def test_of_two_stores_that_disagree_the_slower_one_holds() -> None:
    stores = [Queued(slow, 20_000, 5_000, (0, 1)), Queued(lambda _: FULL, 20_000, 5_000, (1,))]
    job = StoreWorld([lambda _: 30_000.0, lambda _: 30_000.0], stores)
    job.run(WELL_AT - 10)
    assert job.intake(0, 60) + job.intake(1, 60) == pytest.approx(SLOW, rel=0.1)
    assert job.control.presses in ({}, {"source0": ["store0"], "source1": ["store0"]})
    other = Rates(job.plan, 48, 16)
    other.follow(job.control.rates)
    assert other.rates == job.control.rates
    job.control = other
    job.run(200)
    assert job.rates[-1] == [None, None]
    assert stores[0].deepest <= stores[0].high + 5 * 60_000
