"""TumblingWindow against plain lists, and how a WindowAggregate is configured."""

import math
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.errors import ConfigError, OperatorFailed
from market_data_pipeline.frame import END, NO_MARK, Columns, Frame, columns_from_rows, to_rows
from market_data_pipeline.operators.aggregations import Count, Max, Std
from market_data_pipeline.operators.base import OnError, OperatorContext
from market_data_pipeline.operators.fold import Fold
from market_data_pipeline.operators.window import TumblingWindow, WindowAggregate
from market_data_pipeline.operators.windows import CountWindow, Hop, Session, Tumble
from market_data_pipeline.records import Trade, Window

SECOND = 10**9


def started(on_error: OnError = "dead_letter", **options: Any) -> TumblingWindow:
    operator = TumblingWindow(**{"size": "1s", **options})
    operator.open(OperatorContext("window", 0, on_error))
    return operator


def rows(frames: Iterable[Frame]) -> list[Any]:
    return [row for frame in frames for row in to_rows(frame.items)]


def feed(operator: TumblingWindow, *items: Any) -> None:
    assert rows(operator.process(Frame(list(items)))) == []


def at(ts: int, **more: Any) -> dict[str, Any]:
    return {"ts_event": ts, **more}


def commit(operator: TumblingWindow, state: dict[str, bytes]) -> None:
    for key, blob in operator.snapshot().items():
        if blob is None:
            del state[key]
        else:
            state[key] = blob


def test_the_example_of_the_module() -> None:
    operator = started()
    early, middle, later = at(200_000_000), at(900_000_000), at(1_100_000_000)
    feed(operator, early, middle, later)
    assert rows(operator.advance(SECOND)) == [Window(None, 0, SECOND, [early, middle])]
    feed(operator, at(500_000_000))
    assert operator.ctx.counts["late"] == 1
    assert rows(operator.advance(END)) == [Window(None, SECOND, 2 * SECOND, [later])]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    steps=st.lists(
        st.one_of(
            st.lists(st.tuples(st.integers(-30, 30), st.sampled_from("abc")), min_size=1, max_size=8),
            st.integers(-35, 35),
            st.sampled_from(["commit", "restart"]),
        ),
        max_size=20,
    ),
    keyed=st.booleans(),
)
def test_any_frames_watermarks_and_restarts_give_the_windows_of_plain_lists(steps: list[Any], keyed: bool) -> None:
    options: dict[str, Any] = {"size": 5, "align_to": 2, "key": "k" if keyed else None}
    operator, state = started(**options), dict[str, bytes]()
    waiting: list[dict[str, Any]] = []
    closed = -math.inf
    late = number = 0
    for step in [*steps, END]:
        if isinstance(step, list):
            items = [at(ts, k=key, n=number + i) for i, (ts, key) in enumerate(step)]
            number += len(items)
            feed(operator, *items)
            for item in items:
                if math.floor((item["ts_event"] - 2) / 5) * 5 + 2 + 5 <= closed:
                    late += 1
                else:
                    waiting.append(item)
        elif isinstance(step, int):
            closed = max(closed, math.inf if step == END else step)
            expected: dict[tuple[int, Any], list[Any]] = {}
            for item in waiting:
                start = math.floor((item["ts_event"] - 2) / 5) * 5 + 2
                if start + 5 <= closed:
                    expected.setdefault((start, item["k"] if keyed else None), []).append(item)
            waiting = [item for item in waiting if not any(item in group for group in expected.values())]
            ordered = sorted(expected.items(), key=lambda entry: entry[0][0])  # stable: keys by first arrival
            assert rows(operator.advance(step)) == [Window(k, s, s + 5, group) for (s, k), group in ordered]
        else:
            commit(operator, state)
            if step == "restart":
                successor = started(**options)
                successor.ctx.counts.update(operator.ctx.counts)
                if state:
                    successor.restore(state)
                if closed != -math.inf:
                    assert rows(successor.advance(int(closed))) == []
                operator = successor
        assert operator.ctx.counts["late"] == late
    commit(operator, state)
    assert state == {}


def test_windows_are_half_open_also_before_the_epoch() -> None:
    operator = started()
    feed(operator, *(at(ts) for ts in (-SECOND - 1, -SECOND, -1, 0, SECOND - 1, SECOND)))
    spans = [(w.ts_open, w.ts_close, len(w.items)) for w in rows(operator.advance(END))]
    assert spans == [
        (-2 * SECOND, -SECOND, 1),
        (-SECOND, 0, 2),
        (0, SECOND, 2),
        (SECOND, 2 * SECOND, 1),
    ]


