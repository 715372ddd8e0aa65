"""Time buckets: the arithmetic against exact fractions."""

import math
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.operators.buckets import Tumbling


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(-(2**60), 2**60), st.integers(1, 2**40), st.integers(-(2**40), 2**40))
def test_every_time_is_in_its_window(ts: int, size: int, align_to: int) -> None:
    windows = Tumbling(size, align_to)
    index = windows.index(ts)
    assert index == math.floor(Fraction(ts - align_to, size))
    assert windows.start(index) <= ts < windows.end(index)
    assert windows.end(index) - windows.start(index) == size
    assert (windows.start(index) - align_to) % size == 0
    assert windows.indices(np.array([ts], np.int64)).tolist() == [index]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(-(10**6), 10**6), st.integers(1, 1000))
def test_first_open_is_the_first_window_whose_end_lies_ahead(watermark: int, size: int) -> None:
    windows = Tumbling(size)
    first = windows.first_open(watermark)
    assert windows.end(first) > watermark >= windows.end(first - 1)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(-(2**40), 2**40), min_size=1), st.integers(1, 2**20), st.integers(-(2**20), 2**20))
def test_arrays_are_as_single_numbers(numbers: list[int], size: int, align_to: int) -> None:
    windows, index = Tumbling(size, align_to), np.array(numbers, np.int64)
    assert windows.starts(index).tolist() == [number * size + align_to for number in numbers]
    assert windows.ends(index).tolist() == [(number + 1) * size + align_to for number in numbers]
    assert windows.after(numbers[0]) == numbers[0] + 1
