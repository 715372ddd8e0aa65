"""The way of a router's records into a full inbox."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from market_data_pipeline.records import Gap
from market_data_pipeline.sources.feed_gaps import FeedGaps
from market_data_pipeline.sources.feed_health import Feed, FeedHealth
from market_data_pipeline.sources.inbox import Inbox
from market_data_pipeline.sources.routed_intake import RoutedIntake, Routes
from market_data_pipeline.sources.routes import Failover, RoundRobin, RouteRule
from market_data_pipeline.sources.routing import Routing
from market_data_pipeline.sources.standby import Standby
from market_data_pipeline.sources.watched_time import WatchedTime
from tests.tools.fake_clock import FakeClock
from tests.tools.feed_reading import trade


class Ways:
    """Feeds ``a``, ``b`` ... of ``symbols``, all there, in front of an inbox for 8 records."""

    def __init__(
        self, rule: RouteRule, names: str = "ab", symbols: Sequence[str] = ("A",), most: float = 100.0
    ) -> None:
        self.clock, self.counts, self.inbox = (
            FakeClock(),
            Counter[str](),
            Inbox(8, "block", lambda name, n: None, "feed"),
        )
        feeds = [Feed(name, name, tuple(symbols)) for name in names]
        rankings = {symbol: rule.ranking(symbol, names) for symbol in symbols}
        routing = Routing(rule, rankings, feeds, self.clock.monotonic(), catch_up=1.0)
        standby = Standby(routing, "trade", dict.fromkeys(names, "x"), overlap=1.0, keep=1000.0, most=1000)
        self.time = WatchedTime(self.clock, most)
        routes = Routes(
            routing, standby, feeds, self.time, gauge=lambda name, of, value: None, decided=lambda: None,
            suffix="",
        )  # fmt: skip
        self.intake = RoutedIntake(
            routes, self.inbox, FeedGaps("trade"), self.clock, counted=self.count, node="feed", gap_after=5.0,
            trouble=lambda text: None,
        )  # fmt: skip
        self.health = {name: FeedHealth(name, 30.0) for name in names}
        for health in self.health.values():
            self.intake.tell(health.connected(self.clock.monotonic(), 1))
            self.intake.served(health.feed, "trade", symbols)
        self.clock.advance(10.0)

    def count(self, name: str, n: int) -> None:
        self.counts[name] += n

    async def bring(self, feed: str, *numbers: int) -> None:
        await self.intake.records(self.health[feed], feed, [trade(number) for number in numbers])

    async def look(self) -> None:
        self.time.looked()
        await self.intake.look()

    async def taken(self) -> list[Any]:
        async with asyncio.timeout(10):
            return [getattr(record, "trade_id", record) for record in await self.inbox.take(100) or ()]

    async def cut(self, feed: str) -> None:
        self.intake.tell(self.health[feed].disconnected(1, "cut"))
        await self.intake.lost(feed)

    def back(self, feed: str) -> None:
        self.intake.tell(self.health[feed].connected(self.clock.monotonic(), 1))
        self.intake.served(feed, "trade", ["A"])


async def test_who_waits_for_room_is_not_overtaken_by_who_stands_in() -> None:
    """Room is there, and who waited for it has not run yet."""
    ways = Ways(Failover())
    waiting = asyncio.create_task(ways.bring("a", *range(1, 13)))
    await asyncio.sleep(0)
    assert not waiting.done()
    await ways.bring("b", *range(1, 15))
    assert await ways.taken() == list(range(1, 9))
    await ways.cut("a")
    await waiting
    assert await ways.taken() == list(range(9, 15))


async def test_who_waits_for_room_is_not_quiet() -> None:
    ways = Ways(Failover(fail_after="0s", stale_after="20s"))
    waiting = asyncio.create_task(ways.bring("a", *range(1, 13)))
    await asyncio.sleep(0)
    ways.clock.advance(60.0)
    await ways.bring("b", 13)
    async with asyncio.timeout(10):  # a switch would wait for room, too
        await ways.look()
    assert ways.counts["switched"] == 0
    await ways.taken()
    await waiting
    ways.clock.advance(19.0)
    await ways.bring("b", 14)
    await ways.look()
    assert ways.counts["switched"] == 0, "it was heard when it had room"
    ways.clock.advance(1.0)
    await ways.look()
    assert ways.counts["switched_quiet"] == 1


async def test_who_goes_while_another_ones_going_waits_for_room_is_missed() -> None:
    """What stands in fills the inbox; meanwhile nobody is there."""
    ways = Ways(Failover())
    await ways.bring("a", 1)
    await ways.bring("b", *range(1, 13))
    going = asyncio.create_task(ways.cut("a"))
    await asyncio.sleep(0)
    await ways.cut("b")
    assert not going.done()
    taken = await ways.taken()
    await going
    ways.back("b")
    await ways.bring("b", 15)
    taken += await ways.taken()
    assert taken == [*range(1, 13), Gap("A", 13, 14, 2, 150), 15]


async def test_who_waits_for_room_is_not_followed_by_who_came_meanwhile() -> None:
    """It has more from before that one was there."""
    ways = Ways(Failover())
    await ways.cut("a")
    waiting = asyncio.create_task(ways.bring("b", *range(1, 13)))
    await asyncio.sleep(0)
    ways.clock.advance(30.0)
    ways.back("a")
    ways.clock.advance(30.0)
    async with asyncio.timeout(10):  # a change would wait for room, too
        await ways.bring("a", 21)
        await ways.look()
    taken = await ways.taken()
    await waiting
    taken += await ways.taken()
    await ways.bring("b", *range(13, 20))
    taken += await ways.taken()
    await ways.bring("b", 20, 21)
    ways.clock.advance(1.0)
    await ways.look()
    await ways.bring("a", 22)
    assert [*taken, *await ways.taken()] == list(range(1, 23))


async def test_what_comes_behind_a_standstill_is_read_before_a_change() -> None:
    """One that is back is heard after the overlap; a second of that passes between two looks."""
    ways = Ways(Failover(), most=0.5)
    await ways.bring("b", *range(1, 3))
    await ways.bring("a", 1)
    await ways.cut("a")
    ways.back("a")
    ways.clock.advance(20.0)
    await ways.look()
    await ways.bring("a", 5)
    await ways.bring("b", *range(3, 6))
    for _ in range(2):
        await ways.look()
    await ways.bring("a", 6)
    assert await ways.taken() == list(range(1, 7))


async def test_symbols_that_go_to_several_are_named() -> None:
    ways = Ways(RoundRobin(fail_after="0s"), "abc", list("ABCDEF"))
    await ways.cut("a")
    assert [(event.feed, event.symbol) for event in ways.intake.take_events() if event.event == "switched"] == [
        ("b", "A"), ("c", "D"),
    ]  # fmt: skip
