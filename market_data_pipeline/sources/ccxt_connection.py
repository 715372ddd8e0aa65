"""One connection to a venue by ccxt: subscribes by its ``watch_*`` calls, takes what comes from a :class:`Tap`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from market_data_pipeline.clock import Clock
from market_data_pipeline.errors import MdpError
from market_data_pipeline.records import Quote
from market_data_pipeline.sources.ccxt_errors import explained, of_venue
from market_data_pipeline.sources.ccxt_records import quote_of, top_of, trade_of
from market_data_pipeline.sources.ccxt_tap import Tap
from market_data_pipeline.sources.provider import ConnectionHealth, FeedDown, FeedRecord, Refused, SubscriptionRefused

_LOG = logging.getLogger(__name__)

_MOST_WAITING = 16384
"""Records that wait to be read; with more, nothing is read from the socket."""
_REQUEST_SECONDS = 20.0
"""How long it may take until a subscription is out: the socket is made (ccxt gives up after 10 s) and its turn comes."""
_ANSWER_SECONDS = 5.0
"""How long a subscription then waits for the venue to say anything. Most answer at once; some only with data."""
_SHOWN = 300

ASKED_BY: dict[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "trade": (("watchTradesForSymbols", "watch_trades_for_symbols"), ("watchTrades", "watch_trades")),
    "ticker": (("watchTickers", "watch_tickers"), ("watchTicker", "watch_ticker")),
    "bids_asks": (("watchBidsAsks", "watch_bids_asks"), ("", "")),
    "order_book": (
        ("watchOrderBookForSymbols", "watch_order_book_for_symbols"),
        ("watchOrderBook", "watch_order_book"),
    ),
}
"""For each stream: what ``has`` calls it and the method, for several symbols and for one."""


class CcxtConnection:
    """``exchange``: a new ccxt.pro object of its own, with markets. ``quotes``: the stream that quotes come from."""

    def __init__(self, exchange: Any, quotes: str, clock: Clock) -> None:
        self._exchange, self._quotes, self._clock = exchange, quotes, clock
        self._name: str = exchange.id
        self._tap = Tap(exchange, self)
        self._given: dict[str, str] = {}
        self._kinds: set[str] = set()
        self._last_quote: dict[str, tuple[Any, ...]] = {}
        self._waiting: list[FeedRecord] = []
        self._error: MdpError | None = None
        self._closing = False
        self._news = asyncio.Event()
        self._asking: asyncio.Event | None = None
        self._said: BaseException | None = None
        self._out = self._answered = False
        self._tasks: set[asyncio.Future[Any]] = set()
        self._last_message = 0.0
        self._detail = ""

    async def subscribe(self, kind: str, symbols: Sequence[str]) -> None:
        """Returns when the venue has said something after the request, or after 5 s. Raises ``SubscriptionRefused`` with the
        symbols that the venue has no market for (the others are subscribed to then), or without any where it refuses the
        call."""
        self._check()
        stream = self._quotes if kind == "quote" else kind
        markets, unknown = self._markets(symbols)
        if kind not in ("trade", "quote") or not any(self._methods(stream)):
            raise SubscriptionRefused(f"{self._name} has no {stream} stream in ccxt", symbols)
        self._kinds.add(kind)
        several, single = self._methods(stream)
        if markets and (several and (len(markets) > 1 or not single)):
            await self._asked(several, markets, f"{kind} of {', '.join(markets)}")
        else:
            await self._asked_each(kind, single, markets, unknown)
        if unknown:
            names = [symbol for symbol in symbols if symbol in unknown]
            raise SubscriptionRefused("; ".join(unknown[name] for name in names), names)

    async def _asked_each(self, kind: str, method: str, markets: Sequence[str], refused: dict[str, str]) -> None:
        for market in markets:
            try:
                await self._asked(method, market, f"{kind} of {market}")
            except SubscriptionRefused as error:
                refused[self._given[market]] = str(error)

    def _methods(self, stream: str) -> tuple[str, str]:
        several, single = ((method if self._exchange.has.get(has) else "") for has, method in ASKED_BY[stream])
        return several, single

    def _markets(self, symbols: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """ccxt's names of ``symbols``, and why others have none."""
        markets, unknown = [], {}
        for symbol in symbols:
            try:
                market = self._exchange.market(symbol)["symbol"]
            except Exception as error:
                unknown[symbol] = str(explained(error, f"{self._name}: {symbol}", asking=True))
            else:
                self._given[market] = symbol
                markets.append(market)
        return markets, unknown

    async def _asked(self, method: str, symbols: Sequence[str] | str, what: str) -> None:
        """Subscribe. What ccxt noted of a subscription that failed is forgotten: it would not ask for it again."""
        noted = {id(client): set(client.subscriptions) for client in self._exchange.clients.values()}
        self._asking, self._said, self._out, self._answered = asyncio.Event(), None, False, False
        task = asyncio.ensure_future(self._called(method, symbols))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        try:
            await self._answer(task, self._asking)
        finally:
            self._asking = None
        failed = self._said or (task.exception() if task.done() and not task.cancelled() else None)
        self._check()
        if failed is not None:
            for client in self._exchange.clients.values():
                for topic in set(client.subscriptions) - noted.get(id(client), set()):
                    del client.subscriptions[topic]
            raise self._explained(failed, what, asking=True)

    async def _called(self, method: str, symbols: Sequence[str] | str) -> None:
        await getattr(self._exchange, method)(symbols)

    async def _answer(self, task: asyncio.Future[None], news: asyncio.Event) -> None:
        """Until the request is out, and then until the venue says anything; not for ever."""
        for seconds in (_REQUEST_SECONDS, _ANSWER_SECONDS):
            waiting = asyncio.ensure_future(news.wait())
            try:
                await asyncio.wait((task, waiting), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
            if task.done() or self._answered or self._said or self._error:
                return
            news.clear()

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # told by the tap, or by who asked

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._closing:
            raise FeedDown(f"{self._name}: the connection was closed")

    async def records(self) -> AsyncIterator[Sequence[FeedRecord]]:
        """What came before a break or a ``close`` comes before its error or the end."""
        while True:
            if self._waiting:
                found, self._waiting = self._waiting, []
                self._tap.resume()
                yield found
            elif self._error is not None:
                raise self._error
            elif self._closing:
                return
            else:
                self._news.clear()
                await self._news.wait()

    def health(self) -> ConnectionHealth:
        alive = not self._closing and self._error is None
        return ConnectionHealth(alive, self._last_message, str(self._error or self._detail))

    async def close(self) -> None:
        self._closing = True
        self._news.set()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._exchange.close()

    # What the tap tells.

    def sent(self) -> None:
        self._out = True
        if self._asking is not None:
            self._asking.set()

    def heard(self) -> None:
        self._last_message = self._clock.monotonic()
        if self._out and self._asking is not None:
            self._answered = True
            self._asking.set()

    def full(self) -> bool:
        return len(self._waiting) >= _MOST_WAITING

    def trades(self, found: list[dict[str, Any]], history: bool) -> None:
        if "trade" not in self._kinds:
            return
        now, phase = self._clock.time_ns(), "snapshot" if history else "live"
        for one in found:
            symbol = self._given.get(one.get("symbol") or "")
            if symbol is not None:
                self._put(trade_of(one, symbol, now, self._name, phase), one)

    def quotes(self, found: list[Mapping[str, Any]]) -> None:
        if "quote" not in self._kinds or self._quotes == "order_book":
            return
        now = self._clock.time_ns()
        for one in found:
            symbol = self._given.get(one["symbol"] or "")
            if symbol is not None:
                self._put_changed(quote_of(one, symbol, now, self._name), one, time_counts=True)

    def book(self, found: Mapping[str, Any]) -> None:
        symbol = self._given.get(found.get("symbol") or "")
        if symbol is not None and "quote" in self._kinds and self._quotes == "order_book":
            self._put_changed(top_of(found, symbol, self._clock.time_ns(), self._name), (), time_counts=False)

    def _put_changed(self, quote: Quote | None, origin: Any, *, time_counts: bool) -> None:
        """A ticker comes once though ccxt tells it under several topics; a book only when its top is another one."""
        if quote is None:
            self._put(None, origin)
            return
        content: tuple[Any, ...] = (quote.bid, quote.bid_size, quote.ask, quote.ask_size)
        if time_counts:
            content += (quote.update_id, quote.ts_event if quote.ts_event != quote.ts_recv else 0)
        if self._last_quote.get(quote.symbol) != content:
            self._last_quote[quote.symbol] = content
            self._put(quote, origin)

    def _put(self, record: FeedRecord | None, origin: Any) -> None:
        if record is not None:
            self._waiting.append(record)
            self._news.set()
        elif origin:
            self._note(f"without a price, a size or a side of the quote: {str(origin)[:_SHOWN]}")

    def lost(self, count: int) -> None:
        self._note(f"{count} trades lost: ccxt's cache was too small for one message; raise its option tradesLimit")

    def unusable(self, error: Exception, message: Any) -> None:
        self._note(f"{type(error).__name__}: {error}: cannot read {str(message)[:_SHOWN]}")

    def rejected(self, error: BaseException, topic: str) -> None:
        if not of_venue(error):
            self.broke(error)
        elif self._asking is not None:
            self._said = error
            self._asking.set()
        else:
            self._late(error, topic)

    def broke(self, error: BaseException | str) -> None:
        if self._error is None and not self._closing:
            told = (
                FeedDown(f"{self._name}: {error}")
                if isinstance(error, str)
                else self._explained(error, "", asking=False)
            )
            self._error = told if not isinstance(told, SubscriptionRefused) else FeedDown(str(told))
            self._news.set()
            if self._asking is not None:
                self._asking.set()

    def _late(self, error: BaseException, topic: str) -> None:
        """The venue refuses something that it had taken: what, its words must say, or ccxt's topic."""
        told = self._explained(error, "", asking=True)
        if not isinstance(told, SubscriptionRefused):
            self.broke(error)
            return
        words = set(f"{topic} {error}".replace(",", " ").replace(":", " ").split())
        named = [symbol for market, symbol in self._given.items() if words & self._spellings(market)]
        for kind in sorted(self._kinds):
            self._waiting += [Refused(kind, symbol, str(told)) for symbol in named]
        self._news.set()
        if not named:
            self._note(str(told))

    def _spellings(self, market: str) -> set[str]:
        return {market, self._exchange.market(market)["id"]}

    def _note(self, text: str) -> None:
        """The first is logged, the last one shown by the health."""
        if not self._detail:
            _LOG.warning("%s: %s", self._name, text)
        self._detail = text

    def _explained(self, error: BaseException, what: str, *, asking: bool) -> MdpError:
        waits = [getattr(client, "last_retry_after", None) or 0.0 for client in self._exchange.clients.values()]
        headers = getattr(self._exchange, "last_response_headers", None) or {}
        after = str(next((value for name, value in headers.items() if name.lower() == "retry-after"), ""))
        waits.append(float(after) if after.isdecimal() else 0.0)
        return explained(error, f"{self._name}: {what}" if what else self._name, asking=asking, retry_after=max(waits))
