"""Recorded websocket feeds: the one of Coinbase Exchange that lies beside the repository on some machines, and a small one of
the same shape that is made up here.

A line is ``<unix time>: <payload>``; ``URL <-> t`` and ``URL <- t: payload`` are the connect and what the client sent. HTTP:
``URL -> t: body``.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from tools.recorded import DATA

COINBASE_WS = DATA / "COINBASE.ws.28.0.gz"
COINBASE_HTTP = DATA / "COINBASE.0.gz"

needs_coinbase = pytest.mark.skipif(
    not (COINBASE_WS.exists() and COINBASE_HTTP.exists()), reason="the recorded Coinbase feed is not on this machine"
)

CHANNELS = {"match": "matches", "last_match": "matches", "ticker": "ticker", "snapshot": "level2", "l2update": "level2"}
"""The channel of each type of message that carries data."""


class Message(NamedTuple):
    """``text`` as it came at ``time`` (s); what its ``type`` and ``product`` are, and the ``body`` it parses to."""

    time: float
    text: str
    type: str
    product: str
    body: Any

    @property
    def channel(self) -> str:
        return CHANNELS.get(self.type, "")


@dataclass(frozen=True)
class Capture:
    """``messages`` of one connection in order, and HTTP bodies by path."""

    messages: tuple[Message, ...]
    http: dict[str, str]

    @property
    def products(self) -> list[str]:
        return sorted({message.product for message in self.messages if message.product})

    @property
    def symbols(self) -> list[str]:
        """The products as ccxt calls them."""
        return [product.replace("-", "/") for product in self.products]

    def of(self, *types: str) -> list[Any]:
        """The bodies of the messages of these types."""
        return [message.body for message in self.messages if message.type in types]

    def trades(self) -> set[tuple[str, int]]:
        """All there are, by ccxt's symbol and trade id."""
        return {(body["product_id"].replace("-", "/"), body["trade_id"]) for body in self.of("match", "last_match")}


def read_capture(feed: Iterable[str], answers: Iterable[str]) -> Capture:
    messages = []
    for line in feed:
        time, mark, text = line.rstrip("\n").partition(": ")
        if mark and not line.startswith("wss:"):
            body = json.loads(text)
            messages.append(Message(float(time), text, body["type"], body.get("product_id", ""), body))
    http = {}
    for line in answers:
        url, mark, rest = line.rstrip("\n").partition(" -> ")
        if mark:
            http[urlsplit(url).path] = rest.partition(": ")[2]
    return Capture(tuple(messages), http)


def coinbase() -> Capture:
    """9,946 messages of 10 products: 97 match, 10 last_match, 107 ticker, 10 snapshot, 9,719 l2update, 3 subscriptions."""
    with gzip.open(COINBASE_WS, "rt") as feed, gzip.open(COINBASE_HTTP, "rt") as answers:
        return read_capture(feed, answers)


def synthetic(products: Iterable[str] = ("AAA-USD", "BBB-EUR", "CCC-BTC"), rounds: int = 20) -> Capture:
    """Each product: a snapshot, its last_match and its ticker, then in each of ``rounds`` a match, its ticker and an l2update
    of the best bid. Trade ids are gapless, times have microseconds, and sides are the maker's, as with Coinbase. The markets
    have one more, ``OLD-USD``, that the feed does not know."""
    made = _Made(tuple(products))
    for number in range(len(made.products)):
        made.subscribed(number)
    for step in range(1, rounds + 1):
        for number in range(len(made.products)):
            made.traded(number, step)
    listed = [
        {"id": name, "base_currency": name[:3], "quote_currency": name[4:], "quote_increment": "0.01",
         "base_increment": "0.001", "status": "online", "min_market_funds": "1"}
        for name in (*made.products, "OLD-USD")
    ]  # fmt: skip
    answers = [f"https://api.exchange.example/products -> 1618677816.5: {json.dumps(listed)}\n"]
    return read_capture(made.lines, answers)


class _Made:
    def __init__(self, products: tuple[str, ...]) -> None:
        self.products = products
        self.lines = ["wss://feed.exchange.example <-> 1618677816.8\n"]
        self._messages = 0

    def _put(self, body: dict[str, Any]) -> None:
        self._messages += 1
        self.lines.append(f"{1618677817 + self._messages / 1000:.6f}: {json.dumps(body, separators=(',', ':'))}\n")

    def _time(self) -> str:
        return f"2021-04-17T16:43:{37 + self._messages // 1000:02d}.{self._messages % 1000:03d}123Z"

    def subscribed(self, number: int) -> None:
        bids = [[str(Decimal(100 + number) - level), "1.5"] for level in range(1, 4)]
        asks = [[str(Decimal(100 + number) + level), "2.5"] for level in range(1, 4)]
        self._put({"type": "snapshot", "product_id": self.products[number], "asks": asks, "bids": bids})
        self._trade(number, 0, "last_match")

    def traded(self, number: int, step: int) -> None:
        self._trade(number, step, "match")
        change = ["buy", str(Decimal(100 + number) - 1), f"{step}.25"]
        product = self.products[number]
        self._put({"type": "l2update", "product_id": product, "changes": [change], "time": self._time()})

    def _trade(self, number: int, step: int, kind: str) -> None:
        maker = "sell" if step % 2 else "buy"
        common = {
            "sequence": 1_000_000 * number + step, "product_id": self.products[number], "time": self._time(),
            "trade_id": 5000 * (number + 1) + step, "price": f"{100 + number}.{step % 100:02d}",
        }  # fmt: skip
        orders = {"maker_order_id": f"maker-{number}-{step}", "taker_order_id": f"taker-{number}-{step}"}
        self._put({"type": kind, **orders, "side": maker, "size": f"0.{step + 1:03d}", **common})
        taker = "buy" if maker == "sell" else "sell"
        best = {"best_bid": f"{99 + number}.00", "best_ask": f"{101 + number}.00"}
        self._put({"type": "ticker", "side": taker, "last_size": f"0.{step + 1:03d}", **best, **common})
