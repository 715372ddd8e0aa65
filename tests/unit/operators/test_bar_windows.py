"""Bars under every choice of convention, lateness, empty bars, early emission, conditions and corrections, against a plain
oracle that keeps all trades and computes everything anew."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.bar_job import Job, trade

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import END
from market_data_pipeline.operators.bars import BarConvention, TradeRules, TumblingBars
from market_data_pipeline.records import Bar, Gap, Trade

SECOND = 10**9
MS = 10**6


@dataclass
class Row:
    trades: list[Trade] = field(default_factory=list)
    emitted: int = 0
    fired: bool = False
    changed: bool = True
    partial: bool = False
    carried: float | None = None


class Oracle:
    """All trades of all buckets for ever."""

    def __init__(self, interval: int, lateness: int, empty: str, early: int | None, convention: BarConvention) -> None:
        self.interval, self.lateness, self.empty, self.early, self.convention = (
            interval, lateness, empty, early, convention,
        )  # fmt: skip
        self.shift = 1 if convention.closed == "right" else 0
        self.rows: dict[tuple[int, str], Row] = {}
        self.first: dict[str, int] = {}
        self.started: set[str] = set()
        self.watermark: float = -math.inf
        self.closed: float = -math.inf
        self.late = 0

    def end_of(self, bucket: int) -> int:
        return (bucket + 1) * self.interval + self.shift

    def add(self, item: Trade) -> None:
        bucket = (getattr(item, self.convention.ts) - self.shift) // self.interval
        if self.end_of(bucket) + self.lateness <= self.watermark:
            self.late += 1
            return
        row = self.rows.setdefault((bucket, item.symbol), Row())
        row.trades.append(item)
        row.changed = True

    def advance(self, watermark: float) -> list[Bar]:
        before = self.watermark
        if watermark <= before:
            return []
        self.watermark = watermark
        self._fill(before)
        out: list[Bar] = []
        closes: dict[str, float | None] = {}
        for (bucket, symbol), row in sorted(self.rows.items()):
            end = self.end_of(bucket)
            if end + self.lateness <= before:
                closes[symbol] = self._close(row, closes.get(symbol))
                continue
            fired, final = end <= watermark, end + self.lateness <= watermark
            if self.empty == "carry" and not row.trades and fired and row.carried != closes.get(symbol):
                row.carried, row.changed = closes.get(symbol), True
            closes[symbol] = self._close(row, closes.get(symbol))
            due = final or (fired and (row.changed or not row.fired)) or self._early(bucket, row, before)
            row.fired = row.fired or fired
            if due:
                if symbol not in self.started:
                    row.partial = True
                    self.started.add(symbol)
                out.append(self._bar(bucket, symbol, row, final))
                row.emitted, row.changed = row.emitted + 1, False
        return out

    def _close(self, row: Row, before: float | None) -> float | None:
        prices = self._in_time(row)
        return prices[-1].price if prices else before

    def _in_time(self, row: Row) -> list[Trade]:
        return sorted(row.trades, key=lambda item: getattr(item, self.convention.ts))

    def _early(self, bucket: int, row: Row, before: float) -> bool:
        if self.early is None or self.watermark >= self.end_of(bucket) or not row.changed:
            return False
        start = bucket * self.interval
        steps = (self.watermark - start) // self.early
        return steps > (max((before - start) // self.early, 0) if before > -math.inf else 0)

    def _fill(self, before: float) -> None:
        if self.empty == "skip":
            return
        for bucket, symbol in sorted(self.rows):
            if self.end_of(bucket) <= self.watermark:
                self.first.setdefault(symbol, bucket)
                self.first[symbol] = min(self.first[symbol], bucket)
        for symbol, first in self.first.items():
            if self.watermark == math.inf:
                heard = first if before == -math.inf else (int(before) - self.shift) // self.interval
                stop = max(heard, *(b for b, s in self.rows if s == symbol), first)
            else:
                stop = (int(self.watermark) - self.shift) // self.interval
            for bucket in range(first, stop):
                self.rows.setdefault((bucket, symbol), Row())

    def _bar(self, bucket: int, symbol: str, row: Row, final: bool) -> Bar:
        start, end = bucket * self.interval, (bucket + 1) * self.interval
        label = start if self.convention.label == "left" else end
        marks = (label, *self._sides(row), row.emitted, final, row.partial)
        if not row.trades:
            price: Any = row.carried
            return Bar(symbol, start, end, price, price, price, price, 0.0, price, 0, *marks)
        in_time = self._in_time(row)
        prices = [item.price for item in in_time]
        volume = sum(item.size for item in in_time)
        vwap = sum(item.price * item.size for item in in_time) / volume if volume else prices[-1]
        ohlc = prices[0], max(prices), min(prices), prices[-1]
        return Bar(symbol, start, end, *ohlc, volume, vwap, len(prices), *marks)

    @staticmethod
    def _sides(row: Row) -> tuple[float, float]:
        return tuple(sum((t.size for t in row.trades if t.side == side), 0.0) for side in ("buy", "sell"))  # type: ignore[return-value]


# multiples of 1/4: their sums and products are exact, so that bars may be compared with ==
TRADES = st.builds(
    lambda symbol, ts, delay, price, size, side: Trade(
        symbol, ts * MS, (ts + delay) * MS + 1, price / 4, size / 4, side
    ),
    st.sampled_from("ABC"),
    st.integers(-4_000, 4_000),
    st.integers(0, 700),
    st.integers(1, 400),
    st.integers(0, 40),
    st.sampled_from(["", "buy", "sell"]),
)
STEPS = st.lists(
    st.one_of(
        st.lists(TRADES, min_size=1, max_size=10),
        st.integers(-4_500, 5_500).map(lambda ms: ms * MS),
        st.just("restart"),
    ),
    max_size=25,
)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(
    steps=STEPS,
    interval=st.sampled_from([7 * MS, 500 * MS, SECOND, 3 * SECOND]),
    lateness=st.sampled_from([0, 0, 700 * MS, 2 * SECOND]),
    empty=st.sampled_from(["skip", "null", "carry"]),
    early=st.sampled_from([None, None, 250 * MS, SECOND]),
    convention=st.builds(
        BarConvention, *[st.sampled_from(["left", "right"])] * 2, st.sampled_from(["ts_event", "ts_recv"])
    ),
)
def test_any_options_frames_watermarks_and_restarts_give_the_bars_of_the_oracle(
    steps: list[Any], interval: int, lateness: int, empty: str, early: int | None, convention: BarConvention
) -> None:
    late = {"late": "revise", "allowed_lateness": lateness} if lateness else {}
    job = Job(interval=interval, empty=empty, early_every=early, convention=convention, **late)
    oracle = Oracle(interval, lateness, empty, early, convention)
    for step in [*steps, END]:
        if isinstance(step, list):
            for item in step:
                oracle.add(item)
            job.feed(*step)
        elif step == "restart":
            job.restart()
        else:
            assert sorted(job.advance(step)) == sorted(oracle.advance(math.inf if step == END else step))
        assert job.operator.ctx.counts["late"] == oracle.late
    job.restart()
    assert [key for key in job.state if not key.startswith(("names:", "symbols:", "facts"))] == []


def test_conditions_say_what_a_trade_updates() -> None:
    rules = TradeRules(updates_ohlc=lambda c: "I" not in c, updates_volume=lambda c: "Q" not in c)
    job = Job(interval="1s", rules=rules)
    job.feed(
        trade(1, 99.0, 1.0, conditions="I"),
        trade(2, 10.0, 2.0),
        trade(3, 12.0, 4.0, conditions="Q"),
        trade(4, 50.0, 8.0, conditions="IQ"),
        trade(1_500_000_000, 99.0, 1.0, conditions="I"),
    )
    first, second = job.advance(END)
    assert (first.open, first.high, first.close, first.volume, first.trade_count) == (10.0, 12.0, 12.0, 3.0, 3)
    assert first.vwap == (99.0 + 20.0) / 3
    assert (second.open, second.close, second.volume, second.vwap) == (None, None, 1.0, 99.0)
    assert job.operator.ctx.counts["ignored"] == 1


def test_a_gap_makes_the_bars_around_it_partial() -> None:
    job = Job(interval="1s")
    job.feed(trade(0, 1.0), trade(SECOND, 1.0), trade(4 * SECOND, 1.0), trade(5 * SECOND, 1.0, symbol="B"))
    job.advance(SECOND)
    job.feed(Gap("A", 1, 5, 5, 3 * SECOND), trade(3 * SECOND, 2.0), columns=False)
    job.restart()
    bars = job.advance(END)
    assert [(b.symbol, b.ts_open // SECOND, b.partial) for b in bars] == [
        ("A", 1, True), ("A", 3, True), ("A", 4, False), ("B", 5, True),
    ]  # fmt: skip


@pytest.mark.parametrize("together", [True, False])
def test_a_gap_counts_from_where_it_stands_among_the_trades_of_its_frame(together: bool) -> None:
    job = Job(interval="1s")
    items = [
        trade(0, 1.0),
        trade(SECOND, 1.0),
        Gap("A", 1, 5, 5, 3 * SECOND),
        trade(2 * SECOND, 1.0),
        trade(3 * SECOND, 2.0),
    ]
    for part in [items] if together else [[item] for item in items]:
        job.feed(*part, columns=False)
    assert [(b.ts_open // SECOND, b.partial) for b in job.advance(END)] == [(0, True), (1, True), (2, False), (3, True)]


def test_empty_bars_stop_for_a_symbol_that_stays_silent() -> None:
    job = Job(interval="1s", empty="carry", convention=BarConvention(max_empty=5))
    job.feed(trade(0, 3.0))
    assert len(job.advance(10**6 * SECOND)) == 1 + 5
    job.feed(trade(2 * 10**6 * SECOND, 4.0))
    job.restart()
    bars = job.advance(2 * 10**6 * SECOND + 3 * SECOND)
    assert [(b.close, b.volume) for b in bars] == [(4.0, 1.0), (4.0, 0.0), (4.0, 0.0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"late": "revise"}, "late='revise' needs an allowed_lateness above zero"),
        ({"allowed_lateness": "1s"}, "allowed_lateness='1s' with late='drop'"),
        ({"late": "later"}, "late: 'later' is not allowed; one of: drop, side_output, revise"),
        ({"empty": "zero"}, "empty: 'zero' is not allowed; one of: skip, null, carry"),
        ({"early_every": 0}, "early_every: 0 must be greater than zero"),
    ],
)
def test_mistakes_in_the_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        TumblingBars("1s", **options)
    assert message in str(raised.value)


def test_mistakes_in_the_convention_are_named() -> None:
    with pytest.raises(ConfigError, match="closed: 'middle' is not allowed; one of: left, right"):
        BarConvention(closed="middle")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_empty: 0 is not allowed; an int of at least 1"):
        BarConvention(max_empty=0)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("restart", [False, True])
def test_a_gap_marks_the_same_bars_in_any_frames(together: bool, restart: bool) -> None:
    job = Job(interval="1s")
    job.feed(trade(0, 1.0))
    job.advance(SECOND)
    items = [trade(SECOND, 1.0), Gap("A", 1, 2, 2, 3 * SECOND + 5), trade(3 * SECOND + 5, 2.0)]
    for part in [items] if together else [[item] for item in items]:
        job.feed(*part, columns=False)
        if restart:
            job.restart()
    assert [(bar.ts_open // SECOND, bar.partial) for bar in job.advance(END)] == [(1, True), (3, True)]


@pytest.mark.parametrize(("symbol", "ts"), [("A", None), (None, 5), ("A", 2**70), ("A", 1.5), (["A"], 5)])
def test_a_gap_without_symbol_or_time_costs_no_trade(symbol: Any, ts: Any) -> None:
    job = Job(interval="1ms")
    job.feed(trade(5, 1.0), Gap(symbol, 1, 2, 2, ts), trade(6, 2.0), columns=False)
    job.restart()
    assert [bar.trade_count for bar in job.advance(END)] == [2]


@pytest.mark.parametrize("closed", ["left", "right"])
def test_the_smallest_time_there_is_is_too_far(closed: Any) -> None:
    job = Job(interval="1ms", convention=BarConvention(closed=closed))
    job.feed(trade(-(2**63), 1.0), trade(5, 2.0))
    assert [bar.close for bar in job.advance(END)] == [2.0]
    assert len(job.operator.ctx.dead_letters) == 1


def test_far_jumps_and_late_trades_among_empty_bars_equal_the_oracle() -> None:
    job = Job(interval="1s", empty="carry", late="revise", allowed_lateness="1h")
    job.feed(trade(0, 1.0), trade(0, 5.0, symbol="B"))
    assert len(job.advance(2000 * SECOND)) == 4000
    job.feed(trade(1000 * SECOND, 2.0), trade(1500 * SECOND, 7.0, symbol="C"))
    bars = {(bar.symbol, bar.ts_open // SECOND): bar.close for bar in job.advance(2001 * SECOND)}
    revised = {("A", at): 2.0 for at in range(1000, 2001)}
    first = {("C", at): 7.0 for at in range(1500, 2001)}
    assert bars == {**revised, **first, ("B", 2000): 5.0}
