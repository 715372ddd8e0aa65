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
    lambda symbol, ts, recv, identity: Trade(symbol, ts, recv, 1.0, 1.0, "", identity),
    st.sampled_from(["A", "B", ""]),
    st.integers(-2, 2),
    st.integers(0, 9),
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
    seen: dict[tuple[str, int | str], Trade] = {}
    duplicates = unkeyed = conflicts = 0
    for items, form, then in frames:
        expected = []
        for item in items:
            key = (item.symbol, item.trade_id)
            if "" in key:
                unkeyed += 1
            elif key in seen:
                duplicates += 1
                conflicts += seen[key] != item._replace(ts_recv=seen[key].ts_recv)
                continue
            else:
                seen[key] = item
            expected.append(item)
        assert passed(operator, columns(items) if form == "columns" else items) == expected
        assert (operator.ctx.counts["duplicate"], operator.ctx.counts["unkeyed"]) == (duplicates, unkeyed)
        assert operator.ctx.counts["conflict"] == conflicts
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


def test_another_content_is_a_conflict_in_rows_and_in_columns() -> None:
    first = Trade("A", 1, 5, 1.0, 2.0, "buy", 7)
    others = [
        first._replace(ts_recv=6),
        first._replace(price=1.5),
        first._replace(size=3.0),
        first._replace(side="sell"),
        first._replace(ts_event=2),
    ]
    for items in (others, columns(others), [trade._asdict() for trade in others]):
        for before in ([first], columns([first]), [{**first._asdict(), "price": 1, "size": 2}]):
            operator = started()
            assert len(passed(operator, before)) == 1
            assert passed(operator, items) == []
            assert operator.ctx.counts == {"duplicate": 5, "conflict": 4}


@pytest.mark.parametrize(("content", "conflicts"), [(("price", "size"), 2), (("venue",), 0), ((), 0), (None, 3)])
def test_the_fields_of_the_content_can_be_named(content: tuple[str, ...] | None, conflicts: int) -> None:
    operator = started(content=content)
    first = Trade("A", 1, 5, 1.0, 2.0, "buy", 7)
    others = [first._replace(price=1.5), first._replace(size=3.0), first._replace(ts_event=2)]
    assert passed(operator, [first, *others]) == [first]
    assert operator.ctx.counts["duplicate"] == 3
    assert operator.ctx.counts["conflict"] == conflicts


def test_a_conflict_is_found_after_a_restart_and_within_a_frame() -> None:
    operator, state = started("id"), dict[str, bytes]()
    items = [{"id": 1, "x": 1}, {"id": 1, "x": 2}, {"x": 1, "id": 1}, {"id": 1}, {"id": 1, "x": None}]
    assert passed(operator, items) == items[:1]
    assert operator.ctx.counts == {"duplicate": 4, "conflict": 3}
    operator = restarted(operator, state)
    assert passed(operator, items) == []
    assert operator.ctx.counts == {"duplicate": 9, "conflict": 6}


@pytest.mark.parametrize("size", [1, 700, 100_000])
@pytest.mark.parametrize("as_columns", [False, True])
def test_what_is_forgotten_does_not_depend_on_frames(size: int, as_columns: bool) -> None:
    ids = [*range(9000), *range(0, 9000, 3), *range(20_000), 0, 5, *range(11_000, 20_000)]
    if size == 1:
        ids = [*ids[:4200], 0, 5]
    operator = started("trade_id", within=None, max_keys=5000)
    got: list[int] = []
    for begin in range(0, len(ids), size):
        items = [Trade("A", 0, 0, 1.0, 1.0, "", i) for i in ids[begin : begin + size]]
        got += [item.trade_id for item in passed(operator, columns(items) if as_columns else items)]
    segments: list[set[int]] = [set()]
    expected = []
    for identity in ids:
        if any(identity in segment for segment in segments):
            continue
        expected.append(identity)
        segments[-1].add(identity)
        if len(segments[-1]) == SEGMENT:
            while sum(map(len, segments[1:])) >= 5000:
                segments.pop(0)
            segments.append(set())
    assert got == expected


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
    assert 5000 <= sum(len(blob) // 12 for blob in state.values()) <= 5000 + 3 * SEGMENT
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
    with pytest.raises(ConfigError, match="content='price' is not a tuple of field names"):
        Dedupe("id", content="price")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="within: '0s' must be greater than zero"):
        Dedupe("id", within="0s")
