"""Waiting times between connections."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.sources.reconnect import Backoff, Reconnect

RULE = Reconnect(first="1s", most="10s", stable_after="60s", seed=7)


class _Highest(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return b


def test_the_bound_doubles_up_to_the_most_and_begins_anew_after_a_stable_time() -> None:
    backoff = Backoff(RULE, _Highest())
    assert [backoff.delay(0.0) for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    assert backoff.delay(59.9) == 10
    assert backoff.delay(60.0) == 1
    assert backoff.delay(0.0) == 2


def test_it_is_never_below_what_the_venue_asks_for() -> None:
    backoff = Backoff(RULE, _Highest())
    assert backoff.delay(0.0, retry_after=42.0) == 42.0
    assert backoff.delay(0.0, retry_after=0.5) == 2


@given(st.integers(0, 2**32), st.lists(st.tuples(st.floats(0, 100), st.floats(0, 20)), max_size=100))
def test_every_delay_is_within_bounds_and_the_same_for_the_same_seed(
    seed: int, ends: list[tuple[float, float]]
) -> None:
    rule = Reconnect(first="1s", most="10s", stable_after="60s", seed=seed)
    first = Backoff(rule, rule.rng("feed"))
    delays = [first.delay(lived, asked) for lived, asked in ends]
    again = Backoff(rule, rule.rng("feed"))
    assert delays == [again.delay(lived, asked) for lived, asked in ends]
    for (_, asked), delay in zip(ends, delays, strict=True):
        assert asked <= delay <= max(asked, 10.0)


def test_feeds_have_random_numbers_of_their_own() -> None:
    assert RULE.rng("a").random() != RULE.rng("b").random()
    assert RULE.rng("a", 1).random() == RULE.rng("a", 1).random()


def test_many_tries_do_not_overflow() -> None:
    backoff = Backoff(RULE, random.Random(0))
    assert max(backoff.delay(0.0) for _ in range(5000)) <= 10.0


def test_a_rule_says_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match="most"):
        Reconnect(first="10s", most="1s")
    with pytest.raises(ConfigError, match="stable_after"):
        Reconnect(stable_after="0s")
