"""Batcher: chunks of a list, however its items arrive."""

from collections.abc import Iterable
from typing import Any

import msgpack
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from market_data_pipeline.durations import Duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import END, Frame, columns_from_rows, to_rows
from market_data_pipeline.operators.base import OperatorContext
from market_data_pipeline.operators.batch import Batcher
from market_data_pipeline.records import Trade


def started(max_items: int | None = None, max_bytes: int | None = None, max_time: Duration | None = None) -> Batcher:
    operator = Batcher(max_items, max_bytes, max_time)
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


ITEMS = st.one_of(st.text(max_size=12), st.integers(0, 300), st.builds(dict, n=st.integers(0, 9)))
STEPS = st.lists(
    st.tuples(st.lists(ITEMS, max_size=9), st.integers(0, 5), st.booleans(), st.sampled_from(["", "tick", "restart"])),
    max_size=15,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(STEPS, st.none() | st.integers(1, 5), st.none() | st.integers(1, 40), st.none() | st.integers(1, 12))
def test_whichever_limit_comes_first(
    steps: list[tuple[list[Any], int, bool, str]], max_items: int | None, max_bytes: int | None, max_time: int | None
) -> None:
    assume(max_items or max_bytes or max_time)
    operator, state = started(max_items, max_bytes, max_time), dict[str, bytes]()
    got: list[Any] = []
    expected: list[Any] = []
    open_batch: list[Any] = []
    since = now = 0

    def close() -> None:
        if open_batch:
            expected.append(list(open_batch))
            open_batch.clear()

    for items, passed, one_by_one, then in steps:
        now += passed
        operator.ctx.now = now
        if max_time and open_batch and now >= since + max_time and (items or then == "tick"):
            close()
        for part in [[item] for item in items] if one_by_one else [items] if items else []:
            got += rows(operator.process(Frame(list(part))))
        if then == "tick":
            got += rows(operator.tick(now))
        for item in items:
            if max_bytes and sum(map(size, open_batch)) + size(item) > max_bytes:
                close()
            if not open_batch:
                since = now
            open_batch.append(item)
            if len(open_batch) == max_items or (max_bytes and sum(map(size, open_batch)) >= max_bytes):
                close()
        assert got == expected
        assert operator.wake_at() == (since + max_time if max_time and open_batch else None)
        if then == "restart":
            for key, blob in operator.snapshot().items():
                if blob is None:
                    state.pop(key, None)
                else:
                    state[key] = blob
            operator = started(max_items, max_bytes, max_time)
            operator.restore(state)
    close()
    assert got + rows(operator.advance(END)) == expected


def size(item: Any) -> int:
    return len(msgpack.packb(item))


def test_the_examples_of_the_module() -> None:
    assert rows(started(max_bytes=4).process(Frame(["a", "b", "cccc"]))) == [["a", "b"], ["cccc"]]
    operator = started(max_time="1s")
    assert rows(operator.process(Frame([1]))) == []
    assert operator.wake_at() == 10**9
    assert rows(operator.tick(10**9 - 1)) == []
    operator.ctx.now = 10**9
    assert rows(operator.process(Frame([2]))) == [[1]]
    assert operator.wake_at() == 2 * 10**9
    assert rows(operator.tick(2 * 10**9)) == [[2]]
    assert operator.wake_at() is None


def test_an_item_without_a_size_harms_no_neighbour() -> None:
    operator, bad = started(max_bytes=100), object()
    assert rows(operator.process(Frame([1, bad, 2]))) == []
    assert rows(operator.advance(END)) == [[1, 2]]
    assert [letter.item for letter in operator.ctx.dead_letters] == [bad]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "give at least one of max_items, max_bytes, max_time"),
        ({"max_bytes": 0}, "max_bytes=0 must be at least 1"),
        ({"max_time": "0s"}, "max_time: '0s' must be greater than zero"),
    ],
)
def test_mistakes_in_the_arguments(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Batcher(**options)
