"""Bars by activity instead of time: a bar is full after so many trades, so much volume or so much money.

López de Prado, *Advances in Financial Machine Learning* (2018), chapter 2. Bars are cut per symbol in the order in which
trades arrive; there are no windows of event time, so nothing is late, and whoever wants another order sorts before.

======================================= ====================================================================================
trades of A (price x size)              bars of ``VolumeBars(10)``: volume (trades), open to close
======================================= ====================================================================================
1 x 6, 2 x 6; 3 x 7, 4 x 1, 5 x 1; end  carry: 12 (1, 2), 1 to 2; the 2 too much count: 8 (3, 4) fills the second, 3 to 4;
                                        at the end 1 (5), 5 to 5, ``partial``
the same                                split: 10, 1 to 2, with 4 of the second trade; 10, 2 to 4, of 2, 7 and 1; at the end 1
1 x 25; 2 x 5; end                      carry: 25 (1), whose 5 too much count: 5 (2)
the same                                split: 10, 10, 10: the last one of 5 at 1 and 5 at 2
======================================= ====================================================================================

**Overshoot.** With ``carry`` a trade belongs as a whole to the bar that it fills, and what it has too much counts towards the
next one: bars end where the total since the beginning passes a multiple of the threshold, so that they hold the threshold
on average. (If the next bar began at zero, every bar would be larger by the average overshoot.) A trade that passes several
multiples fills one bar, not several. With ``split`` a trade is divided: what is missing fills the bar, the rest opens the
next one; it is counted (``trade_count``) in every bar that it touches. A bar is full when what is missing is below 1e-12 of
the threshold, so 0.1 and 0.2 fill 0.3.

**Times.** ``ts_open`` is the smallest ``ts_event`` of the trades, ``ts_close`` the largest plus one nanosecond. Bars come out
with the trade that fills them. ``ts_event`` is ``ts_open``, or with ``label="right"`` ``ts_close``: choose this where what
follows works by event time, because a bar may have begun long before the watermark.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal, NamedTuple, get_args

import numpy as np

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import END, NO_MARK, Array, Columns, Frame
from market_data_pipeline.operators.base import Operator
from market_data_pipeline.operators.conditions import ConditionMask, Predicate
from market_data_pipeline.operators.open_bars import COUNT, PRICES, PROGRESS, SUMS, OpenBars, bar_columns
from market_data_pipeline.operators.runs import run_totals
from market_data_pipeline.operators.trades import BUY, SELL, keep, side_codes, trade_columns
from market_data_pipeline.records import MAX_TIME, MIN_TIME

Overshoot = Literal["carry", "split"]
Label = Literal["left", "right"]

_TOLERANCE = 1e-12
_MOST_BARS = 10_000
"""A single trade completes at most so many bars; a larger one is a mistake in the data or in the threshold."""


class _Batch(NamedTuple):
    """Trades sorted by symbol, within a symbol by arrival; arrays of shape (n,)."""

    arrival: Array
    code: Array
    first: Array
    """Where each symbol begins, shape (symbols,)."""
    ts: Array
    price: Array
    quoted: Array
    """The price, NaN where the trade makes none."""
    size: Array
    """0 where the trade makes no volume."""
    side: Array
    measure: Array
    """What counts towards the threshold."""


class _Full(NamedTuple):
    """Trades that fill a bar, in the order of a batch: the row; how much of the measure fills it, how many whole bars
    follow, and what is left for the next one."""

    row: Array
    fill: Array
    whole: Array
    left: Array


class _Pieces(NamedTuple):
    """Trades, or their parts: the row in the batch, the size, and whether it completes a bar."""

    row: Array
    size: Array
    closes: Array


class InformationBars(Operator):
    """What tick, volume and dollar bars have in common. Trades -> :class:`~market_data_pipeline.records.Bar` columns.

    Items need ``symbol``, ``ts_event``, ``price``, ``size``. Prices, sizes and amounts that are not finite, sizes that are
    not above zero and (``split``) trades of more than 10,000 bars go to the dead letters. Trades that correct or cancel
    others cannot be applied to bars that are out: they are counted (``unapplied``) and left out. ``updates_ohlc`` and
    ``updates_volume``: see ``conditions``; every trade that updates anything counts in ``trade_count`` and as a tick; a bar
    whose trades make no price has NaN prices. ``partial`` is true on what is left at the end of input and fills no bar
    (ordered by symbol), else false: a symbol's first bar begins with the first trade there was. State: about 100 bytes a
    symbol; a commit writes the blocks of 256 symbols that changed.
    """

    accepts: ClassVar[Literal["any"]] = "any"
    label: Label

    def _set_up(
        self,
        threshold: float,
        overshoot: Overshoot,
        label: Label,
        predicates: tuple[Predicate | None, Predicate | None],
    ) -> None:
        for name, value, allowed in (("overshoot", overshoot, Overshoot), ("label", label, Label)):
            if value not in get_args(allowed):
                raise ConfigError(f"{name}: {value!r} is not allowed; one of: {', '.join(get_args(allowed))}")
        self.label = label
        self._threshold = float(threshold)
        self._slack = self._threshold * _TOLERANCE
        self._splits = overshoot == "split"
        self._conditions = ConditionMask(*predicates)
        self._open = OpenBars()

    @abstractmethod
    def _measure(self, price: Array, size: Array) -> Array:
        """What each trade counts towards the threshold, not negative."""

    def _unit(self, price: Array) -> Array:
        """What one unit of size counts; only where trades can be split."""
        return np.ones(len(price))

    def process(self, frame: Frame) -> Iterable[Frame]:
        items = self._usable(trade_columns(frame.items, self.ctx))
        items, prices, volumes = self._conditions.select(items, self.ctx)
        if not len(items):
            return ()
        batch = self._sorted(items, prices, volumes)
        full = self._fill(batch)
        pieces = self._split(batch, full) if self._splits else _whole(batch, full)
        bars = self._cut(batch, pieces)
        return (Frame(bars),) if bars is not None else ()

    def _usable(self, items: Columns) -> Columns:
        if "action" in items.data and len(items):
            action = items.dictionary("action")
            new = np.array([name in ("new", "") for name in action.names], bool)[action.codes]
            self.ctx.count("unapplied", int(len(items) - new.sum()))
            items = items if new.all() else items.take(new)
        if not len(items):
            return items
        price, size = items.array("price"), items.array("size")
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(price) & np.isfinite(size) & np.isfinite(price * size)
        items = keep(items, finite, "price, size or their product is not a finite number", self.ctx)
        items = keep(items, items.array("size") > 0, "size is not above zero", self.ctx)
        ts = items.array("ts_event")
        items = keep(items, (ts > MIN_TIME) & (ts < MAX_TIME), "ts_event is no time", self.ctx)
        if self._splits:
            small = self._measure(items.array("price"), items.array("size")) < self._threshold * _MOST_BARS
            items = keep(items, small, f"would be split over more than {_MOST_BARS:,} bars", self.ctx)
        return items

    def _sorted(self, items: Columns, prices: Array | None, volumes: Array | None) -> _Batch:
        code = self._open.intern(items.dictionary("symbol"))
        order = np.argsort(code.astype(np.uint16) if len(self._open) <= 0xFFFF else code, kind="stable")
        code = code[order]
        price = items.array("price").astype(np.float64, copy=False)[order]
        size = items.array("size").astype(np.float64, copy=False)[order]
        quoted = price if prices is None else np.where(prices[order], price, np.nan)
        if volumes is not None:
            size = np.where(volumes[order], size, 0.0)
        return _Batch(
            arrival=order,
            code=code,
            first=np.flatnonzero(np.concatenate(([True], code[1:] != code[:-1]))),
            ts=items.array("ts_event")[order],
            price=price,
            quoted=quoted,
            size=size,
            side=side_codes(items)[order],
            measure=self._measure(price, size),
        )

    def _fill(self, batch: _Batch) -> _Full:
        """The trades that fill bars; and how far each symbol then is."""
        first, codes = batch.first, batch.code[batch.first]
        progress = self._open.floats[codes, PROGRESS]
        after = run_totals(batch.measure[:, None], first, progress[:, None])[:, 0]
        found: list[tuple[int, float, int, float]] = []
        stops = np.append(first[1:], len(batch.code))
        # Totals only grow, so that a symbol whose last one is too small fills nothing; the others go trade by trade,
        # because where one bar ends decides with what rounding the next one begins.
        for run in np.flatnonzero(after >= self._threshold - self._slack).tolist():
            measures = batch.measure[first[run] : stops[run]].tolist()
            after[run] = self._walk(measures, float(progress[run]), int(first[run]), found)
        self._open.floats[codes, PROGRESS] = after
        columns = list(zip(*found, strict=True)) or [()] * 4
        types = (np.int64, np.float64, np.int64, np.float64)
        return _Full(*(np.array(column, dtype) for column, dtype in zip(columns, types, strict=True)))

    def _walk(
        self, measures: list[float], progress: float, row: int, found: list[tuple[int, float, int, float]]
    ) -> float:
        """The progress after ``measures``, the first of which is ``row``; those that fill a bar are added to ``found``."""
        threshold, slack = self._threshold, self._slack
        enough = threshold - slack
        for at, measure in enumerate(measures, row):
            total = progress + measure
            if total < enough:
                progress = total
                continue
            fill, whole = min(threshold - progress, measure), 0
            progress = measure - fill
            if progress >= enough:
                progress, rest = math.fmod(progress, threshold), progress
                whole = round((rest - progress) / threshold)
                if progress >= enough:
                    progress, whole = 0.0, whole + 1
            if progress <= slack:
                progress = 0.0
            found.append((at, fill, whole, progress))
        return progress

    def _split(self, batch: _Batch, full: _Full) -> _Pieces:
        """Trades that fill bars, divided among them. The sizes of the parts add up to the trade's, up to rounding."""
        count = np.ones(len(batch.code), np.int64)
        count[full.row] += full.whole + (full.left > 0)
        row = np.repeat(np.arange(len(count)), count)
        size = batch.size[row]
        start = (np.cumsum(count) - count)[full.row]
        last = start + count[full.row] - 1
        closes = np.zeros(len(count), bool)
        closes[full.row] = True
        closes = closes[row]
        closes[last[full.left > 0]] = False
        divided = count[row] > 1
        size[divided] = self._threshold
        several = last > start
        size[start[several]] = full.fill[several]
        size[last[several & (full.left > 0)]] = full.left[several & (full.left > 0)]
        size[divided] /= self._unit(batch.price[row[divided]])
        return _Pieces(row, size, closes)

    def _cut(self, batch: _Batch, pieces: _Pieces) -> Columns | None:
        """Keep what the pieces add to open bars, and return the bars that they complete, in order of arrival."""
        code, row = batch.code[pieces.row], pieces.row
        begins = np.concatenate(([True], pieces.closes[:-1] | (code[1:] != code[:-1])))
        first = np.flatnonzero(begins)
        last = np.append(first[1:], len(row)) - 1
        code = code[first]
        goes_on = np.concatenate(([True], code[1:] != code[:-1]))  # the open bar of its symbol
        ts, price, size = batch.ts[row], batch.price[row], pieces.size
        side = batch.side[row]
        values = np.column_stack(
            (size, price * size, np.where(side == BUY, size, 0.0), np.where(side == SELL, size, 0.0))
        )
        ints, floats = self._open.empty(len(first))
        floats[goes_on, SUMS] = self._open.floats[code[goes_on], SUMS]
        floats[:, SUMS] = run_totals(values, first, floats[:, SUMS])
        ints[:] = np.column_stack((np.minimum.reduceat(ts, first), np.maximum.reduceat(ts, first), last - first + 1))
        floats[:, PRICES] = _prices(batch.quoted[row], first, last, batch.quoted is not batch.price)
        self._open.add_to(code, goes_on, ints, floats)
        closed = pieces.closes[last]
        self._open.keep(code, closed, ints, floats)
        if not closed.any():
            return None
        order = np.flatnonzero(closed)
        order = order[np.argsort(batch.arrival[row[last[order]]], kind="stable")]
        return bar_columns(self._open.names, code[order], ints[order], floats[order], self.label)

    def advance(self, watermark: int) -> Iterable[Frame]:
        if watermark != END:
            return ()
        code = np.flatnonzero(self._open.ints[:, COUNT] > 0)
        names = self._open.names
        code = np.array(sorted(code.tolist(), key=names.__getitem__), np.int64)
        rest = bar_columns(names, code, self._open.ints[code], self._open.floats[code], self.label, partial=True)
        self._open.clear()
        return (Frame(rest),) if len(rest) else ()

    def snapshot(self) -> dict[str, bytes | None]:
        return self._open.snapshot()

    def restore(self, state: Mapping[str, bytes], watermark: int = NO_MARK) -> None:
        self._open.restore(state)


