"""Resampling: coarser bars made of bars equal those made of the trades; labels of bars with one time."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import END, NO_MARK, Columns, Frame, columns_from_rows, to_rows
from market_data_pipeline.operators.bars import BarConvention, TumblingBars
from market_data_pipeline.operators.base import Operator, OperatorContext
from market_data_pipeline.operators.resample import LabelBars, Resample
from market_data_pipeline.records import Bar, Trade

SECOND = 10**9
MINUTE = 60 * SECOND
MS = 10**6


class Job:
    """Operators one behind the other, with what their stores would hold; restarted on demand."""

    def __init__(self, *makers: Any) -> None:
        self.makers = makers
        self.states: list[dict[str, bytes]] = [{} for _ in makers]
        self.watermark = NO_MARK
        self.operators = [self._opened(make()) for make in makers]

    @staticmethod
    def _opened(operator: Operator) -> Operator:
        operator.open(OperatorContext("node"))
        return operator

    def _through(self, frames: list[Frame], stage: int) -> list[Any]:
        for operator in self.operators[stage:]:
            frames = [out for frame in frames for out in operator.process(frame) if not out.port]
        return [row for frame in frames for row in to_rows(frame.items)]

    def feed(self, items: list[Any]) -> list[Any]:
        made, bad = columns_from_rows(items)
        assert bad == []
        return self._through([Frame(made)], 0)

    def advance(self, watermark: int) -> list[Any]:
        self.watermark = max(self.watermark, watermark)
        out: list[Any] = []
        for stage, operator in enumerate(self.operators):
            out += self._through(list(operator.advance(watermark)), stage + 1)
        return out

    def restart(self) -> None:
        for at, (make, state) in enumerate(zip(self.makers, self.states, strict=True)):
            for key, blob in self.operators[at].snapshot().items():
                if blob is None:
                    state.pop(key, None)
                else:
                    state[key] = blob
            self.operators[at] = self._opened(make())
            self.operators[at].restore(state, self.watermark)

    @property
    def rejected(self) -> list[str]:
        return [letter.reason for operator in self.operators for letter in operator.ctx.dead_letters]


def plain(bar: Bar) -> Bar:
    """Without what a resampled bar may have otherwise: how often it was emitted, and how it began."""
    return bar._replace(revision=0, partial=False)


# multiples of 1/4 with a power of two as size: their sums and products are exact
TRADES = st.builds(
    lambda symbol, ts, price, size, side: Trade(symbol, ts * MS, 0, price / 4, size, side),
    st.sampled_from("AB"),
    st.integers(-9_000, 9_000),
    st.integers(1, 400),
    st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    st.sampled_from(["", "buy", "sell"]),
)
STEPS = st.lists(
    st.one_of(
        st.lists(TRADES, min_size=1, max_size=10),
        st.integers(-9_500, 9_500).map(lambda ms: ms * MS),
        st.just("restart"),
    ),
    max_size=25,
)


def close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-12) or (math.isnan(a) and math.isnan(b))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    steps=STEPS,
    lateness=st.sampled_from([0, 2 * SECOND]),
    coarse=st.sampled_from([2 * SECOND, 5 * SECOND]),
    closed=st.sampled_from(["left", "right"]),
    label=st.sampled_from(["left", "right"]),
)
def test_bars_of_bars_are_the_bars_of_the_trades(
    steps: list[Any], lateness: int, coarse: int, closed: Any, label: Any
) -> None:
    late: dict[str, Any] = {"late": "revise", "allowed_lateness": lateness} if lateness else {}
    convention = BarConvention(closed=closed, label=label)
    fine = lambda: TumblingBars("1s", convention=convention, **late)  # noqa: E731
    two = Job(fine, lambda: Resample(coarse, convention=convention, **late))
    one = Job(lambda: TumblingBars(coarse, convention=convention, **late))
    # a trade that is late for its fine bar may still be in time for the coarse one; feed only what is late for neither
    watermark = -math.inf
    for step in [*steps, END]:
        if isinstance(step, list):
            shift = 1 if closed == "right" else 0
            items = [t for t in step if (t.ts_event - shift) // SECOND * SECOND + SECOND + shift + lateness > watermark]
            if items:
                assert two.feed(items) == one.feed(items) == []
        elif step == "restart":
            two.restart()
        else:
            watermark = max(watermark, step)
            made, direct = two.advance(step), one.advance(step)
            assert [b for b in made if b.is_final and not _same(b, direct)] == []
            assert [b for b in direct if b.is_final and not _same(b, made)] == []
            latest = {(b.symbol, b.ts_open): b for b in made}
            for bar in direct:
                assert _same(bar, [latest[bar.symbol, bar.ts_open]])
    assert two.rejected == []


def _same(bar: Bar, others: list[Bar]) -> bool:
    for other in others:
        if (other.symbol, other.ts_open, other.is_final) == (bar.symbol, bar.ts_open, bar.is_final):
            a, b = plain(bar), plain(other)
            return all(close(x, y) if isinstance(x, float) else x == y for x, y in zip(a, b, strict=True))
    return False


def bar(start: int, prices: tuple[float, float, float, float], volume: float = 1.0, **more: Any) -> Bar:
    return Bar("A", start * MINUTE, (start + 1) * MINUTE, *prices, volume, prices[3], 1, start * MINUTE, **more)


def test_the_example_of_the_module() -> None:
    job = Job(lambda: Resample("5m", late="revise", allowed_lateness="5m"))
    job.feed([bar(0, (10, 12, 9, 11), 5.0), bar(1, (11, 15, 11, 14), 1.0, is_final=False)])
    (first,) = job.advance(5 * MINUTE)
    assert first[3:8] == (10, 15, 9, 14, 6.0)
    assert (first.vwap, first.trade_count, first.ts_close) == ((5 * 11 + 14) / 6, 2, 5 * MINUTE)
    job.restart()
    job.feed([bar(1, (11, 13, 11, 12), 1.0, revision=1, is_final=False)])
    (second,) = job.advance(6 * MINUTE)
    assert second[3:8] == (10, 13, 9, 12, 6.0)
    assert (second.revision, second.is_final) == (1, False)
    job.restart()
    job.feed([bar(1, (1, 99, 1, 1), 1.0, revision=0, is_final=False)])  # older than what is known
    job.feed([bar(1, (11, 13, 11, 12), 1.0, revision=2)])
    (third,) = job.advance(10 * MINUTE)
    assert third[3:8] == (10, 13, 9, 12, 6.0)
    assert (third.revision, third.is_final) == (2, True)
    job.restart()
    assert [key for key in job.states[0] if not key.startswith(("names:", "symbols:", "facts"))] == []


def test_a_bar_that_fits_into_no_coarser_one_is_a_dead_letter() -> None:
    job = Job(lambda: Resample("5m"))
    job.feed([bar(4, (1, 1, 1, 1))._replace(ts_close=6 * MINUTE), bar(0, (2, 2, 2, 2))])
    assert [b.open for b in job.advance(END)] == [2.0]
    assert job.rejected == ["the bar lies in two of the coarser bars"]


def test_bars_without_a_price_add_nothing_but_their_volume_and_partial_ones_make_partial_ones() -> None:
    nan = math.nan
    job = Job(lambda: Resample("5m"))
    job.feed(
        [bar(0, (nan, nan, nan, nan), 0.0), bar(1, (2, 3, 1, 2), 2.0), bar(7, (4, 4, 4, 4)), bar(12, (5, 5, 5, 5))]
    )
    job.feed([bar(13, (6, 6, 6, 6), partial=True)])
    first, second, third = job.advance(END)
    assert first[3:9] == (2.0, 3.0, 1.0, 2.0, 2.0, 2.0)
    assert [first.partial, second.partial, third.partial] == [True, False, True]


@pytest.mark.parametrize(("label", "start"), [("left", 10), ("right", 9)])
def test_labels_become_both_ends(label: Any, start: int) -> None:
    operator = LabelBars("1m", label=label)
    operator.open(OperatorContext("label"))
    item = {"symbol": "A", "ts_event": 10 * MINUTE, "open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5}
    (frame,) = operator.process(Frame([item, {"symbol": "A"}]))
    assert to_rows(frame.items) == [
        Bar("A", start * MINUTE, (start + 1) * MINUTE, 1.0, 2.0, 0.5, 1.5, 0.0, 1.5, 0, start * MINUTE)
    ]
    assert isinstance(frame.items, Columns)
    assert operator.ctx.counts["dead_letter"] == 1


def test_mistakes_in_the_label_are_named() -> None:
    with pytest.raises(ConfigError, match="label: 'middle' is not allowed; one of: left, right"):
        LabelBars("1m", label="middle")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="ts: 'time' is not allowed; one of: ts_event"):
        LabelBars("1m", ts="time")


def bar_at(second: int, **more: Any) -> Bar:
    return Bar("A", second * SECOND, (second + 1) * SECOND, 1.0, 2.0, 1.0, 1.5, 3.0, 1.5, 2)._replace(**more)


@pytest.mark.parametrize(
    "bad",
    [
        {"volume": math.nan}, {"vwap": math.inf}, {"high": math.inf}, {"open": math.nan}, {"buy_volume": math.nan},
        {"ts_open": -(2**63), "ts_close": -(2**63)},
    ],
)  # fmt: skip
def test_a_bar_of_no_numbers_spoils_no_other(bad: dict[str, Any]) -> None:
    job = Job(lambda: Resample("1m"))
    job.feed([bar_at(0), bar_at(1, **bad), bar_at(2)])
    [bar] = job.advance(END)
    assert (bar.open, bar.high, bar.close, bar.volume, bar.vwap, bar.trade_count) == (1.0, 2.0, 1.5, 6.0, 1.5, 4)
    assert len(job.operators[0].ctx.dead_letters) == 1


def test_bars_have_no_time_of_receipt() -> None:
    with pytest.raises(ConfigError, match="ts_recv"):
        Resample("1m", convention=BarConvention(ts="ts_recv"))
