"""Durations: text, ints and timedeltas to nanoseconds, and back to text for people."""

from collections.abc import Callable
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.circuit import CircuitRule
from market_data_pipeline.dag.options import Retries
from market_data_pipeline.durations import (
    Duration,
    duration_text,
    parse_duration,
    positive_duration,
    signed_duration,
    wall_duration,
)
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.operators.async_map import AsyncMap
from market_data_pipeline.sources.reconnect import Reconnect
from market_data_pipeline.sources.routes import Failover

SECONDS: dict[str, Fraction | int] = {
    "ns": Fraction(1, 10**9),
    "us": Fraction(1, 10**6),
    "ms": Fraction(1, 1000),
    "s": 1,
    "m": 60,
    "h": 3600,
}
SECONDS["d"] = 86400


@pytest.mark.parametrize(
    ("value", "nanos"),
    [
        ("1s", 10**9),
        ("250ms", 250 * 10**6),
        ("5m", 300 * 10**9),
        ("1h", 3600 * 10**9),
        ("1d", 86400 * 10**9),
        ("7us", 7000),
        ("3ns", 3),
        (" 2 s ", 2 * 10**9),
        ("1.5s", 1_500_000_000),
        ("0.1ms", 100_000),
        (17, 17),
        (-5, -5),
        (timedelta(milliseconds=1.5), 1_500_000),
        (timedelta(days=400, microseconds=1), 400 * 86400 * 10**9 + 1000),
        (timedelta(seconds=-1), -(10**9)),
    ],
)
def test_parse(value: Duration, nanos: int) -> None:
    assert parse_duration(value) == nanos


@settings(max_examples=200, deadline=None, derandomize=True)
@given(whole=st.integers(0, 10**6), fraction=st.text("0123456789", max_size=12), unit=st.sampled_from(sorted(SECONDS)))
def test_parse_equals_exact_fractions_cut_to_whole_ns(whole: int, fraction: str, unit: str) -> None:
    text = f"{whole}.{fraction}" if fraction else str(whole)
    exact = Fraction(text) * SECONDS[unit] * 10**9
    assert parse_duration(text + unit) == exact.numerator // exact.denominator


@pytest.mark.parametrize("value", ["", "s", "1", "1 second", "-1s", "1e3s", "1,5s", "1s2s", ".5s", "1.s", "1S", True])
def test_anything_else_is_a_config_error_naming_the_setting(value: Duration) -> None:
    with pytest.raises(ConfigError, match=r"^linger: .*is not a duration; write for example '1s'"):
        parse_duration(value, "linger")


@pytest.mark.parametrize("value", ["0s", 0, -1, timedelta(0)])
def test_positive_duration_refuses_zero_and_less(value: Duration) -> None:
    with pytest.raises(ConfigError, match=r"^interval: .* must be greater than zero"):
        positive_duration(value, "interval")


def test_positive_duration_passes_the_smallest() -> None:
    assert positive_duration(1, "interval") == 1


@pytest.mark.parametrize(
    ("value", "nanos"),
    [
        ("-15m", -900 * 10**9),
        (" - 1.5s", -1_500_000_000),
        ("-0s", 0),
        ("1s", 10**9),
        (-5, -5),
        (timedelta(seconds=-1), -(10**9)),
    ],
)
def test_signed_duration(value: Duration, nanos: int) -> None:
    assert signed_duration(value, "align_to") == nanos


@pytest.mark.parametrize("value", ["--1s", "-", "1-s", "+1s"])
def test_signed_duration_refuses_what_is_none(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^align_to: .*is not a duration"):
        signed_duration(value, "align_to")


def test_positive_duration_refuses_a_minus() -> None:
    with pytest.raises(ConfigError, match=r"^interval: '-1s' is not a duration"):
        positive_duration("-1s", "interval")


@pytest.mark.parametrize(
    ("nanos", "text"),
    [(0, "0s"), (90 * 10**9, "90s"), (3600 * 10**9, "1h"), (250_000_000, "250ms"), (1_000_001, "1000001ns")],
)
def test_as_one_would_write_it(nanos: int, text: str) -> None:
    assert duration_text(nanos) == text


@given(st.integers(0, 10**20))
def test_what_is_written_is_read_again(nanos: int) -> None:
    assert parse_duration(duration_text(nanos)) == nanos


@pytest.mark.parametrize("value", [1_000_000, "30s", "500us", timedelta(microseconds=5)])
def test_waits_may_be_as_short_as_one_says_with_a_unit(value: Duration) -> None:
    assert wall_duration(value, "open_for") == parse_duration(value)


def test_no_wait_is_one_only_where_it_may_be() -> None:
    assert wall_duration(0, "overlap", zero=True) == wall_duration("0s", "overlap", zero=True) == 0
    with pytest.raises(ConfigError, match=r"^overlap: -5 must not be below zero"):
        wall_duration(-5, "overlap", zero=True)
    with pytest.raises(ConfigError, match=r"^open_for: 0 must be greater than zero"):
        wall_duration(0, "open_for")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: CircuitRule(open_for=30), "open_for"),
        (lambda: CircuitRule(window=30), "window"),
        (lambda: Failover(fail_after=30), "fail_after"),
        (lambda: Failover(stale_after=30), "stale_after"),
        (lambda: Retries(first=30), "first"),
        (lambda: Reconnect(stable_after=30), "stable_after"),
        (lambda: AsyncMap(test_waits_may_be_as_short_as_one_says_with_a_unit, timeout=30), "timeout"),
    ],
)
def test_seconds_without_their_unit_are_refused(make: Callable[[], Any], name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}: 30 is 30 ns, for a whole number .*; write '30s' for seconds$"):
        make()
