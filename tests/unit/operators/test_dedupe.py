"""Dedupe against a plain set of keys, on rows and on columns, with commits and restarts in between."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import END, NO_MARK, Columns, Frame, Items, columns_from_rows, to_rows
from market_data_pipeline.operators.base import OperatorContext
from market_data_pipeline.operators.dedupe import Dedupe
from market_data_pipeline.records import Trade

SEGMENT = 4096


def started(*fields: str, **options: Any) -> Dedupe:
    operator = Dedupe(*(fields or ("symbol", "trade_id")), **options)
    operator.open(OperatorContext("dedupe"))
    return operator


def columns(items: list[Any]) -> Columns:
    made, bad = columns_from_rows(items)
    assert bad == []
    return made


def rows(frames: Iterable[Frame]) -> list[Any]:
    return [row for frame in frames for row in to_rows(frame.items)]


def passed(operator: Dedupe, items: Items) -> list[Any]:
    return rows(operator.process(Frame(items)))


def restarted(operator: Dedupe, state: dict[str, bytes], watermark: int = NO_MARK, **options: Any) -> Dedupe:
    commit(operator, state)
    successor = started(*operator.fields, **options)
    successor.ctx.counts.update(operator.ctx.counts)
    if state:
        successor.restore(state)
    if watermark != NO_MARK:
        assert rows(successor.advance(watermark)) == []
    return successor


def commit(operator: Dedupe, state: dict[str, bytes]) -> None:
    for key, blob in operator.snapshot().items():
        if blob is None:
            del state[key]
        else:
            state[key] = blob


IDS = st.one_of(st.integers(-3, 12), st.sampled_from(["", "1", "x", "é"]))
TRADES = st.builds(
    lambda symbol, ts, identity: Trade(symbol, ts, 0, 1.0, 1.0, "", identity),
    st.sampled_from(["A", "B", ""]),
    st.integers(-50, 50),
    IDS,
)
FRAMES = st.lists(
    st.tuples(
        st.lists(TRADES, min_size=1, max_size=15), st.sampled_from(["rows", "columns"]), st.sampled_from(["", "c", "r"])
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(FRAMES)
def test_only_the_first_of_each_key_passes(frames: list[tuple[list[Trade], str, str]]) -> None:
    operator, state = started(within=None), dict[str, bytes]()
    seen: set[tuple[str, int | str]] = set()
    duplicates = unkeyed = 0
    for items, form, then in frames:
        expected = []
        for item in items:
            key = (item.symbol, item.trade_id)
            if "" in key:
                unkeyed += 1
            elif key in seen:
                duplicates += 1
                continue
            seen.add(key)
            expected.append(item)
        assert passed(operator, columns(items) if form == "columns" else items) == expected
        assert (operator.ctx.counts["duplicate"], operator.ctx.counts["unkeyed"]) == (duplicates, unkeyed)
        if then == "c":
            commit(operator, state)
        elif then == "r":
            operator = restarted(operator, state, within=None)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 9000), st.booleans(), st.booleans()), min_size=1, max_size=6))
def test_many_keys_over_many_segments(spans: list[tuple[int, bool, bool]]) -> None:
    operator, state, seen = started("trade_id", within=None), dict[str, bytes](), set[int]()
    for start, as_columns, restart in spans:
        ids = range(start, start + 3000)
        items = [Trade("A", 0, 0, 1.0, 1.0, "", i) for i in ids]
        got = passed(operator, columns(items) if as_columns else items)
        assert [item.trade_id for item in got] == [i for i in ids if i not in seen]
        seen.update(ids)
        if restart:
            operator = restarted(operator, state, within=None)


def test_the_example_of_the_module() -> None:
    operator = started()
    items = [Trade(symbol, 0, 0, 1.0, 1.0, "", i) for symbol, i in (("A", 1), ("A", 2), ("A", 1), ("B", 1))]
    assert passed(operator, items) == [items[0], items[1], items[3]]
    nameless = Trade("A", 0, 0, 1.0, 1.0)
    assert passed(operator, [nameless, nameless]) == [nameless, nameless]
    assert operator.ctx.counts == {"duplicate": 1, "unkeyed": 2}


def test_rows_and_columns_share_one_memory() -> None:
    operator = started()
    items = [Trade("A", 0, 0, 1.0, 1.0, "buy", i) for i in (1, "x", 2)]
    assert passed(operator, columns(items)) == items
    assert passed(operator, items) == []
    other = started()
    assert passed(other, items) == items
    assert passed(other, columns(items)) == []


def test_the_text_of_a_number_is_another_key() -> None:
    items = [Trade("A", 0, 0, 1.0, 1.0, "", identity) for identity in (1, "1")]
    assert passed(started(), items) == items
    assert passed(started(), columns(items)) == items


def test_the_order_of_fields_matters() -> None:
    items = [{"a": "x", "b": "y"}, {"a": "y", "b": "x"}]
    assert passed(started("a", "b"), items) == items


def test_items_without_the_field_pass_and_are_counted() -> None:
    operator = started("id")
    items = [{"id": None}, {"other": 1}, 17, {"id": ""}, {"id": 0}]
    assert passed(operator, [*items, *items]) == [*items, *items[:4]]
    assert operator.ctx.counts == {"unkeyed": 8, "duplicate": 1}


def test_columns_without_the_field_pass_untouched() -> None:
    operator = started("venue")
    frame = Frame(columns([Trade("A", 0, 0, 1.0, 1.0)]))
    assert list(operator.process(frame)) == [frame]
    assert operator.ctx.counts == {"unkeyed": 1}


def test_columns_without_a_duplicate_are_not_copied() -> None:
    made = columns([Trade("A", 0, 0, 1.0, 1.0, "", i) for i in range(5)])
    (frame,) = started().process(Frame(made))
    assert frame.items is made


def fill(operator: Dedupe, ids: range, ts: int) -> None:
    items = [{"id": i, "ts_event": ts} for i in ids]
    assert passed(operator, items) == items


@pytest.mark.parametrize("restart", [False, True])
def test_keys_are_remembered_for_at_least_within_and_then_forgotten(restart: bool) -> None:
    operator, state = started("id", within="10s"), dict[str, bytes]()
    fill(operator, range(SEGMENT), 5 * 10**9)
    fill(operator, range(SEGMENT, 2 * SEGMENT), 7 * 10**9)
    operator.advance(15 * 10**9 - 1)
    if restart:
        operator = restarted(operator, state, 15 * 10**9 - 1, within="10s")
    assert passed(operator, [{"id": 0, "ts_event": 5}]) == []
    operator.advance(15 * 10**9)
    if restart:
        operator = restarted(operator, state, 15 * 10**9, within="10s")
    assert set(state) == ({"1"} if restart else set())
    assert passed(operator, [{"id": SEGMENT}]) == []
    assert passed(operator, [{"id": 0}]) == [{"id": 0}]


def test_without_within_the_watermark_forgets_nothing() -> None:
    operator = started("id", within=None)
    fill(operator, range(2 * SEGMENT), 0)
    operator.advance(2**62)
    assert passed(operator, [{"id": 0}]) == []


def test_the_end_forgets_nothing() -> None:
    operator = started("id", within="1s")
    fill(operator, range(2 * SEGMENT), 0)
    assert list(operator.advance(END)) == []
    assert passed(operator, [{"id": 0}]) == []


@pytest.mark.parametrize("restart", [False, True])
def test_the_newest_max_keys_are_always_remembered_and_memory_is_bounded(restart: bool) -> None:
    operator, state = started("id", within=None, max_keys=5000), dict[str, bytes]()
    for begin in range(0, 60_000, 1000):
        fill(operator, range(begin, begin + 1000), 0)
        if restart and begin % 7000 == 0:
            operator = restarted(operator, state, within=None, max_keys=5000)
    commit(operator, state)
    assert 5000 <= sum(len(blob) // 8 for blob in state.values()) <= 5000 + 3 * SEGMENT
    assert passed(operator, [{"id": i} for i in range(55_000, 60_000)]) == []
    assert passed(operator, [{"id": 0}]) == [{"id": 0}]


def test_a_snapshot_holds_only_the_segment_that_grew() -> None:
    operator = started("id", within=None)
    fill(operator, range(SEGMENT), 0)
    assert set(operator.snapshot()) == {"0"}
    fill(operator, range(SEGMENT, SEGMENT + 10), 0)
    assert set(operator.snapshot()) == {"1"}
    assert passed(operator, [{"id": 3}]) == []
    assert operator.snapshot() == {}


def test_a_segment_forgotten_before_it_was_stored_is_not_mentioned() -> None:
    operator = started("id", within="1s")
    fill(operator, range(SEGMENT), 0)
    operator.advance(10**10)
    assert operator.snapshot() == {}


def test_mistakes_in_the_arguments() -> None:
    with pytest.raises(ConfigError, match="name at least one key field"):
        Dedupe()
    with pytest.raises(ConfigError, match="max_keys=0 must be at least 1"):
        Dedupe("id", max_keys=0)
    with pytest.raises(ConfigError, match="within: '0s' must be greater than zero"):
        Dedupe("id", within="0s")
