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
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, get_args

import numpy as np

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import END, NO_MARK, Array, Columns, Frame
from market_data_pipeline.operators.base import Operator
from market_data_pipeline.operators.conditions import ConditionMask, Predicate
from market_data_pipeline.operators.open_bars import COUNT, FIRST, LAST, PRICES, PROGRESS, SUMS, OpenBars, bar_columns
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


class _Full(NamedTuple):
    """Trades that fill a bar, in the order of a batch: the row, how much of its amount fills the bar, how many whole bars
    follow, and what is left for the next one."""

    row: Array
    fill: Array
    whole: Array
    left: Array


class _Pieces(NamedTuple):
    """Trades, or their parts: the row in the batch, whether it completes a bar, the size."""

    row: Array | slice
    closes: Array
    size: Array


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

    def _set_up(self, label: Label, updates_ohlc: Predicate | None, updates_volume: Predicate | None) -> None:
        self.label = _one_of(label, Label, "label")
        self.updates_ohlc, self.updates_volume = updates_ohlc, updates_volume
        self._conditions = ConditionMask(updates_ohlc, updates_volume)
        self._open = OpenBars()

    @abstractmethod
    def _pieces(self, batch: _Batch) -> _Pieces:
        """The trades, or their parts, and which complete a bar. Keeps how far each symbol then is."""

    def process(self, frame: Frame) -> Iterable[Frame]:
        items = self._usable(trade_columns(frame.items, self.ctx))
        items, prices, volumes = self._conditions.select(items, self.ctx)
        if not len(items):
            return ()
        batch = self._sorted(items, prices, volumes)
        bars = self._cut(batch, self._pieces(batch))
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
        return keep(items, (ts > MIN_TIME) & (ts < MAX_TIME), "ts_event is no time", self.ctx)

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
        )

    def _cut(self, batch: _Batch, pieces: _Pieces) -> Columns | None:
        """Keep what the pieces add to open bars, and return the bars that they complete, in order of arrival."""
        row, closes, size = pieces
        code, ts, price, side = batch.code[row], batch.ts[row], batch.price[row], batch.side[row]
        first = np.flatnonzero(np.concatenate(([True], closes[:-1] | (code[1:] != code[:-1]))))
        last = np.append(first[1:], len(code)) - 1
        code, closed = code[first], closes[last]
        goes_on = np.concatenate(([True], code[1:] != code[:-1]))  # the open bar of its symbol
        values = np.empty((len(size), 4))
        values[:, 0] = size
        np.multiply(price, size, out=values[:, 1])
        np.multiply(side == BUY, size, out=values[:, 2])
        np.multiply(side == SELL, size, out=values[:, 3])
        ints, floats = self._open.empty(len(first))
        floats[goes_on, SUMS] = self._open.floats[code[goes_on], SUMS]
        floats[:, SUMS] = run_totals(values, first, floats[:, SUMS])
        floats[:, PRICES] = _prices(batch.quoted[row], first, last, batch.quoted is not batch.price)
        ints[:, FIRST], ints[:, LAST] = np.minimum.reduceat(ts, first), np.maximum.reduceat(ts, first)
        ints[:, COUNT] = last - first + 1
        self._open.add_to(code, goes_on, ints, floats)
        self._open.keep(code, closed, ints, floats)
        if not closed.any():
            return None
        order = np.flatnonzero(closed)
        order = order[np.argsort(batch.arrival[row][last[order]], kind="stable")]
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


def _whole(batch: _Batch, full: Array) -> _Pieces:
    """Trades as they are, of which those in the rows ``full`` complete a bar."""
    closes = np.zeros(len(batch.code), bool)
    closes[full] = True
    return _Pieces(slice(None), closes, batch.size)


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
        self._set_up(label, updates_ohlc, updates_volume)

    def _pieces(self, batch: _Batch) -> _Pieces:
        codes, count = batch.code[batch.first], np.diff(batch.first, append=len(batch.code))
        progress = self._open.floats[codes, PROGRESS]
        self._open.floats[codes, PROGRESS] = (progress + count) % self.n
        number = np.arange(1, len(batch.code) + 1) + np.repeat(progress.astype(np.int64) - batch.first, count)
        return _whole(batch, np.flatnonzero(number % self.n == 0))


