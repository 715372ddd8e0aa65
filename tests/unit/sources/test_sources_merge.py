"""The merge of streams against a heap of heads, row by row."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.sources import merge
from market_data_pipeline.sources.merge import Picked, keys_of, pick

FAST = settings(max_examples=300, deadline=None, derandomize=True)
times = st.lists(st.integers(-20, 20), max_size=25)
streams = st.lists(times, min_size=1, max_size=5)


def by_heap(given_streams: list[list[int]]) -> list[tuple[int, int]]:
    """(stream, row) by the smallest next time, ties by stream."""
    heads = [(stream[0], rank, 0) for rank, stream in enumerate(given_streams) if stream]
    heapq.heapify(heads)
    found = []
    while heads:
        _, rank, row = heapq.heappop(heads)
        found.append((rank, row))
        if row + 1 < len(given_streams[rank]):
            heapq.heappush(heads, (given_streams[rank][row + 1], rank, row + 1))
    return found


def by_pick(given_streams: list[list[int]], chunk: int, limit: int) -> list[tuple[int, int]]:
    """The same from chunks of ``chunk`` rows, at most ``limit`` at once."""
    at = [0] * len(given_streams)  # rows given out
    found: list[tuple[int, int]] = []
    while True:
        live = [rank for rank, stream in enumerate(given_streams) if at[rank] < len(stream)]
        if not live:
            return found
        ends = [(at[rank] // chunk + 1) * chunk for rank in live]
        keys = [
            keys_of(np.array(given_streams[rank][at[rank] // chunk * chunk : end], np.int64))[at[rank] % chunk :]
            for rank, end in zip(live, ends, strict=True)
        ]
        picked = pick(keys, limit)
        rows = [(rank, at[rank] + n) for rank, count in zip(live, picked.counts, strict=True) for n in range(count)]
        assert 0 < len(rows) <= limit
        found += rows if picked.order is None else [rows[n] for n in picked.order.tolist()]
        for rank, count in zip(live, picked.counts, strict=True):
            at[rank] += count


@FAST
@given(streams, st.integers(1, 9), st.integers(1, 30), st.sampled_from([1, 3, 1024]))
def test_it_is_the_merge_of_a_heap(given_streams: list[list[int]], chunk: int, limit: int, alone: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge, "ALONE", alone)
        assert by_pick(given_streams, chunk, limit) == by_heap(given_streams)


@FAST
@given(streams, st.integers(1, 9))
def test_sorted_streams_come_as_a_stable_sort_gives_them(given_streams: list[list[int]], chunk: int) -> None:
    ordered = [sorted(stream) for stream in given_streams]
    rows = [(ts, rank, row) for rank, stream in enumerate(ordered) for row, ts in enumerate(stream)]
    assert by_pick(ordered, chunk, 7) == [(rank, row) for _, rank, row in sorted(rows)]


@FAST
@given(streams, st.integers(0, 10))
def test_no_row_comes_further_behind_than_in_its_own_stream(given_streams: list[list[int]], chunk: int) -> None:
    def delay(found: list[int]) -> int:
        newest = np.maximum.accumulate(np.array(found or [0]))
        return int((newest - np.array(found or [0])).max())

    merged = [given_streams[rank][row] for rank, row in by_pick(given_streams, chunk + 1, 5)]
    assert delay(merged) <= max(delay(stream) for stream in given_streams)


@pytest.mark.parametrize(
    ("keys", "stop", "expected"),
    [
        ([[1, 5, 9]], None, [3]),
        ([[1, 5, 9]], (5, 0), [1]),  # the further stream ranks before: its tie comes first
        ([[1, 5, 9]], (5, 1), [2]),
        ([[1, 5, 9], [2, 5, 6]], None, [2, 3]),
        ([[1, 5, 9], [2, 5, 6]], (5, 1), [2, 1]),
    ],
)
def test_nothing_comes_that_a_further_stream_may_precede(keys: Any, stop: Any, expected: list[int]) -> None:
    picked: Picked = pick([np.array(stream) for stream in keys], 100, stop)
    assert picked.counts == expected


def test_streams_that_do_not_interleave_are_not_sorted() -> None:
    first, second = np.arange(5000), np.arange(5000, 6000)
    assert pick([first, second], 8192) == Picked([5000, 0], None)
    assert pick([second, first], 100) == Picked([0, 100], None)
