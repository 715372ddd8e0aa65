"""An open ProviderSource or SourceRouter, and what came of it: for tests of live feeds."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from market_data_pipeline.circuit import CircuitRule
from market_data_pipeline.clock import SYSTEM_CLOCK, Clock
from market_data_pipeline.gauges import GaugeName
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.records import FeedEvent, Gap, Quote, Trade
from market_data_pipeline.sources.base import SourceContext
from market_data_pipeline.sources.provider_source import ProviderSource
from market_data_pipeline.sources.reconnect import Reconnect

QUICK = Reconnect(first="1ms", most="5ms", stable_after="10s", seed=1)
PATIENT = CircuitRule(min_calls=1000)


def trade(number: int, symbol: str = "A", ts: int | None = None) -> Trade:
    return Trade(symbol, number * 10 if ts is None else ts, 0, 1.0 + number, 1.0, trade_id=number)


def quote(number: int, symbol: str = "A") -> Quote:
    return Quote(symbol, number * 10, 0, 1.0, float(number), 2.0, 1.0)


class Reading:
    """An open source, and what came of it."""

    def __init__(self, source: ProviderSource, clock: Clock = SYSTEM_CLOCK) -> None:
        self.source, self.clock = source, clock
        self.items: list[Any] = []
        self.events: list[FeedEvent] = []
        self.letters: list[DeadLetter] = []
        self.counts: Counter[str] = Counter()
        self.routes: dict[str, float] = {}
        """Symbols by provider, as the gauge says."""
        self.position: Any = None
        self.batches = 0
        self.ended = False
        self.overloaded = asyncio.Event()

    def counted(self, name: str, n: int) -> None:
        self.counts[name] += n
        if name in {"blocked", "spilled"}:
            self.overloaded.set()

    def gauge(self, name: GaugeName, of: str, value: float) -> None:
        if name == "route_symbols":
            self.routes[of] = value

    @property
    def records(self) -> list[Any]:
        """Without what differs from run to run."""
        return [item if isinstance(item, Gap) else item._replace(ts_recv=0, venue="") for item in self.items]

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not done() and not self.ended:
                batch = await self.source.read()
                self.batches += 1
                if batch is None:
                    self.ended = True
                    return
                self.items += batch.items
                self.events += batch.outputs.get("events", ())
                self.letters += batch.rejected
                self.position = batch.position

    async def got(self, count: int) -> None:
        await self.until(lambda: len(self.items) >= count)

    async def event(self, name: str, times: int = 1) -> None:
        await self.until(lambda: sum(event.event == name for event in self.events) >= times)

    def named(self) -> list[tuple[str, str]]:
        return [(event.feed, event.event) for event in self.events]


@asynccontextmanager
async def reading(
    provider: Any, symbols: Sequence[str] = ("A",), kinds: Sequence[str] = ("trade",), **options: Any
) -> AsyncIterator[Reading]:
    place = {name: options.pop(name) for name in ("partition", "partitions") if name in options}
    position = options.pop("position", None)
    template = ProviderSource(provider, symbols, kinds, **{"reconnect": QUICK, "circuit": PATIENT, **options})
    async with reading_of(template, position, **place) as read:
        yield read


@asynccontextmanager
async def reading_of(
    template: ProviderSource,
    position: Any = None,
    partition: int = 0,
    partitions: int = 1,
    clock: Clock = SYSTEM_CLOCK,
    reading: Callable[[ProviderSource, Clock], Any] = Reading,
) -> AsyncIterator[Any]:
    template.check()
    read = reading(template.fresh(), clock)
    context = SourceContext("feed", partition, partitions, counted=read.counted, gauge=read.gauge, clock=clock)
    await read.source.open(context, position)
    try:
        yield read
    finally:
        await read.source.close()
