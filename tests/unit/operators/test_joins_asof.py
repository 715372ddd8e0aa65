"""The as-of join against a plain loop and polars: any form of frames, any interleaving, a restart anywhere."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import polars
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.operator_bench import Bench, accepted, as_columns, play

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import END, Columns, Dictionary, Frame
from market_data_pipeline.operators.joins.asof import AsofJoin
from market_data_pipeline.records import Quote, Trade

S = 10**9
FIELDS = ("bid", "bid_size", "ask", "ask_size")


def trade(symbol: str, ts: int, price: float = 1.0) -> Trade:
    return Trade(symbol, ts, 0, price, 1.0, "buy")


def quote(symbol: str, ts: int, bid: float) -> Quote:
    return Quote(symbol, ts, 0, bid, 1.0, bid + 1, 2.0)


def expected(history: list[Any], tolerance: int | None, how: str, exact: bool) -> list[dict[str, Any]]:
    """For each trade on time, by time: the newest quote on time, found by looking at all of them."""
    on_time, _ = accepted(history)
    out = []
    for left in sorted(on_time.get("", []), key=lambda t: t.ts_event):
        best = None
        for right in on_time.get("right", []):
            fits = right.ts_event <= left.ts_event if exact else right.ts_event < left.ts_event
            if right.symbol == left.symbol and fits and (best is None or right.ts_event >= best.ts_event):
                best = right
        if best is not None and tolerance is not None and left.ts_event - best.ts_event > tolerance:
            best = None
        if best is None and how == "inner":
            continue
        out.append({**left._asdict(), **{name: None if best is None else getattr(best, name) for name in FIELDS}})
    return out


SYMBOLS = st.sampled_from("ABC")
TIMES = st.integers(-20, 60)
MOVES = st.one_of(
    st.tuples(st.just(""), st.builds(trade, SYMBOLS, TIMES, st.integers(1, 99).map(float))),
    st.tuples(st.just("right"), st.builds(quote, SYMBOLS, TIMES, st.integers(1, 99).map(float))),
    st.integers(-20, 50),
)
HISTORIES = st.lists(MOVES, max_size=50)
FORMS = st.lists(st.sampled_from(["rows", "columns"]), min_size=1, max_size=5)
RESTARTS = st.lists(st.booleans(), min_size=1, max_size=5)


@given(
    HISTORIES,
    FORMS,
    RESTARTS,
    st.booleans(),
    st.sampled_from([None, 0, 5, 30]),
    st.sampled_from(["left", "inner"]),
    st.booleans(),
)
@settings(derandomize=True, max_examples=400, deadline=None)
def test_each_trade_with_the_latest_quote(
    history: list[Any],
    forms: list[str],
    restarts: list[bool],
    group: bool,
    tolerance: int | None,
    how: str,
    exact: bool,
) -> None:
    join = AsofJoin(tolerance=tolerance, how=how, allow_exact=exact, late="side_output")  # type: ignore[arg-type]
    bench = Bench(join)
    play(bench, history, forms, restarts, group)
    assert bench.out == expected(history, tolerance, how, exact)
    _, late = accepted(history)
    assert bench.late == late.get("", [])
    full = expected(history, tolerance, "left", exact)
    counts = {
        "late": len(late.get("", [])),
        "late_right": len(late.get("right", [])),
        "unmatched": sum(row["bid"] is None for row in full),
    }
    assert bench.counts == {name: n for name, n in counts.items() if n}


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("columns", [True, False])
def test_many_items_are_joined_as_polars_joins_them(columns: bool, exact: bool) -> None:
    rng = random.Random(7)
    symbols = [f"S{n}" for n in range(40)]
    trades = [trade(rng.choice(symbols), rng.randrange(-5000, 5000), float(n)) for n in range(3000)]
    quotes = [quote(rng.choice(symbols), rng.randrange(-5000, 5000), float(n)) for n in range(3000)]
    bench = Bench(AsofJoin(["bid"], tolerance=300, allow_exact=exact))
    for start in range(0, 3000, 700):
        for port, items in (("", trades[start : start + 700]), ("right", quotes[start : start + 700])):
            bench.feed(as_columns(items) if columns else items, port)
    for watermark in range(-5000, 5000, 777):
        bench.advance(watermark)
        bench.restart()
    bench.end()
    left, right = (
        polars.DataFrame([item._asdict() for item in items], infer_schema_length=None).sort(
            "ts_event", maintain_order=True
        )
        for items in (trades, quotes)
    )
    joined = left.join_asof(
        right.select("symbol", "ts_event", "bid"),
        on="ts_event",
        by="symbol",
        tolerance=300,
        allow_exact_matches=exact,
        check_sortedness=False,
    )
    assert bench.out == joined.to_dicts()


def test_the_example_of_the_module() -> None:
    bench = Bench(AsofJoin(["bid"], tolerance="5s"))
    bench.feed([quote("A", S, 9), quote("A", 3 * S, 10)], "right")
    bench.feed([trade("A", 3 * S), trade("A", 2 * S)])
    assert bench.out == []
    bench.advance(3 * S)
    assert [(row["ts_event"], row["bid"]) for row in bench.out] == [(2 * S, 9)]
    bench.feed([quote("A", 3 * S, 11)], "right")
    bench.advance(10 * S)
    bench.feed([trade("A", 10 * S)])
    bench.end()
    assert [(row["ts_event"], row["bid"]) for row in bench.out[1:]] == [(3 * S, 11), (10 * S, None)]
    assert bench.counts == {"unmatched": 1}


def test_columns_stay_columns() -> None:
    bench = Bench(AsofJoin(["ts_event", "bid"]))
    bench.feed(as_columns([quote("A", 1, 9)]), "right")
    bench.feed(as_columns([trade("A", 2), trade("A", 3)]))
    bench.advance(3)
    bench.restart()
    bench.feed(as_columns([trade("B", 4)]))
    bench.end()
    assert all(isinstance(frame.items, Columns) for frame in bench.frames)
    assert [(r["symbol"], r["side"], r["right_ts_event"], r["bid"]) for r in bench.out] == [
        ("A", "buy", 1, 9.0),
        ("A", "buy", 1, 9.0),
        ("B", "buy", None, None),
    ]
    assert bench.frames[0].items.array("bid").dtype == float  # type: ignore[union-attr]


@pytest.mark.parametrize("columns", [True, False])
def test_a_side_of_the_right_item_is_text(columns: bool) -> None:
    trades = [trade("A", 1), trade("A", 1)]
    bench = Bench(AsofJoin(["side"], right_prefix="other_"))
    bench.feed(as_columns(trades[:1]) if columns else trades[:1], "right")
    bench.feed(as_columns(trades[1:]) if columns else trades[1:])
    bench.end()
    assert [row["other_side"] for row in bench.out] == ["buy"]


def test_a_function_makes_the_result_and_may_fail() -> None:
    def combine(left: Trade, right: Quote | None) -> Any:
        if right is None:
            raise LookupError("no quote")
        return left.price - right.bid, right

    bench = Bench(AsofJoin(combine=combine))
    bench.feed([quote("A", 1, 9)], "right")
    bench.advance(2)
    bench.restart()
    bench.feed(as_columns([trade("A", 5, 10.0), trade("B", 5)]))
    bench.end()
    assert bench.out == [(1.0, quote("A", 1, 9))]
    assert [(letter.item, letter.reason) for letter in bench.ctx.dead_letters] == [
        (trade("B", 5), "LookupError: no quote")
    ]


def test_items_that_cannot_be_joined_are_dead_letters_and_cost_nothing_else() -> None:
    bench = Bench(AsofJoin(["bid"]))
    bad = [
        {"symbol": "A"},
        {"ts_event": 1},
        {"symbol": ["A"], "ts_event": 1},
        {"symbol": None, "ts_event": 1},
        {"symbol": "A", "ts_event": 1.5},
        {"symbol": "A", "ts_event": 2**62},
        {"symbol": "A", "ts_event": 1, "x": object()},
        17,
    ]
    bench.feed([*bad, {"symbol": "A", "ts_event": 5}])
    bench.feed([*bad[:-1], {"symbol": "A", "ts_event": 4, "bid": 3}], "right")
    bench.restart()
    bench.end()
    assert bench.out == [{"symbol": "A", "ts_event": 5, "bid": 3}]
    letters = [letter.item for letter in bench.ctx.dead_letters]
    assert sorted(map(repr, letters)) == sorted(map(repr, [*bad, *bad[:-1]]))


def test_a_commit_writes_only_what_changed() -> None:
    bench = Bench(AsofJoin(["bid"]))
    for number in range(3):
        quotes = [quote(f"S{n}", 10 * number + 1, 1.0) for n in range(1024)]
        bench.feed(as_columns(quotes), "right")
        assert bench.commit() == {f"right:{number}"}
    bench.advance(5)
    assert bench.commit() == {f"latest:{block}" for block in range(4)}
    assert set(bench.state) == {"right:1", "right:2", *(f"latest:{block}" for block in range(4))}
    bench.feed([quote("S300", 6, 2.0)], "right")
    bench.advance(8)
    assert bench.commit() == {"latest:1"}


def test_keys_that_are_not_seen_any_more_are_forgotten() -> None:
    bench = Bench(AsofJoin(["bid"], tolerance=100))
    for start in range(0, 100_000, 500):
        quotes = [quote(f"order-{start + n}", start, 1.0) for n in range(500)]
        bench.feed(as_columns(quotes), "right")
        bench.feed(as_columns([trade(f"order-{start + n}", start + 50) for n in range(500)]))
        bench.advance(start + 60)
        bench.commit()
        if start % 7000 == 0:
            bench.restart()
    assert bench.counts.get("unmatched") is None
    assert sum(map(len, bench.state.values())) < 200_000
    bench.end()
    assert len(bench.out) == 100_000


def test_what_is_held_of_a_key_is_found_again_after_keys_were_forgotten() -> None:
    bench = Bench(AsofJoin(["bid"], tolerance=1000))
    bench.feed([quote("old", 0, 7.0)], "right")
    bench.feed([trade("future", 900)])
    for start in range(0, 5):
        bench.feed([trade(f"{start}-{n}", 10 + start) for n in range(1500)])
        bench.advance(11 + start)
        bench.restart()
    bench.feed([trade("old", 800)])
    bench.feed([quote("future", 850, 8.0)], "right")
    bench.end()
    assert [(row["symbol"], row["bid"]) for row in bench.out[-2:]] == [("old", 7.0), ("future", 8.0)]


def test_far_apart_times() -> None:
    far = 2**62 - 1
    bench = Bench(AsofJoin(["bid"], tolerance=far))
    bench.feed([quote("A", -far, 1.0), quote("B", far, 2.0)], "right")
    bench.feed([trade("A", 0), trade("A", far), trade("B", far)])
    bench.end()
    assert [row["bid"] for row in bench.out] == [1.0, None, 2.0]


def test_nothing_comes_of_nothing() -> None:
    join = AsofJoin()
    bench = Bench(join)
    assert list(bench.operator.process(Frame([]))) == []
    assert list(bench.operator.advance(5)) == []
    assert list(bench.operator.advance(END)) == []
    assert join.required_outputs() == ()
    assert AsofJoin(late="side_output").required_outputs() == ("late",)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"how": "outer"}, "how: 'outer' is not allowed; one of: left, inner"),
        ({"fields": ()}, "fields: name at least one field of the right item, or give combine"),
        ({"fields": "bid"}, "fields: 'bid' is not a list of names"),
        ({"key": ""}, "key: '' is not the name of a field"),
        ({"tolerance": "-1s"}, "tolerance: '-1s' is not a duration"),
        ({"tolerance": -1}, "tolerance: -1 is not allowed; zero or more, less than 146 years"),
        ({"right_prefix": ""}, "right_prefix: '' is not the name of a field"),
        ({"combine": 5}, "combine: 5 is not a function"),
        ({"late": "revise"}, "late: 'revise' is not allowed; one of: drop, side_output"),
    ],
)
def test_mistakes_in_the_arguments(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        AsofJoin(**options)


def test_columns_of_a_type_that_cannot_travel_are_kept_as_rows() -> None:
    bench = Bench(AsofJoin(["bid"]))
    symbols, times = Dictionary.encode(["A"]), np.array([5])
    bench.feed(Columns("", {"symbol": symbols, "ts_event": times, "bid": np.array([2**63], np.uint64)}), "right")
    bench.feed(Columns("", {"symbol": symbols, "ts_event": times, "n": np.array([2**63 + 1], np.uint64)}))
    bench.restart()
    bench.end()
    assert bench.out == [{"symbol": "A", "ts_event": 5, "n": 2**63 + 1, "bid": 2**63}]


def test_symbols_of_many_frames_are_numbered_once() -> None:
    bench = Bench(AsofJoin(["bid"]))
    names = tuple(f"S{n}" for n in range(50))
    for ts in range(10):
        codes = np.array([ts, 49 - ts], np.uint32)
        one = Columns("", {"symbol": Dictionary(codes, names), "ts_event": np.full(2, ts), "bid": np.full(2, ts + 0.5)})
        bench.feed(one, "right")
        bench.feed(as_columns([trade(f"S{ts}", ts), trade(f"S{(ts + 1) % 10}", ts)]))
    bench.end()
    assert [row["bid"] for row in bench.out] == [x for ts in range(10) for x in (ts + 0.5, 0.5 if ts == 9 else None)]
