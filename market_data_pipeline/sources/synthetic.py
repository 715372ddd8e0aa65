"""Synthetic trades and quotes: seeded, vectorised, the same items for the same arguments wherever it resumes.

============================================== =====================================================================
``Synthetic(symbols=3, items=4)``              trades 0 to 3 of ``S0000`` (the most popular) to ``S0002``, 0.1 ms apart
``kinds=("quote",)``                           a quote around each of these trades instead, half a step before it
``kinds=("trade", "quote")``                   the trades, and the quotes to the further output ``quotes``
``event_rate=1, sessions=["09:30-16:00"]``     one a second from 09:30:00 to 15:59:59 UTC, every day
``sessions="XHKG"``                            the hours of the exchange, without holidays and lunch (extra ``calendars``)
``bursts=Bursts("1m", "2s", 10)``              in each open minute 2 s with ten times as many, somewhere
``gaps=0.01``                                  1 % of the trade ids never come, in runs of 1 to 19
``gaps=0.01, gap_records=True``                the same, and a ``Gap`` for each symbol that lost some, in line
``duplicates=0.01``, ``disorder=0.05``         1 % are repetitions of earlier ones; 5 % come late
============================================== =====================================================================
"""

from __future__ import annotations

from typing import Any

import numpy as np

from market_data_pipeline.clock import Clock
from market_data_pipeline.durations import Duration, parse_duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import Array, Columns, Dictionary, Items
from market_data_pipeline.records import FieldNames, fields_of
from market_data_pipeline.sources.base import Batch, Source, SourceContext, checked_idleness
from market_data_pipeline.sources.synthetic_feed import MOST_MISSING, MissingRuns, quotes_around, with_gaps
from market_data_pipeline.sources.synthetic_time import Bursts, Sessions, Timeline

_TABLE_BITS = 20
_WALK_BITS = 16
_WALK_MASK = (1 << _WALK_BITS) - 1
"""Prices walk a closed random path of so many steps, each symbol from another place on it, one step a batch."""
_BATCH = 32768
_PACE_SECONDS = 0.005
_QUOTES = 1 << 128
"""Where in its stream of random numbers the quotes of a batch begin."""
DEFAULT_START = 1_767_364_200_000_000_000
"""2026-01-02 14:30:00 UTC, in ns."""


