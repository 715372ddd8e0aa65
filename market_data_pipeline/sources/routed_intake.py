"""What the feeds of a router bring, on its way into the inbox: one provider's records of each symbol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from market_data_pipeline.clock import Clock
from market_data_pipeline.gauges import GaugeName
from market_data_pipeline.records import FeedEvent, Gap, Quote, Trade
from market_data_pipeline.sources.feed_gaps import FeedGaps
from market_data_pipeline.sources.feed_health import Feed, FeedHealth
from market_data_pipeline.sources.inbox import Inbox
from market_data_pipeline.sources.intake import Intake
from market_data_pipeline.sources.routing import Routing, Switch
from market_data_pipeline.sources.standby import Missed, Renumbered, Standby

_AWAY = ("disconnected", "suspended", "failed")


class Routes:
    """Who brings what (``routing``), whose records pass (``standby``), and who is told: ``gauge`` how many symbols a provider
    has, ``decided`` after each decision. ``suffix``: what stands behind a provider's name in events."""

    def __init__(
        self,
        routing: Routing,
        standby: Standby,
        feeds: Sequence[Feed],
        *,
        gauge: Callable[[GaugeName, str, float], None],
        decided: Callable[[], None],
        suffix: str,
    ) -> None:
        self.routing, self.standby, self.suffix = routing, standby, suffix
        self.feeds = {feed.name: feed for feed in feeds}
        self.gauge, self.decided = gauge, decided

    def show(self) -> dict[str, int]:
        """Tell the gauge how many symbols each provider has; they are returned."""
        loads = self.routing.loads()
        for provider, symbols in loads.items():
            self.gauge("route_symbols", provider, symbols)
        return loads


class RoutedIntake(Intake):
    """An :class:`Intake` of which only those records go on that ``routes`` lets pass. Also when several feeds have to wait for
    room in the inbox, records go there in the order in which it was decided that they pass."""

    def __init__(
        self,
        routes: Routes,
        inbox: Inbox,
        gaps: FeedGaps,
        clock: Clock,
        *,
        counted: Callable[[str, int], None],
        node: str,
        gap_after: float,
        trouble: Callable[[str], None],
    ) -> None:
        super().__init__(inbox, gaps, clock, counted, node, gap_after, trouble)
        self._routes, self._routing, self._standby = routes, routes.routing, routes.standby
        self._provider_of = {feed.name: feed.provider for feed in routes.feeds.values()}
        self._now = 0.0
        self._order = asyncio.Lock()

    async def records(self, health: FeedHealth, venue: str, records: Sequence[Any]) -> None:
        feed = health.feed
        is_live = any(getattr(record, "phase", "") == "live" for record in records)
        if is_live:
            self._routing.brought(feed, self.clock.monotonic())
        if self._standby.is_touched:
            await self._settle()
        self._routing.delivering(feed, True)
        self._now = self.clock.monotonic()
        try:
            await super().records(health, venue, records)
        finally:
            self._routing.delivering(feed, False)
            if is_live:
                self._routing.brought(feed, self.clock.monotonic())

    def _admit(self, feed: str, record: Trade | Quote | Gap, passed: list[Any]) -> None:
        if self._standby.take(self._provider_of[feed], feed, record, self._now):
            super()._admit(feed, record, passed)

    async def _put(self, records: Sequence[Any]) -> None:
        if records:
            async with self._order:  # which is fair: who asked first is first
                await super()._put(records)

    def served(self, feed: str, kind: str, symbols: Sequence[str]) -> None:
        super().served(feed, kind, symbols)
        self._routing.fit(feed, [(symbol, kind) for symbol in symbols], self.clock.monotonic())

    def refused(self, health: FeedHealth, kind: str, symbol: str, reason: str) -> None:
        super().refused(health, kind, symbol, reason)
        if self._routing.has((symbol, kind), self._provider_of[health.feed]):
            self._routing.refused(health.feed, (symbol, kind), self.clock.monotonic())

    def tell(self, events: Sequence[FeedEvent]) -> None:
        for event in events:
            if event.event in _AWAY and not event.symbol:
                self._routing.lost(event.feed, event.event, self.clock.monotonic())
        super().tell(events)

    async def lost(self, feed: str) -> None:
        gone = self._routes.feeds[feed]
        self._standby.lost(gone.provider, gone.symbols)
        await self._decide()
        await super().lost(feed)

    async def look(self) -> None:
        await self._decide()
        await super().look()

    async def _decide(self) -> None:
        switches = self._routing.decide(self.clock.monotonic())
        if switches:
            self._tell_switches(switches)
        self._routes.decided()
        await self._settle()

    def _tell_switches(self, switches: Sequence[Switch]) -> None:
        loads, wall = self._routes.show(), self.clock.time_ns()
        symbols: dict[tuple[str, str, str], list[str]] = {}
        for symbol, old, new, why in switches:
            symbols.setdefault((old, new, why), []).append(symbol)
        for (old, new, why), moved in symbols.items():
            told = moved if loads[old] else [""]
            feed = new + self._routes.suffix
            self.tell([FeedEvent(feed, "switched", symbol, wall, f"{old} -> {new}: {why}") for symbol in told])
            self.counted(f"switched_{why}", len(told))

    async def _settle(self) -> None:
        now = self.clock.monotonic()
        passed: list[Any] = []
        for waiting in self._standby.settle(now):
            if isinstance(waiting.record, Missed):
                self._gaps.missed(waiting.record.symbol, now)
            elif isinstance(waiting.record, Renumbered):
                self._gaps.renumbered(waiting.record.symbol)
            else:
                super()._admit(waiting.feed, waiting.record, passed)
        await self._put(passed)