def test_time_and_key_may_be_functions() -> None:
    operator = started(ts=lambda item: item[0], key=lambda item: item[1])
    feed(operator, (5, "b"), (3, "a"), (4, "b"))
    assert rows(operator.advance(END)) == [
        Window("b", 0, SECOND, [(5, "b"), (4, "b")]),
        Window("a", 0, SECOND, [(3, "a")]),
    ]


def test_keys_that_are_tuples_survive_a_restart() -> None:
    def key(item: Any) -> tuple[str, int]:
        return (item["s"], 1)

    operator, state = started(key=key), dict[str, bytes]()
    feed(operator, at(1, s="a"), at(2, s="b"))
    commit(operator, state)
    successor = started(key=key)
    successor.restore(state)
    feed(successor, at(3, s="a"))
    assert [(w.key, len(w.items)) for w in rows(successor.advance(END))] == [(("a", 1), 2), (("b", 1), 1)]


def test_columns_are_taken_as_rows() -> None:
    trades = [Trade("A", 1, 0, 1.0, 1.0), Trade("B", 2, 0, 1.0, 1.0)]
    operator = started(key="symbol")
    assert rows(operator.process(Frame(columns_from_rows(trades)[0]))) == []
    assert rows(operator.advance(END)) == [Window(t.symbol, 0, SECOND, [t]) for t in trades]


def test_the_end_flushes_exactly_once() -> None:
    operator = started()
    feed(operator, at(0), at(10 * SECOND))
    assert len(rows(operator.advance(END))) == 2
    assert list(operator.advance(END)) == []


def test_without_a_watermark_nothing_is_late() -> None:
    operator = started()
    feed(operator, at(10 * SECOND), at(-10 * SECOND))
    assert list(operator.advance(NO_MARK)) == []
    assert operator.ctx.counts["late"] == 0
    assert len(rows(operator.advance(END))) == 2


def test_items_without_a_time_or_with_an_unhashable_key_are_rejected_alone() -> None:
    operator = started(key="k")
    bad: list[Any] = [at(1), {"k": "a"}, at(1, k=[]), 17, {"ts_event": "soon", "k": "a"}]
    feed(operator, at(1, k="a", n=1), *bad, at(1, k="a", n=2))
    assert [letter.item for letter in operator.ctx.dead_letters] == bad
    assert [letter.reason.partition(":")[0] for letter in operator.ctx.dead_letters] == [
        "KeyError",
        "KeyError",
        "TypeError",
        "AttributeError",
        "ValueError",
    ]
    (window,) = rows(operator.advance(END))
    assert [item["n"] for item in window.items] == [1, 2]


def test_policies() -> None:
    operator = started("skip")
    feed(operator, 17)
    assert (operator.ctx.counts["skipped"], operator.ctx.dead_letters) == (1, [])
    with pytest.raises(OperatorFailed, match="node 'window': AttributeError"):
        feed(started("fail"), 17)


@pytest.mark.parametrize("size", ["0s", 0, -1])
def test_size_must_be_positive(size: Any) -> None:
    with pytest.raises(ConfigError, match=r"size: .* must be greater than zero"):
        TumblingWindow(size)


def test_results_are_named_by_the_keys_fields() -> None:
    cases: list[tuple[Any, dict[str, Any]]] = [
        ("k", {"k": "a"}),
        (("k", "n"), {"k": "a", "n": 7}),
        (None, {}),
        (lambda item: (item["k"], 1), {"key": ("a", 1)}),
    ]
    for key, named in cases:
        operator, state = WindowAggregate(Tumble(5), {"count": Count()}, key=key), dict[str, bytes]()
        operator.open(OperatorContext("w"))
        list(operator.process(Frame([at(3, k="a", n=7)])))
        state = {name: blob for name, blob in operator.snapshot().items() if blob is not None}
        successor = WindowAggregate(Tumble(5), {"count": Count()}, key=key)
        successor.open(OperatorContext("w"))
        successor.restore(state)
        expected = {**named, "ts_open": 0, "ts_close": 5, "revision": 0, "is_final": True, "count": 1}
        assert rows(operator.advance(END)) == rows(successor.advance(END)) == [expected]


def test_the_example_of_aggregates() -> None:
    operator = WindowAggregate(Tumble("1s"), {"n": Count(), "high": Max("price")})
    operator.open(OperatorContext("w"))
    trades = [
        Trade("A", ts, 0, price, 1.0) for ts, price in ((200_000_000, 10.0), (900_000_000, 12.0), (1_100_000_000, 9.0))
    ]
    list(operator.process(Frame(columns_from_rows(trades)[0])))
    (frame,) = operator.advance(SECOND)
    assert isinstance(frame.items, Columns)
    assert [(w["symbol"], w["ts_open"], w["n"], w["high"]) for w in frame.items.rows()] == [("A", 0, 2, 12.0)]
    list(operator.process(Frame([Trade("A", 500_000_000, 0, 99.0, 1.0)])))
    assert operator.ctx.counts["late"] == 1
    assert [(w["ts_open"], w["n"], w["high"]) for w in rows(operator.advance(END))] == [(SECOND, 1, 9.0)]