def _whole(batch: _Batch, full: _Full) -> _Pieces:
    closes = np.zeros(len(batch.code), bool)
    closes[full.row] = True
    return _Pieces(np.arange(len(closes)), batch.size, closes)


def _prices(price: Array, first: Array, last: Array, gaps: bool) -> Array:
    """Open, high, low and close of the runs from ``first`` to ``last``, shape (r, 4); with ``gaps`` some prices are NaN."""
    if not gaps:
        high, low = np.maximum.reduceat(price, first), np.minimum.reduceat(price, first)
        return np.column_stack((price[first], high, low, price[last]))
    at = np.arange(len(price))
    given = ~np.isnan(price)
    opens = np.minimum.reduceat(np.where(given, at, last[-1]), first)
    closes = np.maximum.reduceat(np.where(given, at, 0), first)
    opens, closes = np.minimum(opens, last), np.maximum(closes, first)  # without any price: one that is NaN
    return np.column_stack(
        (price[opens], np.fmax.reduceat(price, first), np.fmin.reduceat(price, first), price[closes])
    )


class TickBars(InformationBars):
    """A bar for every ``n`` trades of a symbol. Raises ``ConfigError`` unless ``n`` is an int from 1 to 10**9.

    ``label``, ``updates_ohlc``, ``updates_volume``: see :class:`InformationBars`.
    """

    def __init__(
        self,
        n: int,
        label: Label = "left",
        updates_ohlc: Predicate | None = None,
        updates_volume: Predicate | None = None,
    ) -> None:
        if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= 10**9:
            raise ConfigError(f"n: {n!r} must be a whole number of trades, from 1 to 1,000,000,000")
        self.n = n
        self.updates_ohlc, self.updates_volume = updates_ohlc, updates_volume
        self._set_up(n, "carry", label, (updates_ohlc, updates_volume))

    def _measure(self, price: Array, size: Array) -> Array:
        return np.ones(len(size))


