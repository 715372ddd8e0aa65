"""The source around several providers for the same symbols, one of which brings each symbol at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from market_data_pipeline.circuit import CircuitRule
from market_data_pipeline.durations import Duration, wall_duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.sources.base import SourceContext
from market_data_pipeline.sources.feed_gaps import FeedGaps
from market_data_pipeline.sources.feed_health import Feed
from market_data_pipeline.sources.feed_link import FeedLink
from market_data_pipeline.sources.inbox import Overload
from market_data_pipeline.sources.intake import Intake
from market_data_pipeline.sources.provider import MarketDataProvider
from market_data_pipeline.sources.provider_source import ProviderSource, labels_of
from market_data_pipeline.sources.reconnect import Reconnect
from market_data_pipeline.sources.routed_intake import RoutedIntake, Routes
from market_data_pipeline.sources.routes import Failover, Route, RouteRule
from market_data_pipeline.sources.routing import Routing
from market_data_pipeline.sources.standby import Standby


class SourceRouter(ProviderSource):
    """``symbols`` of several live feeds, each symbol from one of them at a time: ``Trade``, ``Quote`` and ``Gap`` records, and
    :class:`FeedEvent` records on the output ``events``. Units, guarantee (from its first commit on a record is in the job
    exactly once), what is tried again, overload, bad input and partitions are as :class:`ProviderSource` has them; so are all
    arguments that do not stand here.

    ``providers``: any objects with the methods of :class:`MarketDataProvider`. Rules call them by their names; those of one
    name with their place among all behind it (``a``, ``b#2``, ``b#3``). ``route``: which of them brings a symbol, and how soon
    that changes: :class:`Failover` (default), :class:`Priority`, :class:`RoundRobin`, :class:`BySymbol`.

    **Subscriptions.** All that may bring a symbol are connected and subscribed all the time, so a change subscribes nothing
    anew (``standby="cold"`` of a rule: backups only when they are needed). Nothing is unsubscribed before the other one serves
    the symbol.

    **A change** is a :class:`FeedEvent` ``switched``: ``feed`` is the new provider, ``symbol`` is ``""`` where all symbols of
    the old one moved, else the symbol; ``detail`` is ``"binance -> coinbase: disconnected"``. Reasons: ``disconnected``,
    ``suspended``, ``failed``, ``refused``, ``quiet``, ``starting`` (not there in time at the beginning), ``recovered`` (back to
    a better one), ``even`` (back into balance). Counters: ``switched``, and ``switched_<reason>``. Gauge ``route_symbols``: the
    symbols of each provider.

    **Kinds.** What a provider refuses of one kind of a symbol comes from the best other one that serves it; the rest stays
    where it is. Events, counters and the gauge speak of trades (of quotes where there are no trades): a symbol is with who
    brings those. That quotes alone are refused is the event ``failed``.

    **Nothing is lost that one of them had.** What the others bring waits for ``overlap`` (default 2 s), at most
    ``overlap_items`` records per symbol, kind and provider (default 4096). When a provider is away, another one that is fit
    stands in at once, from behind the last record that was passed on; whose symbol it is changes only after ``fail_after``.
    When it is back, the other one goes on for ``overlap`` and then hands over. So at most that lag between two feeds is made up
    for. Gap records say what nobody had, or what had waited too long. What comes twice is left to ``dedupe``: name what is to
    be compared where providers differ in ``venue``.

    What one had that has just broken off goes in front, where the one that stands in was not there for ``overlap``. When none
    is fit, one that is only quiet stands in, and symbols stay where they are, as with one provider. After a restart each begins
    with the first provider of its rule. ``overlap``: at least 0. Raises ``ConfigError``."""

    def __init__(  # noqa: PLR0913 - independent choices, all but the first three by keyword
        self,
        providers: Sequence[MarketDataProvider],
        symbols: Sequence[str],
        kinds: Sequence[str] = ("trade",),
        *,
        route: Route = Failover(),  # noqa: B008 - frozen
        overlap: Duration = "2s",
        overlap_items: int = 4096,
        on_overload: Overload = "block",
        queue_items: int = 65536,
        spill_path: Path | str | None = None,
        spill_bytes: int = 1 << 30,
        quiet_after: Duration = "30s",
        give_up_after: Duration | None = None,
        gap_after: Duration = "5s",
        connect_timeout: Duration = "10s",
        reconnect: Reconnect = Reconnect(),  # noqa: B008 - frozen
        circuit: CircuitRule = CircuitRule(),  # noqa: B008 - frozen
        max_delay: Duration | None = "1s",
        idle_after: Duration | None = "5s",
        live: bool = True,
    ) -> None:
        self.overlap = _checked(providers, route, overlap, overlap_items)
        self.route, self.overlap_items = route, overlap_items
        names = labels_of(providers)
        self._rankings = {symbol: route.ranking(symbol, names) for symbol in symbols} if names else {}
        super().__init__(
            providers, symbols, kinds, on_overload=on_overload, queue_items=queue_items, spill_path=spill_path,
            spill_bytes=spill_bytes, quiet_after=quiet_after, give_up_after=give_up_after, gap_after=gap_after,
            connect_timeout=connect_timeout, reconnect=reconnect, circuit=circuit, max_delay=max_delay, idle_after=idle_after,
            live=live,
        )  # fmt: skip

    fields_given = ProviderSource.fields_given

    def _symbols_of(self, label: str, symbols: Sequence[str]) -> tuple[str, ...]:
        return tuple(symbol for symbol in symbols if any(label in level for level in self._rankings[symbol]))

    def _make_intake(self, feeds: list[Feed], gaps: FeedGaps, ctx: SourceContext) -> Intake:
        own = dict.fromkeys(symbol for feed in feeds for symbol in feed.symbols)
        rankings = {symbol: self._rankings[symbol] for symbol in self.symbols if symbol in own}
        kinds = sorted(self.kinds, key=lambda kind: kind != gaps.kind)
        self._routing = Routing(
            self.route, rankings, feeds, ctx.clock.monotonic(), offset=ctx.partition, kinds=kinds,
            catch_up=self.overlap / 1e9,
        )  # fmt: skip
        keep = self.overlap + max((self.give_up_after or 0), round(self.route.times[2] * 1e9))
        self._standby = Standby(
            self._routing,
            gaps.kind,
            {label: provider.name for label, provider in zip(self.labels, self.providers, strict=True)},
            overlap=self.overlap / 1e9,
            keep=keep / 1e9,
            most=self.overlap_items,
        )
        suffix = f"@{ctx.partition}" if ctx.partitions > 1 else ""
        routes = Routes(
            self._routing, self._standby, feeds, self._time, gauge=ctx.gauge, decided=self._let_rest, suffix=suffix
        )  # fmt: skip
        routes.show()
        return RoutedIntake(
            routes,
            self._inbox,
            gaps,
            ctx.clock,
            counted=ctx.counted,
            node=ctx.node,
            gap_after=self.gap_after / 1e9,
            trouble=ctx.trouble,
        )

    def _make_links(self, feeds: list[Feed], ctx: SourceContext) -> list[FeedLink]:
        links = super()._make_links(feeds, ctx)
        self._feed_links = list(zip(feeds, links, strict=True))
        self._let_rest(at_once=True)
        return links

    def _let_rest(self, at_once: bool = False) -> None:
        """Where backups are cold: let those rest that nobody needs, but not for a provider that comes and goes: a connection
        would be made each time."""
        if not self.route.is_cold:
            return
        now = self._time.now()
        for feed, link in self._feed_links:
            if self._routing.is_needed(feed, now) or self._standby.speaks(feed):
                link.wake()
            elif at_once or self._routing.is_settled(feed, now):
                link.rest()

    def _look_often(self) -> list[float]:
        seconds = [time / 4 for time in (*self.route.times, self.overlap / 1e9) if time > 0]
        return [*super()._look_often(), *seconds]


def _checked(providers: object, route: object, overlap: Duration, overlap_items: int) -> int:
    """``overlap`` in nanoseconds, if these arguments can be used."""
    if not isinstance(providers, Sequence):
        raise ConfigError("providers: a sequence of them, for example [primary, backup]")
    if not isinstance(route, RouteRule):
        raise ConfigError(f"route: {route!r:.100} is no rule; one of: Failover, Priority, RoundRobin, BySymbol")
    nanos = wall_duration(overlap, "overlap", zero=True)
    if nanos < 0 or overlap_items < 1:
        raise ConfigError(f"overlap={overlap!r}, overlap_items={overlap_items}: needed: at least 0, and 1")
    return nanos
