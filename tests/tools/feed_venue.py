"""A venue in memory, for worlds of live feeds: it sends when it is told to, with a lag, breaks, refuses, and sends history."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence

from market_data_pipeline.records import Quote, Trade
from market_data_pipeline.sources.provider import (
    ConnectionHealth,
    FeedDown,
    FeedRecord,
    Refused,
    SubscriptionRefused,
    VenueLimits,
)
from tests.tools.stepped_clock import SteppedClock

START = 1_000_000_000_000_000
"""Nanoseconds at the beginning of a world."""
Key = tuple[str, str]
"""A kind of records, and a symbol."""


class WorldClock(SteppedClock):
    """Time moves when a world says so; who sleeps wakes when it is told."""

    def time_ns(self) -> int:
        return START + super().time_ns()

    def next(self) -> float | None:
        """When somebody wants to wake."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    def due(self) -> list[Callable[[], None]]:
        """What wakes those who slept long enough."""
        found: list[Callable[[], None]] = []
        while (at := self.next()) is not None and at <= self.elapsed:
            woken = heapq.heappop(self._sleepers)[2]
            found.append(lambda woken=woken: None if woken.done() else woken.set_result(None))  # type: ignore[misc]
        return found


class Wire:
    """What the venues of a world share. ``came``: connections that have something to read, and nobody polled them yet."""

    def __init__(self, rng: random.Random, is_slow: bool) -> None:
        self.clock, self.rng, self.is_slow = WorldClock(), rng, is_slow
        self.came: dict[Line, None] = {}
        self.handed: list[Trade | Quote] = []
        """What connections handed out, in order."""
        self.pushed: dict[tuple[str, str], list[float]] = defaultdict(list)
        """When something came from a provider of a symbol."""
        self.told: list[str] = []
        """What was asked that must not be."""

    async def pause(self, *seconds: float) -> None:
        """One of ``seconds``; 0 for none."""
        if chosen := self.rng.choice(seconds):
            await self.clock.sleep(chosen)


class Venue:
    """A :class:`MarketDataProvider` by its shape. ``history``: how much a subscription to trades is sent first."""

    kinds = frozenset({"trade", "quote"})
    splittable = True

    def __init__(self, wire: Wire, name: str, number: int, *, per_call: int, per_connection: int, history: int) -> None:
        self.wire, self.name, self.number, self.history = wire, name, number, history
        self.limits = VenueLimits(1000.0, per_call, per_connection)
        self.lines: list[Line] = []
        self.down_until = 0.0
        self.refused: set[Key] = set()
        self.late: set[Key] = set()
        self.may_ask: set[str] = set()
        self.sent: dict[Key, list[Trade | Quote]] = defaultdict(list)

    def check(self, symbols: Sequence[str], kinds: Sequence[str]) -> None:
        pass

    async def connect(self) -> Line:
        await self.wire.pause(0, 0, 0.001, 0.02)
        if self.wire.clock.elapsed < self.down_until:
            raise FeedDown("down")
        return Line(self)

    def send(self, kind: str, record: Trade | Quote) -> None:
        self.sent[kind, record.symbol].append(record)
        for line in list(self.lines):
            if (kind, record.symbol) in line.asked:
                line.push(record)

    def cut(self, *, reset: bool, every: bool) -> None:
        for line in self.lines if every else self.lines[:1]:
            line.cut(reset)


class Line:
    """A connection. What it has is read in chunks of any size, after any number of turns."""

    def __init__(self, venue: Venue) -> None:
        self._venue, self._wire = venue, venue.wire
        self.asked: set[Key] = set()
        self._unread: list[FeedRecord] = []
        self._broken = self._closed = self._reset = False
        self._last = 0.0
        self.polled = asyncio.Event()
        venue.lines.append(self)

    async def subscribe(self, kind: str, symbols: Sequence[str]) -> None:
        if not self._venue.may_ask.issuperset(symbols):
            self._wire.told.append(f"{self._venue.name} was asked for {symbols}")
        rng, refused = self._wire.rng, [symbol for symbol in symbols if (kind, symbol) in self._venue.refused]
        taken = [symbol for symbol in symbols if symbol not in refused]
        early = rng.random() < 0.5
        self._check()
        if early:
            self._begin(kind, taken)
        await self._wire.pause(0, 0.001, 0.05, 0.2)
        self._check()
        if not early:
            self._begin(kind, taken)
        if refused:
            raise SubscriptionRefused("no", refused if rng.random() < 0.7 or len(symbols) == 1 else ())

    def _check(self) -> None:
        if self._broken:
            raise FeedDown("cut")

    def _begin(self, kind: str, symbols: Sequence[str]) -> None:
        for symbol in symbols:
            if (kind, symbol) in self.asked:
                continue
            if (kind, symbol) in self._venue.late:
                self.push(Refused(kind, symbol, "late"))
                continue
            self.asked.add((kind, symbol))
            if self._venue.history and kind == "trade":
                for record in self._venue.sent[kind, symbol][-self._venue.history :]:
                    self.push(record._replace(phase="snapshot"))

    def push(self, record: FeedRecord) -> None:
        if not self._broken and not self._closed:
            self._unread.append(record)
            self._wire.came[self] = None
            if isinstance(record, Trade | Quote):
                self._wire.pushed[self._venue.name, record.symbol].append(self._wire.clock.elapsed)

    def cut(self, reset: bool) -> None:
        self._broken, self._reset = True, reset
        if reset:
            self._unread.clear()
        self._wire.came[self] = None

    async def records(self) -> AsyncIterator[Sequence[FeedRecord]]:
        rng = self._wire.rng
        while True:
            if self._unread:
                count = rng.choice((1, 3, 1000))
                chunk, self._unread = self._unread[:count], self._unread[count:]
                self._last = self._wire.clock.monotonic()
                for _ in range(rng.choice((0, 0, 1, 4)) if self._wire.is_slow else 0):
                    await asyncio.sleep(0)
                self._wire.handed += [record for record in chunk if isinstance(record, Trade | Quote)]
                yield chunk
            elif self._broken:
                raise FeedDown("reset" if self._reset else "cut")
            elif self._closed:
                return
            else:
                self.polled.clear()
                await self.polled.wait()

    def health(self) -> ConnectionHealth:
        return ConnectionHealth(self._unread != [] or not self._broken, self._last)

    async def close(self) -> None:
        self._closed = True
        self.polled.set()
        if self in self._venue.lines:
            self._venue.lines.remove(self)
