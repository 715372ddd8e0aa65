"""TumblingBars against a plain-Python oracle that knows nothing of tables, sorts or columns."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.errors import ConfigError, OperatorFailed
from market_data_pipeline.frame import END, NO_MARK, Columns, Dictionary, Frame, columns_from_rows, to_rows
from market_data_pipeline.operators.bars import TumblingBars
from market_data_pipeline.operators.base import OnError, OperatorContext
from market_data_pipeline.packing import unpack
from market_data_pipeline.records import Bar, Trade

SECOND = 10**9
MS = 10**6


def started(interval: Any = "1s", align_to: Any = 0, on_error: OnError = "dead_letter") -> TumblingBars:
    operator = TumblingBars(interval, align_to)
    operator.open(OperatorContext("bars", 0, on_error))
    return operator


def columns(items: list[Any]) -> Columns:
    made, bad = columns_from_rows(items)
    assert bad == []
    return made


def rows(frames: Iterable[Frame]) -> list[Any]:
    return [row for frame in frames for row in to_rows(frame.items)]


def feed(operator: TumblingBars, *trades: Trade) -> None:
    assert rows(operator.process(Frame(columns(list(trades))))) == []


def trade(ts: int, price: float, size: float = 1.0, symbol: str = "A") -> Trade:
    return Trade(symbol, ts, 0, price, size)


class Stored:
    """What a task's store would hold: deltas applied, and new instances started from it."""

    def __init__(self, operator: TumblingBars) -> None:
        self.operator = operator
        self.state: dict[str, bytes] = {}
        self.watermark = NO_MARK

    def commit(self) -> None:
        for key, blob in self.operator.snapshot().items():
            if blob is None:
                del self.state[key]
            else:
                self.state[key] = blob

    def restart(self) -> None:
        self.commit()
        counts = self.operator.ctx.counts
        self.operator = TumblingBars(*self._arguments())
        self.operator.open(OperatorContext("bars"))
        self.operator.ctx.counts.update(counts)
        if self.state:
            self.operator.restore(self.state, self.watermark)
        if self.watermark != NO_MARK:
            assert rows(self.operator.advance(self.watermark)) == []

    def advance(self, watermark: int) -> list[Bar]:
        self.watermark = max(watermark, self.watermark)
        return rows(self.operator.advance(watermark))

    def _arguments(self) -> tuple[int, int]:
        return self.operator.interval, self.operator.align_to


class Oracle:
    """Bars by the definition: all trades of a window in a list, everything computed when it closes."""

    def __init__(self, interval: int, align_to: int) -> None:
        self.interval, self.align_to = interval, align_to
        self.windows: dict[int, dict[str, list[Trade]]] = {}
        self.symbols: list[str] = []
        self.closed_before = -math.inf
        self.started: set[str] = set()
        self.late = 0

    def add(self, item: Trade) -> None:
        start = item.ts_event - (item.ts_event - self.align_to) % self.interval
        if start + self.interval <= self.closed_before:
            self.late += 1
            return
        if item.symbol not in self.symbols:
            self.symbols.append(item.symbol)
        self.windows.setdefault(start, {}).setdefault(item.symbol, []).append(item)

    def advance(self, watermark: float) -> list[Bar]:
        self.closed_before = max(watermark, self.closed_before)
        bars: list[Bar] = []
        for start in sorted(start for start in self.windows if start + self.interval <= self.closed_before):
            groups = self.windows.pop(start)
            bars += [self._bar(groups[symbol], start) for symbol in self.symbols if symbol in groups]
            self.started |= groups.keys()
        return bars

    def _bar(self, trades: list[Trade], start: int) -> Bar:
        in_time = sorted(trades, key=lambda item: item.ts_event)  # stable: ties by arrival
        prices = [item.price for item in trades]
        volume = sum(item.size for item in trades)
        notional = sum(item.price * item.size for item in trades)
        close = in_time[-1].price
        return Bar(
            trades[0].symbol,
            start,
            start + self.interval,
            in_time[0].price,
            max(prices),
            min(prices),
            close,
            volume,
            notional / volume if volume else close,
            len(trades),
            start,
            partial=trades[0].symbol not in self.started,
        )