class VolumeBars(InformationBars):
    """A bar for every ``volume`` (in the sizes' unit) of a symbol. Raises ``ConfigError`` unless it is above zero.

    ``overshoot``: ``carry`` or ``split``, see the module; the rest: see :class:`InformationBars`.
    """

    def __init__(
        self,
        volume: float,
        overshoot: Overshoot = "carry",
        label: Label = "left",
        updates_ohlc: Predicate | None = None,
        updates_volume: Predicate | None = None,
    ) -> None:
        self.volume = _positive(volume, "volume")
        self.overshoot = overshoot
        self.updates_ohlc, self.updates_volume = updates_ohlc, updates_volume
        self._set_up(self.volume, overshoot, label, (updates_ohlc, updates_volume))

    def _measure(self, price: Array, size: Array) -> Array:
        return size


class DollarBars(InformationBars):
    """A bar for every ``notional`` (price x size, in the prices' currency) of a symbol; a negative price counts by its
    amount. Raises ``ConfigError`` unless it is above zero.

    ``overshoot``: ``carry`` or ``split``, see the module; the rest: see :class:`InformationBars`.
    """

    def __init__(
        self,
        notional: float,
        overshoot: Overshoot = "carry",
        label: Label = "left",
        updates_ohlc: Predicate | None = None,
        updates_volume: Predicate | None = None,
    ) -> None:
        self.notional = _positive(notional, "notional")
        self.overshoot = overshoot
        self.updates_ohlc, self.updates_volume = updates_ohlc, updates_volume
        self._set_up(self.notional, overshoot, label, (updates_ohlc, updates_volume))

    def _measure(self, price: Array, size: Array) -> Array:
        return np.abs(price) * size

    def _unit(self, price: Array) -> Array:
        return np.abs(price)


def _positive(value: float, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"{name}: {value!r} must be a number above zero")
    return float(value)
