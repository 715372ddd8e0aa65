"""ccxt's unified structures and errors as records and feed errors."""

from __future__ import annotations

from typing import Any

import pytest
from ccxt.base import errors

from market_data_pipeline.errors import SourceError
from market_data_pipeline.sources.ccxt_errors import explained, of_venue
from market_data_pipeline.sources.ccxt_records import event_time, id_as_sent, is_history, quote_of, top_of, trade_of
from market_data_pipeline.sources.provider import FeedDown, SubscriptionRefused

MS = 1_618_677_817_089
NS = MS * 1_000_000
RECV = NS + 5


def unified(**other: Any) -> dict[str, Any]:
    return {
        "id": "7",
        "timestamp": MS,
        "symbol": "BTC/USD",
        "price": 1.5,
        "amount": 2.0,
        "side": "buy",
        "info": {},
        **other,
    }


@pytest.mark.parametrize(
    "sent",
    [
        "2021-04-17T16:43:37.089723Z",
        "2021-04-17T16:43:37.089723+00:00",
        "1618677817.089723",
        1618677817.089723,
        1618677817089723,
        "1618677817089723000",
    ],
)
def test_a_finer_time_of_the_venue_is_kept(sent: Any) -> None:
    assert event_time(MS, ["x", None, True, sent], RECV) == NS + 723_000


@pytest.mark.parametrize(
    "sent",
    [
        "2021-04-17T16:43:37.090723Z",  # another millisecond
        "2021-04-17T16:43:38.089723Z",
        "2021-04-17T18:43:37.089723+02:00",  # not told in UTC
        "1618677817",
        MS,
        1618677818089723,
        "16186778170897230001",
        "16186778170897.2.3",
        "1618677817089723x",
        {"time": NS},
    ],
)
def test_what_is_no_finer_time_is_not_taken_for_one(sent: Any) -> None:
    assert event_time(MS, [sent], RECV) == NS


def test_without_a_time_it_is_that_of_the_arrival() -> None:
    assert event_time(None, [NS + 1], RECV) == RECV


@pytest.mark.parametrize(
    ("found", "sent", "expected"),
    [
        ("42", ["a", 42, 1.0], 42),
        ("42", ["42"], "42"),
        ("007", [7], "007"),
        ("1", [True], "1"),
        (None, [0], ""),
        ("ab-1", [], "ab-1"),
    ],
)
def test_an_id_is_what_the_venue_sent(found: Any, sent: list[Any], expected: Any) -> None:
    got = id_as_sent(found, sent)
    assert (got, type(got)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("side", "role", "expected"),
    [("buy", None, "buy"), ("sell", "taker", "sell"), ("buy", "maker", "sell"), (None, None, ""), (None, "maker", "")],
)
def test_the_side_is_the_aggressors(side: str | None, role: str | None, expected: str) -> None:
    trade = trade_of(unified(side=side, takerOrMaker=role), "BTC/USD", RECV, "x", "live")
    assert trade is not None
    assert trade.side == expected


def test_info_may_be_a_list() -> None:
    info = ["5541.2", "0.1", "1618677817.0897231", "s", 7]
    trade = trade_of(unified(info=info), "mine", RECV, "x", "snapshot")
    assert trade is not None
    assert (trade.symbol, trade.ts_event, trade.trade_id, trade.phase) == ("mine", NS + 723_100, 7, "snapshot")


def test_what_has_no_price_or_size_is_no_record() -> None:
    assert trade_of(unified(price=None), "s", RECV, "x", "live") is None
    assert trade_of(unified(amount=None), "s", RECV, "x", "live") is None
    assert quote_of({"bid": 1.0, "ask": None}, "s", RECV, "x") is None
    assert top_of({"bids": [], "asks": [[1.0, 1.0]]}, "s", RECV, "x") is None


def test_a_ticker_without_sizes_and_time() -> None:
    quote = quote_of({"bid": 1.0, "ask": 2.0, "bidVolume": None, "timestamp": None, "info": {"u": 9}}, "s", RECV, "x")
    assert quote is not None
    assert (quote.ts_event, quote.bid_size, quote.ask_size, quote.update_id) == (RECV, 0.0, 0.0, 9)


@pytest.mark.parametrize(
    ("exchange", "message", "expected"),
    [
        ("coinbaseexchange", {"type": "last_match"}, True),
        ("coinbaseexchange", {"type": "match"}, False),
        ("coinbase", {"channel": "market_trades", "events": [{"type": "snapshot"}]}, True),
        ("coinbase", {"events": [{"type": "update"}]}, False),
        ("coinbase", {"events": None}, False),
        ("kraken", {"channel": "trade", "type": "snapshot"}, True),
        ("kraken", {"channel": "ticker", "type": "snapshot"}, False),
        ("hitbtc", {"ch": "trades", "snapshot": {}}, True),
        ("bybit", {"type": "snapshot"}, False),
        ("kraken", [1, 2], False),
    ],
)
def test_history_is_known_by_venue(exchange: str, message: Any, expected: bool) -> None:
    assert is_history(exchange, message) is expected


@pytest.mark.parametrize(
    ("error", "asking", "expected"),
    [
        (errors.NetworkError("x"), True, FeedDown),
        (errors.RequestTimeout("x"), False, FeedDown),
        (errors.ExchangeNotAvailable("x"), True, FeedDown),
        (errors.OnMaintenance("x"), False, FeedDown),
        (errors.BadResponse("x"), True, FeedDown),
        (errors.ChecksumError("x"), False, FeedDown),
        (errors.ExchangeClosedByUser("x"), True, FeedDown),
        (errors.ExchangeError("x"), False, FeedDown),
        (errors.ExchangeError("x"), True, SubscriptionRefused),
        (errors.BadSymbol("x"), False, SubscriptionRefused),
        (errors.NotSupported("x"), True, SubscriptionRefused),
        (errors.PermissionDenied("x"), True, SubscriptionRefused),
        (errors.AuthenticationError("x"), True, SourceError),
        (errors.AccountSuspended("x"), False, SourceError),
        (errors.RestrictedLocation("x"), True, SourceError),
        (ConnectionResetError(), True, FeedDown),
        (KeyError("x"), False, FeedDown),
    ],
)
def test_errors_of_ccxt(error: Exception, asking: bool, expected: type[Exception]) -> None:
    told = explained(error, "kraken", asking=asking)
    assert type(told) is expected
    assert str(told).startswith(f"kraken: {type(error).__name__}")


def test_who_asked_too_fast_waits() -> None:
    for error in (errors.RateLimitExceeded("x"), errors.DDoSProtection("x")):
        told, later = explained(error, "k", asking=True), explained(error, "k", asking=False, retry_after=30.0)
        assert isinstance(told, FeedDown)
        assert isinstance(later, FeedDown)
        assert (told.retry_after, later.retry_after) == (10.0, 30.0)


def test_whose_word_an_error_is() -> None:
    assert of_venue(errors.BadSymbol("x"))
    assert not of_venue(errors.NetworkError("x"))
    assert not of_venue(OSError())
