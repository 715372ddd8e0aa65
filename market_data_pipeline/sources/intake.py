"""What feeds bring, on its way into the inbox: gap records in front of what came behind a hole, refusals to the dead letters,
events for people. All feeds of a source share one."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from market_data_pipeline.clock import Clock
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.records import MAX_TIME, MIN_TIME, FeedEvent, Gap, Quote, Trade
from market_data_pipeline.sources.feed_gaps import FeedGaps
from market_data_pipeline.sources.feed_health import FeedHealth
from market_data_pipeline.sources.inbox import Inbox
from market_data_pipeline.sources.provider import Refused, Unusable

log = logging.getLogger(__name__)

_MOST_EVENTS = 1000
"""Events that wait for a job that does not read on; older ones go."""
_MOST_REJECTED = 1000
"""What cannot be used and waits for the job; then nothing more is read."""
_LOUD = ("disconnected", "suspended", "failed")


class Intake:
    """Records go into the inbox in the order in which they came, also where several feeds have to wait for room there: so a gap
    stays in front of what came behind it. ``gap_after``: seconds after which symbols that nobody serves get a gap of unknown
    size, while no feed is there at all."""

    def __init__(
        self,
        inbox: Inbox,
        gaps: FeedGaps,
        clock: Clock,
        counted: Callable[[str, int], None],
        node: str,
        gap_after: float,
        trouble: Callable[[str], None],
    ) -> None:
        self.inbox, self.clock, self.counted = inbox, clock, counted
        self._gaps, self._node, self._gap_after = gaps, node, gap_after
        self._events: deque[FeedEvent] = deque(maxlen=_MOST_EVENTS)
        self._rejected: list[DeadLetter] = []
        self._taken = asyncio.Event()
        self._order = asyncio.Lock()
        self._up: set[str] = set()
        self._trouble, self._down = trouble, dict[str, str]()

    async def records(self, health: FeedHealth, venue: str, records: Sequence[Any]) -> None:
        """``records`` as a connection of ``health.feed`` handed them out."""
        self.tell(health.heard(self.clock.monotonic(), self.clock.time_ns()))
        now = self.clock.time_ns()
        passed: list[Any] = []
        for record in records:
            if isinstance(record, Trade | Quote):
                if not record.venue or not record.ts_recv:
                    record = record._replace(venue=record.venue or venue, ts_recv=record.ts_recv or now)  # noqa: PLW2901
                if wrong := _wrong(record):
                    self._reject(health.feed, record, wrong)
                    continue
                self._admit(health.feed, record, passed)
            elif isinstance(record, Gap) and type(record.missing) is int:
                self._admit(health.feed, record, passed)
            elif isinstance(record, Refused):
                self.refused(health, record.kind, record.symbol, record.reason)
            elif isinstance(record, Unusable):
                self._reject(health.feed, record.item, record.reason)
            else:
                self._reject(
                    health.feed, record, f"a feed hands out Trade, Quote, Gap and Refused, not {type(record).__name__}"
                )
        await self._put(passed)
        while len(self._rejected) >= _MOST_REJECTED:  # garbage is read no faster than it is taken either
            self._taken.clear()
            await self._taken.wait()

    def _admit(self, feed: str, record: Trade | Quote | Gap, passed: list[Any]) -> None:
        """Add to ``passed`` what goes on of a record of ``feed``: it, and the gaps in front of it."""
        if isinstance(record, Gap):
            self._count_gaps([record])
            passed.append(record)
            return
        gaps, known = self._gaps.see(record, feed)
        if gaps:
            self._count_gaps(gaps)
            passed += gaps
        if known.phase != record.phase:
            self.counted("recovered", 1)
        passed.append(known)

    async def _put(self, records: Sequence[Any]) -> None:
        if records:
            async with self._order:  # which is fair: who asked first is first
                await self.inbox.put(records)

    def _count_gaps(self, gaps: Sequence[Gap]) -> None:
        if gaps:
            self.counted("gap", len(gaps))
            self.counted("missing", sum(gap.missing for gap in gaps))

    def refused(self, health: FeedHealth, kind: str, symbol: str, reason: str) -> None:
        """Nothing will come of ``kind`` and ``symbol`` from this feed."""
        self.tell(health.refused(self.clock.time_ns(), kind, symbol, reason))
        self.counted("refused", 1)
        self._gaps.refused(health.feed, kind, symbol, self.clock.monotonic())
        self._reject(health.feed, {"kind": kind, "symbol": symbol}, f"refused: {reason}")

    def _reject(self, feed: str, item: Any, reason: str) -> None:
        self._rejected.append(DeadLetter(self._node, reason, item, where=feed))
        self.inbox.poke()

    def served(self, feed: str, kind: str, symbols: Sequence[str]) -> None:
        """``feed`` brings ``kind`` of ``symbols`` from now on."""
        if symbols:
            self._up.add(feed)
        if kind == self._gaps.kind:
            self._gaps.served(feed, symbols)

    def connected(self, feed: str) -> None:
        self._down.pop(feed, None)
        self._tell_trouble()

    def down(self, feed: str, why: str) -> None:
        """``feed`` is not connected, and is tried again."""
        self._down[feed] = why
        self._tell_trouble()

    def rests(self, feed: str) -> None:
        """``feed`` is not connected, and need not be."""
        self._down.pop(feed, None)
        self._tell_trouble()

    def _tell_trouble(self) -> None:
        self._trouble("; ".join(f"feed {feed}: {why}" for feed, why in self._down.items()))

    async def lost(self, feed: str) -> None:
        """``feed`` is away. Where another one still brings data, bars go on closing: then what is missing is told at once."""
        await self._put(self._parted(feed))

    def _parted(self, feed: str) -> list[Gap]:
        """What is told of ``feed`` being away. It waits for nothing: who comes meanwhile must find that feed away."""
        self._up.discard(feed)
        now = self.clock.monotonic()
        self._gaps.lost(feed, now)
        return self._away(now) if self._up else []

    async def look(self) -> None:
        """Time has gone on. While nothing is there at all, and for ``gap_after`` at most, the source shows that it lives, so
        that its silence is not taken for there being no trades."""
        await self._put(self._away(self.clock.monotonic() - self._gap_after))
        if self._gaps.untold and not self._up:
            self.inbox.poke()

    def _away(self, before: float) -> list[Gap]:
        gaps = self._gaps.away(before)
        self._count_gaps(gaps)
        return gaps

    def tell(self, events: Sequence[FeedEvent]) -> None:
        """Events for the output ``events``, the counters and the log."""
        for event in events:
            level = logging.WARNING if event.event in _LOUD else logging.INFO
            about = f" {event.symbol}" if event.symbol else ""
            detail = f": {event.detail}" if event.detail else ""
            log.log(level, "%s: feed %s%s: %s%s", self._node, event.feed, about, event.event, detail)
            self.counted(event.event, 1)
            self._events.append(event)
        if events:
            self.inbox.poke()

    def take_events(self) -> list[FeedEvent]:
        events = list(self._events)
        self._events.clear()
        return events

    def take_rejected(self) -> list[DeadLetter]:
        rejected, self._rejected = self._rejected, []
        self._taken.set()
        return rejected


def _wrong(record: Any) -> str:
    """Why nothing can be done with ``record``, ``""`` where it has a symbol and times."""
    if not isinstance(record.symbol, str):
        return f"symbol: {record.symbol!r:.100} is not text"
    for name, value in (("ts_event", record.ts_event), ("ts_recv", record.ts_recv)):
        if not isinstance(value, int | np.integer) or not MIN_TIME < value < MAX_TIME:
            return f"{name}: {value!r:.100} is no time in ns"
    return ""
