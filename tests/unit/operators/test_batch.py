"""Batcher: chunks of a list, however its items arrive."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import END, Frame, columns_from_rows, to_rows
from market_data_pipeline.operators.base import OperatorContext
from market_data_pipeline.operators.batch import Batcher
from market_data_pipeline.records import Trade


def started(max_items: int) -> Batcher:
    operator = Batcher(max_items)
    operator.open(OperatorContext("batch"))
    return operator


def rows(frames: Iterable[Frame]) -> list[Any]:
    return [row for frame in frames for row in to_rows(frame.items)]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.integers(1, 7), st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["", "commit", "restart"])), max_size=12)
)
def test_batches_are_chunks_of_all_items(max_items: int, steps: list[tuple[int, str]]) -> None:
    operator, state = started(max_items), dict[str, bytes]()
    got: list[Any] = []
    total = 0
    for count, then in steps:
        got += rows(operator.process(Frame(list(range(total, total + count)))))
        total += count
        assert operator.waiting == total % max_items
        if then:
            for key, blob in operator.snapshot().items():
                if blob is None:
                    state.pop(key, None)
                else:
                    state[key] = blob
        if then == "restart":
            operator = started(max_items)
            operator.restore(state)
    got += rows(operator.advance(END))
    everything = list(range(total))
    assert got == [everything[i : i + max_items] for i in range(0, total, max_items)]


def test_only_the_end_flushes_and_only_once() -> None:
    operator = started(3)
    assert rows(operator.process(Frame([1, 2, 3, 4]))) == [[1, 2, 3]]
    assert list(operator.advance(10**18)) == []
    assert rows(operator.advance(END)) == [[4]]
    assert list(operator.advance(END)) == []


def test_nothing_waits_and_nothing_is_flushed() -> None:
    operator = started(2)
    assert rows(operator.process(Frame([1, 2]))) == [[1, 2]]
    assert list(operator.advance(END)) == []
    assert list(operator.flush()) == []


def test_columns_are_batched_as_records() -> None:
    trades = [Trade("A", i, 0, 1.0, 1.0) for i in range(4)]
    assert rows(started(2).process(Frame(columns_from_rows(trades)[0]))) == [trades[:2], trades[2:]]


def test_records_that_wait_survive_a_restart() -> None:
    trade = Trade("A", 1, 0, 1.0, 1.0)
    operator = started(2)
    list(operator.process(Frame([trade])))
    state = {key: blob for key, blob in operator.snapshot().items() if blob is not None}
    successor = started(2)
    successor.restore(state)
    assert rows(successor.process(Frame([trade]))) == [[trade, trade]]


def test_a_snapshot_holds_only_what_changed() -> None:
    operator = started(2)
    assert operator.snapshot() == {}
    list(operator.process(Frame([1])))
    assert set(operator.snapshot()) == {"waiting"}
    assert operator.snapshot() == {}
    list(operator.process(Frame([2])))
    assert operator.snapshot() == {"waiting": None}


@pytest.mark.parametrize("max_items", [0, -1])
def test_max_items_must_be_positive(max_items: int) -> None:
    with pytest.raises(ConfigError, match=f"max_items={max_items} must be at least 1"):
        Batcher(max_items)


def test_a_flush_deletes_what_was_stored() -> None:
    operator = started(3)
    list(operator.process(Frame([1])))
    assert set(operator.snapshot()) == {"waiting"}
    assert rows(operator.advance(END)) == [[1]]
    assert operator.snapshot() == {"waiting": None}
