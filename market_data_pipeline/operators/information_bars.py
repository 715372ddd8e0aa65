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
from typing import Literal, NamedTuple, get_args

import numpy as np

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import Array, Columns
from market_data_pipeline.operators.arrival_bars import Batch, InformationBars, Pieces, whole
from market_data_pipeline.operators.as_records import keep
from market_data_pipeline.operators.bar_choices import Side
from market_data_pipeline.operators.choices import check_choice
from market_data_pipeline.operators.conditions import Predicate
from market_data_pipeline.operators.field_names import of_bars
from market_data_pipeline.operators.open_bars import PROGRESS
from market_data_pipeline.operators.phases import LIVE, Phases
from market_data_pipeline.operators.runs import run_totals

Overshoot = Literal["carry", "split"]

_TOLERANCE = 1e-12
_MOST_BARS = 10_000
"""A single trade completes at most so many bars; a larger one is a mistake in the data or in the threshold."""


class _Full(NamedTuple):
    """Trades that fill a bar, in the order of a batch: the row, how much of its amount fills the bar, how many whole bars
    follow, and what is left for the next one."""

    row: Array
    fill: Array
    whole: Array
    left: Array


class TickBars(InformationBars):
    """A bar for every ``n`` trades of a symbol. Raises ``ConfigError`` unless ``n`` is an int from 1 to 10**9.

    ``label``, ``updates_ohlc``, ``updates_volume``, ``phases``: see :class:`InformationBars`.
    """

    def __init__(
        self,
        n: int,
        label: Side = "left",
        updates_ohlc: Predicate | None = None,
        updates_volume: Predicate | None = None,
        phases: Phases = LIVE,
    ) -> None:
        if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= 10**9:
            raise ConfigError(f"n: {n!r} must be a whole number of trades, from 1 to 1,000,000,000")
        self.n = n
        self._set_up(label, updates_ohlc, updates_volume, phases)

    fields_given = of_bars

    def _pieces(self, batch: Batch) -> Pieces:
        codes, count = batch.code[batch.first], np.diff(batch.first, append=len(batch.code))
        progress = self._open.floats[codes, PROGRESS]
        self._open.floats[codes, PROGRESS] = (progress + count) % self.n
        number = np.arange(1, len(batch.code) + 1) + np.repeat(progress.astype(np.int64) - batch.first, count)
        return whole(batch, np.flatnonzero(number % self.n == 0))


class AmountBars(InformationBars):
    """What volume and dollar bars have in common: an amount of each trade fills them, and one may have too much."""

    overshoot: Overshoot

    def _set_threshold(self, threshold: float, name: str, overshoot: Overshoot) -> float:
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 < threshold < math.inf:
            raise ConfigError(f"{name}: {threshold!r} must be a number above zero")
        check_choice("overshoot", overshoot, get_args(Overshoot))
        self.overshoot = overshoot
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

    def _pieces(self, batch: Batch) -> Pieces:
        full = self._fill(batch)
        if self.overshoot == "carry" or not (full.left.any() or full.whole.any()):
            return whole(batch, full.row)
        return self._split(batch, full)

    def _fill(self, batch: Batch) -> _Full:
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
            fill, more = threshold - progress, 0
            progress = amount - fill
            if progress >= enough:
                progress, rest = math.fmod(progress, threshold), progress
                more = round(min((rest - progress) / threshold, _MOST_BARS))  # more than that is never split
                if progress >= enough:
                    progress, more = 0.0, more + 1
            if progress <= slack:
                progress = 0.0
            found.append((at, fill, more, progress))
        return progress

    def _split(self, batch: Batch, full: _Full) -> Pieces:
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
        return Pieces(row, closes, size)


class VolumeBars(AmountBars):
    """A bar for every ``volume`` (in the sizes' unit) of a symbol. Raises ``ConfigError`` unless it is above zero.

    ``overshoot``: ``carry`` or ``split``, see the module; the rest: see :class:`InformationBars`.
    """

    def __init__(
        self,
        volume: float,
        overshoot: Overshoot = "carry",
        label: Side = "left",
        updates_ohlc: Predicate | None = None,
        updates_volume: Predicate | None = None,
        phases: Phases = LIVE,
    ) -> None:
        self.volume = self._set_threshold(volume, "volume", overshoot)
        self._set_up(label, updates_ohlc, updates_volume, phases)

    fields_given = of_bars

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
        label: Side = "left",
        updates_ohlc: Predicate | None = None,
        updates_volume: Predicate | None = None,
        phases: Phases = LIVE,
    ) -> None:
        self.notional = self._set_threshold(notional, "notional", overshoot)
        self._set_up(label, updates_ohlc, updates_volume, phases)

    fields_given = of_bars

    def _amount(self, price: Array, size: Array) -> Array:
        return np.abs(price) * size

    def _unit(self, price: Array) -> Array:
        return np.abs(price)
