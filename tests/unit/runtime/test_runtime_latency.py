"""The latency histogram, against percentiles of the values themselves."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.packing import pack, unpack
from market_data_pipeline.runtime.latency import PERCENTILES, LatencyHistogram, bucket_of, middle_of

ERROR = 1 / 64
DAY = 86_400 * 10**9


def histogram_of(nanos: list[int]) -> LatencyHistogram:
    histogram = LatencyHistogram()
    for value in nanos:
        histogram.record(value)
    return histogram


def test_an_empty_histogram_has_no_percentile() -> None:
    assert LatencyHistogram().percentile(0.5) is None
    assert LatencyHistogram().summary() == dict.fromkeys(("p50", "p90", "p99", "p99.9", "max"))


@given(st.integers(0, 10 * DAY))
@settings(derandomize=True, max_examples=500, deadline=None)
def test_a_bucket_stands_for_what_is_in_it(nanos: int) -> None:
    assert abs(middle_of(bucket_of(nanos)) - nanos) <= ERROR * nanos


def test_buckets_follow_each_other_without_a_gap() -> None:
    buckets = [bucket_of(nanos) for nanos in range(5000)]
    assert sorted(set(buckets)) == list(range(buckets[-1] + 1))
    assert buckets == sorted(buckets)
    assert buckets[:64] == list(range(64))
    for power in range(6, 60):
        assert bucket_of(2**power) == bucket_of(2**power - 1) + 1
    assert bucket_of(DAY) < 2000


@pytest.mark.parametrize("share", [0.0, 0.01, 0.07, 0.5, 0.9, 0.99, 0.999, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_percentiles_are_those_of_numpy(share: float, seed: int) -> None:
    rng = random.Random(seed)
    nanos = [int(10 ** rng.uniform(1, 10)) for _ in range(rng.choice([1, 2, 100, 5000]))]
    exact = np.percentile(np.array(nanos), 100 * share, method="inverted_cdf") / 1e9
    assert histogram_of(nanos).percentile(share) == pytest.approx(exact, rel=ERROR)


@given(st.lists(st.integers(0, 63), min_size=1, max_size=200), st.integers(0, 100))
@settings(derandomize=True, max_examples=300, deadline=None)
def test_ranks_are_exact_where_a_bucket_is_one_value(nanos: list[int], percent: int) -> None:
    """100 values and 7 percent are rank 7, though 0.07 * 100 is a little more than 7."""
    rank = max(1, -(-percent * len(nanos) // 100))
    assert histogram_of(nanos).percentile(percent / 100) == sorted(nanos)[rank - 1] / 1e9


def test_a_clock_that_was_set_back_counts_as_zero() -> None:
    assert histogram_of([-5, -(10**12)]).percentile(1.0) == 0


def test_counts_are_items() -> None:
    histogram = LatencyHistogram()
    histogram.record(1_000_000, 999)
    histogram.record(50_000_000, 1)
    assert histogram.summary() == pytest.approx(
        {"p50": 0.001, "p90": 0.001, "p99": 0.001, "p99.9": 0.001, "max": 0.05}, rel=ERROR
    )
    assert list(histogram.summary()) == list(PERCENTILES)


def test_merging_equals_recording_together() -> None:
    rng = random.Random(1)
    values = [[rng.randrange(10**9) for _ in range(300)] for _ in range(3)]
    merged = LatencyHistogram()
    for part in values:
        merged.merge(unpack(pack(histogram_of(part).packed())))
    assert merged.buckets == histogram_of([value for part in values for value in part]).buckets
    assert LatencyHistogram(merged.packed()).summary() == merged.summary()
