"""map, filter, flat_map, map_columns: what Python's own comprehensions would give, and what happens to items that raise."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.errors import ConfigError, OperatorFailed
from market_data_pipeline.frame import END, Columns, Frame, columns_from_rows, to_rows
from market_data_pipeline.operators.base import OnError, Operator, OperatorContext
from market_data_pipeline.operators.stateless import Filter, FlatMap, Map, MapColumns, apply
from market_data_pipeline.records import Trade

FAST = settings(max_examples=80, deadline=None, derandomize=True)


def started(operator: Operator, on_error: OnError = "dead_letter") -> Operator:
    operator.open(OperatorContext("step", 0, on_error))
    return operator


def run(operator: Operator, items: Any) -> list[Any]:
    return rows(operator.process(Frame(items)))


def rows(frames: Iterable[Frame]) -> list[Any]:
    return [row for frame in frames for row in to_rows(frame.items)]


def picky(x: int) -> int:
    if x % 3 == 0:
        raise ValueError(f"{x} is a multiple of 3")
    return x * 2


@FAST
@given(st.lists(st.integers(), max_size=30))
def test_map_filter_and_flat_map_are_comprehensions(items: list[int]) -> None:
    assert run(started(Map(lambda x: x + 1)), items) == [x + 1 for x in items]
    assert run(started(Filter(lambda x: x % 2)), items) == [x for x in items if x % 2]
    assert run(started(FlatMap(lambda x: range(x % 4))), items) == [y for x in items for y in range(x % 4)]


@FAST
@given(st.lists(st.integers(0, 20), max_size=30))
def test_items_that_raise_do_not_cost_their_neighbours_anything(items: list[int]) -> None:
    operator = started(Map(picky))
    assert run(operator, items) == [x * 2 for x in items if x % 3]
    bad = [x for x in items if x % 3 == 0]
    assert [letter.item for letter in operator.ctx.dead_letters] == bad
    assert [letter.reason for letter in operator.ctx.dead_letters] == [
        f"ValueError: {x} is a multiple of 3" for x in bad
    ]
    assert operator.ctx.counts["dead_letter"] == len(bad)


def test_a_dead_letter_carries_node_item_reason_and_traceback() -> None:
    operator = started(Map(picky))
    run(operator, [3])
    (letter,) = operator.ctx.dead_letters
    assert (letter.node, letter.item) == ("step", 3)
    assert "in picky" in letter.traceback
    assert letter.traceback.endswith("ValueError: 3 is a multiple of 3\n")


@pytest.mark.parametrize("make", [Map, Filter, FlatMap])
def test_skip_counts_and_keeps_nothing(make: Any) -> None:
    operator = started(make(lambda x: [1 // x]), "skip")
    assert len(run(operator, [1, 0, 1, 0])) == 2
    assert operator.ctx.counts == {"skipped": 2}
    assert operator.ctx.dead_letters == []


@pytest.mark.parametrize("make", [Map, Filter, FlatMap])
def test_fail_raises_with_node_item_and_cause(make: Any) -> None:
    operator = started(make(lambda x: [1 // x]), "fail")
    with pytest.raises(OperatorFailed, match=r"node 'step': ZeroDivisionError: .*; item: 0") as caught:
        run(operator, [1, 0, 1])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_flat_map_that_raises_half_way_emits_nothing_of_that_item() -> None:
    def half(x: int) -> Iterable[int]:
        yield x
        if x == 2:
            raise RuntimeError("half way")
        yield x

    operator = started(FlatMap(half))
    assert run(operator, [1, 2, 3]) == [1, 1, 3, 3]
    assert [letter.item for letter in operator.ctx.dead_letters] == [2]


def test_flat_map_of_what_is_not_iterable_is_a_dead_letter() -> None:
    operator = started(FlatMap(lambda x: x))
    assert run(operator, [[1], 5, "ab"]) == [1, "a", "b"]
    assert operator.ctx.dead_letters[0].reason.startswith("TypeError")


def test_columns_become_records_for_a_function_of_items() -> None:
    trades = [Trade("A", i, 0, float(i), 1.0) for i in range(4)]
    made, _ = columns_from_rows(trades)
    assert run(started(Map(lambda t: t.price * 2)), made) == [0.0, 2.0, 4.0, 6.0]
    assert run(started(Filter(lambda t: t.price > 1)), made) == trades[2:]


def test_the_input_is_not_changed() -> None:
    items = [1, 2, 3]
    run(started(Map(lambda x: -x)), items)
    run(started(Filter(lambda x: x > 2)), items)
    assert items == [1, 2, 3]


def test_map_columns_works_on_whole_columns() -> None:
    def expensive(columns: Columns) -> Columns:
        return columns.take(columns.array("price") >= 2)

    trades = [Trade("A", i, 0, float(i), 1.0) for i in range(4)]
    (frame,) = started(MapColumns(expensive)).process(Frame(columns_from_rows(trades)[0]))
    assert isinstance(frame.items, Columns)
    assert frame.items.rows() == trades[2:]


def test_map_columns_may_make_other_columns() -> None:
    def times(columns: Columns) -> Columns:
        return Columns("", {"ms": columns.array("ts_event") // np.int64(10**6)})

    made, _ = columns_from_rows([Trade("A", 5 * 10**6, 0, 1.0, 1.0)])
    assert run(started(MapColumns(times)), made) == [{"ms": 5}]


def test_they_keep_no_state_and_wait_for_nothing() -> None:
    for operator in (Map(str), Filter(bool), FlatMap(list)):
        started(operator)
        run(operator, ["a"])
        assert operator.snapshot() == {}
        assert list(operator.advance(END)) == []


def test_apply_pairs_items_with_results() -> None:
    failed: list[tuple[Any, str]] = []
    done = apply(picky, [3, 1, 6, 6, 2, 9], lambda item, error: failed.append((item, type(error).__name__)))
    assert done == [(1, 2), (2, 4)]
    assert failed == [(3, "ValueError"), (6, "ValueError"), (6, "ValueError"), (9, "ValueError")]
    assert apply(picky, [], lambda item, error: failed.append((item, ""))) == []


def test_apply_lets_interrupts_through() -> None:
    def interrupted(x: int) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply(interrupted, [1], lambda item, error: None)


async def fetch(item: Any) -> Any:
    return item


@pytest.mark.parametrize("operator", [Map, Filter, FlatMap, MapColumns])
def test_a_coroutine_function_is_refused_with_the_operator_that_awaits(operator: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"fetch is async, and \w+ calls plain functions: map_async \(AsyncMap\) awaits one"
    ):
        operator(fetch)
