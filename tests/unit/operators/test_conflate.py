"""Conflation, against a plain loop and polars, on rows and columns, with a restart anywhere."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import polars
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline import Conflate, Quote
from market_data_pipeline.frame import END, Frame, columns_from_rows, to_rows
from market_data_pipeline.operators.base import OperatorContext

QUOTES = Path(__file__).resolve().parents[4] / "shared" / "data" / "quotes_crypto.csv.gz"


class Bench:
    """An operator with a store behind it."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.template = Conflate(*arguments, **named)
        self.state: dict[str, bytes] = {}
        self.ctx = OperatorContext("conflate")
        self.out: list[Any] = []
        self.late: list[Any] = []
        self.watermark = -(2**63)
        self.restart()

    def restart(self) -> None:
        self.operator = self.template.fresh()
        self.operator.open(self.ctx)
        self.operator.restore(self.state, self.watermark)

    def _take(self, frames: Any) -> None:
        for frame in frames:
            (self.late if frame.port == "late" else self.out).extend(to_rows(frame.items))
        for key, blob in self.operator.snapshot().items():
            if blob is None:
                del self.state[key]
            else:
                self.state[key] = blob

    def feed(self, items: Any) -> None:
        self._take(self.operator.process(Frame(items)))

    def advance(self, watermark: int) -> None:
        self.watermark = watermark
        self._take(self.operator.advance(watermark))


def quote(symbol: str, ts: int, bid: int) -> Quote:
    return Quote(symbol, ts, 0, float(bid), 1.0, 2.0, 1.0)


moves = st.lists(st.tuples(st.sampled_from("ABC"), st.integers(-30, 60)) | st.integers(-20, 60), max_size=60)


@given(moves, st.booleans(), st.booleans(), st.integers(-7, 7))
@settings(derandomize=True, max_examples=300, deadline=None)
def test_the_last_of_each_key_and_interval(history: list[Any], columns: bool, restart: bool, align: int) -> None:
    bench = Bench(10, align_to=align, late="side_output")
    watermark, groups, counts, late, out = -(2**63), dict[int, dict[str, Quote]](), Counter[str](), [], []
    for n, move in enumerate(history):
        if isinstance(move, int):
            watermark = max(watermark, move)
            bench.advance(watermark)
            for start in sorted(s for s in groups if s + 10 <= watermark):
                out += sorted(groups.pop(start).values())
        else:
            item = quote(*move, n)
            bench.feed(columns_from_rows([item])[0] if columns else [item])
            start = (item.ts_event - align) // 10 * 10 + align
            if start + 10 <= watermark:
                counts["late"] += 1
                late.append(item)
                continue
            before = groups.setdefault(start, {}).get(item.symbol)
            counts["replaced"] += before is not None
            if before is None or item.ts_event >= before.ts_event:
                groups[start][item.symbol] = item
        if restart:
            bench.restart()
    bench.advance(END)
    for start in sorted(groups):
        out += sorted(groups[start].values())
    assert sorted(bench.out) == sorted(out)
    assert bench.late == late
    assert Counter({k: v for k, v in bench.ctx.counts.items() if v}) == Counter({k: v for k, v in counts.items() if v})
    assert bench.state == {}


@given(moves, st.integers(1, 30))
@settings(derandomize=True, max_examples=200, deadline=None)
def test_one_frame_is_as_good_as_many(history: list[Any], size: int) -> None:
    items = [quote(*move, n) for n, move in enumerate(history) if not isinstance(move, int)]
    one, many = Bench(10), Bench(10)
    if items:
        one.feed(columns_from_rows(items)[0])
    for start in range(0, len(items), size):
        many.feed(items[start : start + size])
    one.advance(END)
    many.advance(END)
    assert sorted(one.out) == sorted(many.out)
    assert one.ctx.counts["replaced"] == many.ctx.counts["replaced"] == len(items) - len(one.out)


def test_without_interval_only_what_cannot_go_out_is_conflated() -> None:
    bench = Bench()
    assert bench.operator.absorbs
    bench.feed([quote("A", 1, 1), quote("A", 2, 2)])
    assert [q.bid for q in bench.out] == [1, 2]
    bench.ctx.pressed = True
    bench.feed([quote("A", 3, 3), quote("B", 3, 4), quote("A", 4, 5)])
    bench.feed(columns_from_rows([quote("A", 4, 6), quote("A", 1, 7)])[0])
    bench.advance(3)
    assert len(bench.out) == 2
    bench.restart()
    bench.ctx.pressed = False
    bench.feed([quote("C", 9, 8)])
    assert sorted(q.bid for q in bench.out[2:]) == [4, 6, 8]
    assert bench.ctx.counts["replaced"] == 3
    bench.ctx.pressed = True
    bench.feed([quote("A", 10, 9)])
    bench.advance(END)
    assert bench.out[-1].bid == 9