# multiples of 1/4: their sums and products are exact, so that bars may be compared with ==
PRICES = st.integers(1, 400).map(lambda n: n / 4)
SIZES = st.integers(0, 40).map(lambda n: n / 4)
SYMBOLS = st.sampled_from(["A", "B", "C", "é", ""])
TIMES = st.integers(-4_000, 4_000).map(lambda ms: ms * MS)
TRADES = st.builds(lambda symbol, ts, price, size: Trade(symbol, ts, 0, price, size), SYMBOLS, TIMES, PRICES, SIZES)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    steps=st.lists(
        st.one_of(
            st.lists(TRADES, min_size=1, max_size=12),
            st.integers(-4_500, 4_500).map(lambda ms: ms * MS),
            st.sampled_from(["commit", "restart"]),
        ),
        max_size=25,
    ),
    interval=st.sampled_from([1 * MS, 7 * MS, 500 * MS, SECOND, 3 * SECOND]),
    align_to=st.sampled_from([0, 250 * MS, -SECOND // 3]),
)
def test_any_frames_watermarks_and_restarts_give_the_bars_of_the_oracle(
    steps: list[Any], interval: int, align_to: int
) -> None:
    job, oracle = Stored(started(interval, align_to)), Oracle(interval, align_to)
    for step in [*steps, END]:
        if isinstance(step, list):
            feed(job.operator, *step)
            for item in step:
                oracle.add(item)
        elif isinstance(step, int):
            expected = oracle.advance(math.inf if step == END else step)
            assert sorted(job.advance(step)) == sorted(expected)
        elif step == "commit":
            job.commit()
        else:
            job.restart()
        assert job.operator.ctx.counts["late"] == oracle.late
    job.commit()
    assert [key for key in job.state if not key.startswith(("names:", "symbols:"))] == []


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    gaps=st.lists(st.integers(0, 800), min_size=1, max_size=60),
    delays=st.lists(st.integers(0, 1500), min_size=60, max_size=60),
    picks=st.lists(st.tuples(SYMBOLS, PRICES, SIZES), min_size=60, max_size=60),
    cuts=st.sets(st.integers(1, 59), max_size=12),
    restarts=st.sets(st.integers(1, 59), max_size=6),
)
def test_disorder_within_the_watermark_loses_nothing(
    gaps: list[int],
    delays: list[int],
    picks: list[tuple[str, float, float]],
    cuts: set[int],
    restarts: set[int],
) -> None:
    times = np.cumsum(gaps).tolist()
    trades = [Trade(s, (ms - 20_000) * MS, 0, price, size) for ms, (s, price, size) in zip(times, picks, strict=False)]
    order = sorted(range(len(trades)), key=lambda i: times[i] + delays[i])
    arrivals = [trades[i] for i in order]
    job, oracle = Stored(started()), Oracle(SECOND, 0)
    got: list[Bar] = []
    begin = 0
    for end in sorted(cut for cut in {*cuts, len(arrivals)} if cut <= len(arrivals)):
        feed(job.operator, *arrivals[begin:end])
        watermark = max(item.ts_event for item in arrivals[:end]) - 1500 * MS
        got += job.advance(watermark)
        if end in restarts:
            job.restart()
        begin = end
    got += job.advance(END)
    for item in arrivals:
        oracle.add(item)
    assert got == oracle.advance(math.inf)
    assert job.operator.ctx.counts["late"] == 0


def test_a_large_random_day_equals_polars() -> None:
    rng = np.random.default_rng(5)
    n = 40_000
    ts = np.sort(rng.integers(-30 * SECOND, 30 * SECOND, n))
    names = tuple(f"S{i:03d}" for i in range(300))
    data: dict[str, Any] = {
        "symbol": Dictionary(rng.integers(0, 300, n).astype(np.uint32), names),
        "ts_event": ts,
        "price": rng.integers(1, 4000, n) / 4,
        "size": rng.integers(0, 400, n) / 4,
    }
    made = Columns("", data)
    operator = started()
    got: list[Bar] = []
    for begin in range(0, n, 1777):
        part = made.take(slice(begin, begin + 1777))
        assert list(operator.process(Frame(part))) == []
        got += rows(operator.advance(int(part.array("ts_event")[-1])))
    got += rows(operator.advance(END))
    frame = pl.DataFrame({**data, "symbol": data["symbol"].tolist()})
    window = pl.col("ts_event").floordiv(SECOND).alias("window")
    price, size = pl.col("price"), pl.col("size")
    oracle = frame.group_by("symbol", window, maintain_order=True).agg(
        price.first().alias("open"),
        price.max().alias("high"),
        price.min().alias("low"),
        price.last().alias("close"),
        size.sum().alias("volume"),
        (price * size).sum().alias("notional"),
        pl.len().alias("count"),
    )
    first = dict(oracle.group_by("symbol").agg(pl.col("window").min()).iter_rows())
    expected = {
        Bar(
            row["symbol"],
            row["window"] * SECOND,
            (row["window"] + 1) * SECOND,
            row["open"],
            row["high"],
            row["low"],
            row["close"],
            row["volume"],
            row["notional"] / row["volume"] if row["volume"] else row["close"],
            row["count"],
            row["window"] * SECOND,
            partial=row["window"] == first[row["symbol"]],
        )
        for row in oracle.iter_rows(named=True)
    }
    assert len(got) == len(expected)
    assert set(got) == expected
    assert [bar.ts_open for bar in got] == sorted(bar.ts_open for bar in got)