def test_late_items_come_out_in_the_form_in_which_they_came() -> None:
    operator = WindowAggregate(Tumble("1s"), {"n": Count()}, late="side_output")
    operator.open(OperatorContext("w"))
    assert operator.required_outputs() == ("late",)
    list(operator.advance(SECOND))
    trades = [Trade("A", 5, 0, 1.0, 1.0), Trade("A", SECOND, 0, 1.0, 1.0)]
    for items in (trades, columns_from_rows(trades)[0]):
        (frame,) = operator.process(Frame(items))
        assert frame.port == "late"
        assert isinstance(frame.items, type(items))
        assert to_rows(frame.items) == trades[:1]
    assert operator.ctx.counts["late"] == 2


def test_behind_the_end_all_is_late() -> None:
    operator = WindowAggregate(Hop(10, 5), {"n": Count()}, key=None)
    operator.open(OperatorContext("w"))
    list(operator.process(Frame([at(1)])))
    assert len(rows(operator.advance(END))) == 2
    list(operator.process(Frame([at(10**18)])))
    assert operator.ctx.counts["late"] == 1
    assert list(operator.advance(END)) == []


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: WindowAggregate("1s", {"n": Count()}), "windows: '1s' is not allowed; one of: Tumble, Hop, Session"),
        (lambda: WindowAggregate(Tumble("1s"), {}), "aggregations: none given"),
        (
            lambda: WindowAggregate(Tumble("1s"), {"n": Count}),
            "aggregations: 'n' is <class .*Count'>; write for example",
        ),
        (
            lambda: WindowAggregate(Tumble("1s"), {"ts_open": Count()}),
            "aggregations: 'ts_open' is not allowed as a name",
        ),
        (lambda: WindowAggregate(Tumble("1s"), {"symbol": Count()}), "aggregations: 'symbol' is not allowed as a name"),
        (
            lambda: WindowAggregate(Tumble("1s"), {"n": Count()}, key=["a"]),
            r"key: \['a'\] is not allowed; a field's name",
        ),
        (
            lambda: WindowAggregate(Tumble("1s"), {"n": Count()}, key=("a", "a")),
            "key: .* has a name twice or one of: ts_open",
        ),
        (
            lambda: WindowAggregate(Tumble("1s"), {"n": Count()}, key="revision"),
            "key: 'revision' has a name twice or one of",
        ),
        (lambda: WindowAggregate(Tumble("1s"), {"n": Count()}, late="keep"), "late: 'keep' is not allowed"),
        (lambda: WindowAggregate(Tumble("1s"), {"n": Count()}, late="revise"), "allowed_lateness=0 with late='revise'"),
        (lambda: WindowAggregate(Tumble("1s"), {"n": Count()}, early_items=0), "early_items: 0 is not allowed; an int"),
        (lambda: WindowAggregate(Tumble("1s"), {"n": Count()}, early_every="0s"), "early_every: '0s' must be greater"),
        (
            lambda: WindowAggregate(CountWindow(3), {"n": Count()}, late="side_output"),
            "late: 'side_output' is not allowed with",
        ),
        (
            lambda: WindowAggregate(CountWindow(3), {"n": Count()}, early_items=2),
            "early_items and early_every are not allowed",
        ),
        (lambda: WindowAggregate(Session("1s"), {"f": Fold(0, max)}), "'f': a Fold needs merge= with Session"),
    ],
)
def test_wrong_configurations_are_refused(made: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        made()


def test_the_configuration_says_everything_that_matters() -> None:
    def made(**changed: Any) -> Any:
        options = {"windows": Tumble("1s"), "aggregations": {"n": Count(), "s": Std("price", 1)}, **changed}
        return WindowAggregate(**options).config()

    assert made() == made(windows=Tumble(SECOND))
    different = [
        {"windows": Hop("1s", "1s")},
        {"windows": Tumble("1s", "1ms")},
        {"aggregations": {"n": Count(), "s": Std("price", 0)}},
        {"key": None},
        {"early_items": 3},
        {"late": "revise", "allowed_lateness": "1s"},
    ]
    assert [made(**one) == made() for one in different] == [False] * len(different)
