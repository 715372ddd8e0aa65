"""Synthetic trades: seeded, vectorised, the same items for the same arguments wherever it resumes."""

from __future__ import annotations

from typing import Any

import numpy as np

from market_data_pipeline.clock import Clock
from market_data_pipeline.durations import Duration, parse_duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import Array, Columns, Dictionary
from market_data_pipeline.sources.base import Batch, Source, SourceContext, checked_idleness

_TABLE_BITS = 20
_WALK_BITS = 16
_WALK_MASK = (1 << _WALK_BITS) - 1
"""Prices walk a closed random path of so many steps, each symbol from another place on it, one step a batch."""
_BATCH = 32768
_PACE_SECONDS = 0.005
DEFAULT_START = 1_767_364_200_000_000_000
"""2026-01-02 14:30:00 UTC, in ns."""


class Synthetic(Source):
    """Trades of ``symbols`` symbols (``S0000``, ...) with Zipf popularity and random-walk prices in ticks of 0.01.

    ``items``: how many in all, duplicates included; ``None`` never ends. ``rate``: items per second of wall time, ``None``
    for as fast as possible. ``event_rate``: items per second of event time (default: ``rate``, or 10,000). ``duplicates``
    and ``disorder``: shares (0..1) of items that repeat an earlier one (same trade id), and that arrive up to
    ``disorder_by`` after their time. ``zipf``: exponent of the popularity, 0 for equal. ``seed``: any int. ``start``: time of
    the first item, ns. ``idle_after``, ``live``: see :class:`Source`; for ``live`` let ``start`` be about the present time.
    """

    def __init__(  # noqa: PLR0913 - every one an independent property of the data, all by keyword
        self,
        symbols: int = 1000,
        items: int | None = 1_000_000,
        *,
        rate: float | None = None,
        event_rate: float | None = None,
        duplicates: float = 0.0,
        disorder: float = 0.0,
        disorder_by: Duration = "500ms",
        zipf: float = 1.0,
        seed: int = 0,
        start: int = DEFAULT_START,
        idle_after: Duration | None = None,
        live: bool = False,
    ) -> None:
        self.symbols, self.items, self.rate, self.zipf = symbols, items, rate, zipf
        self.event_rate = event_rate
        self.duplicates, self.disorder = duplicates, disorder
        self.disorder_by = parse_duration(disorder_by, "disorder_by")
        self.seed, self.start = seed, start
        self.idle_after, self.live = checked_idleness(idle_after, live), live
        self._check_arguments()
        self.max_delay = self.disorder_by if disorder else 0
        self._step = 1e9 / (event_rate or rate or 10_000)
        self._batch = _BATCH if rate is None else max(1, min(_BATCH, int(rate * _PACE_SECONDS)))
        self._names = tuple(f"S{i:04d}" for i in range(symbols))

    def _check_arguments(self) -> None:
        for name in ("duplicates", "disorder"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"synthetic: {name}={getattr(self, name)} is not between 0 and 1")
        if self.symbols < 1:
            raise ConfigError(f"synthetic: symbols={self.symbols} must be at least 1")
        if self.items is not None and self.items < 0:
            raise ConfigError(f"synthetic: items={self.items} must not be negative")
        for name in ("rate", "event_rate"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"synthetic: {name}={value} must be greater than 0")

    async def open(self, ctx: SourceContext, position: Any | None) -> None:
        self._clock: Clock = ctx.clock
        popularity = 1.0 / np.arange(1, self.symbols + 1) ** self.zipf
        cumulative = np.cumsum(popularity / popularity.sum())
        quantiles = (np.arange(1 << _TABLE_BITS) + 0.5) / (1 << _TABLE_BITS)
        self._table = np.minimum(np.searchsorted(cumulative, quantiles), self.symbols - 1).astype(np.uint32)
        first = np.random.Generator(np.random.Philox(key=[self.seed % 2**64, 2**63]))
        self._base: Array = np.round(np.exp(first.uniform(1.0, 6.0, self.symbols)), 2)
        self._phase: Array = first.integers(0, 1 << _WALK_BITS, self.symbols)
        walk = np.cumsum(first.normal(0, 1e-4, 1 << _WALK_BITS))
        self._walk: Array = np.exp(walk - np.linspace(0.0, walk[-1], 1 << _WALK_BITS))
        self._number = 0 if position is None else position["batch"]
        self._opened_at = (self._clock.monotonic(), self._number * self._batch)

    async def read(self) -> Batch | None:
        begin = self._number * self._batch
        count = self._batch if self.items is None else min(self._batch, self.items - begin)
        if count <= 0:
            return None
        if self.rate is not None:
            since, already = self._opened_at
            due = since + (begin + count - already) / self.rate
            await self._clock.sleep(max(0.0, due - self._clock.monotonic()))
        columns = self._generate(begin, count)
        self._number += 1
        return Batch(columns, {"batch": self._number})

    def _generate(self, begin: int, count: int) -> Columns:
        rng = np.random.Generator(np.random.Philox(key=[self.seed % 2**64, self._number]))
        codes = self._table[rng.integers(0, 1 << _TABLE_BITS, count, np.uint32)]
        number = np.arange(begin, begin + count, dtype=np.int64)
        ts_event = self.start + (number * self._step).astype(np.int64)
        ticks = rng.integers(-3, 4, count, np.int8)
        data: dict[str, Any] = {
            "symbol": codes,
            "ts_event": ts_event,
            "ts_recv": ts_event + 1_000_000,
            "price": np.maximum(np.round(self._levels(codes) + ticks * 0.01, 2), 0.01),
            "size": rng.integers(1, 1000, count, np.int32) / 100.0,
            "side": rng.integers(1, 3, count, np.int8),
            "trade_id": number,
        }
        order = self._arrival(rng, ts_event, count)
        if order is not None:
            data = {name: column[order] for name, column in data.items()}
        data["symbol"] = Dictionary(data["symbol"], self._names)
        return Columns("trade", data)

    def _levels(self, codes: Array) -> Array:
        """About where each item's symbol trades in this batch: its place on the walk, which depends on nothing before."""
        if self.symbols > len(codes):
            return np.asarray(self._base[codes] * self._walk[self._phase[codes] + self._number & _WALK_MASK])
        return np.asarray((self._base * self._walk[self._phase + self._number & _WALK_MASK])[codes])

    def _arrival(self, rng: np.random.Generator, ts_event: Array, count: int) -> Array | None:
        """Which item stands where: late ones moved back, some replaced by a repetition of an earlier one."""
        if not self.disorder and not self.duplicates:
            return None
        order = np.arange(count)
        if self.disorder:
            late = rng.random(count) < self.disorder
            delay = np.where(late, rng.integers(0, self.disorder_by + 1, count), 0)
            order = np.argsort(ts_event + delay, kind="stable")
        if self.duplicates:
            repeats = rng.random(count) < self.duplicates
            original = np.maximum.accumulate(
                np.where(repeats, -1, np.arange(count))
            )  # the last one that is no repetition
            again = np.flatnonzero(repeats & (original >= 0))
            earlier = original[again - 1 - rng.integers(0, 1000, len(again)) % again]
            again, earlier = again[earlier >= 0], earlier[earlier >= 0]
            order[again] = order[earlier]
        return order