class Synthetic(Source):
    """Trades of ``symbols`` symbols (``S0000``, ...) with Zipf popularity and random-walk prices in ticks of 0.01.

    ``items``: how many in all, duplicates included; ``None`` never ends. ``rate``: items per second of wall time, ``None``
    for as fast as possible. ``event_rate``: items per second of event time (default: ``rate``, or 10,000). ``duplicates``
    and ``disorder``: shares (0..1) of items that repeat an earlier one (same trade id), and that arrive up to
    ``disorder_by`` after their time. ``zipf``: exponent of the popularity, 0 for equal. ``seed``: any int. ``start``: time of
    the first item, ns. ``idle_after``, ``live``: see :class:`Source`; for ``live`` let ``start`` be about the present time.

    ``kinds``: ``trade``, ``quote``, or both: the first of them comes out, the other goes to a further output, ``quotes`` or
    ``trades``; each in order of time, a quote before its trade, as many of each. ``sessions``: when there are items at all:
    spans of each day in UTC, ``"HH:MM-HH:MM"`` or with seconds, or the name of an exchange's calendar; the
    first item comes when it is first open from ``start`` on, and closed times take no wall time. ``bursts``: a
    :class:`Bursts`, which make items denser in event time, and with a ``rate`` in wall time. ``gaps``: share (0 to 0.15) of
    ``items`` that never come, in runs; ``gap_records``: whether :class:`Gap` records tell of them, in line, each before the
    first item behind its run. Exactly once: every batch follows from its number alone.
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
        kinds: tuple[str, ...] = ("trade",),
        sessions: Sessions = None,
        bursts: Bursts | None = None,
        gaps: float = 0.0,
        gap_records: bool = False,
    ) -> None:
        self.symbols, self.items, self.rate, self.zipf = symbols, items, rate, zipf
        self.event_rate = event_rate
        self.duplicates, self.disorder = duplicates, disorder
        self.disorder_by = parse_duration(disorder_by, "disorder_by")
        self.seed, self.start = seed, start
        self.idle_after, self.live = checked_idleness(idle_after, live), live
        self.kinds, self.sessions, self.bursts = kinds, sessions, bursts
        self.gaps, self.gap_records = gaps, gap_records
        self._check_arguments()
        self.max_delay = self.disorder_by if disorder else 0
        self._step = 1e9 / (event_rate or rate or 10_000)
        self._batch = _BATCH if rate is None else max(1, min(_BATCH, int(rate * _PACE_SECONDS)))
        self._names = tuple(f"S{i:04d}" for i in range(symbols))
        self._timeline = Timeline(start, self._step, bursts, sessions, seed)
        self._missing = MissingRuns(gaps, seed) if gaps else None
        self.outputs = tuple(f"{kind}s" for kind in kinds[1:])

    def fields_given(self, output: str = "") -> FieldNames:
        return fields_of(
            output.removesuffix("s") or self.kinds[0], *(["gap"] if self.gap_records and not output else [])
        )

    def _check_arguments(self) -> None:
        for name in ("duplicates", "disorder"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"synthetic: {name}={getattr(self, name)} is not between 0 and 1")
        if not 0 <= self.gaps <= MOST_MISSING:
            raise ConfigError(f"synthetic: gaps={self.gaps} is not between 0 and {MOST_MISSING}")
        if self.gap_records and not self.gaps:
            raise ConfigError("synthetic: gap_records=True needs gaps above 0")
        if not isinstance(self.kinds, tuple) or sorted(self.kinds) not in (["quote"], ["quote", "trade"], ["trade"]):
            raise ConfigError(f"synthetic: kinds={self.kinds!r} is not allowed; ('trade',), ('quote',) or both")
        if self.bursts is not None and not isinstance(self.bursts, Bursts):
            raise ConfigError(
                f"synthetic: bursts={self.bursts!r} is not allowed; write for example Bursts('1m', '2s', 10)"
            )
        if not 1 <= self.symbols <= 1 << _TABLE_BITS:  # of more some would never come
            raise ConfigError(f"synthetic: symbols={self.symbols} must be from 1 to {1 << _TABLE_BITS}")
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
        first = self._rng(2**63)
        self._base: Array = np.round(np.exp(first.uniform(1.0, 6.0, self.symbols)), 2)
        self._phase: Array = first.integers(0, 1 << _WALK_BITS, self.symbols)
        walk = np.cumsum(first.normal(0, 1e-4, 1 << _WALK_BITS))
        self._walk: Array = np.exp(walk - np.linspace(0.0, walk[-1], 1 << _WALK_BITS))
        self._number = 0 if position is None else position["batch"]
        self._opened_at = (self._clock.monotonic(), self._number * self._batch)

    async def read(self) -> Batch | None:
        begin, count = self._number * self._batch, self._size(self._number)
        if count <= 0:
            return None
        if self.rate is not None:
            since, already = self._opened_at
            due = since + self._paced(already, begin + count)
            await self._clock.sleep(max(0.0, due - self._clock.monotonic()))
        items, others = self._generate(begin, count)
        self._number += 1
        return Batch(items, {"batch": self._number}, outputs=others)

    def _size(self, batch: int) -> int:
        """How many numbers the batch ``batch`` has; 0 or less behind the end."""
        return self._batch if self.items is None else min(self._batch, self.items - batch * self._batch)

    def _paced(self, already: int, until: int) -> float:
        """Seconds of wall time that the items from number ``already`` to ``until`` take."""
        assert self.rate is not None
        if self.bursts is None:
            return (until - already) / self.rate
        since, end = self._timeline.elapsed(np.array([already, until])).tolist()
        return float(end - since) / (self.rate * self._step)

    def _generate(self, begin: int, count: int) -> tuple[Items, dict[str, Items]]:
        """The items of a batch, and those for the further output."""
        rng = self._rng(self._number)
        codes = self._codes(rng, count)
        number = np.arange(begin, begin + count, dtype=np.int64)
        ts_event = self._timeline.times(number)
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
        if self._missing is not None:
            order = np.arange(count) if order is None else order
            order = order[self._missing.present(number[order])]
        made = {kind: self._columns(kind, data, order) for kind in self.kinds}
        items: Items = made[self.kinds[0]]
        if self._missing is not None and self.gap_records and (runs := self._missing.ending(begin, begin + count)):
            items = with_gaps(made[self.kinds[0]], number if order is None else number[order], runs, self._lost)
        return items, {f"{kind}s": made[kind] for kind in self.kinds[1:]}

    def _rng(self, number: int, counter: int = 0) -> np.random.Generator:
        key = np.array([self.seed % 2**64, number], np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=counter))

    def _codes(self, rng: np.random.Generator, count: int) -> Array:
        """The symbols of a batch, which are drawn first."""
        return np.asarray(self._table[rng.integers(0, 1 << _TABLE_BITS, count, np.uint32)])

    def _columns(self, kind: str, data: dict[str, Any], order: Array | None) -> Columns:
        if kind == "quote":
            before = self._timeline.times(np.maximum(data["trade_id"] - 0.5, 0.0))
            data = quotes_around(data, before, self._rng(self._number, _QUOTES))
        if order is not None:
            data = {name: column[order] for name, column in data.items()}
        return Columns(kind, {**data, "symbol": Dictionary(data["symbol"], self._names)})

    def _lost(self, first: int, last: int) -> list[str]:
        """The symbols of the numbers from ``first`` to ``last``, which may be of batches before this one."""
        found: list[int] = []
        for batch in range(first // self._batch, last // self._batch + 1):
            codes = self._codes(self._rng(batch), self._size(batch))
            begin = batch * self._batch
            found += codes[max(first - begin, 0) : last + 1 - begin].tolist()
        return [self._names[code] for code in found]

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
