"""Aggregations: stable, exact for any batching, configured rightly. Their values in windows: test_window_book, test_session."""

import math
import statistics
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import END, Columns, Frame, to_rows
from market_data_pipeline.operators.aggregations import Aggregation, First, ItemList, Last, Mean, Min, Std, Sum, Vwap
from market_data_pipeline.operators.base import OperatorContext
from market_data_pipeline.operators.window import WindowAggregate
from market_data_pipeline.operators.windows import Session, Tumble


def result(aggregation: Aggregation, items: list[Any], cuts: tuple[int, ...] = (), windows: Any = None) -> Any:
    """The value of ``items`` in one window, given in frames that begin at ``cuts``."""
    operator = WindowAggregate(windows or Tumble("1h"), {"value": aggregation}, key=None)
    operator.open(OperatorContext("w"))
    for start, stop in zip((0, *cuts), (*cuts, len(items)), strict=True):
        list(operator.process(Frame(items[start:stop])))
    (row,) = [row for frame in operator.advance(END) for row in to_rows(frame.items)]
    return row["value"]


def priced(prices: list[float], apart: int = 0) -> list[Any]:
    return [{"ts_event": at * apart, "price": price, "size": 1} for at, price in enumerate(prices)]


FLOATS = st.floats(-1e9, 1e9, width=32)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(prices=st.lists(FLOATS, min_size=1, max_size=30), ddof=st.integers(0, 2), cut=st.integers(0, 30))
def test_std_is_that_of_exact_arithmetic(prices: list[float], ddof: int, cut: int) -> None:
    found = result(Std("price", ddof), priced(prices), (min(cut, len(prices)),))
    if len(prices) <= ddof:
        assert math.isnan(found)
        return
    exact = [Fraction(price) for price in prices]
    mean = sum(exact) / len(exact)
    variance = sum((value - mean) ** 2 for value in exact) / (len(exact) - ddof)
    assert found == pytest.approx(math.sqrt(variance), rel=1e-9, abs=1e-6)


def test_std_is_stable_far_from_zero() -> None:
    prices = [1e9 + offset for offset in (4.0, 7.0, 13.0, 16.0)] * 50  # the textbook formula gives nonsense here
    assert result(Std("price"), priced(prices)) == pytest.approx(math.sqrt(22.5), rel=1e-9)
    assert result(Std("price"), [*priced([0.0]), *priced(prices)]) == pytest.approx(
        statistics.pstdev([0.0, *prices]), rel=1e-12
    )


@settings(max_examples=100, deadline=None, derandomize=True)
@given(left=st.lists(FLOATS, min_size=1, max_size=10), right=st.lists(FLOATS, min_size=1, max_size=10), bridge=FLOATS)
def test_std_of_sessions_that_become_one(left: list[float], right: list[float], bridge: float) -> None:
    def at(ts: int, price: float) -> Any:
        return {"ts_event": ts, "price": price}

    items = [*(at(0, price) for price in left), *(at(20, price) for price in right), at(10, bridge)]
    found = result(Std("price"), items, windows=Session(10))
    assert found == pytest.approx(statistics.pstdev([*left, *right, bridge]), rel=1e-9, abs=1e-6)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    prices=st.lists(st.sampled_from([0.1, 0.2, 0.3, 1e16, -1e16, 7.7]), min_size=1, max_size=30),
    cuts=st.lists(st.integers(0, 30)),
)
def test_sums_do_not_depend_on_frames(prices: list[float], cuts: list[int]) -> None:
    at = tuple(sorted(min(cut, len(prices)) for cut in cuts))
    total = 0.0
    for price in prices:
        total += price
    assert result(Sum("price"), priced(prices), at) == total
    assert result(Mean("price"), priced(prices), at) == total / len(prices)


def test_a_sum_out_of_range_is_infinite() -> None:
    assert result(Sum("price"), priced([1e308, 1e308])) == math.inf


def test_vwap_without_volume_is_no_number() -> None:
    assert math.isnan(result(Vwap(), [{"ts_event": 0, "price": 5.0, "size": 0}]))
    assert result(Vwap("p", "q"), [{"ts_event": 0, "p": 10, "q": 1}, {"ts_event": 0, "p": 13, "q": 2}]) == 12.0


def test_first_and_last_may_be_texts() -> None:
    items = [{"ts_event": ts, "venue": venue} for ts, venue in ((5, "b"), (3, "a"), (9, "d"), (3, "x"), (9, "c"))]
    assert result(First("venue"), items, (2, 3)) == "a"
    assert result(Last("venue"), items, (2, 3)) == "c"


def test_results_come_out_as_columns_where_they_can() -> None:
    def form(aggregation: Aggregation) -> Any:
        operator = WindowAggregate(Tumble("1h"), {"value": aggregation}, key="venue")
        operator.open(OperatorContext("w"))
        list(operator.process(Frame([{"ts_event": 0, "venue": v, "n": n} for v, n in (("a", 1), ("b", 2.5))])))
        (frame,) = operator.advance(END)
        return type(frame.items)

    assert form(Min("n")) is Columns
    assert form(First("venue")) is Columns
    assert form(First("n")) is list  # an int and a float
    assert form(ItemList()) is list


def test_items_that_cannot_be_written_are_rejected_at_the_commit() -> None:
    operator = WindowAggregate(Tumble("1h"), {"items": ItemList()}, key=None)
    operator.open(OperatorContext("w"))
    bad = {"ts_event": 0, "x": object()}
    list(operator.process(Frame([{"ts_event": 0, "x": 1}, bad, {"ts_event": 0, "x": 2}])))
    operator.snapshot()
    assert [letter.item for letter in operator.ctx.dead_letters] == [bad]
    (row,) = [row for frame in operator.advance(END) for row in to_rows(frame.items)]
    assert [item["x"] for item in row["items"]] == [1, 2]


@pytest.mark.parametrize("ddof", [-1, 1.0, True])
def test_ddof_is_checked(ddof: Any) -> None:
    with pytest.raises(ConfigError, match=r"ddof: .* is not allowed; an int of at least 0"):
        Std("price", ddof)
