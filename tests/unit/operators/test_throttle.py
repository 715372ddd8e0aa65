"""Throttle against a bucket of tokens counted in fractions, one key at a time; any frames, a restart anywhere."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.operator_bench import Bench, as_columns, play

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import END, NO_MARK
from market_data_pipeline.operators.throttle import Throttle
from market_data_pipeline.records import Trade

S = 10**9


def trade(symbol: str, ts: int, number: int = 0) -> Trade:
    return Trade(symbol, ts, 0, float(number), 1.0)


class Tokens:
    """A bucket as the textbook has it: tokens come back with time, up to ``burst``; each item takes one."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate = Fraction(str(rate)) / S
        self.burst = self.tokens = Fraction(burst)
        self.now: int | None = None
        self.waiting: list[tuple[Any, Any]] = []
        self.out: list[Any] = []
        self.counts: Counter[str] = Counter()

    def go_to(self, now: int) -> None:
        if self.now is None:
            self.now = now
        while self.waiting:
            due = self.now + max(0, math.ceil((1 - self.tokens) / self.rate))
            if due > now:
                break
            self._refill(due)
            self.tokens -= 1
            self.out.append(self.waiting.pop(0)[1])
        self._refill(now)

    def _refill(self, now: int) -> None:
        assert self.now is not None
        if now > self.now:
            self.tokens = min(self.burst, self.tokens + (now - self.now) * self.rate)
            self.now = now

    def see(self, key: Any, item: Any, over: str, most: int) -> None:
        places = [place for place, _ in self.waiting]
        if not self.waiting and self.tokens >= 1:
            self.tokens -= 1
            self.out.append(item)
        elif over == "drop" or (over == "delay" and len(self.waiting) >= most):
            self.counts["throttled"] += 1
        elif over == "conflate" and key in places:
            self.counts["replaced"] += 1
            self.waiting[places.index(key)] = (key, item)
        else:
            self.waiting.append((key, item))


def expected(history: list[Any], throttle: Throttle) -> tuple[dict[Any, list[Any]], Counter[str]]:
    """By bucket what comes out of it, and the counts."""
    buckets: dict[Any, Tokens] = {}
    watermark = NO_MARK
    for move in [*history, END]:
        if isinstance(move, int):
            watermark = max(watermark, move)
            for bucket in buckets.values():
                bucket.go_to(watermark)
            continue
        item = move[1]
        name = None if throttle.total else item.symbol
        bucket = buckets.setdefault(name, Tokens(throttle.rate, throttle.burst))
        bucket.go_to(max(item.ts_event, watermark))
        bucket.see(item.symbol, item, throttle.over, throttle.max_waiting)
    return {name: b.out for name, b in buckets.items()}, sum((b.counts for b in buckets.values()), Counter())


