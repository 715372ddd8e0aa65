"""What the feeds of a router bring, on its way into the inbox: one provider's records of each symbol."""

from __future__ import annotations

from collections import Counter
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
from market_data_pipeline.sources.watched_time import WatchedTime

_AWAY = ("disconnected", "suspended", "failed")


class Routes:
    """Who brings what (``routing``), whose records pass (``standby``), the ``time`` of both, and who is told: ``gauge`` how
    many symbols a provider has, ``decided`` after each decision. ``suffix``: what stands behind a provider's name in events."""

    def __init__(
        self,
        routing: Routing,
        standby: Standby,
        feeds: Sequence[Feed],
        time: WatchedTime,
        *,
        gauge: Callable[[GaugeName, str, float], None],
        decided: Callable[[], None],
        suffix: str,
    ) -> None:
        self.routing, self.standby, self.time, self.suffix = routing, standby, time, suffix
        self.feeds = {feed.name: feed for feed in feeds}
        self.gauge, self.decided = gauge, decided

    def show(self) -> dict[str, int]:
        """Tell the gauge how many symbols each provider has; they are returned."""
        loads = self.routing.loads()
        for provider, symbols in loads.items():
            self.gauge("route_symbols", provider, symbols)
        return loads


class RoutedIntake(Intake):
    """An :class:`Intake` of which only those records go on that ``routes`` lets pass, in the order in which that was
    decided."""

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
        self._routes, self._routing, self._standby, self._time = routes, routes.routing, routes.standby, routes.time
        self._provider_of = {feed.name: feed.provider for feed in routes.feeds.values()}
        self._now = 0.0

    async def records(self, health: FeedHealth, venue: str, records: Sequence[Any]) -> None:
        feed = health.feed
        is_live = any(getattr(record, "phase", "") == "live" for record in records)
        now = self._time.now()
        if is_live:
            self._routing.brought(feed, now)
        self._routing.delivering(feed, now)
        waits, has_to_wait = self.inbox.waits, self._order.locked()
        try:
            if self._standby.is_touched:
                await self._put(self._settle(now))
            self._now = self._time.now()
            await super().records(health, venue, records)
        finally:
            now = self._time.now()
            self._routing.delivered(feed, now, waited=has_to_wait or self.inbox.waits != waits)
            if is_live:
                self._routing.brought(feed, now)

    def _admit(self, feed: str, record: Trade | Quote | Gap, passed: list[Any]) -> None:
        if self._standby.take(self._provider_of[feed], feed, record, self._now):
            super()._admit(feed, record, passed)

    def served(self, feed: str, kind: str, symbols: Sequence[str]) -> None:
        super().served(feed, kind, symbols)
        self._routing.fit(feed, [(symbol, kind) for symbol in symbols], self._time.now())

    def refused(self, health: FeedHealth, kind: str, symbol: str, reason: str) -> None:
        super().refused(health, kind, symbol, reason)
        if self._routing.has((symbol, kind), self._provider_of[health.feed]):
            self._routing.refused(health.feed, (symbol, kind), self._time.now())

    def tell(self, events: Sequence[FeedEvent]) -> None:
        for event in events:
            if event.event in _AWAY and not event.symbol:
                self._routing.lost(event.feed, event.event, self._time.now())
        super().tell(events)

    async def lost(self, feed: str) -> None:
        gone = self._routes.feeds[feed]
        self._standby.lost(gone.provider, gone.symbols)
        passed = self._decide()
        await self._put([*passed, *self._parted(feed)])

    async def look(self) -> None:
        await self._put(self._decide())
        await super().look()

    def _decide(self) -> list[Any]:
        """What passes because of what was decided."""
        now = self._time.now()
        switches = self._routing.decide(now)
        if switches:
            self._tell_switches(switches)
        self._routes.decided()
        return self._settle(now)

    def _tell_switches(self, switches: Sequence[Switch]) -> None:
        loads, wall = self._routes.show(), self.clock.time_ns()
        symbols: dict[tuple[str, str, str], list[str]] = {}
        for symbol, old, new, why in switches:
            symbols.setdefault((old, new, why), []).append(symbol)
        ways = Counter(old for old, _, _ in symbols)
        for (old, new, why), moved in symbols.items():
            told = moved if loads[old] or ways[old] > 1 else [""]
            feed = new + self._routes.suffix
            self.tell([FeedEvent(feed, "switched", symbol, wall, f"{old} -> {new}: {why}") for symbol in told])
            self.counted(f"switched_{why}", len(told))

    def _settle(self, now: float) -> list[Any]:
        passed: list[Any] = []
        for waiting in self._standby.settle(now):
            if isinstance(waiting.record, Missed):
                self._gaps.missed(waiting.record.symbol, self.clock.monotonic())
            elif isinstance(waiting.record, Renumbered):
                self._gaps.renumbered(waiting.record.symbol)
            else:
                super()._admit(waiting.feed, waiting.record, passed)
        return passed