def test_a_commit_writes_the_blocks_of_keys_that_changed() -> None:
    bench = Bench(10)
    bench.feed([quote(f"S{n}", 1, n) for n in range(1000)])
    assert len(bench.state) == 4
    before = dict(bench.state)
    bench.feed([quote("S300", 2, 7), quote("S999", 3, 8), quote("new", 1, 9)])
    assert [key for key in bench.state if bench.state[key] != before[key]] == sorted(bench.state)[1:4:2]
    bench.restart()
    bench.feed([quote("S300", 1, 6), quote("S301", 2, 5)])
    bench.restart()
    bench.advance(END)
    assert [int(q.bid) for q in bench.out] == [*range(300), 7, 5, *range(302, 999), 8, 9]
    assert bench.state == {}


def test_what_cannot_be_stored_does_not_disturb_the_others() -> None:
    bench = Bench(10)
    bench.feed([{"symbol": f"S{n}", "ts_event": n % 3, "n": object() if n == 5 else n} for n in range(600)])
    assert [letter.item["symbol"] for letter in bench.ctx.dead_letters] == ["S5"]
    bench.restart()
    bench.feed([{"symbol": "S256", "ts_event": 9, "n": -1}, {"symbol": "S599", "ts_event": 9, "n": -2}])
    bench.restart()
    bench.advance(END)
    assert [item["n"] for item in bench.out] == [n for n in [*range(256), -1, *range(257, 599), -2] if n != 5]
    assert bench.state == {}


def test_items_that_cannot_be_placed_are_dead_letters() -> None:
    bench = Bench("1s")
    bad = [{"symbol": "A"}, {"ts_event": 1}, {"symbol": [], "ts_event": 1}, {"symbol": "A", "ts_event": 1.5}]
    bench.feed([*bad, {"symbol": "A", "ts_event": 5}])
    bench.advance(END)
    assert bench.out == [{"symbol": "A", "ts_event": 5}]
    assert [letter.item for letter in bench.ctx.dead_letters] == bad


@pytest.mark.skipif(not QUOTES.exists(), reason="no recorded quotes on this machine")
def test_recorded_quotes_keep_every_symbols_last_per_second() -> None:
    table = polars.read_csv(QUOTES).filter(polars.col("ts_event").is_not_null())
    names = ["symbol", "ts_event", "ts_recv", "bid", "bid_size", "ask", "ask_size"]
    quotes = [Quote(*row) for row in table.select(names).cast(dict.fromkeys(names[3:], polars.Float64)).iter_rows()]
    bench = Bench("1s")
    for start in range(0, len(quotes), 1000):
        bench.feed(columns_from_rows(quotes[start : start + 1000])[0])
    bench.advance(END)
    numbered = polars.DataFrame(
        [(q.symbol, q.ts_event, n) for n, q in enumerate(quotes)], ["symbol", "ts", "n"], orient="row"
    )
    last = numbered.sort("ts", "n").group_by("symbol", polars.col("ts") // 1_000_000_000).agg(polars.col("n").last())
    assert len(quotes) > 19_000
    assert sorted(bench.out) == sorted(quotes[n] for n in last["n"])


def test_align_to_may_be_negative() -> None:
    bench = Bench("1h", align_to="-15m")
    minute = 60 * 10**9
    bench.feed([quote("A", 40 * minute, 1), quote("A", 50 * minute, 2)])
    bench.advance(45 * minute)
    assert bench.out == [quote("A", 40 * minute, 1)]


def test_columns_keep_the_order_in_which_keys_arrived() -> None:
    quotes = [quote("A", 1, 1), quote("B", 2, 2), quote("A", 3, 3)]
    outs = []
    for items in (quotes, columns_from_rows(quotes)[0]):
        bench = Bench("1s")
        bench.feed(items)
        bench.advance(END)
        outs.append(bench.out)
    assert outs[0] == outs[1] == [quotes[2], quotes[1]]


def test_a_key_that_cannot_be_stored_is_a_dead_letter() -> None:
    bench = Bench("1s")
    bench.feed([quote("A", 1, 1), quote("\ud800", 1, 1)])
    bench.restart()
    bench.advance(END)
    assert bench.out == [quote("A", 1, 1)]
    assert bench.ctx.counts["dead_letter"] == 1
