"""The interval join against the product of both inputs: each pair once, over any frames, watermarks and restarts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.operator_bench import Bench, accepted, as_columns, play

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.operators.joins.interval import IntervalJoin
from market_data_pipeline.records import Trade

S = 10**9


def trade(symbol: str, ts: int, number: int = 0) -> Trade:
    return Trade(symbol, ts, 0, float(number), 1.0)


def expected(history: list[Any], lower: int, upper: int, how: str) -> list[dict[str, Any]]:
    """Every left item beside every right one, sorted as the docstring says."""
    on_time, _ = accepted(history)
    pairs: list[tuple[Any, ...]] = []
    for i, left in enumerate(on_time.get("", [])):
        found = False
        for j, right in enumerate(on_time.get("right", [])):
            if left.symbol == right.symbol and lower <= right.ts_event - left.ts_event <= upper:
                found = True
                later = max(left.ts_event, right.ts_event)
                pairs.append((later, left.ts_event, right.ts_event, i, j, left, right.price))
        if not found and how == "left":
            ts = left.ts_event
            pairs.append((max(ts, ts + upper), ts, ts, i, -1, left, None))
    return [{**left._asdict(), "right_price": price} for *_, left, price in sorted(pairs, key=lambda pair: pair[:5])]


MOVES = st.one_of(
    st.tuples(
        st.sampled_from(["", "right"]),
        st.builds(trade, st.sampled_from("AB"), st.integers(-20, 60), st.integers(1, 99)),
    ),
    st.integers(-20, 60),
)
BOUNDS = st.tuples(st.integers(-15, 15), st.integers(-15, 15)).map(sorted)


@given(
    st.lists(MOVES, max_size=60),
    BOUNDS,
    st.sampled_from(["left", "inner"]),
    st.lists(st.sampled_from(["rows", "columns"]), min_size=1, max_size=5),
    st.lists(st.booleans(), min_size=1, max_size=5),
    st.booleans(),
)
@settings(derandomize=True, max_examples=500, deadline=None)
def test_all_pairs_in_order_and_each_once(
    history: list[Any], bounds: list[int], how: str, forms: list[str], restarts: list[bool], group: bool
) -> None:
    bench = Bench(IntervalJoin(*bounds, ["price"], how=how, late="side_output"))  # type: ignore[arg-type]
    play(bench, history, forms, restarts, group)
    assert bench.out == expected(history, *bounds, how)
    _, late = accepted(history)
    assert bench.late == late.get("", [])
    counts = {
        "late": len(late.get("", [])),
        "late_right": len(late.get("right", [])),
        "unmatched": sum(row["right_price"] is None for row in bench.out),
    }
    assert bench.counts == {name: n for name, n in counts.items() if n}


def test_the_example_of_the_module() -> None:
    inner, outer = (Bench(IntervalJoin("-1s", "2s", ["price"], how=how)) for how in ("inner", "left"))
    for bench in (inner, outer):
        bench.feed([trade("A", 10 * S), trade("B", 10 * S)])
        bench.feed([trade("A", ts * S, ts) for ts in (9, 12, 13)], "right")
        bench.advance(12 * S)
        assert [(row["symbol"], row["right_price"]) for row in bench.out] == [("A", 9.0)]
        bench.restart()
        bench.advance(12 * S + S // 2)
    assert [(row["symbol"], row["right_price"]) for row in inner.out[1:]] == [("A", 12.0)]
    assert [(row["symbol"], row["right_price"]) for row in outer.out[1:]] == [("B", None), ("A", 12.0)]
    inner.end()
    outer.end()
    assert (len(inner.out), len(outer.out)) == (2, 3)
    assert outer.counts == {"unmatched": 1}


def test_what_nothing_can_match_any_more_is_forgotten() -> None:
    bench = Bench(IntervalJoin(-50, 50, ["price"]))
    for start in range(0, 40_000, 100):
        items = [trade(f"order-{n}", n, 1) for n in range(start, start + 100)]
        bench.feed(as_columns(items))
        bench.feed(as_columns(items), "right")
        bench.advance(start + 100)
        bench.commit()
        if start % 7000 == 0:
            bench.restart()
    assert len(bench.out) == 40_000
    assert sum(map(len, bench.state.values())) < 100_000
    bench.end()


def test_one_busy_key() -> None:
    bench = Bench(IntervalJoin(0, 3, ["price"]))
    bench.feed([trade("A", ts, ts) for ts in range(500)])
    bench.feed([trade("A", ts, ts) for ts in range(500)], "right")
    for watermark in range(0, 500, 9):
        bench.advance(watermark)
    bench.end()
    assert [(r["ts_event"], r["right_price"]) for r in bench.out] == sorted(
        ((left, right) for left in range(500) for right in range(left, min(left + 4, 500))), key=lambda p: (p[1], p[0])
    )


def test_a_function_makes_the_result() -> None:
    bench = Bench(
        IntervalJoin(0, 5, how="left", combine=lambda left, right: (left["n"], right and right["n"]), late="drop")
    )
    bench.feed([{"symbol": 1, "ts_event": 1, "n": 1}, {"symbol": 2, "ts_event": 1, "n": 2}])
    bench.feed([{"symbol": 1, "ts_event": 4, "n": 3}, {"symbol": 1, "ts_event": 9, "n": 4}], "right")
    bench.advance(5)
    bench.feed([{"symbol": 1, "ts_event": 4, "n": 3}])
    bench.restart()
    bench.end()
    assert bench.out == [(1, 3), (2, None)]
    assert bench.counts == {"late": 1, "unmatched": 1}


def test_items_that_cannot_be_joined_are_dead_letters() -> None:
    bench = Bench(IntervalJoin(0, 0, ["n"]))
    bad = [
        {"symbol": "A"},
        {"ts_event": 1},
        {"symbol": "A", "ts_event": "1"},
        {"symbol": "A", "ts_event": 1, "x": object()},
    ]
    good = {"symbol": "A", "ts_event": 1, "n": 1}
    bench.feed([*bad, good, 5])
    bench.feed([*bad, good], "right")
    bench.end()
    assert bench.out == [{**good, "right_n": 1}]
    assert len(bench.ctx.dead_letters) == 9


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("1s", "-1s", ["n"]), "lower: '1s' is above upper='-1s'"),
        ((0, 2**61, ["n"]), "upper: 2305843009213693952 is too long; less than 73 years"),
        (("soon", 0, ["n"]), "lower: 'soon' is not a duration"),
        ((0, 0), "fields: name at least one field of the right item, or give combine"),
        ((0, 0, ["n"], "symbol", "outer"), "how: 'outer' is not allowed; one of: left, inner"),
    ],
)
def test_mistakes_in_the_arguments(arguments: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        IntervalJoin(*arguments)
