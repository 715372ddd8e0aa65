"""Interactive Brokers as a market data provider: tick-by-tick trades and quotes through TWS or IB Gateway."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from market_data_pipeline.clock import SYSTEM_CLOCK, Clock
from market_data_pipeline.component import Component
from market_data_pipeline.durations import Duration, wall_duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.extras import extra
from market_data_pipeline.records import Quote, Trade
from market_data_pipeline.sources.provider import (
    ConnectionHealth,
    FeedDown,
    FeedRecord,
    Refused,
    SubscriptionRefused,
    VenueLimits,
)

_TICK_TYPES = {"trade": "AllLast", "quote": "BidAsk"}
_REFUSALS = frozenset(
    {200, 203, 300, 320, 321, 322, 354, 420, 430, 10089, 10090, 10167, 10168, 10186, 10187, 10189, 10190, 10197}
)
"""About one request, and final: no such contract (200), no permission or no subscription to its data (354, 10089, 10167, 10168,
10186, 10197), a wrong request (320 to 322), not available tick by tick (10189), more than the account has (10190)."""
_DOWN = {100: 5.0, 326: 5.0, 502: 0.0, 504: 0.0, 507: 0.0, 1100: 5.0, 1101: 0.0, 1300: 5.0, 2110: 5.0}
"""About the connection: too many messages, the client id is in use, not connected, IB's servers away (1100, 2110), or there
again without the subscriptions (1101); and the seconds to leave it alone. 1102 (there again, nothing lost) follows a 1100."""
_LOOKUP_SECONDS = 30.0
_MOST_WAITING = 10_000
"""Records that wait to be read; then nothing more is read from the socket."""


class InteractiveBrokers(Component):
    """Trades (``AllLast``) and quotes (``BidAsk``) tick by tick from a TWS or IB Gateway at ``host``:``port`` (extra ``ib``).

    ``contracts``: for each symbol the ``ib_async`` contract, or a mapping of its fields (``{"secType": "FUT", "symbol": "ES",
    ...}``); a symbol that is not among them is a US stock (``Stock(symbol, "SMART", "USD")``). Each is looked up once; one that
    does not exist, or is ambiguous, is refused. ``client_id``: one that no other client of that gateway uses; so the source is
    not split by partition. ``subscriptions``: how many tick-by-tick subscriptions the account has, symbols times kinds (3 with
    the usual 100 market data lines, and more with more of them); the gateway refuses more (error 10190). ``again_after``: IB
    allows one request for the same instrument and kind in so long, also over a reconnect.

    Units: prices in the contract's currency, sizes in its units. ``ts_event`` is IB's time of the tick, which has whole
    seconds; ``ts_recv`` has nanoseconds. IB sends neither trade ids nor the aggressor's side; ``venue`` of a trade is the
    exchange, ``conditions`` its special conditions (``unreported`` is added to trades off the tape). A side of a quote that
    is not there is nan with size 0. A missed trade is never sent again: after a reconnect there is a gap of unknown size. Bad
    input: a message that cannot be read is logged by ``ib_async`` and left out."""

    kinds = frozenset(_TICK_TYPES)
    splittable = False
    limits = VenueLimits(per_second=20.0, symbols_per_call=1)
    """IB takes 50 messages a second, and a subscription takes two."""

    def __init__(
        self,
        contracts: Mapping[str, Any] | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 4001,
        client_id: int = 1,
        name: str = "ib",
        subscriptions: int = 3,
        again_after: Duration = "15s",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.host, self.port, self.client_id, self.name = host, port, client_id, name
        self.subscriptions = subscriptions
        self.again_after = wall_duration(again_after, "again_after", zero=True)
        self._clock = clock
        self._library = extra("ib_async", "ib", "InteractiveBrokers")
        self._known: dict[str, Any] = {}
        self._asked: dict[tuple[str, str], float] = {}
        self.contracts = {symbol: self._checked(symbol, one) for symbol, one in (contracts or {}).items()}

    def _checked(self, symbol: str, contract: Any) -> Any:
        if isinstance(contract, Mapping):
            try:
                return self._library.Contract.create(**contract)
            except (TypeError, AssertionError) as error:
                raise ConfigError(f"contracts: {symbol!r}: {error}") from error
        if not isinstance(contract, self._library.Contract):
            raise ConfigError(f"contracts: {symbol!r}: {type(contract).__name__} is not an ib_async contract")
        return contract

    def made_with(self) -> dict[str, Any]:
        """Contracts as mappings, which a document can hold."""
        return {"contracts": {symbol: self._fields(contract) for symbol, contract in self.contracts.items()}}

    def config(self) -> dict[str, Any]:
        described = super().config()
        del described["contracts"], described["again_after"]
        contracts = {symbol: repr(self._fields(contract)) for symbol, contract in sorted(self.contracts.items())}
        return {**described, "contracts": contracts}

    def _fields(self, contract: Any) -> dict[str, Any]:
        """What is given of a contract: for a venue ``Future("ES")`` is a ``Contract`` with that type of security."""
        given: dict[str, Any] = self._library.util.dataclassNonDefaults(contract)
        return dict(sorted(given.items()))

    def check(self, symbols: Sequence[str], kinds: Sequence[str]) -> None:
        """Raises ``ConfigError`` for more symbols than there are subscriptions."""
        needed = len(symbols) * len(kinds)
        if needed > self.subscriptions:
            raise ConfigError(
                f"{self.name}: {len(symbols)} symbols of {len(kinds)} kinds need {needed} tick-by-tick subscriptions; allowed:"
                f" {self.subscriptions}. If the account has more, say so with subscriptions={needed}"
            )

    async def connect(self) -> IbConnection:
        """A session with the gateway. Raises ``FeedDown``."""
        connection = IbConnection(self, self._library, self._clock)
        try:
            await connection.begin()
        except BaseException:
            await connection.close()
            raise
        return connection

    def contract(self, symbol: str) -> Any:
        """What the user calls ``symbol``, as it was looked up if it was."""
        known = self._known.get(symbol) or self.contracts.get(symbol)
        return self._library.Stock(symbol, "SMART", "USD") if known is None else known

    def is_known(self, symbol: str) -> bool:
        """Whether a contract is known by this name."""
        return symbol in self._known

    def learn(self, symbol: str, contract: Any) -> None:
        """``contract`` is what IB has under the name ``symbol``."""
        self._known[symbol] = contract

    async def turn(self, symbol: str, kind: str) -> None:
        """Wait until IB may be asked for this again."""
        now = self._clock.monotonic()
        before = self._asked.get((symbol, kind))
        due = now if before is None else max(now, before + self.again_after / 1e9)
        self._asked[symbol, kind] = due
        if due > now:
            await self._clock.sleep(due - now)


class IbConnection:
    """One session with a gateway: a :class:`FeedConnection`, and the callbacks that ``ib_async``'s client calls by their names
    (its own wrapper gives ticks the time of their arrival, and asks for positions and orders)."""

    def __init__(self, provider: InteractiveBrokers, library: Any, clock: Clock) -> None:
        self._provider, self._clock = provider, clock
        self._client = library.Client(self)
        self._client.apiError += self._on_api_error
        self._queue: deque[FeedRecord] = deque()
        self._came = asyncio.Event()
        self._ticks: dict[int, tuple[str, str]] = {}  # by request: kind and symbol
        self._lookups: dict[int, tuple[asyncio.Future[list[Any]], list[Any]]] = {}
        self._down: FeedDown | None = None
        self._closed = self._paused = False
        self._received, self._last_message = 0, 0.0
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # What a source calls

    async def begin(self) -> None:
        """Connect and wait until the gateway is ready. Raises ``FeedDown``."""
        provider = self._provider
        connecting = asyncio.ensure_future(
            self._client.connectAsync(provider.host, provider.port, provider.client_id, 0)
        )
        try:
            await asyncio.wait({connecting, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            if connecting.done():
                connecting.result()
        except (OSError, TimeoutError) as error:
            raise FeedDown(f"{provider.host}:{provider.port}: {error}") from error
        finally:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
        if self._down is not None:
            raise self._down

    async def subscribe(self, kind: str, symbols: Sequence[str]) -> None:
        for symbol in symbols:
            if not self._provider.is_known(symbol):
                self._provider.learn(symbol, await self._look_up(symbol))
            await self._provider.turn(symbol, kind)
            self._check_up()
            number = self._client.getReqId()
            self._ticks[number] = (kind, symbol)
            self._client.reqTickByTickData(number, self._provider.contract(symbol), _TICK_TYPES[kind], 0, False)

    async def _look_up(self, symbol: str) -> Any:
        self._check_up()
        number = self._client.getReqId()
        found: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._lookups[number] = (found, [])
        self._client.reqContractDetails(number, self._provider.contract(symbol))
        try:
            async with asyncio.timeout(_LOOKUP_SECONDS):
                contracts = await found
        except TimeoutError as error:
            raise FeedDown(f"{symbol}: its contract was not told within {_LOOKUP_SECONDS:g} s") from error
        except SubscriptionRefused as error:
            raise SubscriptionRefused(str(error), [symbol]) from error
        finally:
            del self._lookups[number]
        if len(contracts) != 1:
            names = ", ".join(f"{contract.localSymbol} on {contract.exchange}" for contract in contracts[:3])
            raise SubscriptionRefused(f"it stands for {len(contracts)} contracts ({names}); say more of it", [symbol])
        return contracts[0]

    def _check_up(self) -> None:
        if self._down is not None or not self._client.isReady():
            raise self._down or FeedDown("the gateway is not connected")

    async def records(self) -> AsyncIterator[Sequence[FeedRecord]]:
        while not self._closed:
            if self._queue:
                batch = list(self._queue)
                self._queue.clear()
                yield batch
                self._read_on()
            elif self._down is not None:
                raise self._down
            else:
                self._came.clear()
                await self._came.wait()

    def health(self) -> ConnectionHealth:
        up = self._down is None and self._client.isReady()
        return ConnectionHealth(up, self._last_message, "" if self._down is None else str(self._down))

    async def close(self) -> None:
        self._closed = True
        self._came.set()
        with suppress(OSError):  # it may be broken already
            self._client.disconnect()

    # What the client calls

    def tcpDataArrived(self) -> None:  # noqa: N802
        self._received, self._last_message = self._clock.time_ns(), self._clock.monotonic()

    def contractDetails(self, number: int, details: Any) -> None:  # noqa: N802
        if number in self._lookups:
            self._lookups[number][1].append(details.contract)

    def contractDetailsEnd(self, number: int) -> None:  # noqa: N802
        if number in self._lookups:
            future, contracts = self._lookups[number]
            if not future.done():
                future.set_result(contracts)

    def tickByTickAllLast(  # noqa: N802 - the client's own signature
        self,
        number: int,
        tick_type: int,
        time: int,
        price: float,
        size: float,
        attributes: Any,
        exchange: str,
        conditions: str,
    ) -> None:
        _, symbol = self._ticks.get(number, ("", ""))
        if symbol:
            noted = f"{conditions} unreported".strip() if attributes.unreported else conditions
            at = time * 1_000_000_000
            self._add(
                Trade(symbol, at, self._received, price, size, conditions=noted, venue=exchange or self._provider.name)
            )

    def tickByTickBidAsk(  # noqa: N802 - the client's own signature
        self,
        number: int,
        time: int,
        bid: float,
        ask: float,
        bid_size: float,
        ask_size: float,
        attributes: Any,
    ) -> None:
        _, symbol = self._ticks.get(number, ("", ""))
        if symbol:
            bid, ask = _there(bid, bid_size), _there(ask, ask_size)
            venue = self._provider.name
            self._add(Quote(symbol, time * 1_000_000_000, self._received, bid, bid_size, ask, ask_size, venue=venue))

    def error(self, number: int, code: int, text: str, advanced: str) -> None:
        reason = f"IB error {code}: {text}"
        if code in _DOWN:
            self._break(FeedDown(reason, _DOWN[code]))
        elif code in _REFUSALS and number in self._ticks:
            self._add(Refused(*self._ticks.pop(number), reason))
        elif number in self._lookups and not 2100 <= code < 2200:
            future, _ = self._lookups[number]
            if not future.done():
                future.set_exception(SubscriptionRefused(reason))

    def connectAck(self) -> None:  # noqa: N802
        """The client wants it to be there."""

    def connectionClosed(self) -> None:  # noqa: N802
        self._break(FeedDown("the gateway closed the connection"))

    def setEventsDone(self) -> None:  # noqa: N802
        """Its other callers wait for events; here nobody does."""

    def _on_api_error(self, text: str) -> None:
        self._break(FeedDown(text))

    def _add(self, record: FeedRecord) -> None:
        self._queue.append(record)
        self._came.set()
        transport = self._client.conn.transport
        if len(self._queue) >= _MOST_WAITING and not self._paused and transport is not None:
            self._paused = True
            transport.pause_reading()

    def _read_on(self) -> None:
        transport = self._client.conn.transport
        if self._paused and transport is not None:
            self._paused = False
            transport.resume_reading()

    def _break(self, down: FeedDown) -> None:
        if self._down is None:
            self._down = down
        if not self._failed.done():
            self._failed.set_result(None)
        for future, _ in self._lookups.values():
            if not future.done():
                future.set_exception(self._down)
        self._came.set()


def _there(price: float, size: float) -> float:
    """A price, or nan where IB says with -1 or 0 and no size that there is none."""
    return math.nan if size == 0 and price in (-1.0, 0.0) else price
