"""Any exchange that ccxt.pro can watch, as a provider (extra ``ccxt``)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import SecretStr

from market_data_pipeline.clock import SYSTEM_CLOCK, Clock
from market_data_pipeline.component import Component
from market_data_pipeline.errors import ConfigError, MdpError
from market_data_pipeline.extras import extra
from market_data_pipeline.hints import nearest_or_all
from market_data_pipeline.sources.ccxt_connection import ASKED_BY, CcxtConnection
from market_data_pipeline.sources.ccxt_errors import explained
from market_data_pipeline.sources.provider import FeedDown, SubscriptionRefused, VenueLimits

Quotes = Literal["ticker", "bids_asks", "order_book"]

_MARKETS_SECONDS = 3600.0
_LIMITS = VenueLimits()
_KEYS = ("api_key", "secret", "password")
_SECRETS = {"apiKey", "secret", "password", "uid", "token", "privateKey", "walletAddress", "login", "twofa"}


class CcxtProvider(Component):
    """Trades and quotes of ``exchange`` (ccxt's name of it) by ccxt's websockets. Symbols are ccxt's: ``"BTC/USD"``.

    Trades: price and size as the venue sends them, in its units; ``side`` the aggressor's; ``ts_event`` in ns, exact where the
    venue sends a finer time than milliseconds; ``trade_id`` an int where it sends one. ``phase`` is ``"snapshot"`` for trades
    from before the subscription, of venues that say so (``coinbaseexchange``, ``coinbase``, ``kraken``, ``hitbtc``); those that
    others push appear as live.

    ``quotes``: where quotes come from. ``"ticker"``: each ticker, at most venues one a trade or a few a second.
    ``"bids_asks"``: each change of the best prices, where the venue has such a stream. ``"order_book"``: a book kept by ccxt, a
    quote for each change of its top; some venues want a key for it. A size that the venue does not send is 0; a quote with
    only one side is left out. ``ts_event`` is the time of arrival where the venue sends none.

    ``api_key``, ``secret``, ``password``: for venues that want them; text is hidden at once, no plan shows them. ``options``:
    ccxt's own configuration, by its names, for sandboxes, proxies, own gateways, timeouts: ``{"sandbox": True}``,
    ``{"httpsProxy": ..., "wssProxy": ...}``, ``{"urls": {"api": {"ws": ...}}}``, ``{"options": {"defaultType": "swap"}}``. A
    value that is secret (a proxy's address with a password) is a ``SecretStr``. ``limits``: how fast to subscribe; ccxt keeps
    to the venue's rate by itself besides.

    Guarantee: none of its own; a feed cannot be read again. What came is handed out once, in order of arrival, and before the
    error of a break. What was missed while it was away is missed; what the venue sends again is a duplicate by ``(symbol,
    trade_id)``. Nothing is retried here: a broken socket is a ``FeedDown``, also where ccxt would reconnect silently. Markets
    are loaded at the first connection and again after an hour. A message that ccxt cannot read is logged (the first of a
    connection) and shown by ``health``; the next one is read. While the reader is slow nothing is read from the socket; when
    that lasts a minute, the connection counts as broken.
    """

    splittable = True

    def __init__(
        self,
        exchange: str,
        *,
        quotes: Quotes = "ticker",
        api_key: SecretStr | str | None = None,
        secret: SecretStr | str | None = None,
        password: SecretStr | str | None = None,
        options: Mapping[str, Any] | None = None,
        limits: VenueLimits = _LIMITS,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.exchange, self.quotes, self.limits, self.clock = exchange, quotes, limits, clock
        self.api_key, self.secret, self.password = map(_hidden, (api_key, secret, password))
        self.options = dict(options or {})
        pro = extra("ccxt.pro", "ccxt", "CcxtProvider")
        if exchange not in pro.exchanges:
            raise ConfigError(f"exchange: ccxt cannot watch {exchange!r}; {nearest_or_all(exchange, pro.exchanges)}")
        if quotes not in get_args(Quotes):
            raise ConfigError(f"quotes: {quotes!r} is not allowed; one of: {', '.join(get_args(Quotes))}")
        _check_secrets(self.options)
        self._class: Any = getattr(pro, exchange)
        self._catalogue: tuple[float, Any] | None = None
        self._loading: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None
        self.name = exchange
        has = self._make().has
        self.kinds = frozenset(kind for kind in ("trade", "quote") if self._streams(has, kind))

    def config(self) -> dict[str, Any]:
        return {name: value for name, value in super().config().items() if name not in _KEYS}

    def __deepcopy__(self, memo: dict[int, Any]) -> CcxtProvider:
        return self  # all tasks of a process share the markets

    def _streams(self, has: Mapping[str, Any], kind: str) -> bool:
        stream = self.quotes if kind == "quote" else kind
        return any(has.get(name) for name, _ in ASKED_BY[stream])

    def check(self, symbols: Sequence[str], kinds: Sequence[str]) -> None:
        """Raises ``ConfigError`` for a kind that ccxt cannot watch there. Whether a symbol exists, only the venue knows."""
        for kind in kinds:
            if kind not in ("trade", "quote"):
                raise ConfigError(f"kinds: {kind!r} is not allowed; trade, quote")
            if kind not in self.kinds:
                other = [name for name in get_args(Quotes) if kind == "quote" and self._has(name)]
                hint = f"; it has quotes={' or '.join(map(repr, other))}" if other else ""
                stream = f"quotes={self.quotes!r}" if kind == "quote" else "trades"
                raise ConfigError(f"{self.exchange}: ccxt cannot watch {stream} there{hint}")
        bad = [symbol for symbol in symbols if not isinstance(symbol, str) or not symbol.strip()]
        if bad:
            raise ConfigError(f"symbols: {bad[0]!r} is not a symbol; ccxt's look like 'BTC/USD'")

    def _has(self, stream: str) -> bool:
        return any(self._make().has.get(name) for name, _ in ASKED_BY[stream])

    def _make(self) -> Any:
        """A new ccxt object; it opens nothing yet."""
        given = {"apiKey": self.api_key, "secret": self.secret, "password": self.password}
        keys = {name: value for name, value in given.items() if value is not None}
        return self._class({"newUpdates": True, **_revealed(self.options), **_revealed(keys)})

    async def connect(self) -> CcxtConnection:
        """A connection whose markets are known; the socket is made with the first subscription. Raises ``FeedDown``,
        ``SourceError``."""
        catalogue = await self._markets()
        exchange = self._make()
        exchange.set_markets_from_exchange(catalogue)
        return CcxtConnection(exchange, self.quotes, self.clock)

    async def _markets(self) -> Any:
        """A ccxt object that has loaded the markets, within the hour; once though all partitions connect at the same time."""
        loop = asyncio.get_running_loop()
        if self._loading is None or self._loading[0] is not loop:
            self._loading = loop, asyncio.Lock()
        async with self._loading[1]:
            now = self.clock.monotonic()
            if self._catalogue is None or now - self._catalogue[0] >= _MARKETS_SECONDS:
                self._catalogue = now, await self._load()
            return self._catalogue[1]

    async def _load(self) -> Any:
        exchange = self._make()
        exchange.enableLastResponseHeaders = True
        try:
            await exchange.load_markets()
        except Exception as error:
            raise self._no_markets(error, exchange) from error
        finally:
            await asyncio.shield(exchange.close())
        return exchange

    def _no_markets(self, error: Exception, exchange: Any) -> MdpError:
        headers = {name.lower(): str(value) for name, value in (exchange.last_response_headers or {}).items()}
        after = headers.get("retry-after", "")
        wait = float(after) if after.isdecimal() else 0.0
        told = explained(error, f"{self.exchange}: the markets", asking=False, retry_after=wait)
        return FeedDown(str(told)) if isinstance(told, SubscriptionRefused) else told


def _hidden(value: SecretStr | str | None) -> SecretStr | None:
    return SecretStr(value) if isinstance(value, str) else value


def _check_secrets(options: Mapping[str, Any]) -> None:
    """Nothing secret stands in plain text in ``options``, which plans show. Raises ``ConfigError``."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            _check_secrets(value)
        elif name in _SECRETS and value and not isinstance(value, SecretStr):
            raise ConfigError(f"options: {name} is secret; give api_key, secret or password, or wrap it in SecretStr")
        elif isinstance(value, str) and "@" in value and urlsplit(value).password:
            raise ConfigError(f"options: the address in {name} holds a password; wrap it in SecretStr")


def _revealed(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return {name: _revealed(item) for name, item in value.items()} if isinstance(value, Mapping) else value
