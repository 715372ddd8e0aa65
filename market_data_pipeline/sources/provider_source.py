"""The source around market data providers: between a venue that comes and goes and a job that must not lose count."""

from __future__ import annotations

import asyncio
import copy
import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from market_data_pipeline.circuit import CircuitBreaker, CircuitRule
from market_data_pipeline.clock import Clock
from market_data_pipeline.dag.partition import partition_of
from market_data_pipeline.durations import Duration, parse_duration, wall_duration
from market_data_pipeline.errors import ConfigError, SourceError
from market_data_pipeline.given import check_given
from market_data_pipeline.records import FieldNames, Gap, fields_of
from market_data_pipeline.sources.base import Batch, Source, SourceContext, checked_idleness
from market_data_pipeline.sources.feed_gaps import FeedGaps
from market_data_pipeline.sources.feed_health import Feed, FeedHealth
from market_data_pipeline.sources.feed_link import FeedLink, Patience, Wanted
from market_data_pipeline.sources.inbox import POLICIES, Inbox, Overload
from market_data_pipeline.sources.intake import Intake
from market_data_pipeline.sources.provider import MarketDataProvider, check_provider
from market_data_pipeline.sources.reconnect import Backoff, Reconnect
from market_data_pipeline.sources.spill import SpillFile
from market_data_pipeline.sources.venue_budget import budget_name, budget_of
from market_data_pipeline.sources.watched_time import WatchedTime

EVENTS = "events"
"""The output of :class:`~market_data_pipeline.records.FeedEvent` records."""
_BATCH = 8192
_LONGEST_LOOK = 1.0
_SHORTEST_LOOK = 0.01
KINDS = ("trade", "quote")


