"""Sessions against plain lists: any frames, watermarks and restarts; merging, revisions and retractions."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.window_oracle import NUMERIC, Played, SessionOracle, columns_of

from market_data_pipeline.frame import END, Frame, to_rows
from market_data_pipeline.operators.aggregations import Count, Std, Sum
from market_data_pipeline.operators.base import OperatorContext
from market_data_pipeline.operators.fold import Fold
from market_data_pipeline.operators.window import WindowAggregate
from market_data_pipeline.operators.windows import Session

EXACT = st.sampled_from([0.25, 0.5, 3.0, -8.0])
ITEMS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(-30, 30), EXACT, EXACT), min_size=1, max_size=12)
STEPS = st.lists(st.one_of(ITEMS, ITEMS, st.integers(-35, 35), st.sampled_from(["commit", "restart"])), max_size=20)
EARLY = st.tuples(st.sampled_from([None, None, 1, 2, 5]), st.sampled_from([None, None, 1, 3]))


@settings(max_examples=500, deadline=None, derandomize=True)
@given(
    steps=STEPS,
    gap=st.sampled_from([1, 3, 5]),
    allowed=st.sampled_from([None, 1, 7, 40]),
    early=EARLY,
    as_columns=st.booleans(),
    numeric=st.booleans(),
)
def test_any_frames_watermarks_and_restarts_give_the_sessions_of_plain_lists(
    steps: list[Any], gap: int, allowed: int | None, early: Any, as_columns: bool, numeric: bool
) -> None:
    played = Played(
        SessionOracle(allowed, *early, gap=gap),
        windows=Session(gap),
        late="drop" if allowed is None else "revise",
        allowed_lateness=allowed or 0,
        early_items=early[0],
        early_every=early[1],
        **({"aggregations": NUMERIC} if numeric else {}),
    )
    played.play(steps, as_columns)


def started(gap: Any = 5, **options: Any) -> WindowAggregate:
    operator = WindowAggregate(Session(gap), **{"aggregations": {"n": Count()}, "key": "key", **options})
    operator.open(OperatorContext("sessions"))
    return operator


def item(ts: int, key: str = "A", price: float = 1.0) -> dict[str, Any]:
    return {"key": key, "ts_event": ts, "price": price, "size": 1.0, "n": ts}


def rows(frames: Any) -> list[Any]:
    return [row for frame in frames for row in to_rows(frame.items)]


def short(found: list[Any]) -> list[tuple[Any, ...]]:
    return [(r["ts_open"], r["ts_close"], r["n"], r["revision"], r["is_final"], r.get("retracted")) for r in found]


def test_the_examples_of_the_module() -> None:
    operator = started()
    list(operator.process(Frame([item(0), item(5)])))
    assert list(operator.advance(10)) == []
    assert short(rows(operator.advance(11))) == [(0, 10, 2, 0, True, None)]

    operator = started(late="revise", allowed_lateness=20)
    list(operator.process(Frame([item(0), item(8)])))
    assert short(rows(operator.advance(14))) == [(0, 5, 1, 0, False, False), (8, 13, 1, 0, False, False)]
    list(operator.process(Frame([item(4)])))
    assert short(rows(operator.advance(15))) == [(8, 13, None, 1, True, True), (0, 13, 3, 1, False, False)]
    assert list(operator.advance(33)) == []
    assert short(rows(operator.advance(34))) == [(0, 13, 3, 2, True, False)]


def test_a_table_keyed_by_key_and_start_ends_with_the_sessions_of_all_items() -> None:
    operator = started(late="revise", allowed_lateness=1000)
    table: dict[Any, Any] = {}
    for ts in (0, 20, 40, 7, 30, 33, 26, 12, 60, 16, 36, -4, 23):
        for row in rows([*operator.process(Frame([item(ts)])), *operator.advance(50)]):
            assert row["revision"] > table.get((row["key"], row["ts_open"]), {"revision": -1})["revision"]
            table[row["key"], row["ts_open"]] = row
    for row in rows(operator.advance(END)):
        table[row["key"], row["ts_open"]] = row
    kept = {start: (r["ts_close"], r["n"], r["is_final"]) for (_, start), r in table.items() if not r["retracted"]}
    assert kept == {-4: (5, 2, True), 7: (45, 10, True), 60: (65, 1, True)}


def test_whether_two_items_are_one_session_does_not_depend_on_the_watermark_between_them() -> None:
    for mark in (None, 0, 5):
        operator = started()
        list(operator.process(Frame([item(0)])))
        early = [] if mark is None else rows(operator.advance(mark))
        list(operator.process(Frame([item(5)])))
        assert [(r["ts_open"], r["ts_close"], r["n"]) for r in [*early, *rows(operator.advance(END))]] == [(0, 10, 2)]


@pytest.mark.parametrize("order", [(0, 8, 4), (8, 0, 4), (4, 0, 8), (0, 4, 8)])
def test_states_merge(order: tuple[int, ...]) -> None:
    wanted = {"sum": Sum("price"), "std": Std("price"), "seen": Fold(list, _append, lambda a, b: a + b)}
    operator = started(aggregations=wanted)
    list(operator.process(Frame(columns_of([item(ts, price=ts * 1.5) for ts in order]))))
    (row,) = rows(operator.advance(END))
    assert row["sum"] == 18.0
    assert row["std"] == pytest.approx(4.898979485566356)
    assert sorted(row["seen"]) == [0, 4, 8]


def _append(seen: list[int], one: Any) -> list[int]:
    return [*seen, one["ts_event"]]


def test_a_merge_that_raises_costs_that_value_of_the_later_session() -> None:
    def broken(a: Any, b: Any) -> Any:
        raise ValueError("no")

    operator = started(aggregations={"n": Count(), "seen": Fold(list, _append, broken)})
    list(operator.process(Frame([item(0), item(8), item(4)])))
    assert [(r["n"], r["seen"]) for r in rows(operator.advance(END))] == [(3, [0, 4])]
    assert [letter.reason for letter in operator.ctx.dead_letters] == ["ValueError: no"]