class AmountBars(InformationBars):
    """What volume and dollar bars have in common: an amount of each trade fills them, and one may have too much."""

    overshoot: Overshoot

    def _set_threshold(self, threshold: float, name: str, overshoot: Overshoot) -> float:
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 < threshold < math.inf:
            raise ConfigError(f"{name}: {threshold!r} must be a number above zero")
        self.overshoot = _one_of(overshoot, Overshoot, "overshoot")
        self._threshold = float(threshold)
        self._slack = self._threshold * _TOLERANCE
        return self._threshold

    @abstractmethod
    def _amount(self, price: Array, size: Array) -> Array:
        """What each trade counts towards the threshold, not negative."""

    @abstractmethod
    def _unit(self, price: Array) -> Array | float:
        """What one unit of size counts."""

    def _usable(self, items: Columns) -> Columns:
        items = super()._usable(items)
        if self.overshoot == "carry" or not len(items):
            return items
        small = self._amount(items.array("price"), items.array("size")) < self._threshold * _MOST_BARS
        return keep(items, small, f"would be split over more than {_MOST_BARS:,} bars", self.ctx)

    def _pieces(self, batch: _Batch) -> _Pieces:
        full = self._fill(batch)
        if self.overshoot == "carry" or not (full.left.any() or full.whole.any()):
            return _whole(batch, full.row)
        return self._split(batch, full)

    def _fill(self, batch: _Batch) -> _Full:
        """The trades that fill bars; keeps how far each symbol then is."""
        first, codes = batch.first, batch.code[batch.first]
        amounts = self._amount(batch.price, batch.size)
        progress = self._open.floats[codes, PROGRESS]
        after = run_totals(amounts[:, None], first, progress[:, None])[:, 0]
        # Totals only grow, so that a symbol whose last one is too small fills nothing; the others go trade by trade,
        # because where one bar ends decides with what rounding the next one begins.
        runs = np.flatnonzero(after >= self._threshold - self._slack)
        found: list[tuple[int, float, int, float]] = []
        if len(runs):
            listed, stops = amounts.tolist(), np.append(first[1:], len(amounts))[runs].tolist()
            for run, start, stop in zip(runs.tolist(), first[runs].tolist(), stops, strict=True):
                after[run] = self._walk(listed[start:stop], float(progress[run]), start, found)
        self._open.floats[codes, PROGRESS] = after
        columns = list(zip(*found, strict=True)) or [()] * 4
        types = (np.int64, np.float64, np.int64, np.float64)
        return _Full(*(np.array(column, dtype) for column, dtype in zip(columns, types, strict=True)))

    def _walk(
        self, amounts: list[float], progress: float, row: int, found: list[tuple[int, float, int, float]]
    ) -> float:
        """The progress after ``amounts``, the first of which is ``row``; those that fill a bar are added to ``found``."""
        threshold, slack = self._threshold, self._slack
        enough = threshold - slack
        for at, amount in enumerate(amounts, row):
            total = progress + amount
            if total < enough:
                progress = total
                continue
            fill, whole = threshold - progress, 0
            progress = amount - fill
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
        opens = full.left > 0
        count = np.ones(len(batch.code), np.int64)
        count[full.row] += full.whole + opens
        row = np.repeat(np.arange(len(count)), count)
        start = (np.cumsum(count) - count)[full.row]
        last = start + count[full.row] - 1
        closes = np.zeros(len(count), bool)
        closes[full.row] = True
        closes = closes[row]
        closes[last[opens]] = False
        divided, several = count[row] > 1, last > start
        size = batch.size[row]
        size[divided] = self._threshold
        size[start[several]] = full.fill[several]
        size[last[opens]] = full.left[opens]
        size[divided] /= self._unit(batch.price[row[divided]])
        return _Pieces(row, closes, size)


class VolumeBars(AmountBars):
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
        self.volume = self._set_threshold(volume, "volume", overshoot)
        self._set_up(label, updates_ohlc, updates_volume)

    def _amount(self, price: Array, size: Array) -> Array:
        return size

    def _unit(self, price: Array) -> float:
        return 1.0


class DollarBars(AmountBars):
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
        self.notional = self._set_threshold(notional, "notional", overshoot)
        self._set_up(label, updates_ohlc, updates_volume)

    def _amount(self, price: Array, size: Array) -> Array:
        return np.abs(price) * size

    def _unit(self, price: Array) -> Array:
        return np.abs(price)


_Choice = TypeVar("_Choice", bound=str)


def _one_of(value: _Choice, choice: Any, name: str) -> _Choice:
    if value not in get_args(choice):
        raise ConfigError(f"{name}: {value!r} is not allowed; one of: {', '.join(get_args(choice))}")
    return value
