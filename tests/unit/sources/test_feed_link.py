"""When a connection is quiet, or given up, where it was not read on for a while."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from market_data_pipeline.budget import BudgetRule, MemoryBudgets
from market_data_pipeline.circuit import CircuitBreaker, CircuitRule
from market_data_pipeline.records import Trade
from market_data_pipeline.sources.feed_gaps import FeedGaps
from market_data_pipeline.sources.feed_health import FeedHealth
from market_data_pipeline.sources.feed_link import FeedLink, Patience, Wanted
from market_data_pipeline.sources.inbox import Inbox
from market_data_pipeline.sources.intake import Intake
from market_data_pipeline.sources.provider import ConnectionHealth, VenueLimits
from market_data_pipeline.sources.reconnect import Backoff, Reconnect
from market_data_pipeline.sources.watched_time import WatchedTime
from tests.tools.fake_clock import FakeClock
from tests.tools.feed_reading import trade

_TURNS = 100


async def _turns(done: Callable[[], bool]) -> None:
    """Let everybody run until ``done()``."""
    for _ in range(_TURNS):
        if done():
            return
        await asyncio.sleep(0)
    assert done()


class Venue:
    """A provider whose connection is read on only while ``flows`` is set. ``last_message``: as the client has it."""

    name, splittable, limits, kinds = "x", True, VenueLimits(1000.0), frozenset({"trade"})

    def __init__(self) -> None:
        self.made, self.closed, self.asked = 0, False, False
        self.sent: list[Trade] = []
        self.flows = asyncio.Event()
        self.last_message = 0.0

    def check(self, symbols: Sequence[str], kinds: Sequence[str]) -> None:
        pass

    async def connect(self) -> Venue:
        self.made, self.closed = self.made + 1, False
        return self

    async def subscribe(self, kind: str, symbols: Sequence[str]) -> None:
        self.asked = True

    async def records(self) -> AsyncIterator[list[Trade]]:
        while True:
            await self.flows.wait()
            if self.closed:
                return
            if self.sent:
                yield [self.sent.pop(0)]
            else:
                self.flows.clear()

    def health(self) -> ConnectionHealth:
        return ConnectionHealth(True, self.last_message)

    async def close(self) -> None:
        self.closed = True
        self.flows.set()


class Watched:
    """A link that is quiet after 30 s and given up after 40 s, looked at every second, in front of an inbox for 4 records."""

    def __init__(self) -> None:
        self.clock, self.venue, self.events = FakeClock(), Venue(), Counter[str]()
        self.inbox = Inbox(4, "block", lambda name, n: None, "feed")
        self.time = WatchedTime(self.clock, 2.0)
        intake = Intake(self.inbox, FeedGaps("trade"), self.clock, self._count, "feed", 5.0, lambda text: None)
        rule = Reconnect(seed=1)
        self.link = FeedLink(
            self.venue, Wanted(("A",), ("trade",)), intake=intake, health=FeedHealth("x", 30.0),
            breaker=CircuitBreaker(CircuitRule(min_calls=1000)), backoff=Backoff(rule, rule.rng()),
            budget=MemoryBudgets(self.clock).of("x", BudgetRule(1000.0)), patience=Patience(10.0, 30.0, 40.0),
            time=self.time, show=lambda level: None,
        )  # fmt: skip

    def told(self, event: str) -> int:
        return self.events[event]

    def _count(self, name: str, n: int) -> None:
        self.events[name] += n

    async def __aenter__(self) -> Watched:
        self._task = asyncio.create_task(self.link.run())
        await _turns(lambda: self.venue.asked)
        await self.brings(1)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.link.stop()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def brings(self, *numbers: int) -> None:
        self.venue.sent += [trade(number) for number in numbers]
        self.venue.flows.set()
        await _turns(lambda: not self.venue.sent or self.inbox.waits > 0)

    async def passes(self, seconds: float) -> None:
        """In time: everybody runs, and looks."""
        for _ in range(round(seconds)):
            self.clock.advance(1.0)
            self.looks()
            await asyncio.sleep(0)

    def looks(self) -> None:
        self.link.look()
        self.time.looked()


@pytest.mark.parametrize("seconds", [1.5, 300.0])
async def test_a_standstill_is_not_held_against_a_feed(seconds: float) -> None:
    async with Watched() as watched:
        await watched.passes(29)
        watched.clock.advance(seconds)
        watched.looks()
        assert not watched.told("quiet"), "what came in the meantime is not read yet"
        await watched.brings(2)
        await watched.passes(29)
        assert not watched.told("quiet")
        await watched.passes(2)
        assert watched.told("quiet") == 1
        watched.clock.advance(300.0)
        watched.looks()
        await watched.brings(3)
        assert watched.told("resumed") == 1
        assert (watched.told("disconnected"), watched.venue.made) == (0, 1)


async def test_a_feed_that_brought_nothing_in_a_standstill_was_quiet() -> None:
    async with Watched() as watched:
        watched.clock.advance(300.0)
        watched.looks()
        await watched.passes(1)
        assert watched.told("quiet") == 1
        await _turns(lambda: watched.told("disconnected") == 1)


async def test_a_heartbeat_that_came_in_a_standstill_counts() -> None:
    async with Watched() as watched:
        watched.clock.advance(300.0)
        watched.looks()
        watched.venue.last_message = watched.clock.monotonic()
        await watched.passes(29)
        assert not watched.told("quiet")


async def test_who_was_not_read_on_is_not_quiet_when_it_is_again() -> None:
    """Nothing stood still but the reader, which waited for room; what came meanwhile is there to be read."""
    async with Watched() as watched:
        await watched.brings(*range(2, 7))
        assert watched.inbox.waits == 1
        await watched.passes(300)
        watched.venue.flows.clear()  # the socket is not polled yet
        assert await watched.inbox.take(10)
        await _turns(lambda: len(watched.inbox) > 0)
        await asyncio.sleep(0)
        watched.looks()
        await watched.passes(1)
        assert (watched.told("quiet"), watched.told("disconnected")) == (0, 0)
        await watched.passes(30)
        assert watched.told("quiet") == 1
