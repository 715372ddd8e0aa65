"""Async iterables of other packages, read into a bounded buffer; and a connection that is made of several of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from market_data_pipeline.adapters.outside import quote_of, symbol_of, trade_of
from market_data_pipeline.budget import Budget
from market_data_pipeline.clock import Clock
from market_data_pipeline.errors import MdpError, RecordError
from market_data_pipeline.extras import awaited
from market_data_pipeline.sources.provider import (
    ConnectionHealth,
    FeedDown,
    FeedRecord,
    Refused,
    SubscriptionRefused,
    Unusable,
)

METHODS = {"trade": "stream_trades", "quote": "stream_quotes"}
"""By kind, the method of a provider that has it."""
_READ: dict[str, Callable[[Any], Any]] = {"trade": trade_of, "quote": quote_of}
QUEUE_ITEMS = 16384
"""What waits at most, of one connection or source; then nothing more is read."""
_REFUSALS = frozenset({"PermissionsMissing", "InvalidInstrument"})
_PACING = "PacingViolation"


class Pump:
    """Reads async iterables into one buffer of at most ``most`` items, in order of arrival. It ends when all that were started
    have ended (``lasting``: never, others may be started), or with the first ``error``; what came before that is handed out
    first."""

    def __init__(self, most: int, *, lasting: bool = False) -> None:
        self._lasting = lasting
        self.error: BaseException | None = None
        self._most = most
        self._waiting: list[Any] = []
        self._news, self._room = asyncio.Event(), asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """``work`` calls :meth:`follow` and :meth:`put`; what it raises is the error."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def follow(self, stream: Any, of: Callable[[Any], Any] | None = None) -> None:
        """Read ``stream`` to its end; ``of`` makes of an item what is handed out. Raises what the stream raises."""
        items = aiter(stream)
        try:
            async for item in items:
                await self.put(item if of is None else of(item))
        finally:
            if hasattr(items, "aclose"):
                await items.aclose()

    async def put(self, item: Any) -> None:
        """As soon as there is room."""
        while len(self._waiting) >= self._most:
            self._room.clear()
            await self._room.wait()
        self._waiting.append(item)
        self._news.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._stopped and self.error is None:
            self.error = FeedDown("the stream was cancelled") if task.cancelled() else task.exception()
        self._news.set()

    async def take(self) -> list[Any] | None:
        """All that waits, as soon as there is something; ``None`` at the end."""
        while not self._waiting:
            if self.error is not None or self._stopped or not (self._tasks or self._lasting):
                return None
            self._news.clear()
            await self._news.wait()
        found, self._waiting = self._waiting, []
        self._room.set()
        return found

    async def stop(self) -> None:
        """Close all streams, to their end."""
        self._stopped = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._news.set()


class OutsideConnection:
    """Streams of ``provider``, one for each ``subscribe`` call. ``budget``: asked before each call beyond those
    that it is asked for. ``owned``: it was made for this connection, and is closed with it."""

    def __init__(
        self,
        provider: Any,
        instrument: Callable[[str], Any] | None,
        budget: Budget,
        clock: Clock,
        *,
        owned: bool,
    ) -> None:
        self._provider, self._instrument, self._clock, self._owned = provider, instrument, clock, owned
        self._budget = budget
        self._pump = Pump(QUEUE_ITEMS, lasting=True)
        self._closing = False
        self._last_message = 0.0

    async def subscribe(self, kind: str, symbols: Sequence[str]) -> None:
        """Start a stream. Raises ``SubscriptionRefused``: for all of them without the method, or where it refuses at once."""
        if kind not in METHODS or not callable(getattr(self._provider, METHODS[kind], None)):
            method = METHODS.get(kind, f"stream of {kind}")
            raise SubscriptionRefused(f"a {type(self._provider).__qualname__} has no {method}", symbols)
        what = f"{kind} of {', '.join(symbols)}"
        try:
            asked = [self._instrument(symbol) if self._instrument else symbol for symbol in symbols]
            names = [symbol_of(one) or symbol for one, symbol in zip(asked, symbols, strict=True)]
            if len(set(names)) < len(names):  # by their records they could not be told apart: each gets a stream
                raise SubscriptionRefused(f"{what}: instruments of one symbol")
            stream = await awaited(getattr(self._provider, METHODS[kind])(asked))
        except Exception as error:  # others may raise anything
            raise _told(error, what) from error
        self._pump.start(self._read(kind, list(symbols), dict(zip(names, symbols, strict=True)), stream))

    async def _read(self, kind: str, symbols: list[str], given: dict[str, str], stream: Any) -> None:
        what = f"{kind} of {', '.join(symbols)}"
        try:
            await self._pump.follow(stream, lambda item: self._record(kind, given, item))
        except Exception as error:  # others may raise anything
            told = _told(error, what)
            if not isinstance(told, SubscriptionRefused):
                raise told from error
            await self._refused(kind, symbols, str(told))
        else:
            raise FeedDown(f"the stream of {what} ended")

    async def _refused(self, kind: str, symbols: list[str], reason: str) -> None:
        """A stream says only when it is read that it will bring nothing. Of several symbols it does not say which."""
        if len(symbols) == 1:
            await self._pump.put(Refused(kind, symbols[0], reason))
            return
        for symbol in symbols:
            await self._budget.acquire()
            try:
                await self.subscribe(kind, [symbol])
            except SubscriptionRefused as error:
                await self._pump.put(Refused(kind, symbol, str(error)))

    def _record(self, kind: str, given: dict[str, str], item: Any) -> FeedRecord:
        self._last_message = self._clock.monotonic()
        try:
            record: Any = _READ[kind](item)
        except RecordError as error:
            return Unusable(shown(item), str(error))
        symbol = given.get(record.symbol)
        if symbol is None:
            return Unusable(shown(item), f"symbol: {record.symbol!r:.100} was not asked for; {', '.join(given)} were")
        return record._replace(symbol=symbol) if symbol != record.symbol else record  # type: ignore[no-any-return]

    async def records(self) -> AsyncIterator[Sequence[FeedRecord]]:
        while (found := await self._pump.take()) is not None:
            yield found
        if self._pump.error is not None and not self._closing:
            raise self._pump.error

    def health(self) -> ConnectionHealth:
        error = self._pump.error
        return ConnectionHealth(error is None and not self._closing, self._last_message, str(error or ""))

    async def close(self) -> None:
        self._closing = True
        await self._pump.stop()
        if self._owned and callable(getattr(self._provider, "close", None)):
            await awaited(self._provider.close())


def shown(item: Any) -> Any:
    """``item`` for the dead letters, which travel: plain text where it is an object of another package."""
    return item if type(item) in (dict, str, int, float) else repr(item)[:1000]


def _told(error: Exception, what: str) -> MdpError:
    """What an error of another package means, by the names of its classes."""
    if isinstance(error, MdpError):
        return error
    names = {cls.__name__ for cls in type(error).__mro__}
    message = f"{what}: {type(error).__name__}: {error}"
    if names & _REFUSALS:
        return SubscriptionRefused(message)
    return FeedDown(message, _wait_of(error) if _PACING in names else 0.0)


def _wait_of(error: Exception) -> float:
    for name in ("retry_after", "retry_after_sec", "retry_after_seconds"):
        value = getattr(error, name, None)
        if isinstance(value, int | float) and value > 0:
            return float(value)
    return 0.0
