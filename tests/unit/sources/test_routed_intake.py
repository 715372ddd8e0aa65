"""The way of a router's records into a full inbox."""

from __future__ import annotations

import asyncio
from collections import Counter

from market_data_pipeline.sources.feed_gaps import FeedGaps
from market_data_pipeline.sources.feed_health import Feed, FeedHealth
from market_data_pipeline.sources.inbox import Inbox
from market_data_pipeline.sources.routed_intake import RoutedIntake, Routes
from market_data_pipeline.sources.routes import Failover
from market_data_pipeline.sources.routing import Routing
from market_data_pipeline.sources.standby import Standby
from tests.tools.fake_clock import FakeClock
from tests.tools.feed_reading import trade


class Ways:
    """Feeds ``a`` and ``b`` of one symbol, both there, in front of an inbox for 8 records."""

    def __init__(self, rule: Failover) -> None:
        self.clock, self.counts, self.inbox = (
            FakeClock(),
            Counter[str](),
            Inbox(8, "block", lambda name, n: None, "feed"),
        )
        feeds = [Feed(name, name, ("A",)) for name in "ab"]
        routing = Routing(rule, {"A": rule.ranking("A", "ab")}, feeds, self.clock.monotonic())
        standby = Standby(routing, "trade", {"a": "a", "b": "b"}, overlap=1.0, keep=1000.0, most=1000)
        routes = Routes(
            routing, standby, feeds, gauge=lambda name, of, value: None, decided=lambda: None, suffix=""
        )  # fmt: skip
        self.intake = RoutedIntake(
            routes, self.inbox, FeedGaps("trade"), self.clock, counted=self.count, node="feed", gap_after=5.0,
            trouble=lambda text: None,
        )  # fmt: skip
        self.health = {name: FeedHealth(name, 30.0) for name in "ab"}
        for health in self.health.values():
            self.intake.tell(health.connected(self.clock.monotonic(), 1))
            self.intake.served(health.feed, "trade", ["A"])
        self.clock.advance(10.0)

    def count(self, name: str, n: int) -> None:
        self.counts[name] += n

    async def bring(self, feed: str, *numbers: int) -> None:
        await self.intake.records(self.health[feed], feed, [trade(number) for number in numbers])

    async def taken(self) -> list[int]:
        return [record.trade_id for record in await self.inbox.take(100) or ()]


async def test_who_waits_for_room_is_not_overtaken_by_who_stands_in() -> None:
    """Room is there, and who waited for it has not run yet."""
    ways = Ways(Failover())
    waiting = asyncio.create_task(ways.bring("a", *range(1, 13)))
    await asyncio.sleep(0)
    assert not waiting.done()
    await ways.bring("b", *range(1, 15))
    assert await ways.taken() == list(range(1, 9))
    ways.intake.tell(ways.health["a"].disconnected(1, "cut"))
    await ways.intake.lost("a")
    await waiting
    assert await ways.taken() == list(range(9, 15))


async def test_who_waits_for_room_is_not_quiet() -> None:
    ways = Ways(Failover(fail_after="0s", stale_after="20s"))
    waiting = asyncio.create_task(ways.bring("a", *range(1, 13)))
    await asyncio.sleep(0)
    ways.clock.advance(60.0)
    await ways.bring("b", 13)
    async with asyncio.timeout(10):  # a switch would wait for room, too
        await ways.intake.look()
    assert ways.counts["switched"] == 0
    await ways.taken()
    await waiting
    ways.clock.advance(19.0)
    await ways.bring("b", 14)
    await ways.intake.look()
    assert ways.counts["switched"] == 0, "it was heard when it had room"
    ways.clock.advance(1.0)
    await ways.intake.look()
    assert ways.counts["switched_quiet"] == 1