def test_the_example_of_the_module() -> None:
    operator = started("1s")
    feed(operator, trade(SECOND // 10, 10, 1), trade(9 * SECOND // 10, 12, 1), trade(SECOND // 2, 9, 2))
    assert rows(operator.advance(SECOND)) == [Bar("A", 0, SECOND, 10, 12, 9, 12, 4, 10, 3, 0, partial=True)]
    feed(operator, trade(12 * SECOND // 10, 11, 5), trade(7 * SECOND // 10, 99, 9))
    assert operator.ctx.counts["late"] == 1
    assert rows(operator.advance(END)) == [Bar("A", SECOND, 2 * SECOND, 11, 11, 11, 11, 5, 11, 1, SECOND)]


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_at_equal_times_the_first_arrival_opens_and_the_last_closes(frames: int) -> None:
    arrivals = [trade(5, 3.0), trade(5, 1.0), trade(5, 4.0), trade(5, 2.0)]
    operator = started()
    size = len(arrivals) // frames
    for begin in range(0, len(arrivals), size):
        feed(operator, *arrivals[begin : begin + size])
    (bar,) = rows(operator.advance(END))
    assert (bar.open, bar.high, bar.low, bar.close) == (3.0, 4.0, 1.0, 2.0)


def test_a_later_frame_may_open_and_an_earlier_one_close() -> None:
    operator = started()
    feed(operator, trade(50, 5.0), trade(90, 9.0))
    feed(operator, trade(10, 1.0), trade(60, 6.0))
    (bar,) = rows(operator.advance(END))
    assert (bar.open, bar.close) == (1.0, 9.0)


@pytest.mark.parametrize(
    ("ts", "start"),
    [(-1, -SECOND), (-SECOND, -SECOND), (-SECOND - 1, -2 * SECOND), (0, 0), (SECOND - 1, 0), (SECOND, SECOND)],
)
def test_windows_are_half_open_also_before_the_epoch(ts: int, start: int) -> None:
    operator = started()
    feed(operator, trade(ts, 1.0))
    assert rows(operator.advance(start + SECOND - 1)) == []
    (bar,) = rows(operator.advance(start + SECOND))
    assert (bar.ts_open, bar.ts_close) == (start, start + SECOND)


def test_align_to_moves_the_windows() -> None:
    operator = started("1h", "30m")
    feed(operator, trade(0, 1.0), trade(1800 * SECOND, 2.0))
    assert [bar.ts_open for bar in rows(operator.advance(END))] == [-1800 * SECOND, 1800 * SECOND]


def test_bars_come_by_window_then_by_first_appearance() -> None:
    operator = started()
    feed(operator, trade(SECOND, 1.0, symbol="Z"), trade(0, 1.0, symbol="A"), trade(1, 1.0, symbol="Z"))
    assert [(bar.ts_open, bar.symbol) for bar in rows(operator.advance(END))] == [(0, "Z"), (0, "A"), (SECOND, "Z")]


def test_the_end_flushes_exactly_once() -> None:
    operator = started()
    feed(operator, trade(0, 1.0), trade(5 * SECOND, 2.0))
    assert len(rows(operator.advance(END))) == 2
    assert list(operator.advance(END)) == []


def test_a_watermark_fires_each_window_once() -> None:
    operator = started()
    feed(operator, trade(0, 1.0))
    assert len(rows(operator.advance(SECOND))) == 1
    assert list(operator.advance(SECOND)) == []
    assert list(operator.advance(END)) == []


def test_a_watermark_that_goes_back_changes_nothing() -> None:
    operator = started()
    operator.advance(5 * SECOND)
    assert list(operator.advance(0)) == []
    feed(operator, trade(4 * SECOND, 1.0), trade(5 * SECOND, 2.0))
    assert operator.ctx.counts["late"] == 1
    assert [bar.close for bar in rows(operator.advance(END))] == [2.0]


def test_behind_the_watermark_but_in_an_open_window_is_not_late() -> None:
    operator = started()
    operator.advance(SECOND + 500 * MS)
    feed(operator, trade(SECOND, 1.0), trade(SECOND - 1, 2.0))
    assert operator.ctx.counts["late"] == 1
    assert [bar.open for bar in rows(operator.advance(END))] == [1.0]


def test_no_volume_means_the_vwap_is_the_close() -> None:
    operator = started()
    feed(operator, trade(0, 5.0, 0.0), trade(1, 7.0, 0.0))
    (bar,) = rows(operator.advance(END))
    assert (bar.volume, bar.vwap, bar.close) == (0.0, 7.0, 7.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["price", "size"])
def test_what_is_not_finite_goes_to_the_dead_letters(name: str, value: float) -> None:
    operator = started()
    bad = trade(3, value) if name == "price" else trade(3, 2.0, value)
    feed(operator, trade(1, 1.0), bad, trade(5, 3.0))
    (letter,) = operator.ctx.dead_letters
    assert (letter.node, letter.reason) == ("bars", "price or size is not a finite number")
    assert repr(letter.item) == repr(bad)
    (bar,) = rows(operator.advance(END))
    assert (bar.open, bar.close, bar.trade_count) == (1.0, 3.0, 2)


def test_what_is_not_finite_can_be_skipped_or_fail() -> None:
    operator = started(on_error="skip")
    feed(operator, trade(1, math.nan))
    assert operator.ctx.counts["skipped"] == 1
    assert operator.ctx.dead_letters == []
    assert list(operator.advance(END)) == []
    with pytest.raises(OperatorFailed, match="node 'bars': price or size is not a finite number"):
        feed(started(on_error="fail"), trade(1, math.nan))


def test_dicts_with_the_needed_fields_make_bars_too() -> None:
    operator = started()
    items = [{"symbol": "A", "ts_event": 1, "price": 2, "size": 3}]
    assert list(operator.process(Frame(items))) == []
    assert rows(operator.advance(END)) == [Bar("A", 0, SECOND, 2.0, 2.0, 2.0, 2.0, 3.0, 2.0, 1, 0, partial=True)]


def test_an_empty_frame_changes_nothing() -> None:
    operator = started()
    list(operator.process(Frame(columns([trade(0, 1.0)]).take(slice(0, 0)))))
    assert operator.snapshot() == {}
    assert list(operator.advance(END)) == []


def test_a_snapshot_holds_only_what_changed() -> None:
    operator = started()
    feed(operator, trade(0, 1.0), trade(SECOND, 1.0))
    assert rows_in(operator.snapshot()) == {"names:0": 0, "rows:0": 2}
    assert operator.snapshot() == {}
    feed(operator, trade(SECOND, 2.0))
    assert rows_in(operator.snapshot()) == {"rows:1": 1}
    operator.advance(SECOND)
    assert rows_in(operator.snapshot()) == {"rows:0": None, "symbols:0": 0}, "one bar is closed, the other is newer"
    feed(operator, trade(SECOND, 2.0, symbol="B"))
    assert rows_in(operator.snapshot()) == {"rows:2": 1, "names:1": 0}


def rows_in(delta: dict[str, bytes | None]) -> dict[str, int | None]:
    """How many bars each of the segments in ``delta`` holds; ``None`` where it goes away."""
    sizes = {key: None if blob is None else 0 for key, blob in delta.items()}
    return sizes | {key: len(unpack(blob)[0]) // 8 for key, blob in delta.items() if blob and key.startswith("rows:")}


def test_a_window_that_opened_and_closed_between_commits_leaves_no_trace() -> None:
    operator = started()
    feed(operator, trade(0, 1.0))
    operator.advance(END)
    assert set(operator.snapshot()) == {"names:0", "symbols:0"}


@pytest.mark.parametrize("interval", ["999us", 999_999, "1us", 1])
def test_intervals_below_a_millisecond_are_refused(interval: Any) -> None:
    with pytest.raises(ConfigError, match=r"interval: .* is too short; at least 1ms"):
        TumblingBars(interval)


@pytest.mark.parametrize("interval", ["0s", 0, -SECOND])
def test_intervals_must_be_positive(interval: Any) -> None:
    with pytest.raises(ConfigError, match=r"interval: .* must be greater than zero"):
        TumblingBars(interval)


def test_a_millisecond_is_the_shortest_interval_also_at_real_times() -> None:
    operator = started("1ms")
    now = 1_767_364_200_123_456_789
    feed(operator, trade(now, 1.0), trade(now + MS, 2.0))
    first = now // MS * MS
    assert [bar.ts_open for bar in rows(operator.advance(END))] == [first, first + MS]


def test_fresh_has_the_configuration_and_no_state() -> None:
    template = TumblingBars("5s", "1s")
    copy = template.fresh()
    copy.open(OperatorContext("bars"))
    feed(copy, trade(0, 1.0))
    assert copy.config() == template.config()
    assert (copy.interval, copy.align_to, copy.late) == (5 * SECOND, SECOND, "drop")
    assert list(template.advance(END)) == []


def test_a_restart_writes_nothing_again() -> None:
    job = Stored(started())
    feed(job.operator, trade(0, 1.0, symbol="A"))
    job.commit()
    feed(job.operator, trade(0, 1.0, symbol="B"))
    job.restart()
    assert job.operator.snapshot() == {}
    feed(job.operator, trade(0, 2.0, symbol="C"))
    assert rows_in(job.operator.snapshot()) == {"rows:2": 1, "names:2": 0}
    assert [(bar.symbol, bar.close) for bar in job.advance(END)] == [("A", 1.0), ("B", 1.0), ("C", 2.0)]