class ProviderSource(Source):
    """``symbols`` of a live feed: ``Trade`` and ``Quote`` records (``kinds``: ``"trade"``, ``"quote"``), ``Gap`` records where
    something was missed, and :class:`FeedEvent` records on its output ``events``. Times are int nanoseconds UTC, prices and
    sizes in the venue's units.

    ``provider``: any object with the methods of :class:`MarketDataProvider`; or a sequence of them: redundant feeds of one
    venue, all of them connected, their records merged in order of arrival. ``dedupe("symbol", "trade_id")`` behind them drops
    the doubles. That one of them is away is an event and no gap as long as another one brings the symbol.
    :class:`SourceRouter` passes on one of several at a time.

    **Guarantee.** A live feed cannot be read again. From its first commit on a record is in the job exactly once. What was
    received and not yet committed when the process died, or when its task loads again (the job's server was restarted, or out
    of reach for longer than a lease), is lost, unless the venue sends it again (a snapshot) or another feed has it; with a
    dedupe nothing counts twice. After that every symbol's first live record has a gap record in front of it.

    **What is tried again.** A connection that breaks, or cannot be made within ``connect_timeout``, is made again after a
    random time (``reconnect``), never before the time a venue asks for; after too many failures it is left alone for a while
    (``circuit``). Connections and subscriptions are asked for at the pace of the provider's ``limits.per_second``, which all
    partitions, workers and jobs at one server share (see ``venue_budget.budget_name``), on several connections where one
    may not hold all symbols. A refused symbol is a dead letter and an event, and never stops the others; only when every symbol
    of every feed is refused as it is asked for, or every feed says that no try can succeed, that is a ``SourceError``.

    **Gaps.** Before the first live record after an absence, where trade ids are numbers that grow by one: exactly which are
    missing, and nothing if none is. Trades of a venue's snapshot that fill the hole have come; they are passed on as ``live``
    (counted, ``recovered``), because bars take no history. Else ``missing=0``: nobody knows. Bars around a gap are ``partial``.
    While nothing is connected, windows stay open for ``gap_after``; then, or at once where other feeds go on bringing other
    symbols, a gap of unknown size marks what may close meanwhile.

    **Overload.** Up to ``queue_items`` records wait. ``on_overload``: ``"block"`` (default) stops reading the connection when
    the queue is full; the others begin at three quarters of it: ``"conflate"`` keeps the last quote per symbol and half of
    ``max_delay``, so that nothing behind it gets late (never conflates trades; blocks when full); ``"spill"`` writes to an
    unnamed file in the folder ``spill_path``, at most ``spill_bytes``, then blocks. It ends at a quarter. Counted:
    ``conflated``, ``spilled``, ``blocked``.

    ``quiet_after``: connected, and no message for so long, is the event ``quiet``, nothing more. ``give_up_after``: a
    connection that was quiet for so long is made anew; default: never, a venue may be closed for hours. ``max_delay``
    (default 1 s): how late a record may be against the newest; ``idle_after`` (default 5 s, several times what a trade may be
    late) and ``live``: when nothing came for so long, the watermark follows the clock, so that bars close without a next
    trade.

    ``ts_recv`` grows strictly, by 1 ns where two came at once, so that trades without an id stay distinct. Bad input: what is
    no record becomes a dead letter. Partitions: where every provider is ``splittable``, each takes the symbols that hash to
    it (feeds are then called ``name@partition``), and one without symbols ends. The position says only that there was one.
    Counters: each event, ``gap``, ``missing``, ``recovered``, ``refused``, ``connect_failed``."""

    outputs = (EVENTS,)

    def __init__(  # noqa: PLR0913 - independent choices, all but the first three by keyword
        self,
        provider: MarketDataProvider | Sequence[MarketDataProvider],
        symbols: Sequence[str],
        kinds: Sequence[str] = ("trade",),
        *,
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
        self.provider = provider
        if isinstance(provider, Sequence) and not isinstance(provider, MarketDataProvider):  # a NamedTuple may be both
            self.providers = tuple(provider)
        else:
            self.providers = (provider,)
        self.labels = labels_of(self.providers)
        self.symbols, self.kinds = tuple(symbols), tuple(kinds)
        self.on_overload, self.queue_items = on_overload, queue_items
        self.spill_path, self.spill_bytes = None if spill_path is None else Path(spill_path), spill_bytes
        self.quiet_after = wall_duration(quiet_after, "quiet_after")
        self.give_up_after = None if give_up_after is None else wall_duration(give_up_after, "give_up_after")
        self.gap_after = wall_duration(gap_after, "gap_after", zero=True)
        self.connect_timeout = wall_duration(connect_timeout, "connect_timeout")
        self.reconnect, self.circuit = reconnect, circuit
        self.max_delay = None if max_delay is None else parse_duration(max_delay, "max_delay")
        self.idle_after, self.live = checked_idleness(idle_after, live), live
        self._check_arguments(symbols, kinds)
        self.splittable = all(one.splittable for one in self.providers)
        self._links: list[FeedLink] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._spill: SpillFile | None = None

    def fields_given(self, output: str = "") -> FieldNames:
        return fields_of(*(["feed"] if output == EVENTS else [*self.kinds, "gap"]))

    def _check_arguments(self, symbols: Sequence[str], kinds: Sequence[str]) -> None:
        if isinstance(symbols, str) or isinstance(kinds, str):
            raise ConfigError(
                "symbols and kinds are sequences of texts, for example symbols=['BTC/USD'], kinds=('trade',)"
            )
        check_given(self.reconnect, Reconnect, "reconnect", "Reconnect(...)")
        check_given(self.circuit, CircuitRule, "circuit", "CircuitRule(...)")
        if not self.providers or not self.symbols or not self.kinds:
            raise ConfigError("provider, symbols and kinds: at least one of each is needed")
        for name, values in (("symbols", self.symbols), ("kinds", self.kinds)):
            twice = [value for value, count in Counter(values).items() if count > 1]
            if twice:
                raise ConfigError(f"{name}: {twice[0]!r} stands there twice")
        if self.on_overload not in POLICIES:
            raise ConfigError(f"on_overload: {self.on_overload!r} is not allowed; one of: {', '.join(POLICIES)}")
        if (self.on_overload == "spill") != (self.spill_path is not None):
            raise ConfigError(
                "spill_path: the folder for what does not fit into memory, with on_overload='spill' and only then"
            )
        if self.queue_items < 4 or self.spill_bytes < 1:
            raise ConfigError(
                f"queue_items={self.queue_items}, spill_bytes={self.spill_bytes}: needed: at least 4, and 1"
            )
        for label, one in zip(self.labels, self.providers, strict=True):
            for kind in self.kinds:
                if kind not in KINDS or kind not in one.kinds:
                    has = ", ".join(sorted(one.kinds))
                    raise ConfigError(f"kinds: {kind!r} is not allowed; {one.name} has: {has}")
            if not 0 < one.limits.per_second < math.inf:
                raise ConfigError(
                    f"{one.name}: limits.per_second={one.limits.per_second} must be greater than 0 and finite"
                )
            budget_name(one)
            if mine := self._symbols_of(label, self.symbols):
                one.check(mine, self.kinds)

    def fresh(self) -> Self:
        """Shares the providers, which keep what they know of their venue between connections."""
        return copy.copy(self)

    def check(self) -> None:
        if self.spill_path is not None and not self.spill_path.is_dir():
            raise SourceError(f"spill_path: {self.spill_path} is not a folder")

    async def open(self, ctx: SourceContext, position: Any | None) -> None:
        self._clock: Clock = ctx.clock
        self._last_received = 0
        self._position = {"opened": (position or {"opened": 0})["opened"] + 1}
        own = [symbol for symbol in self.symbols if partition_of(symbol, ctx.partitions) == ctx.partition]
        if ctx.partitions == 1:
            own = list(self.symbols)
        if self.spill_path is not None:
            self._spill = SpillFile(self.spill_path, self.spill_bytes, ctx.node)
        within = None if self.max_delay is None else self.max_delay // 2
        self._inbox = Inbox(self.queue_items, self.on_overload, ctx.counted, ctx.node, self._spill, within)
        leading = "trade" if "trade" in self.kinds else "quote"
        gaps = FeedGaps(leading)
        if position is not None:
            gaps.restarted(own, ctx.clock.monotonic())
        feeds = self._feeds(own, ctx)
        self._time = WatchedTime(ctx.clock, 2 * self._look_every())
        self._intake = self._make_intake(feeds, gaps, ctx)
        self._links = self._make_links(feeds, ctx)
        self._tasks = [asyncio.create_task(self._run(self._links)), asyncio.create_task(self._look())]

    def _symbols_of(self, label: str, symbols: Sequence[str]) -> tuple[str, ...]:
        """Those of ``symbols`` that the provider ``label`` is asked for."""
        return tuple(symbols)

    def _feeds(self, symbols: Sequence[str], ctx: SourceContext) -> list[Feed]:
        """A connection for each provider and as many symbols as it takes on one."""
        feeds: list[Feed] = []
        for label, provider in zip(self.labels, self.providers, strict=True):
            mine = self._symbols_of(label, symbols)
            limit = provider.limits.symbols
            most = max(1, limit // len(self.kinds)) if limit else max(1, len(mine))
            for begin in range(0, len(mine), most):
                name = f"{label}/{begin // most + 1}" if len(mine) > most else label
                if ctx.partitions > 1:
                    name = f"{name}@{ctx.partition}"
                feeds.append(Feed(name, label, mine[begin : begin + most]))
        return feeds

    def _make_intake(self, feeds: list[Feed], gaps: FeedGaps, ctx: SourceContext) -> Intake:
        return Intake(self._inbox, gaps, ctx.clock, ctx.counted, ctx.node, self.gap_after / 1e9, ctx.trouble)

    def _make_links(self, feeds: list[Feed], ctx: SourceContext) -> list[FeedLink]:
        patience = Patience(self.connect_timeout / 1e9, self.reconnect.stable_seconds, (self.give_up_after or 0) / 1e9)
        links: list[FeedLink] = []
        for label, provider in zip(self.labels, self.providers, strict=True):
            budget = budget_of(provider, ctx)
            for feed in feeds:
                if feed.provider != label:
                    continue
                links.append(
                    FeedLink(
                        provider,
                        Wanted(feed.symbols, self.kinds),
                        intake=self._intake,
                        health=FeedHealth(feed.name, self.quiet_after / 1e9),
                        breaker=CircuitBreaker(self.circuit),
                        backoff=Backoff(self.reconnect, self.reconnect.rng(ctx.node, ctx.partition, feed.name)),
                        budget=budget,
                        patience=patience,
                        time=self._time,
                        show=partial(ctx.gauge, "circuit_state", feed.name),
                    )
                )
        return links

    async def _run(self, links: list[FeedLink]) -> None:
        """All links until they end; the inbox learns how. One that can never work does not end the others."""
        running = [asyncio.create_task(self._run_one(link)) for link in links]
        try:
            failures = [failure for failure in await asyncio.gather(*running) if failure is not None]
        except Exception as error:
            self._inbox.fail(error)
            raise
        finally:
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        if failures and len(failures) == len(links):
            self._inbox.fail(failures[0])
        else:
            self._inbox.end()

    async def _run_one(self, link: FeedLink) -> SourceError | None:
        try:
            await link.run()
        except SourceError as error:
            return error
        return None

    def _look_often(self) -> list[float]:
        """Seconds; it is looked at least as often as the least of them says."""
        seconds = [self.quiet_after / 4e9, self.gap_after / 4e9 or _LONGEST_LOOK, _LONGEST_LOOK]
        if self.idle_after is not None:
            seconds.append(self.idle_after / 3e9)
        if self.give_up_after is not None:
            seconds.append(self.give_up_after / 4e9)
        return seconds

    def _look_every(self) -> float:
        return max(_SHORTEST_LOOK, min(self._look_often()))

    async def _look(self) -> None:
        seconds = self._look_every()
        while True:
            await self._clock.sleep(seconds)
            for link in self._links:
                link.look()
            self._time.looked()
            await self._intake.look()

    async def read(self) -> Batch | None:
        try:
            taken = await self._inbox.take(_BATCH)
        except Exception:
            if (last := self._batch([])) is not None:  # what is known of why goes first
                return last
            raise
        return self._batch(taken) or Batch([], self._position) if taken is not None else self._batch([])

    def _batch(self, records: list[Any]) -> Batch | None:
        """``records`` with the events and refusals that came meanwhile; ``None`` where there is nothing at all."""
        events, rejected = self._intake.take_events(), self._intake.take_rejected()
        if self._spill is not None:
            rejected += self._spill.rejected
            self._spill.rejected = []
        if not records and not events and not rejected:
            return None
        return Batch(self._stamped(records), self._position, tuple(rejected), {EVENTS: events} if events else {})

    def _stamped(self, records: list[Any]) -> list[Any]:
        """With times of arrival that grow strictly. It is done here because conflation changes places."""
        last = self._last_received
        for at, record in enumerate(records):
            if type(record) is Gap:
                continue
            last = max(record.ts_recv, last + 1)
            if last != record.ts_recv:
                records[at] = record._replace(ts_recv=last)
        self._last_received = last
        return records

    async def close(self) -> None:
        for link in self._links:
            link.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._spill is not None:
            self._spill.close()


def labels_of(providers: Sequence[MarketDataProvider]) -> tuple[str, ...]:
    """What providers are called in events: their names; those of one name with their place among all behind it (``a``,
    ``b#2``, ``b#3``). Raises ``ConfigError`` for what is no provider."""
    for one in providers:
        check_provider(one)
    names = Counter(one.name for one in providers)
    return tuple(
        f"{one.name}#{number}" if names[one.name] > 1 else one.name for number, one in enumerate(providers, start=1)
    )
