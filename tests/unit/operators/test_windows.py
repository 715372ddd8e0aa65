"""The values that say which windows there are."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.operators.windows import CountWindow, Hop, Session, Tumble

MINUTE = 60 * 10**9


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(-(10**6), 10**6), st.integers(1, 500), st.integers(1, 500), st.integers(-1000, 1000))
def test_an_item_is_in_the_windows_that_hold_it(ts: int, size: int, slide: int, align_to: int) -> None:
    windows = Hop(size, slide, align_to)
    near = math.floor(Fraction(ts - align_to, slide))
    reach = size // slide + 2
    holding = [n for n in range(near - reach, near + 2) if n * slide + align_to <= ts < n * slide + align_to + size]
    low, high = (int(numbers[0]) for numbers in windows.spans(np.array([ts], np.int64)))
    assert list(range(low, high + 1)) == holding
    assert [windows.start(n) for n in holding] == [n * slide + align_to for n in holding]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(-(10**6), 10**6), st.integers(1, 500), st.integers(1, 500), st.integers(-1000, 1000))
def test_the_first_open_window_is_the_first_whose_end_lies_ahead(
    mark: int, size: int, slide: int, align_to: int
) -> None:
    windows = Hop(size, slide, align_to)
    first = windows.first_open(mark)
    assert windows.start(first) + size > mark >= windows.start(first - 1) + size


def test_the_examples_of_the_module() -> None:
    ten_seven = np.array([7 * MINUTE], np.int64)  # past a full hour
    cases = [
        (Tumble("5m"), [5]),
        (Tumble("1h", "-15m"), [-15]),
        (Hop("10m", "5m"), [0, 5]),
        (Hop("5m", "10m"), []),
    ]
    for windows, starts in cases:
        low, high = windows.spans(ten_seven)
        assert [windows.start(n) // MINUTE for n in range(int(low[0]), int(high[0]) + 1)] == starts


def test_they_are_values() -> None:
    assert Tumble("1m", align_to="-15m") == Tumble(MINUTE, -15 * MINUTE)
    assert hash(Session("1s")) == hash(Session(10**9))
    assert Hop("1m", "1m") != Tumble("1m")
    assert repr(CountWindow(3)) == "CountWindow(n=3)"
    with pytest.raises(AttributeError):
        Tumble("1m").size = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: Tumble("0s"), "size: '0s' must be greater than zero"),
        (lambda: Tumble("-1s"), "size: '-1s' is not a duration"),
        (lambda: Tumble("3661d"), "size: '3661d' is too long; at most 3660d"),
        (lambda: Tumble("1s", "x"), "align_to: 'x' is not a duration"),
        (lambda: Tumble("1s", "-3661d"), "align_to: '-3661d' is too far from zero; at most 3660d"),
        (lambda: Hop("1s", 0), "slide: 0 must be greater than zero"),
        (lambda: Session(-1), "gap: -1 must be greater than zero"),
        (lambda: CountWindow(0), "n: 0 is not allowed; an int of at least 1"),
        (lambda: CountWindow(True), "n: True is not allowed"),
    ],
)
def test_wrong_ones_are_refused(made: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        made()
