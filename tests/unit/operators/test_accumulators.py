"""The table of open windows: what a commit writes, and that nothing stays."""

from typing import Any

import numpy as np

from market_data_pipeline.frame import END, Columns, Dictionary, Frame
from market_data_pipeline.operators.aggregations import Count, First, Sum
from market_data_pipeline.operators.base import OperatorContext
from market_data_pipeline.operators.window import WindowAggregate
from market_data_pipeline.operators.windows import Tumble


def started() -> WindowAggregate:
    operator = WindowAggregate(Tumble(10), {"n": Count(), "sum": Sum("x"), "first": First("x")}, key="k")
    operator.open(OperatorContext("w"))
    return operator


def items(keys: range, ts: int = 0) -> Frame:
    names = tuple(f"key-{key}" for key in keys)
    codes, times = np.arange(len(names), dtype=np.uint32), np.full(len(names), ts)
    return Frame(Columns("", {"k": Dictionary(codes, names), "ts_event": times, "x": np.ones(len(names))}))


def size(delta: dict[str, Any]) -> int:
    return sum(len(blob) for blob in delta.values() if blob is not None)


def test_a_commit_writes_the_blocks_that_changed() -> None:
    operator = started()
    list(operator.process(items(range(10_000))))
    whole = operator.snapshot()
    assert len(whole) == 10_000 // 16
    assert size(whole) < 10_000 * 120
    assert operator.snapshot() == {}
    list(operator.process(items(range(160, 320))))
    part = operator.snapshot()
    assert len(part) == 10
    assert size(part) < 160 * 120


def test_what_is_gone_is_deleted_and_memory_is_given_back() -> None:
    operator = started()
    list(operator.process(items(range(1000))))
    whole = operator.snapshot()
    list(operator.process(items(range(1000, 1010), ts=15)))
    list(operator.advance(10))
    delta = operator.snapshot()
    assert sum(blob is None for blob in delta.values()) == len(whole) - 1
    store = operator._book.store
    assert len(store) == 10
    list(operator.advance(END))
    assert set(operator.snapshot().values()) == {None}
    assert (len(store), len(store.keys), len(store.col["seq"])) == (0, 0, 0)


def test_slots_are_used_again() -> None:
    operator = started()
    for window in range(200):
        list(operator.process(items(range(50), ts=window * 10)))
        list(operator.advance(window * 10 + 10))
        list(operator.process(items(range(1), ts=window * 10 + 10)))
    assert len(operator._book.store.keys) <= 128


def test_windows_that_came_and_went_between_two_commits_leave_no_trace() -> None:
    operator = started()
    list(operator.process(items(range(100))))
    list(operator.advance(10))
    assert operator.snapshot() == {}
