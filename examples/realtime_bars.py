"""Live trades in, bars in a database: provider -> dedupe -> bars -> store.

    mdp run examples/realtime_bars.py --set output=out
    mdp run examples/realtime_bars.py --set output=out --set exchange=coinbaseexchange --set symbols=BTC/USD,ETH/USD

The bars are rows of the table ``bars`` in the SQLite file ``output/bars.sqlite``, or with ``--set url=postgresql://...`` in a
PostgreSQL (extra ``postgres``). Without ``exchange`` the trades come from
``Demo``, which needs no network and ends after ``trades`` trades of each symbol; it also shows all that a provider of one's own
takes. With ``exchange`` they come from there by ccxt (extra ``ccxt``), until Ctrl-C.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from market_data_pipeline import (
    CcxtProvider,
    ConnectionHealth,
    MarketDataProvider,
    Pipeline,
    PostgresStore,
    ProviderSource,
    SqliteStore,
    Trade,
    VenueLimits,
)

STEP = 10_000_000
"""Nanoseconds between two trades of a symbol."""


@dataclass(frozen=True)
class Demo:
    """A venue where each symbol trades a hundred times a second, ``trades`` times; every tenth trade is sent twice."""

    trades: int
    name = "demo"
    kinds = frozenset({"trade"})
    splittable = True
    limits = VenueLimits(per_second=100.0)

    def check(self, symbols: Sequence[str], kinds: Sequence[str]) -> None:
        """Any symbol will do."""

    async def connect(self) -> "DemoConnection":
        return DemoConnection(self.trades)


class DemoConnection:
    def __init__(self, trades: int) -> None:
        self._trades, self._sent = trades, 0
        self._symbols: list[str] = []
        self._asked = asyncio.Event()

    async def subscribe(self, kind: str, symbols: Sequence[str]) -> None:
        self._symbols += symbols
        self._asked.set()

    async def records(self) -> AsyncIterator[list[Trade]]:
        await self._asked.wait()
        start = time.time_ns()
        while self._sent < self._trades:  # the feed is over when this returns; a FeedDown would say that it broke
            await asyncio.sleep(0.05)
            due = min((time.time_ns() - start) // STEP, self._trades)
            numbers = [n for n in range(self._sent, due) for _ in range(2 if n % 10 == 0 else 1)]
            self._sent = due
            yield [
                Trade(s, start + n * STEP, 0, 100.0 + n % 7, 0.5, trade_id=n) for n in numbers for s in self._symbols
            ]

    def health(self) -> ConnectionHealth:
        return ConnectionHealth(connected=True, last_message=time.monotonic())

    async def close(self) -> None:
        self._trades = 0


def pipeline(
    output: Path,
    exchange: str | None,
    url: str | None,
    symbols: str = "BTC/USD,ETH/USD,SOL/USD",
    interval: str = "1s",
    trades: int = 300,
) -> Pipeline:
    provider: MarketDataProvider = CcxtProvider(exchange) if exchange else Demo(trades)
    output.mkdir(parents=True, exist_ok=True)
    return (
        Pipeline("realtime-bars")
        .source(ProviderSource(provider, symbols.split(",")))
        .key_by("symbol")
        .dedupe("symbol", "trade_id", within="10m")
        .bars(interval)
        .sink(PostgresStore(url) if url else SqliteStore(output / "bars.sqlite"), name="store")
    )
