"""What a tap on a real ccxt object sees. The messages are given to the object where its socket would give them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import ccxt.pro
import pytest
from aiohttp import WSMessage, WSMsgType

from market_data_pipeline.sources.ccxt_tap import Tap


class Heard:
    """A Listener that writes down."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.messages = 0

    def heard(self) -> None:
        self.messages += 1

    def sent(self) -> None:
        self.told.append(("sent",))

    def trades(self, found: list[dict[str, Any]], history: bool) -> None:
        self.told.append(("trades", [one["id"] for one in found], history))

    def quotes(self, found: list[Mapping[str, Any]]) -> None:
        self.told += [("quote", one["symbol"], one["bid"]) for one in found]

    def book(self, found: Mapping[str, Any]) -> None:
        self.told.append(("book", found["symbol"]))

    def lost(self, count: int) -> None:
        self.told.append(("lost", count))

    def unusable(self, error: Exception, message: Any) -> None:
        self.told.append(("unusable", type(error).__name__, message))

    def rejected(self, error: BaseException, topic: str) -> None:
        self.told.append(("rejected", topic))

    def broke(self, error: BaseException | str) -> None:
        self.told.append(("broke", str(error)))

    def full(self) -> bool:
        return False


MARKET = {
    "id": "ETH-USD", "symbol": "ETH/USD", "base": "ETH", "quote": "USD", "baseId": "ETH", "quoteId": "USD", "spot": True,
    "type": "spot", "precision": {"price": 0.01, "amount": 0.001}, "limits": {}, "active": True,
}  # fmt: skip


class Tapped:
    def __init__(self, exchange: Any) -> None:
        exchange.set_markets([MARKET])
        self.heard = Heard()
        self.tap = Tap(exchange, self.heard)
        self.client = exchange.client("ws://127.0.0.1:1")
        assert exchange.client("ws://127.0.0.1:1") is self.client

    def say(self, body: Any) -> list[tuple[Any, ...]]:
        """What the listener was told of this message."""
        self.heard.told.clear()
        text = body if isinstance(body, str) else json.dumps(body)
        self.client.handle_message(WSMessage(WSMsgType.TEXT, text, None))
        return self.heard.told


@pytest.fixture
async def coinbase() -> AsyncIterator[Tapped]:
    exchange = ccxt.pro.coinbase({"options": {"tradesLimit": 4}, "timeout_on_exit": 1})
    yield Tapped(exchange)
    await exchange.close()


def trades(kind: str, *ids: int) -> dict[str, Any]:
    """Newest first, as Coinbase sends them."""
    at = "2024-01-01T00:00:00.1Z"
    found = [
        {
            "trade_id": str(n),
            "product_id": "ETH-USD",
            "price": "9",
            "size": "1",
            "side": "BUY",
            "time": at,
        }
        for n in reversed(ids)
    ]
    return {"channel": "market_trades", "events": [{"type": kind, "trades": found}]}


async def test_a_trade_that_ccxt_moves_in_its_cache_is_told_once(coinbase: Tapped) -> None:
    assert coinbase.say(trades("snapshot", 1, 2)) == [("trades", ["1", "2"], True)]
    assert coinbase.say(trades("update", 2)) == []
    assert coinbase.say(trades("update", 3, 1)) == [("trades", ["3"], False)], "the one that was moved hides none"
    assert coinbase.say(trades("update", 4, 5)) == [("trades", ["4", "5"], False)]


async def test_a_message_that_cannot_be_read_does_not_end_the_reading(coinbase: Tapped) -> None:
    assert coinbase.say('{"channel": ') == [("unusable", "JSONDecodeError", '{"channel": ')]
    assert [told[:2] for told in coinbase.say({"channel": "market_trades", "events": [7]})] == [
        ("unusable", "AttributeError")
    ]
    assert coinbase.say(trades("update", 1)) == [("trades", ["1"], False)]
    assert coinbase.heard.messages == 3


async def test_trades_that_ccxts_cache_could_not_hold_are_counted() -> None:
    exchange = ccxt.pro.kraken({"options": {"tradesLimit": 4}, "timeout_on_exit": 1})
    tapped = Tapped(exchange)
    row = {"symbol": "ETH/USD", "side": "buy", "price": 9.0, "qty": 1.0, "timestamp": "2024-01-01T00:00:00.1Z"}
    body = {"channel": "trade", "type": "snapshot", "data": [{**row, "trade_id": n} for n in range(6)]}
    assert tapped.say(body) == [("lost", 2), ("trades", ["2", "3", "4", "5"], True)]
    body["type"] = "update"
    body["data"] = [{**row, "trade_id": 9}]
    assert tapped.say(body) == [("trades", ["9"], False)]
    await exchange.close()


async def test_errors_and_breaks_are_told(coinbase: Tapped) -> None:
    coinbase.heard.told.clear()
    coinbase.client.future("somewhere").add_done_callback(lambda done: done.exception())
    coinbase.client.reject(ccxt.NetworkError("gone"))
    coinbase.client.on_close(1006)
    told = coinbase.heard.told
    assert told[0] == ("rejected", "")
    assert ("rejected", "somewhere") in told
    assert told[-1] == ("broke", "the venue closed the connection (code 1006)")
