"""Small objects as other packages have them: they share no base class with ours, nor with each other. Tests say when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, NamedTuple

from pydantic import BaseModel

from market_data_pipeline.sources.reconnect import Reconnect

BEGIN = datetime(2026, 1, 2, 14, 30, tzinfo=UTC)
BEGIN_NS = 1_767_364_200_000_000_000


class Side(Enum):
    BUY = 1
    SELL = 2


class Instrument(BaseModel):
    symbol: str
    exchange: str = "SMART"


class TheirTrade(BaseModel):
    instrument: Instrument
    ts: datetime
    price: float
    size: float
    side: Side | None = None
    trade_id: int | None = None


@dataclass(frozen=True)
class TheirBar:
    symbol: str
    timestamp: datetime
    open: float
    high: float
    low: float
    close: float
    volume: float
    resolution: str = "1m"


class TheirQuote(NamedTuple):
    symbol: str
    ts: float
    bid: str
    ask: str
    bid_size: float | None = None


def trade(number: int, symbol: str = "AAPL") -> TheirTrade:
    """The trade ``number``: ``number`` times 100 ms behind :data:`BEGIN`."""
    at = BEGIN + timedelta(milliseconds=100 * number)
    side = Side.BUY if number % 2 else Side.SELL
    return TheirTrade(
        instrument=Instrument(symbol=symbol), ts=at, price=100 + number, size=2, side=side, trade_id=number
    )


class PacingViolation(Exception):
    def __init__(self, message: str, retry_after_sec: int) -> None:
        super().__init__(message)
        self.retry_after_sec = retry_after_sec


class ProviderError(Exception):
    pass


class InvalidInstrument(ProviderError):
    pass


class PermissionsMissing(ProviderError):
    pass


class LoudPermissionsMissing(PermissionsMissing):
    pass


class Feed:
    """Streams as async generators. ``script``: per call what comes: items, and an exception that is raised; behind the last one
    it waits for ever, or ends where that is ``None``."""

    def __init__(self, *script: list[Any]) -> None:
        self.script = list(script)
        self.asked: list[list[Any]] = []
        self.open = self.closed = 0

    async def stream_trades(self, instruments: Iterable[Any]) -> AsyncIterator[Any]:
        self.asked.append(list(instruments))
        self.open += 1
        try:
            for one in self.script.pop(0) if self.script else []:
                if one is None:
                    return
                if isinstance(one, Exception):
                    raise one
                yield one
            await asyncio.Event().wait()
        finally:
            self.open -= 1

    async def close(self) -> None:
        self.closed += 1


class SlowStart:
    """The same as a coroutine that gives the stream; also quotes."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    async def stream_quotes(self, instruments: Iterable[Any]) -> Any:
        names = list(instruments)
        if "BAD" in names:
            raise InvalidInstrument("no such thing")
        return self._feed.stream_trades(names)


class Place:
    """What outlives the process: rows, in the order in which they were written."""

    def __init__(self) -> None:
        self.rows: list[Any] = []


@dataclass
class Health:
    queue_size: int
    capacity: int
    workers_alive: int


@dataclass
class Coordinator:
    """A bounded queue and one worker that takes ``batch`` items out before it writes them: what it holds then is in no queue.
    Nothing is written while ``gate`` is shut; a partial batch is written only by ``stop(drain=True)``."""

    place: Place
    capacity: int = 100
    batch: int = 7
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    starts: int = 0
    running: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self._queue: asyncio.Queue[Any] = asyncio.Queue(self.capacity)
        self._held: list[Any] = []
        self.gate.set()

    async def start(self) -> None:
        self.starts += 1
        self.running = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while True:
            self._held.append(await self._queue.get())
            if len(self._held) >= self.batch:
                await self._write()

    async def _write(self) -> None:
        await self.gate.wait()
        self.place.rows += self._held
        self._held = []

    async def stop(self, drain: bool = True) -> None:
        running, self.running = self.running, None
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        if drain:
            while not self._queue.empty():
                self._held.append(self._queue.get_nowait())
            await self._write()

    async def submit_many(self, items: list[Any]) -> None:
        for item in items:
            await self._queue.put(item)

    def health(self) -> Health:
        return Health(self._queue.qsize(), self.capacity, int(self.running is not None))


class Lines:
    """A sink that keeps what it is given until it is flushed."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.calls: list[str] = []
        self._kept: list[Any] = []
        self.away: Exception | None = None

    async def write(self, items: list[Any]) -> None:
        self.calls.append("write")
        if self.away is not None:
            raise self.away
        self._kept += items

    async def flush(self) -> None:
        self.calls.append("flush")
        self.place.rows += self._kept
        self._kept = []

    async def close(self) -> None:
        self.calls.append("close")


class Doubler:
    """A transform that drops every third item it sees."""

    def __init__(self) -> None:
        self.seen = 0

    async def process(self, item: int) -> int | None:
        self.seen += 1
        if item < 0:
            raise ValueError("negative")
        return None if self.seen % 3 == 0 else item * 2


class Numbers:
    """A source: its stream gives 0 to ``count - 1``, each as the trade of that number; ``bad`` instead of one."""

    def __init__(self, count: int = 10) -> None:
        self.count = count
        self.closed = 0

    async def stream(self) -> AsyncIterator[Any]:
        for number in range(self.count):
            yield trade(number) if number != 3 else {"symbol": "AAPL", "ts": "noon", "price": 1}

    async def close(self) -> None:
        self.closed += 1


async def made_feed() -> Feed:
    """A factory that waits, as one that connects does."""
    await asyncio.sleep(0)
    return MADE.setdefault("feed", Feed([trade(1), None], [trade(2)]))  # type: ignore[no-any-return]


def unlike() -> Any:
    """A factory of what is no sink at all; nothing says so before."""
    return object()


MADE: dict[str, Any] = {}
THE_PLACE = Place()


def lines() -> Lines:
    """A factory whose sinks all write to :data:`THE_PLACE`."""
    return Lines(THE_PLACE)


def bad_feed() -> Feed:
    """A factory that fails."""
    return Feed([Instrument.model_validate({})])


QUICK = Reconnect(first="1ms", most="5ms", stable_after="10s", seed=1)


def coordinator() -> Coordinator:
    """A factory whose coordinators all write to :data:`THE_PLACE`."""
    return Coordinator(THE_PLACE)