MOVES = st.one_of(
    st.tuples(
        st.just(""),
        st.builds(trade, st.sampled_from("ABC"), st.integers(-2 * S, 6 * S), st.integers(1, 99)),
    ),
    st.tuples(
        st.just(""),
        st.builds(trade, st.sampled_from("AB"), st.integers(-8, 30).map(lambda n: n * S // 4), st.integers(1, 9)),
    ),
    st.integers(-2 * S, 6 * S),
)


@given(
    st.lists(MOVES, max_size=60),
    st.sampled_from([0.1, 0.7, 1, 3, 7.5, 1000]),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from(["drop", "conflate", "delay"]),
    st.lists(st.booleans(), min_size=1, max_size=5),
    st.sampled_from([["rows"], ["columns"], ["rows", "columns"]]),
)
@settings(derandomize=True, max_examples=400, deadline=None)
def test_by_event_time(
    history: list[Any], rate: float, burst: int, total: bool, over: str, restarts: list[bool], forms: list[str]
) -> None:
    throttle = Throttle(rate, burst, total=total, over=over, by="event", max_waiting=3)  # type: ignore[arg-type]
    bench = Bench(throttle)
    play(bench, history, forms, restarts, group=False)
    out, counts = expected(history, throttle)
    for name, items in out.items():
        assert [item for item in bench.out if name in (None, item.symbol)] == items
    assert len(bench.out) == sum(map(len, out.values()))
    assert bench.counts == dict(counts)


@given(st.lists(MOVES, max_size=60), st.sampled_from(["drop", "conflate", "delay"]))
@settings(derandomize=True, max_examples=100, deadline=None)
def test_frames_do_not_matter_to_a_key(history: list[Any], over: str) -> None:
    throttle = Throttle(2, 2, over=over, by="event")  # type: ignore[arg-type]
    one, many = Bench(throttle), Bench(throttle)
    play(one, history, ["columns"], [False], group=True)
    play(many, history, ["rows"], [True], group=False)
    for symbol in "ABC":
        assert [i for i in one.out if i.symbol == symbol] == [i for i in many.out if i.symbol == symbol]


def test_the_example_of_the_module() -> None:
    items = [trade("A", 0), trade("A", S // 10), trade("A", S // 5), trade("B", S // 5)]
    bench = Bench(Throttle(1, burst=2))
    bench.feed(items)
    assert bench.out == [items[0], items[1], items[3]]
    bench.feed([trade("A", S), trade("A", S + S // 10)])
    assert bench.out[3:] == [trade("A", S)]
    assert bench.counts == {"throttled": 2}
    later = trade("A", 3 * S // 10)
    for over, turns in (("conflate", [[later], []]), ("delay", [[items[2]], [later]])):
        bench = Bench(Throttle(1, burst=2, over=over, by="event"))  # type: ignore[arg-type]
        bench.feed([*items, later])
        bench.advance(S - 1)
        assert len(bench.out) == 3
        for turn in (1, 2):
            before = len(bench.out)
            bench.advance(turn * S)
            bench.restart()
            assert bench.out[before:] == turns[turn - 1]
        assert bench.counts == ({"replaced": 1} if over == "conflate" else {})


def test_huge_gaps_and_slow_rates_are_exact() -> None:
    bench = Bench(Throttle(1e-9))  # one item in 31.7 years
    year = 365 * 86400 * S
    bench.feed([trade("A", ts) for ts in (-200 * year, -200 * year + 10**18 - 1, -200 * year + 10**18, 200 * year)])
    assert [item.ts_event for item in bench.out] == [-200 * year, -200 * year + 10**18, 200 * year]
    bench.restart()
    bench.feed([trade("A", 200 * year + 10**18 - 1), trade("A", 200 * year + 10**18)])
    assert [item.ts_event for item in bench.out[3:]] == [200 * year + 10**18]


def test_thirds_do_not_add_up_an_error() -> None:
    bench = Bench(Throttle(3, burst=2))
    times = [-(-n * S // 3) for n in range(100_000)]
    bench.feed([trade("A", ts) for ts in times])
    assert bench.counts == {}
    bench.feed([trade("A", times[-1]), trade("A", times[-1] + 1)])  # a token less two billionths, and one
    assert [item.ts_event for item in bench.out[100_000:]] == [times[-1] + 1]


def test_by_the_clock() -> None:
    bench = Bench(Throttle(1, over="delay", max_waiting=2))
    bench.ctx.now = 10 * S
    items = [trade("A", ts) for ts in (5, 1, 9, 3)]
    assert bench.operator.wake_at() is None
    bench.feed(items)
    assert bench.out == items[:1]
    assert bench.counts == {"throttled": 1}
    assert bench.operator.wake_at() == 11 * S
    bench.restart()
    assert bench.operator.wake_at() == 11 * S
    bench.ctx.now = 11 * S
    bench.tick(11 * S)
    assert bench.out == items[:2]
    bench.advance(10**15)
    assert bench.out == items[:2]
    bench.ctx.now = 11 * S + 5
    bench.feed([trade("A", 7)])
    bench.ctx.now = 13 * S
    bench.feed([trade("A", 8)])
    assert bench.out == [*items[:3], trade("A", 7)]
    bench.end()
    assert bench.out[-1] == trade("A", 8)


@pytest.mark.parametrize("columns", [True, False])
def test_by_the_clock_over_the_rate_is_dropped(columns: bool) -> None:
    bench = Bench(Throttle(1, burst=2, by="wall", total=True))
    items = [trade(symbol, 0) for symbol in "ABC"]
    for now in (5 * S, 6 * S):
        bench.ctx.now = now
        bench.feed(as_columns(items) if columns else items)
    assert bench.out == [*items[:2], items[0]]


def test_in_total_the_last_of_each_key_waits_in_its_turn() -> None:
    bench = Bench(Throttle(1, total=True, over="conflate", by="event"))
    bench.feed([trade("A", 0, 1), trade("A", 1, 2), trade("B", 1, 3), trade("A", 2, 4)])
    bench.restart()
    bench.advance(S)
    bench.restart()
    assert [item.price for item in bench.out] == [1, 4]
    bench.end()
    assert [item.price for item in bench.out] == [1, 4, 3]


def test_full_buckets_are_forgotten_and_a_commit_writes_only_what_changed() -> None:
    bench = Bench(Throttle(1, burst=3))
    for start in range(0, 100_000, 1000):
        bench.feed(as_columns([trade(f"order-{start + n}", start * S) for n in range(1000)]))
        bench.advance(start * S + S)
        bench.commit()
        assert bench.state == {}
    bench.feed([trade(f"S{n}", 10**15) for n in range(1000)])
    assert bench.commit() == {f"buckets:{block}" for block in range(4)}
    bench.feed([trade("S300", 10**15)])
    assert len(bench.commit()) == 1


def test_items_that_cannot_be_placed_are_dead_letters() -> None:
    bench = Bench(Throttle(1, over="delay", by="event"))
    bad = [{"symbol": "A"}, {"ts_event": 1}, {"symbol": [], "ts_event": 1}, {"symbol": "A", "ts_event": 1.5}]
    good = {"symbol": "A", "ts_event": 5}
    stuck = {"symbol": "A", "ts_event": 5, "x": object()}
    bench.feed([*bad, good, stuck, good])
    bench.restart()
    bench.end()
    assert bench.out == [good, good]
    assert [letter.item for letter in bench.ctx.dead_letters] == [*bad, stuck]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rate": 0}, "rate: 0 is not allowed; a number of items a second above 0"),
        ({"rate": math.nan}, "rate: nan is not allowed"),
        ({"rate": math.inf}, "rate: inf is not allowed"),
        ({"rate": "5"}, "rate: '5' is not allowed"),
        ({"rate": 1, "burst": 0}, "burst: 0 is not allowed; a whole number from 1 on"),
        ({"rate": 1, "max_waiting": 0}, "max_waiting: 0 is not allowed; a whole number from 1 on"),
        ({"rate": 1, "over": "block"}, "over: 'block' is not allowed; one of: drop, conflate, delay"),
        ({"rate": 1, "by": "recv"}, "by: 'recv' is not allowed; one of: event, wall"),
    ],
)
def test_mistakes_in_the_arguments(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Throttle(**options)
