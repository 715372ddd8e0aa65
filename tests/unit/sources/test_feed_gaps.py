"""Gap records behind an absence."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from market_data_pipeline.records import Gap, Quote, Trade
from market_data_pipeline.sources.feed_gaps import FeedGaps


def _trade(number: int | str, symbol: str = "A", phase: str = "live", ts: int | None = None) -> Trade:
    at = ts if ts is not None else (number if isinstance(number, int) else 0) * 10
    return Trade(symbol, at, 0, 1.0, 1.0, trade_id=number, phase=phase)


def _away(*numbers: int | str) -> FeedGaps:
    """A symbol that had these trades, and is away."""
    gaps = FeedGaps("trade")
    gaps.served("x", ["A"])
    for number in numbers:
        assert gaps.see(_trade(number), "x")[0] == []
    gaps.lost("x", 100.0)
    return gaps


def _seen(gaps: FeedGaps, *trades: Trade) -> list[Gap | Trade | Quote]:
    out: list[Gap | Trade | Quote] = []
    for trade in trades:
        before, passed = gaps.see(trade, "y")
        out += [*before, passed]
    return out


def test_exactly_what_is_missing() -> None:
    assert _seen(_away(49, 50), _trade(53), _trade(54)) == [Gap("A", 51, 52, 2, 530), _trade(53), _trade(54)]


def test_nothing_is_missing() -> None:
    assert _seen(_away(49, 50), _trade(51)) == [_trade(51)]


def test_what_comes_again_is_not_behind_the_gap() -> None:
    overlap = [_trade(48), _trade(49), _trade(50)]
    assert _seen(_away(49, 50), *overlap, _trade(52)) == [*overlap, Gap("A", 51, 51, 1, 520), _trade(52)]


def test_a_snapshot_fills_the_hole_and_is_no_history_then() -> None:
    gaps = _away(50)
    snapshot = [_trade(number, phase="snapshot") for number in (49, 50, 51, 53)]
    assert _seen(gaps, *snapshot, _trade(54)) == [
        *snapshot[:2],
        _trade(51),
        _trade(53),
        Gap("A", 52, 52, 1, 540),
        _trade(54),
    ]


def test_what_filled_the_hole_is_history_when_it_comes_once_more() -> None:
    gaps = _away(49, 50)
    assert _seen(gaps, _trade(51, phase="snapshot")) == [_trade(51)]
    gaps.lost("y", 200.0)
    assert _seen(gaps, *(_trade(number, phase="snapshot") for number in (51, 52)), _trade(53)) == [
        _trade(51, phase="snapshot"), _trade(52), _trade(53),
    ]  # fmt: skip


def test_ids_of_digits_are_numbers() -> None:
    assert _seen(_away("49", "50"), _trade("53")) == [Gap("A", 51, 52, 2, 0), _trade("53")]


def test_nobody_knows_where_ids_are_no_counter() -> None:
    assert _seen(_away("x", "y"), _trade("z", ts=9)) == [Gap("A", 0, 0, 0, 9), _trade("z", ts=9)]
    assert _seen(_away(10, 20, 30), _trade(40)) == [Gap("A", 0, 0, 0, 400), _trade(40)]
    assert _seen(_away(50), _trade(3, ts=900)) == [Gap("A", 0, 0, 0, 900), _trade(3, ts=900)]


def test_a_symbol_without_data_owes_nothing() -> None:
    gaps = _away()
    assert _seen(gaps, _trade(7)) == [_trade(7)]


def test_nothing_is_owed_while_another_feed_serves_it() -> None:
    gaps = FeedGaps("trade")
    for feed in ("x", "y"):
        gaps.served(feed, ["A"])
    gaps.see(_trade(1), "x")
    gaps.lost("x", 1.0)
    assert _seen(gaps, _trade(5)) == [_trade(5)]
    gaps.lost("y", 2.0)
    assert _seen(gaps, _trade(7)) == [Gap("A", 0, 0, 0, 70), _trade(7)], "1, 5: not a counter"


def test_data_before_the_call_has_returned_counts_as_served() -> None:
    gaps = FeedGaps("trade")
    gaps.see(_trade(1), "x")
    gaps.lost("x", 1.0)
    assert _seen(gaps, _trade(3)) == [Gap("A", 2, 2, 1, 30), _trade(3)]


def test_away_is_told_once_and_the_rest_when_it_is_known() -> None:
    gaps = _away(50)
    assert gaps.untold
    assert gaps.away(99.0) == []
    assert gaps.away(100.0) == [Gap("A", 0, 0, 0, 500)]
    assert not gaps.untold
    assert gaps.away(200.0) == []
    assert _seen(gaps, _trade(52)) == [Gap("A", 51, 51, 1, 520), _trade(52)]


def test_quotes_tell_of_gaps_only_where_there_are_no_trades() -> None:
    quote = Quote("A", 5, 0, 1.0, 1.0, 2.0, 1.0, update_id=3)
    trades = _away(50)
    assert trades.see(quote, "x") == ([], quote)
    quotes = FeedGaps("quote")
    quotes.served("x", ["A"])
    quotes.see(quote, "x")
    quotes.lost("x", 1.0)
    assert quotes.see(quote, "x") == ([Gap("A", 0, 0, 0, 5)], quote)
    assert quotes.see(quote, "x") == ([], quote)


def test_a_restart_is_a_gap_of_unknown_size() -> None:
    gaps = FeedGaps("trade")
    gaps.restarted(["A"], 0.0)
    assert gaps.away(1000.0) == []
    history = _trade(49, phase="snapshot")
    assert _seen(gaps, history, _trade(50), _trade(51)) == [history, Gap("A", 0, 0, 0, 500), _trade(50), _trade(51)]


@given(st.sets(st.integers(11, 60)), st.integers(61, 70))
def test_missing_is_what_did_not_come(come: set[int], first: int) -> None:
    gaps = _away(*range(11))
    snapshot = [_trade(number, phase="snapshot") for number in sorted(come)]
    out = _seen(gaps, *snapshot, _trade(first))
    told = {number for gap in out if isinstance(gap, Gap) for number in range(gap.first, gap.last + 1)}
    assert told == set(range(11, first)) - come
    assert sum(gap.missing for gap in out if isinstance(gap, Gap)) == len(told)
