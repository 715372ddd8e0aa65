"""Corrections and cancels of trades in open bars, in any order, against an oracle that applies them at the end."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.bar_job import Job, trade

from market_data_pipeline.frame import END
from market_data_pipeline.operators.bars import TradeRules
from market_data_pipeline.records import Trade

SECOND = 10**9
MS = 10**6


@dataclass
class CorrectingOracle:
    """Trades by id; corrections applied at the end, in order of their time, a cancel over all."""

    trades: dict[Any, Trade] = field(default_factory=dict)
    corrections: list[Trade] = field(default_factory=list)

    def bars(self, interval: int) -> dict[tuple[str, int], tuple[Any, ...]]:
        names = {id_: id_ for id_ in self.trades}
        changes: dict[Any, list[Trade]] = {}
        waiting = list(self.corrections)
        while waiting:
            ready = [c for c in waiting if (c.symbol, c.ref_trade_id) in names]
            if not ready:
                break
            for correction in ready:
                waiting.remove(correction)
                origin = names[correction.symbol, correction.ref_trade_id]
                names.setdefault((correction.symbol, correction.trade_id), origin)
                changes.setdefault(origin, []).append(correction)
        groups: dict[tuple[str, int], list[Trade]] = {}
        for id_, item in self.trades.items():
            made = changes.get(id_, [])
            if any(c.action == "cancel" for c in made):
                continue
            last = max(made, key=lambda c: c.ts_event, default=item)
            now = item._replace(price=last.price, size=last.size, side=last.side)
            groups.setdefault((item.symbol, item.ts_event // interval * interval), []).append(now)
        return {key: self._bar(trades) for key, trades in groups.items()}

    @staticmethod
    def _bar(trades: list[Trade]) -> tuple[Any, ...]:
        in_time = sorted(trades, key=lambda item: item.ts_event)
        prices = [item.price for item in in_time]
        buys = sum((t.size for t in trades if t.side == "buy"), 0.0)
        return prices[0], max(prices), min(prices), prices[-1], sum(t.size for t in trades), len(trades), buys


CHANGES = st.tuples(
    st.integers(0, 40),
    st.integers(0, 40),
    st.sampled_from(["correct", "correct", "cancel"]),
    st.integers(1, 400),
    st.integers(1, 40),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    times=st.lists(st.tuples(st.sampled_from("AB"), st.integers(0, 3_000)), min_size=1, max_size=25),
    changes=st.lists(CHANGES, max_size=12),
    order=st.randoms(use_true_random=False),
    restarts=st.booleans(),
    frame=st.integers(1, 9),
)
def test_corrections_and_cancels_in_any_order_give_the_bars_of_the_oracle(
    times: list[tuple[str, int]], changes: list[Any], order: Any, restarts: bool, frame: int
) -> None:
    oracle = CorrectingOracle()
    items: list[Trade] = []
    for at, (symbol, ms) in enumerate(times):
        items.append(trade(ms * MS, 1.0 + at, 1.0, symbol, side="buy", trade_id=at))
        oracle.trades[symbol, at] = items[-1]
    for at, (target, other, action, price, size) in enumerate(changes):
        ref = target if other % 3 else 100 + other % 12  # some correct a correction, some nothing
        symbol = times[target % len(times)][0]
        ref = ref if ref >= 100 else ref % len(times)
        change = trade(
            3_000 * MS + at, price / 4, size / 4, symbol, side="sell", trade_id=100 + at, action=action, ref_trade_id=ref
        )  # fmt: skip
        items.append(change)
        oracle.corrections.append(change)
    arrivals = items[:]
    order.shuffle(arrivals)
    oracle.trades = {(t.symbol, t.trade_id): t for t in arrivals if t.action == "new"}
    job = Job(interval="1s", late="revise", allowed_lateness="1h", rules=TradeRules(corrections=True))
    for start in range(0, len(arrivals), frame):
        job.feed(*arrivals[start : start + frame])
        job.advance(arrivals[start].ts_event)
        if restarts:
            job.restart()
    final = {(b.symbol, b.ts_open): b for b in job.advance(END) if b.is_final}
    expected = oracle.bars(SECOND)
    got = {
        key: (b.open, b.high, b.low, b.close, b.volume, b.trade_count, b.buy_volume)
        for key, b in final.items()
        if b.trade_count
    }
    assert got == expected
    lost = job.operator.ctx.counts["dead_letter"]
    assert lost == len([c for c in oracle.corrections if not _refers(c, oracle)])


def _refers(correction: Trade, oracle: CorrectingOracle) -> bool:
    known = set(oracle.trades)
    while True:
        more = {(c.symbol, c.trade_id) for c in oracle.corrections if (c.symbol, c.ref_trade_id) in known} - known
        if not more:
            return (correction.symbol, correction.ref_trade_id) in known
        known |= more


def test_a_correction_emits_its_bar_again_until_the_lateness_is_over() -> None:
    job = Job(interval="1s", late="revise", allowed_lateness="5s", rules=TradeRules(corrections=True))
    job.feed(trade(1, 10.0, 2.0, trade_id="a"), trade(2, 11.0, 3.0, trade_id="b"))
    (bar,) = job.advance(SECOND)
    assert (bar.high, bar.volume, bar.revision, bar.is_final) == (11.0, 5.0, 0, False)
    job.feed(trade(2 * SECOND, 9.0, 1.0, trade_id="c", action="correct", ref_trade_id="b"))
    (bar,) = job.advance(2 * SECOND)
    assert (bar.close, bar.high, bar.volume, bar.trade_count, bar.revision) == (9.0, 10.0, 3.0, 2, 1)
    job.feed(trade(3 * SECOND, 0.0, 0.0, action="cancel", ref_trade_id="a"))
    (bar,) = job.advance(3 * SECOND)
    assert (bar.open, bar.volume, bar.trade_count, bar.revision, bar.is_final) == (9.0, 1.0, 1, 2, False)
    (bar,) = job.advance(6 * SECOND)
    assert (bar.volume, bar.revision, bar.is_final) == (1.0, 3, True)
    job.feed(trade(6 * SECOND, 0.0, 0.0, action="cancel", ref_trade_id="c"))
    assert job.advance(12 * SECOND) == []
    assert [letter.reason for letter in job.operator.ctx.dead_letters] == [
        "no open bar has the trade 'c' that it refers to"
    ]


def test_a_correction_that_comes_before_its_trade_waits_for_it() -> None:
    job = Job(interval="1s", rules=TradeRules(corrections=True))
    job.feed(trade(5, 7.0, 7.0, action="correct", ref_trade_id="a", trade_id="x"))
    job.restart()
    job.feed(trade(1, 10.0, 2.0, trade_id="a"))
    (bar,) = job.advance(SECOND)
    assert (bar.close, bar.volume, bar.trade_count) == (7.0, 7.0, 1)


def test_a_bar_whose_trades_were_all_cancelled_before_it_came_out_does_not_come_out() -> None:
    job = Job(interval="1s", rules=TradeRules(corrections=True))
    job.feed(trade(1, 10.0, trade_id="a"), trade(2, 0.0, action="cancel", ref_trade_id="a"))
    assert job.advance(END) == []


def test_without_corrections_such_items_are_counted_and_left_out() -> None:
    job = Job(interval="1s")
    job.feed(trade(1, 10.0, trade_id="a"), trade(2, 99.0, action="cancel", ref_trade_id="a"))
    assert [bar.high for bar in job.advance(END)] == [10.0]
    assert job.operator.ctx.counts["ignored"] == 1


def test_an_action_nobody_knows_is_a_dead_letter() -> None:
    job = Job(interval="1s")
    job.feed(trade(1, 10.0), trade(2, 99.0, action="bust"))
    assert [bar.high for bar in job.advance(END)] == [10.0]
    assert [letter.reason for letter in job.operator.ctx.dead_letters] == ["action: none of new, correct, cancel"]


@pytest.mark.parametrize("restart", [False, True])
def test_a_correction_means_the_first_trade_of_its_id_whenever_a_commit_comes(restart: bool) -> None:
    job = Job(interval="1s", rules=TradeRules(corrections=True))
    steps = [
        trade(1, 10.0, trade_id=7), trade(2, 20.0, trade_id=8),
        trade(3, 11.0, trade_id=9, action="correct", ref_trade_id=7), trade(SECOND, 30.0, trade_id=7),
    ]  # fmt: skip
    for step in steps:
        job.feed(step)
        if restart:
            job.restart()
    job.feed(trade(4, 0.0, action="cancel", ref_trade_id=9))
    assert [(bar.open, bar.trade_count) for bar in job.advance(END)] == [(20.0, 1), (30.0, 1)]


def test_a_cancel_needs_no_price() -> None:
    job = Job(interval="1s", rules=TradeRules(corrections=True))
    job.feed(trade(1, 10.0, trade_id=7), trade(2, 20.0, trade_id=8))
    job.feed(trade(3, math.nan, math.nan, action="cancel", ref_trade_id=8))
    assert [(bar.close, bar.volume) for bar in job.advance(END)] == [(10.0, 1.0)]
    assert job.operator.ctx.dead_letters == []


def test_a_correction_at_whose_conditions_a_predicate_raises_changes_nothing() -> None:
    job = Job(interval="1s", rules=TradeRules(updates_ohlc=lambda c: [True][len(c)], corrections=True))
    job.feed(trade(1, 10.0, trade_id=7))
    job.feed(trade(3, 11.0, action="correct", ref_trade_id=7, conditions="X"))
    assert [(bar.close, bar.trade_count) for bar in job.advance(END)] == [(10.0, 1)]
    assert len(job.operator.ctx.dead_letters) == 1


def test_ids_that_cannot_be_stored_stop_no_commit() -> None:
    job = Job(interval="1s", rules=TradeRules(corrections=True))
    job.feed(trade(1, 10.0, trade_id=2**70), trade(2, 11.0, symbol="\ud800"), trade(3, 12.0), columns=False)
    job.restart()
    assert [(bar.close, bar.trade_count) for bar in job.advance(END)] == [(12.0, 1)]
