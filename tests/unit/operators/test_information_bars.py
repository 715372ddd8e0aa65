"""Tick, volume and dollar bars against a plain loop in exact arithmetic, for any batching and any restart."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.errors import ConfigError, OperatorFailed
from market_data_pipeline.frame import END, Columns, Dictionary, Frame, columns_from_rows, to_rows
from market_data_pipeline.operators.arrival_bars import InformationBars
from market_data_pipeline.operators.base import OnError, OperatorContext
from market_data_pipeline.operators.information_bars import DollarBars, TickBars, VolumeBars
from market_data_pipeline.records import Bar, Gap, Trade


class Bench:
    """An operator with a store behind it."""

    def __init__(self, template: InformationBars, on_error: OnError = "dead_letter") -> None:
        self.template = template
        self.state: dict[str, bytes] = {}
        self.ctx = OperatorContext("bars", 0, on_error)
        self.bars: list[Bar] = []
        self.restart()

    def restart(self) -> None:
        self.operator = self.template.fresh()
        self.operator.open(self.ctx)
        self.operator.restore(self.state)

    def _take(self, frames: Any) -> list[Bar]:
        bars = [bar for frame in frames for bar in to_rows(frame.items)]
        self.bars += bars
        for key, blob in self.operator.snapshot().items():
            if blob is None:
                del self.state[key]
            else:
                self.state[key] = blob
        return bars

    def feed(self, items: Any) -> list[Bar]:
        return self._take(self.operator.process(Frame(items)))

    def end(self) -> list[Bar]:
        return self._take(self.operator.advance(END))


def all_of(template: InformationBars, items: list[Any]) -> list[Bar]:
    bench = Bench(template)
    if items:
        bench.feed(items)
    bench.end()
    return bench.bars


def trade(price: float, size: float, ts: int = 5, symbol: str = "A", side: str = "", conditions: str = "") -> Trade:
    return Trade(symbol, ts, 0, price, size, side, "", conditions)


class Plain:
    """Bars by the definition, one trade at a time, in exact arithmetic."""

    def __init__(
        self, measure: Callable[[Fraction, Fraction], Fraction], threshold: float, splits: bool, label: str = "left"
    ) -> None:
        self.measure, self.threshold, self.splits, self.label = measure, Fraction(threshold), splits, label
        self.open: dict[str, list[tuple[Trade, Fraction, bool, bool]]] = {}
        self.progress: dict[str, Fraction] = {}
        self.bars: list[Bar] = []

    def add(self, item: Trade, prices: bool = True, volumes: bool = True) -> None:
        size = Fraction(item.size) if volumes else Fraction(0)
        amount = self.measure(Fraction(item.price), size)
        open_bar = self.open.setdefault(item.symbol, [])
        total = self.progress.get(item.symbol, Fraction(0)) + amount
        more = True
        while self.splits and total >= self.threshold:
            fill = self.threshold - (total - amount)
            part = size * fill / amount
            open_bar.append((item, part, prices, volumes))
            self._close(item.symbol)
            size, amount, total = size - part, amount - fill, amount - fill
            more = size > 0
        if more:
            open_bar.append((item, size, prices, volumes))
        if total >= self.threshold:
            self._close(item.symbol)
            total %= self.threshold
        self.progress[item.symbol] = total

    def end(self) -> None:
        for symbol in sorted(self.open):
            if self.open[symbol]:
                self._close(symbol, partial=True)

    def _close(self, symbol: str, partial: bool = False) -> None:
        parts = self.open[symbol][:]
        self.open[symbol].clear()
        prices = [item.price for item, _, updates, _ in parts if updates] or [math.nan]
        times = [item.ts_event for item, _, _, _ in parts]
        volume = sum((size for _, size, _, _ in parts), Fraction(0))
        notional = sum((Fraction(item.price) * size for item, size, _, _ in parts), Fraction(0))
        by_side = {side: sum(size for item, size, _, _ in parts if item.side == side) for side in ("buy", "sell")}
        label = min(times) if self.label == "left" else max(times) + 1
        vwap = float(notional / volume) if volume else prices[-1]
        ohlc = prices[0], max(prices), min(prices), prices[-1]
        sides = float(by_side["buy"]), float(by_side["sell"])
        count = len(parts)
        self.bars.append(
            Bar(symbol, min(times), max(times) + 1, *ohlc, float(volume), vwap, count, label, *sides, 0, True, partial)
        )


def bits(bars: list[Bar]) -> list[str]:
    """NaN is as good as another NaN; everything else must be the same to the last bit."""
    return [repr(bar) for bar in bars]


KINDS: dict[str, tuple[Callable[..., InformationBars], Callable[[Fraction, Fraction], Fraction]]] = {
    "volume": (VolumeBars, lambda price, size: size),
    "dollar": (DollarBars, lambda price, size: abs(price) * size),
}
# powers of two, so that sizes of parts are exact
PRICES = st.sampled_from([0.0, 0.5, 1.0, 2.0, 4.0, 16.0, -1.0, -8.0])
SIZES = st.integers(1, 200).map(lambda n: n / 4)
TRADES = st.builds(
    lambda symbol, ts, price, size, side: Trade(symbol, ts, 0, price, size, side),
    st.sampled_from(["A", "B", "C", "é", ""]),
    st.integers(-50, 50),
    PRICES,
    SIZES,
    st.sampled_from(["", "buy", "sell"]),
)


def feed_in_parts(bench: Bench, items: list[Trade], size: int, columns: bool, restart: bool) -> None:
    for start in range(0, len(items), size):
        part = items[start : start + size]
        bench.feed(columns_from_rows(part)[0] if columns else part)
        if restart:
            bench.restart()
    bench.end()


@given(
    st.lists(TRADES, max_size=60),
    st.sampled_from(list(KINDS)),
    st.sampled_from([0.25, 3.0, 10.0, 37.5, 400.0]),
    st.sampled_from(["carry", "split"]),
    st.sampled_from(["left", "right"]),
    st.integers(1, 25),
    st.booleans(),
    st.booleans(),
)
@settings(derandomize=True, max_examples=300, deadline=None)
def test_bars_are_those_of_a_plain_loop(
    items: list[Trade], kind: str, threshold: float, overshoot: str, label: str, size: int, columns: bool, restart: bool
) -> None:
    make, measure = KINDS[kind]
    bench, plain = Bench(make(threshold, overshoot, label)), Plain(measure, threshold, overshoot == "split", label)
    feed_in_parts(bench, items, size, columns, restart)
    for item in items:
        plain.add(item)
    plain.end()
    assert bits(bench.bars) == bits(plain.bars)
    assert bench.state == {}


@given(st.lists(TRADES, max_size=60), st.integers(1, 7), st.integers(1, 25), st.booleans())
@settings(derandomize=True, max_examples=100, deadline=None)
def test_tick_bars_are_those_of_a_plain_loop(items: list[Trade], n: int, size: int, restart: bool) -> None:
    bench, plain = Bench(TickBars(n)), Plain(lambda price, size: Fraction(1), n, False)
    feed_in_parts(bench, items, size, True, restart)
    for item in items:
        plain.add(item)
    plain.end()
    assert bits(bench.bars) == bits(plain.bars)


ODD, QUIET = (lambda conditions: "I" not in conditions), (lambda conditions: "Q" not in conditions)


@given(
    st.lists(st.tuples(TRADES, st.sampled_from(["", "", "I", "Q", "IQ"])), max_size=50),
    st.sampled_from(["carry", "split"]),
    st.booleans(),
    st.integers(1, 20),
    st.booleans(),
)
@settings(derandomize=True, max_examples=200, deadline=None)
def test_conditions_say_what_a_trade_updates(
    history: list[tuple[Trade, str]], overshoot: Any, ticks: bool, size: int, restart: bool
) -> None:
    items = [item._replace(conditions=conditions) for item, conditions in history]
    if ticks:
        bench = Bench(TickBars(3, updates_ohlc=ODD, updates_volume=QUIET))
        plain = Plain(lambda price, size: Fraction(1), 3, False)
    else:
        bench = Bench(VolumeBars(30, overshoot, updates_ohlc=ODD, updates_volume=QUIET))
        plain = Plain(lambda price, size: size, 30, overshoot == "split")
    feed_in_parts(bench, items, size, True, restart)
    for item in items:
        if item.conditions != "IQ":
            plain.add(item, ODD(item.conditions), QUIET(item.conditions))
    plain.end()
    assert bits(bench.bars) == bits(plain.bars)
    assert bench.ctx.counts["ignored"] == sum(item.conditions == "IQ" for item in items)


@pytest.mark.parametrize("overshoot", ["carry", "split"])
@pytest.mark.parametrize("symbols", [1, 3, 700])
@pytest.mark.parametrize("make", [lambda o: VolumeBars(3.3, o), lambda o: DollarBars(1234.5, o), lambda o: TickBars(5)])
def test_any_batching_gives_the_same_bits(make: Callable[[str], InformationBars], overshoot: str, symbols: int) -> None:
    rng = np.random.default_rng(symbols)
    n = 1_000
    data: dict[str, Any] = {
        "symbol": Dictionary(rng.integers(0, symbols, n).astype(np.uint32), tuple(f"S{i}" for i in range(symbols))),
        "ts_event": rng.integers(-1000, 1000, n),
        "price": rng.lognormal(3, 1, n),
        "size": rng.lognormal(0, 2, n),
        "side": rng.integers(0, 3, n).astype(np.int8),
    }
    items = Columns("", data)
    one, single, some = Bench(make(overshoot)), Bench(make(overshoot)), Bench(make(overshoot))
    one.feed(items)
    for at in range(n):
        single.feed(items.take(slice(at, at + 1)))
        if at % 97 == 0:
            single.restart()
    for at in range(0, n, 167):
        some.feed(items.take(slice(at, at + 167)))
    for bench in (one, single, some):
        bench.end()
    assert len(one.bars) > 50
    assert bits(one.bars) == bits(single.bars) == bits(some.bars)
    total = pl.DataFrame({"symbol": data["symbol"].tolist(), "size": data["size"]}).group_by("symbol").sum()
    held = pl.DataFrame({"symbol": [b.symbol for b in one.bars], "size": [b.volume for b in one.bars]})
    compared = total.join(held.group_by("symbol").sum(), "symbol", suffix="_held")
    assert len(compared) == len(total)
    assert np.allclose(compared["size"], compared["size_held"], rtol=1e-9)


def test_carried_bars_hold_the_threshold_on_average_and_split_ones_always() -> None:
    rng = np.random.default_rng(7)
    items = [trade(1.0, float(size)) for size in rng.integers(1, 60, 5_000)]
    volume = sum(item.size for item in items)
    carried = [bar for bar in all_of(VolumeBars(100), items) if not bar.partial]
    assert len(carried) == volume // 100
    split = [bar for bar in all_of(VolumeBars(100, "split"), items) if not bar.partial]
    assert [bar.volume for bar in split] == [100.0] * int(volume // 100)


def short(bars: list[Bar]) -> list[tuple[float, float, float, int, bool]]:
    return [(bar.volume, bar.open, bar.close, bar.trade_count, bar.partial) for bar in bars]


def test_the_examples_of_the_module() -> None:
    items = [trade(1, 6), trade(2, 6), trade(3, 7), trade(4, 1), trade(5, 1)]
    assert short(all_of(VolumeBars(10), items)) == [(12, 1, 2, 2, False), (8, 3, 4, 2, False), (1, 5, 5, 1, True)]
    assert short(all_of(VolumeBars(10, "split"), items)) == [
        (10, 1, 2, 2, False), (10, 2, 4, 3, False), (1, 5, 5, 1, True),
    ]  # fmt: skip
    block = [trade(1, 25), trade(2, 5)]
    assert short(all_of(VolumeBars(10), block)) == [(25, 1, 1, 1, False), (5, 2, 2, 1, False)]
    assert short(all_of(VolumeBars(10, "split"), block)) == [
        (10, 1, 1, 1, False), (10, 1, 1, 1, False), (10, 1, 2, 2, False),
    ]  # fmt: skip
    money = [trade(10, 4), trade(20, 6)]
    (first, second) = all_of(DollarBars(100, "split"), money)
    assert (first.volume, first.vwap, second.volume, second.partial) == (7, 100 / 7, 3, True)


def test_decimal_sizes_fill_a_bar_though_their_sum_is_rounded() -> None:
    tenths = [trade(1, 0.1, ts) for ts in range(6)]
    for overshoot in ("carry", "split"):
        assert [(bar.trade_count, bar.partial) for bar in all_of(VolumeBars(0.3, overshoot), tenths)] == [
            (3, False)
        ] * 2
        low = [trade(1, size) for size in (0.7, 0.1, 0.8, 2.4)]  # 0.7 + 0.1 is below 0.8
        counts = [bar.trade_count for bar in all_of(VolumeBars(0.8, overshoot), low)]
        assert counts == ([2, 1, 1] if overshoot == "carry" else [2, 1, 1, 1, 1])


def test_what_is_missing_by_rounding_alone_fills_a_bar() -> None:
    for overshoot in ("carry", "split"):
        (bar,) = Bench(VolumeBars(0.8, overshoot)).feed([trade(1, 0.7), trade(1, 0.1)])
        assert bar.trade_count == 2
    tenths = all_of(VolumeBars(0.1, "split"), [trade(1, 0.7)])  # what is behind the first tenth is 5.999... tenths
    assert short(tenths) == [(0.1, 1, 1, 1, False)] * 7


def test_bars_come_out_in_the_order_of_the_trades_that_fill_them() -> None:
    items = [trade(1, 1, 1, "B"), trade(1, 1, 2, "A"), trade(1, 3, 3, "C"), trade(1, 1, 4, "A"), trade(1, 1, 5, "B")]
    bars = Bench(VolumeBars(2, "split")).feed(items)
    assert [(bar.symbol, bar.ts_open, bar.ts_close) for bar in bars] == [("C", 3, 4), ("A", 2, 5), ("B", 1, 6)]
    assert [bar.ts_event for bar in Bench(VolumeBars(2, "split", "right")).feed(items)] == [4, 5, 6]


@given(st.lists(TRADES, max_size=40), st.integers(1, 3))
@settings(derandomize=True, max_examples=60, deadline=None)
def test_symbols_do_not_know_each_other(items: list[Trade], partitions: int) -> None:
    whole = all_of(VolumeBars(20, "split"), items)
    parts: list[Bar] = []
    for partition in range(partitions):
        own = [item for item in items if len(item.symbol.encode()) % partitions == partition]
        parts += all_of(VolumeBars(20, "split"), own)
    assert sorted(bits(parts)) == sorted(bits(whole))


def test_times_are_the_smallest_and_largest_and_prices_those_of_arrival() -> None:
    (bar,) = all_of(TickBars(3), [trade(1, 1, 30), trade(5, 1, 10), trade(3, 1, 20)])
    assert (bar.ts_open, bar.ts_close, bar.open, bar.high, bar.low, bar.close) == (10, 31, 1, 5, 1, 3)


def test_columns_of_all_bars_are_whole_bars() -> None:
    bench = Bench(TickBars(2))
    (frame,) = bench.operator.process(Frame([trade(1, 2, side="buy"), trade(3, 2, side="sell")]))
    assert isinstance(frame.items, Columns)
    assert frame.items.kind == "bar"
    assert set(frame.items.data) == set(Bar._fields)
    assert frame.items.rows() == [Bar("A", 5, 6, 1.0, 3.0, 1.0, 3.0, 4.0, 2.0, 2, 5, 2.0, 2.0, 0, True, False)]


def test_dicts_and_other_rows_are_trades_too() -> None:
    row = {"symbol": "A", "ts_event": 5, "price": 2.0, "size": 3}
    items = [{**row, "side": "buy"}, row, trade(4.0, 1), {**row, "side": "bid"}, {"symbol": "A"}, 7]
    bench = Bench(VolumeBars(7))
    (bar,) = bench.feed(items)
    assert (bar.volume, bar.buy_volume, bar.sell_volume, bar.trade_count) == (7, 3, 0, 3)
    assert sorted(map(repr, (letter.item for letter in bench.ctx.dead_letters))) == sorted(map(repr, items[3:]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"price": math.nan}, "price, size or their product is not a finite number"),
        ({"price": math.inf}, "price, size or their product is not a finite number"),
        ({"size": math.nan}, "price, size or their product is not a finite number"),
        ({"price": 1e200, "size": 1e200}, "price, size or their product is not a finite number"),
        ({"size": 0.0}, "size is not above zero"),
        ({"size": -1.0}, "size is not above zero"),
        ({"ts_event": END}, "its time is more than 146 years from 1970, in ns"),
        ({"size": 100_000.0}, "would be split over more than 10,000 bars"),
    ],
)
def test_what_cannot_be_used_costs_only_itself(change: dict[str, Any], reason: str) -> None:
    bad = trade(1, 1)._replace(**change)
    bench = Bench(VolumeBars(10, "split"))
    bench.feed([trade(1, 5), bad, trade(2, 5)])
    assert short(bench.bars) == [(10, 1, 2, 2, False)]
    assert [letter.reason for letter in bench.ctx.dead_letters] == [reason]
    with pytest.raises(OperatorFailed):
        Bench(VolumeBars(10, "split"), "fail").feed([bad])


def test_a_trade_may_complete_ten_thousand_bars() -> None:
    bars = Bench(VolumeBars(1, "split")).feed([trade(1, 0.5), trade(3, 9_999.5)])
    assert (len(bars), bars[0].open, {bar.volume for bar in bars}) == (10_000, 1, {1.0})


def test_corrections_and_cancels_are_counted_and_left_out() -> None:
    bench = Bench(TickBars(1))
    bench.feed([trade(1, 1), trade(2, 1)._replace(action="cancel"), trade(3, 1)._replace(action="correct")])
    assert ([bar.open for bar in bench.bars], bench.ctx.counts["ignored"]) == ([1], 2)
    bench.feed([trade(4, 1)._replace(action="bust"), trade(5, 1)])
    assert [bar.open for bar in bench.bars] == [1, 5]
    assert [letter.reason for letter in bench.ctx.dead_letters] == ["action: none of new, correct, cancel"]


@pytest.mark.parametrize("size", [1, 3, 20])
def test_a_gap_makes_the_bar_of_the_next_trade_partial(size: int) -> None:
    missing = Gap("A", 3, 4, 2, 5)
    items = [
        trade(1, 1),
        missing,
        trade(2, 1),
        trade(3, 1),
        trade(4, 1),
        missing,
        trade(5, 1),
        trade(5, 1, 5, "B"),
        trade(6, 1),
    ]
    items += [trade(6, 1, 5, "B"), missing._replace(symbol="C"), trade(7, 2, 5, "C"), trade(8, 2, 5, "C")]
    bench = Bench(VolumeBars(2))
    for start in range(0, len(items), size):
        bench.feed(items[start : start + size])
        bench.restart()
    found = [(bar.symbol, bar.close, bar.partial) for bar in bench.bars]
    assert found == [("A", 2, True), ("A", 4, False), ("A", 6, True), ("B", 6, False), ("C", 7, True), ("C", 8, False)]


def test_a_commit_writes_the_blocks_that_changed_and_the_end_clears_them() -> None:
    bench = Bench(VolumeBars(1_000))
    names = [f"S{n}" for n in range(1_000)]
    bench.feed([trade(1, 1, symbol=name) for name in names])
    assert len(bench.state) == 4
    before = dict(bench.state)
    bench.feed([trade(2, 1, symbol="S700")])
    assert [key for key in bench.state if bench.state[key] != before[key]] == ["2"]
    bench.restart()
    rest = bench.end()
    assert [bar.symbol for bar in rest] == sorted(names)
    assert all(bar.partial and bar.is_final for bar in rest)
    assert bench.state == {}
    assert bench.end() == []


def test_a_watermark_alone_completes_nothing() -> None:
    bench = Bench(TickBars(2))
    bench.feed([trade(1, 1, 5)])
    assert list(bench.operator.advance(10**18)) == []
    assert bench.feed([trade(1, 1, 5)])[0].trade_count == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TickBars(0), "n: 0 must be a whole number of trades"),
        (lambda: TickBars(True), "n: True must be"),
        (lambda: TickBars(1.5), "n: 1.5 must be"),  # type: ignore[arg-type]
        (lambda: VolumeBars(0), "volume: 0 must be a number above zero"),
        (lambda: VolumeBars(math.nan), "volume: nan must be"),
        (lambda: DollarBars(math.inf), "notional: inf must be"),
        (lambda: DollarBars("1M"), "notional: '1M' must be"),  # type: ignore[arg-type]
        (lambda: VolumeBars(1, "keep"), "overshoot: 'keep' is not allowed; one of: carry, split"),  # type: ignore[arg-type]
        (lambda: TickBars(1, "middle"), "label: 'middle' is not allowed; one of: left, right"),  # type: ignore[arg-type]
        (lambda: TickBars(1, updates_ohlc="I"), "updates_ohlc: 'I' is not a function"),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments_are_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_the_configuration_is_what_was_given() -> None:
    usual = {"updates_ohlc": None, "updates_volume": None, "phases": ["live"]}
    assert TickBars(5).config() == {"n": 5, "label": "left", **usual}
    config = DollarBars(10**6, "split", "right").config()
    assert config == {"notional": 1e6, "overshoot": "split", "label": "right", **usual}


def test_a_huge_trade_costs_nobody_else() -> None:
    trades = [Trade("A", 1, 0, 1.0, 2.0), Trade("B", 2, 0, 1.0, 1e300), Trade("A", 3, 0, 1.0, 8.0)]
    assert [bar.trade_count for bar in all_of(VolumeBars(10), trades)] == [1, 2]


def test_the_smallest_time_there_is_is_too_far() -> None:
    assert all_of(TickBars(1), [Trade("A", -(2**63), 0, 1.0, 2.0)]) == []


def test_a_gap_without_a_symbol_is_a_dead_letter() -> None:
    bench = Bench(TickBars(1))
    bench.feed([Trade("A", 1, 0, 1.0, 1.0), Gap(None, 1, 2, 2, 5), Trade("A", 2, 0, 1.0, 1.0)])  # type: ignore[arg-type]
    assert len(bench.bars) == 2
    assert bench.ctx.counts["dead_letter"] == 1
