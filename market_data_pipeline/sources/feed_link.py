"""One feed: connect, subscribe, read, and again. The shell around the decisions of circuit, backoff and health."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from market_data_pipeline.budget import Budget
from market_data_pipeline.circuit import LEVELS, CircuitBreaker, Ticket
from market_data_pipeline.errors import SourceError
from market_data_pipeline.sources.feed_health import FeedHealth
from market_data_pipeline.sources.intake import Intake
from market_data_pipeline.sources.provider import FeedConnection, FeedDown, MarketDataProvider, SubscriptionRefused
from market_data_pipeline.sources.reconnect import Backoff
from market_data_pipeline.sources.watched_time import WatchedTime

log = logging.getLogger(__name__)

_CLOSING_SECONDS = 5.0


class _NotNeeded(FeedDown):
    """The connection is closed because nobody needs it."""


class Wanted(NamedTuple):
    """What one connection subscribes to: each of ``kinds`` of each of ``symbols``."""

    symbols: tuple[str, ...]
    kinds: tuple[str, ...]


class Patience(NamedTuple):
    """Seconds: to wait for a connection, until it counts as a good one, and how long a connection may be quiet before it is
    given up (0: for ever)."""

    connect: float
    stable: float
    quiet: float


class FeedLink:
    """One connection to ``provider`` at a time, for ``wanted``, for as long as the feed is not over. ``budget`` is asked before
    each connect and each subscribe call; ``time`` says what was read; ``show`` is told the circuit's state as a number."""

    def __init__(  # noqa: PLR0913 - what belongs to one feed, by keyword
        self,
        provider: MarketDataProvider,
        wanted: Wanted,
        *,
        intake: Intake,
        health: FeedHealth,
        breaker: CircuitBreaker,
        backoff: Backoff,
        budget: Budget,
        patience: Patience,
        time: WatchedTime,
        show: Callable[[float], None],
    ) -> None:
        self.health = health
        self._provider, self._wanted, self._intake = provider, wanted, intake
        self._breaker, self._backoff, self._budget, self._patience = breaker, backoff, budget, patience
        self._time, self._show = time, show
        self._clock = intake.clock
        self._refused: set[tuple[str, str]] = set()
        self._ticket: Ticket | None = None
        self._since = 0.0
        self._connection: FeedConnection | None = None
        self._broken: asyncio.Future[FeedDown] | None = None
        self._delivering = self._stopping = self._in_line = False
        self._asked_at = 0.0
        self._needed = asyncio.Event()
        self._needed.set()

    async def run(self) -> None:
        """Until the feed is over for good. Raises ``SourceError`` where no further try can succeed."""
        try:
            while True:
                if not self._needed.is_set():
                    self._intake.rests(self.health.feed)
                    await self._needed.wait()
                self._ticket = await self._admitted()
                await self._budget.acquire()
                down = await self._one_connection()
                if down is None:
                    return
                if isinstance(down, _NotNeeded):
                    if self._ticket is not None:
                        self._breaker.given_up(self._ticket)
                    continue
                self._intake.down(self.health.feed, str(down))
                lived = self._clock.monotonic() - self._since if self._since else 0.0
                self._intake.tell(self.health.disconnected(self._clock.time_ns(), str(down)))  # it could not be made
                self._count_failure(down, lived)
                await self._clock.sleep(self._backoff.delay(lived, down.retry_after))
        except SourceError as error:
            self._intake.tell(self.health.failed(self._clock.time_ns(), str(error)))
            self._intake.down(self.health.feed, str(error))
            raise

    async def _admitted(self) -> Ticket:
        while (ticket := self._breaker.allow(self._clock.monotonic())) is None:
            self._show_circuit()
            await self._clock.sleep(self._breaker.wait(self._clock.monotonic()))
        self._show_circuit()
        return ticket

    def _show_circuit(self) -> None:
        self._show(LEVELS[self._breaker.state(self._clock.monotonic())])

    def _count_failure(self, down: FeedDown, lived: float) -> None:
        now = self._clock.monotonic()
        if self._ticket is not None:
            if lived >= self._patience.stable:
                self._breaker.succeeded(self._ticket, now)
            else:
                self._breaker.failed(self._ticket, now)
        self._show_circuit()
        if self._breaker.state(now) == "open":
            detail = f"it failed too often ({down}), left alone for {self._breaker.wait(now):.0f} s"
            self._intake.tell(self.health.suspended(self._clock.time_ns(), detail))
            self._intake.down(self.health.feed, detail)

    async def _one_connection(self) -> FeedDown | None:
        """Why it broke, ``None`` where the feed is over."""
        self._since = 0.0
        feed = self.health.feed
        try:
            async with asyncio.timeout(self._patience.connect):
                connection = await self._provider.connect()
        except (FeedDown, OSError, TimeoutError) as error:
            down = _as_down(error, f"no connection within {self._patience.connect:g} s")
            log.info("feed %s: %s", feed, down)
            self._intake.counted("connect_failed", 1)
            return down
        except SourceError:
            raise
        except asyncio.CancelledError:
            if _is_asked_to_end():
                raise
            return FeedDown("the client cancelled the connection")
        except Exception as error:  # a provider's mistake is not the job's end
            log.exception("feed %s: connect", feed)
            return FeedDown(f"{type(error).__name__}: {error}")
        self._since = self._clock.monotonic()
        self._intake.connected(feed)
        self._intake.tell(self.health.connected(self._since, self._clock.time_ns()))
        try:
            ended = await self._serve(connection)
        except SourceError as error:
            await self._gone(str(error))
            raise
        await self._gone(str(ended or "the feed is over"))
        return ended

    async def _gone(self, why: str) -> None:
        self._intake.tell(self.health.disconnected(self._clock.time_ns(), why))
        await self._intake.lost(self.health.feed)

    async def _serve(self, connection: FeedConnection) -> FeedDown | None:
        broken: asyncio.Future[FeedDown] = asyncio.get_running_loop().create_future()
        self._connection, self._broken, self._in_line = connection, broken, False
        if not self._needed.is_set():
            self.rest()
        reader = asyncio.create_task(self._read(connection))
        asker = asyncio.create_task(self._subscribe(connection))
        try:
            ends: list[asyncio.Future[Any]] = [reader, broken]
            await asyncio.wait([asker, *ends], return_when=asyncio.FIRST_COMPLETED)
            if asker.done() and not asker.cancelled() and asker.exception() is None:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not broken.done() and (asker.cancelled() or reader.cancelled()):  # by the client: nobody here did it yet
                broken.set_result(FeedDown("the client cancelled it"))
        finally:
            self._connection = None
            asker.cancel()
            try:
                await self._close(connection)
                await self._end_reading(reader)
            finally:
                reader.cancel()
                await asyncio.gather(reader, asker, return_exceptions=True)
        return broken.result() if broken.done() else self._outcome([asker, reader])

    def _outcome(self, ended: Sequence[asyncio.Task[None]]) -> FeedDown | None:
        for one in ended:
            error = None if one.cancelled() else one.exception()
            if isinstance(error, SourceError):
                raise error
            if isinstance(error, FeedDown | OSError | TimeoutError):
                return _as_down(error, "it does not answer")
            if error is not None:
                log.error("feed %s: %s: %s", self.health.feed, type(error).__name__, error, exc_info=error)
                return FeedDown(f"{type(error).__name__}: {error}")
        return None

    async def _close(self, connection: FeedConnection) -> None:
        """To its end, also where this is cancelled meanwhile."""
        closing = asyncio.create_task(self._close_in_time(connection))
        try:
            await asyncio.shield(closing)
        finally:
            await closing

    async def _close_in_time(self, connection: FeedConnection) -> None:
        try:
            async with asyncio.timeout(_CLOSING_SECONDS):
                await connection.close()
        except Exception as error:  # it is given up in any case
            log.info("feed %s: close: %s: %s", self.health.feed, type(error).__name__, error)

    async def _end_reading(self, reader: asyncio.Task[None]) -> None:
        """What was received is not thrown away: while it waits for room in the inbox, so does this."""
        while not reader.done():
            await asyncio.wait({reader}, timeout=0 if self._stopping else _CLOSING_SECONDS)
            if not reader.done() and (self._stopping or not self._delivering):
                reader.cancel()
                await asyncio.wait({reader})

    async def _read(self, connection: FeedConnection) -> None:
        async for records in connection.records():
            self._delivering = True
            try:
                await self._intake.records(self.health, self._provider.name, records)
            finally:
                self._delivering = False
            # what came while it waited is read only from here on
            self._intake.tell(self.health.heard(self._clock.monotonic(), self._clock.time_ns()))

    async def _subscribe(self, connection: FeedConnection) -> None:
        for kind in self._wanted.kinds:
            for symbols in self._calls(kind):
                await self._ask(connection, kind, symbols)
        if len(self._refused) == len(self._wanted.symbols) * len(self._wanted.kinds):
            raise SourceError(f"feed {self.health.feed}: every subscription was refused")

    def _calls(self, kind: str) -> Iterator[list[str]]:
        size = max(1, self._provider.limits.symbols_per_call)
        symbols = [symbol for symbol in self._wanted.symbols if (kind, symbol) not in self._refused]
        for begin in range(0, len(symbols), size):
            yield symbols[begin : begin + size]

    async def _ask(self, connection: FeedConnection, kind: str, symbols: list[str]) -> None:
        self._in_line = True
        await self._budget.acquire()
        self._in_line, self._asked_at = False, self._clock.monotonic()
        refused: set[str] = set()
        try:
            await connection.subscribe(kind, symbols)
        except SubscriptionRefused as error:
            refused = set(error.symbols).intersection(symbols)
            if not refused and len(symbols) > 1:
                for symbol in symbols:
                    await self._ask(connection, kind, [symbol])
                return
            for symbol in symbols if not refused else sorted(refused):
                self._refused.add((kind, symbol))
                self._intake.refused(self.health, kind, symbol, str(error))
            refused = refused or set(symbols)
        self._intake.served(self.health.feed, kind, [symbol for symbol in symbols if symbol not in refused])

    def wake(self) -> None:
        """It is needed; so it is from the beginning."""
        self._needed.set()

    def rest(self) -> None:
        """Nobody needs it: close the connection, and make none before :meth:`wake`."""
        self._needed.clear()
        if self._connection is not None and self._broken is not None and not self._broken.done():
            self._broken.set_result(_NotNeeded("not needed now"))

    def stop(self) -> None:
        """Its task is about to be cancelled: nothing is waited for any more."""
        self._stopping = True

    def look(self) -> None:
        """Time has gone on: is the feed quiet, is it broken, has it been a good one?"""
        self._show_circuit()
        if self._connection is None or self._broken is None or self._broken.done() or self._delivering:
            return
        now, read_until, wall = self._clock.monotonic(), self._time.read_until(), self._clock.time_ns()
        try:
            found = self._connection.health()
        except Exception as error:
            self._broken.set_result(_as_down(error, "it does not answer"))
            return
        if found.last_message > self.health.heard_at:
            self._intake.tell(self.health.heard(found.last_message, wall))
        self._intake.tell(self.health.look(read_until, wall))
        if not found.connected:
            self._broken.set_result(FeedDown(found.detail or "the client says that it is not connected"))
        elif self._patience.quiet and (silence := self._silence(read_until)) >= self._patience.quiet:
            self._broken.set_result(FeedDown(f"nothing for {silence:.1f} s"))
        if self._ticket is not None and now - self._since >= self._patience.stable:
            self._breaker.succeeded(self._ticket, now)
            self._ticket = None
            self._show_circuit()

    def _silence(self, now: float) -> float:
        """Seconds for which the venue owes something: not while the budget lets us ask for nothing."""
        return 0.0 if self._in_line else min(self.health.silence(now), now - self._asked_at)


def _is_asked_to_end() -> bool:
    """Whether it is this task that was cancelled, and not something that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _as_down(error: BaseException, on_timeout: str) -> FeedDown:
    if isinstance(error, FeedDown):
        return error
    return FeedDown(on_timeout if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}")
