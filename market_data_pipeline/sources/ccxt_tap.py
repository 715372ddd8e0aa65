"""What goes through one ccxt exchange object, seen where it goes through.

ccxt hands out data by one-shot futures: what arrives between two ``watch_*`` calls waits for the next message, what arrives
before a break never comes, of several symbols that get news at once one is told, and a broken socket is replaced silently by
the next call. So the ``watch_*`` calls serve to subscribe, and the data is taken where ccxt puts it after each message: nothing
is lost, nothing waits, and the order is that of arrival.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

from market_data_pipeline.sources.ccxt_records import is_history

_TAKEN = "taken by market-data-pipeline"
"""Marks a trade in ccxt's cache that was handed out."""


class Listener(Protocol):
    """Told by a :class:`Tap`, from the event loop."""

    def heard(self) -> None:
        """A message of any kind has been worked off."""

    def sent(self) -> None:
        """A frame went out."""

    def trades(self, found: list[dict[str, Any]], history: bool) -> None: ...

    def quotes(self, found: list[Mapping[str, Any]]) -> None: ...

    def book(self, found: Mapping[str, Any]) -> None: ...

    def lost(self, count: int) -> None:
        """ccxt's cache of trades was too small for one message."""

    def unusable(self, error: Exception, message: Any) -> None:
        """ccxt cannot read this message."""

    def rejected(self, error: BaseException, topic: str) -> None:
        """The venue refuses something, or what was pending ends with ``error``."""

    def broke(self, error: BaseException | str) -> None:
        """A socket is broken, or could not be made."""

    def full(self) -> bool:
        """Should nothing be read now?"""
        ...


class Tap:
    """Sits on ``exchange`` from when it is made."""

    def __init__(self, exchange: Any, listener: Listener) -> None:
        self._exchange = exchange
        self._listener = listener
        self._history = False
        self._clients: list[Any] = []
        self._waiting: list[Callable[[], None]] = []
        self._new_client: Callable[[str], Any] = exchange.client
        self._handle: Callable[[Any, Any], None] = exchange.handle_message
        self._error: Callable[[Any, Any], None] = exchange.on_error
        self._close: Callable[[Any, Any], None] = exchange.on_close
        exchange.client = self._client
        exchange.handle_message = self._decoded
        exchange.on_error = self._failed
        exchange.on_close = self._closed

    def resume(self) -> None:
        """Read on, after ``full``."""
        waiting, self._waiting = self._waiting, []
        for receive in waiting:
            asyncio.get_running_loop().call_soon(receive)

    def _client(self, url: str) -> Any:
        client = self._new_client(url)
        if not any(known is client for known in self._clients):
            self._clients.append(client)
            client.receive_loop = partial(self._receive, client.receive_loop)
            client.handle_message = partial(self._message, client.handle_message)
            client.resolve = partial(self._resolved, client.resolve)
            client.reject = partial(self._rejected, client.reject)
            client.send = partial(self._sent, client.send)
        return client

    def _receive(self, receive: Callable[[], None]) -> None:
        if self._listener.full():
            self._waiting.append(partial(self._receive, receive))
        else:
            receive()

    def _message(self, handle: Callable[[Any], None], message: Any) -> None:
        try:
            handle(message)
        except Exception as error:  # in ccxt's callback it would end the reading, and nobody would know
            self._listener.unusable(error, getattr(message, "data", None))
        self._listener.heard()

    def _decoded(self, client: Any, message: Any) -> None:
        self._history = is_history(self._exchange.id, message)
        try:
            if self._exchange.id == "coinbaseexchange" and self._history:
                self._exchange.handle_trade(client, message)  # ccxt passes last_match over
            else:
                self._handle(client, message)
        finally:
            self._history = False

    def _resolved(self, resolve: Callable[[Any, Any], Any], result: Any, topic: Any = None) -> Any:
        if hasattr(result, "getLimit"):
            self._take(result)
        elif isinstance(result, Mapping) and "bids" in result and "asks" in result:
            self._listener.book(result)
        else:
            self._listener.quotes(list(_tickers(result)))
        return resolve(result, topic)

    def _take(self, cache: Any) -> None:
        """The new ones in a cache of trades: as many as ccxt counts (``newUpdates``), less those it only moved."""
        count = cache.getLimit(None, None) or 0
        size = len(cache)
        found = [cache[i] for i in range(max(0, size - count), size)]
        new = [trade for trade in found if isinstance(trade, dict) and _TAKEN not in trade]
        for trade in new:
            trade[_TAKEN] = True
        if count > size:
            self._listener.lost(count - size)
        if new:
            self._listener.trades(new, self._history)

    def _rejected(self, reject: Callable[[Any, Any], Any], error: Any, topic: Any = None) -> Any:
        self._listener.rejected(error, "" if topic is None else str(topic))
        return reject(error, topic)

    async def _sent(self, send: Callable[[Any], Any], message: Any) -> Any:
        done = await send(message)
        self._listener.sent()
        return done

    def _failed(self, client: Any, error: Any) -> None:
        self._error(client, error)
        self._listener.broke(error)

    def _closed(self, client: Any, code: Any) -> None:
        self._close(client, code)
        self._listener.broke(f"the venue closed the connection (code {code})")


def _tickers(result: Any) -> Iterator[Mapping[str, Any]]:
    """The tickers in what a ticker's or a bid-ask's topic brings: one, a list, or a mapping by symbol."""
    if isinstance(result, Mapping):
        if "symbol" in result:
            if "bid" in result and "ask" in result:
                yield result
            return
        result = list(result.values())
    if isinstance(result, list):
        for one in result:
            if isinstance(one, Mapping) and "symbol" in one and "bid" in one and "ask" in one:
                yield one
