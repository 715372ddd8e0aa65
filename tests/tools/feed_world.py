"""What happens in a world of live feeds: venues send and break, processes stand still, die and come back, and what they commit
is kept. Everything runs on one clock and one sequence of random numbers, so that a seed is one course of things."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from market_data_pipeline.dag.partition import partition_of
from market_data_pipeline.records import FeedEvent, Quote, Trade
from market_data_pipeline.sources.base import SourceContext
from market_data_pipeline.sources.provider_source import ProviderSource
from tests.tools.feed_plan import TAIL, Plan
from tests.tools.feed_venue import START, Venue, Wire

_MILLI = 1_000_000
_REST = 4.0
"""Seconds after the last record, in which all comes through."""


class Life:
    """A process of a partition, from ``position`` on: what it committed. ``handed``: how many records had been handed
    out when it began."""

    def __init__(self, position: Any, handed: int) -> None:
        self.position, self.handed = position, handed
        self.items: list[Any] = []
        self.events: list[FeedEvent] = []
        self.counts: Counter[str] = Counter()
        self.ended = False

    def count(self, name: str, n: int) -> None:
        self.counts[name] += n


class Seat:
    """A partition, and its processes one after the other. A commit comes behind some of the batches."""

    def __init__(self, plan: Plan, template: ProviderSource, partition: int, wire: Wire) -> None:
        self._plan, self._template, self._partition, self._wire = plan, template, partition, wire
        self.lives: list[Life] = []
        self._batches: list[Any] = []
        self._source: ProviderSource | None = None
        self._job: asyncio.Task[None] | None = None
        self._position: Any = {"opened": 1} if plan.begun else None

    async def begin(self) -> None:
        life = Life(self._position, len(self._wire.handed))
        self._source, self._batches = self._template.fresh(), []
        place = self._partition, self._plan.partitions, self._wire.clock
        await self._source.open(SourceContext("feed", *place, counted=life.count), self._position)
        self.lives.append(life)
        self._job = asyncio.create_task(self._work(self._source, life))

    async def _work(self, source: ProviderSource, life: Life) -> None:
        rng, fast = self._wire.rng, self._plan.job == "fast"
        while (batch := await source.read()) is not None:
            self._batches.append(batch)
            if not fast and self._wire.clock.elapsed < self._plan.seconds:
                is_pause = self._plan.job == "slow" or rng.random() < 0.97
                await self._wire.pause(*((0, 0.01, 0.1) if is_pause else (1, 5, 12)))
            if fast or rng.random() < 0.5 or self._wire.clock.elapsed >= self._plan.seconds:
                self._commit(life)
        self._commit(life)
        life.ended = True

    def _commit(self, life: Life) -> None:
        for batch in self._batches:
            life.items += batch.items
            life.events += batch.outputs.get("events", ())
            self._position = batch.position
        self._batches = []

    async def end(self, polite: bool = True) -> None:
        """Of a process that has not begun yet: nothing."""
        source, self._source = self._source, None
        if source is None or self._job is None:
            return
        self._job.cancel()
        (error,) = await asyncio.gather(self._job, return_exceptions=True)
        if polite:
            self._commit(self.lives[-1])
        await source.close()
        if error is not None and not isinstance(error, asyncio.CancelledError):
            raise error

    async def restart(self, away: float, polite: bool) -> None:
        if self._source is not None:
            await self.end(polite)
            await self._wire.clock.sleep(away)
            await self.begin()


class Happened(NamedTuple):
    """The course of a world. ``numbers``: how many records each symbol had, by kind. ``stood``: when the process stood still,
    from and until."""

    plan: Plan
    seats: list[Seat]
    wire: Wire
    numbers: dict[tuple[str, str], int]
    stood: list[tuple[float, float]]


class World:
    """A plan, played to its end by :meth:`play`."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._rng = random.Random(repr(("world", plan.seed)))
        self._wire = Wire(self._rng, plan.is_slow)
        names = ["v"] * len(plan.lags) if plan.same_venue else "vwx"
        self._venues = [
            Venue(
                self._wire, names[number], number, per_call=plan.per_call, per_connection=plan.per_connection,
                history=plan.snapshot,
            )
            for number in range(len(plan.lags))
        ]  # fmt: skip
        for refusal in plan.refusals:
            venue = self._venues[refusal.provider]
            (venue.late if refusal.late else venue.refused).add((refusal.kind, refusal.symbol))
        for venue in self._venues:
            venue.may_ask = plan.asked(venue.number)
        template = plan.source(self._venues)
        self._seats = [Seat(plan, template, partition, self._wire) for partition in range(plan.partitions)]
        self._todo: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._restarts: list[asyncio.Task[None]] = []
        self._standstills = list(plan.standstills)
        self._numbers: dict[tuple[str, str], int] = {}
        self._stood: list[tuple[float, float]] = []
        self._schedule()

    def _at(self, time: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._todo, (time, next(self._order), action))

    def _schedule(self) -> None:
        for symbol in self._plan.symbols:
            for kind in self._plan.kinds:
                self._schedule_records(kind, symbol)
        for cut in self._plan.cuts:
            self._at(cut.at, lambda cut=cut: self._cut(cut))  # type: ignore[misc]
        for restart in self._plan.restarts:
            self._at(restart.at, lambda one=restart: self._restart(one))  # type: ignore[misc]

    def _schedule_records(self, kind: str, symbol: str) -> None:
        at, end = 0.2, self._plan.seconds + TAIL
        for number in itertools.count(1):
            record = _record(kind, symbol, number, at)
            for venue, lag in zip(self._venues, self._plan.lags, strict=True):
                self._at(at + lag, lambda venue=venue, record=record: venue.send(kind, record))  # type: ignore[misc]
            self._numbers[kind, symbol] = number
            at += self._rng.expovariate(1 / self._plan.pace) + 0.0011 if at < self._plan.seconds else 1.0
            if at >= end:
                return

    def _cut(self, cut: Any) -> None:
        venue = self._venues[cut.provider]
        venue.down_until = max(venue.down_until, min(cut.at + cut.away, self._plan.seconds + 1.0))
        venue.cut(reset=cut.reset, every=cut.every)

    def _restart(self, restart: Any) -> None:
        seat = self._seats[restart.partition]
        self._restarts.append(asyncio.create_task(seat.restart(restart.away, restart.polite)))

    async def play(self) -> Happened:
        try:
            for seat in self._seats:
                await seat.begin()
            while self._wire.clock.elapsed < self._plan.seconds + TAIL + _REST:
                await self._turns(self._most())
                self._step()
            await self._turns(100_000)
            await asyncio.gather(*self._restarts)
        finally:
            for seat in self._seats:
                await seat.end()
        return Happened(self._plan, self._seats, self._wire, self._numbers, self._stood)

    def _is_busy(self) -> bool:
        """Whether somebody can run. A count of turns would be slow, or too low."""
        return bool(getattr(asyncio.get_running_loop(), "_ready"))  # noqa: B009 - the loop says it nowhere else

    def _most(self) -> int:
        """Turns until time goes on. In a slow process not all have run then."""
        return self._rng.randint(1, 6) if self._plan.is_slow and self._rng.random() < 0.3 else 100_000

    async def _turns(self, most: int) -> None:
        """Everybody runs until all wait."""
        for _ in range(most):
            await asyncio.sleep(0)
            if not self._is_busy():
                return

    def _step(self) -> None:
        """Time goes on to what happens next, or stands still for the process; then those who can go on do, in any order."""
        clock, end = self._wire.clock, self._plan.seconds + TAIL + _REST
        times = [time for time in (clock.next(), self._todo[0][0] if self._todo else None) if time is not None]
        now = max(clock.elapsed, min([*times, end]))
        if self._standstills and now >= self._standstills[0].at:
            begin, now = now, max(now, min(self._plan.seconds + 2.0, now + self._standstills.pop(0).seconds))
            self._stood.append((begin, now))
        while self._todo and self._todo[0][0] <= now:
            at, _, action = heapq.heappop(self._todo)
            clock.elapsed = max(clock.elapsed, at)
            action()
        clock.elapsed = now
        timers, polls = clock.due(), [line.polled.set for line in self._wire.came]
        self._wire.came.clear()
        for wake in (*polls, *timers) if self._rng.random() < 0.5 else (*timers, *polls):
            wake()


def _record(kind: str, symbol: str, number: int, at: float) -> Trade | Quote:
    """Its number is its price, too."""
    ts = (START + round(at * 1e9)) // _MILLI * _MILLI
    if kind == "trade":
        return Trade(symbol, ts, 0, float(number), 1.0, trade_id=number)
    return Quote(symbol, ts, 0, float(number), 1.0, number + 1.0, 1.0)


def owner(plan: Plan, symbol: str) -> int:
    """The partition that has ``symbol``."""
    return partition_of(symbol, plan.partitions) if plan.partitions > 1 else 0


def played(plan: Plan) -> Happened:
    return asyncio.run(World(plan).play())
