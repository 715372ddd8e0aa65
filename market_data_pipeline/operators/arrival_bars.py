"""Bars cut in the order in which trades arrive: what tick, volume and dollar bars have in common.

A frame's trades are sorted by symbol, once and stably. An operator says which of them complete a bar, and may divide them;
what stands between two such trades of a symbol is one bar, of which the first goes on with what was open before. Sums are
taken from left to right (:mod:`~market_data_pipeline.operators.runs`), so that frames make no difference, to the last bit.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal, NamedTuple, get_args

import numpy as np

from market_data_pipeline.frame import END, NO_MARK, Array, Columns, Frame, Items
from market_data_pipeline.operators.as_records import between_gaps, keep, record_columns
from market_data_pipeline.operators.bar_choices import Side
from market_data_pipeline.operators.bars import sides_of
from market_data_pipeline.operators.base import Operator
from market_data_pipeline.operators.buckets import FARTHEST
from market_data_pipeline.operators.choices import check_choice
from market_data_pipeline.operators.conditions import ConditionMask, Predicate
from market_data_pipeline.operators.open_bars import COUNT, FIRST, LAST, PRICES, SUMS, OpenBars, bar_columns
from market_data_pipeline.operators.phases import Phases, check_phases, in_phases
from market_data_pipeline.operators.runs import run_totals
from market_data_pipeline.records import ACTIONS, SIDE_CODES, Gap, Trade


class Batch(NamedTuple):
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


class Pieces(NamedTuple):
    """Trades, or their parts: the row in the batch, whether it completes a bar, the size."""

    row: Array | slice
    closes: Array
    size: Array


class InformationBars(Operator):
    """What tick, volume and dollar bars have in common. Trades -> :class:`~market_data_pipeline.records.Bar` columns.

    Items need ``symbol``, ``ts_event``, ``price``, ``size``. Prices, sizes and amounts that are not finite, sizes that are
    not above zero and (``split``) trades of more than 10,000 bars go to the dead letters. Trades that correct or cancel
    others cannot be applied to bars that are out: they are counted (``ignored``) and left out. ``updates_ohlc`` and
    ``updates_volume``: see ``conditions``; every trade that updates anything counts in ``trade_count`` and as a tick; a bar
    whose trades make no price has NaN prices. ``phases``: trades of other phases are counted (``not_live``) and left out;
    ``None``: all count, see :mod:`~market_data_pipeline.operators.phases`. ``partial`` is true on what is left at the end of
    input and fills no bar (ordered by symbol), and on the bar with the first trade behind a
    :class:`~market_data_pipeline.records.Gap` record of its symbol among the trades; else false, as a symbol's first bar
    begins with the first trade there was. State: some 300 bytes a symbol, 113 stored; a commit writes the blocks of 256
    symbols that changed.
    """

    accepts: ClassVar[Literal["any"]] = "any"
    label: Side

    def _set_up(
        self, label: Side, updates_ohlc: Predicate | None, updates_volume: Predicate | None, phases: Phases
    ) -> None:
        check_choice("label", label, get_args(Side))
        self.phases = check_phases(phases)
        self.label = label
        self.updates_ohlc, self.updates_volume = updates_ohlc, updates_volume
        self._conditions = ConditionMask(updates_ohlc, updates_volume)
        self._open = OpenBars()

    @abstractmethod
    def _pieces(self, batch: Batch) -> Pieces:
        """The trades, or their parts, and which complete a bar. Keeps how far each symbol then is."""

    def process(self, frame: Frame) -> Iterable[Frame]:
        frames: list[Frame] = []
        for part in between_gaps(frame.items, self.ctx):
            if isinstance(part, Gap):
                self._open.mark_partial(part.symbol)
            else:
                frames += self._trades(part)
        return frames

    def _trades(self, given: Items) -> Iterable[Frame]:
        items = self._usable(in_phases(record_columns(given, Trade, self.ctx), self.phases, self.ctx))
        items, prices, volumes = self._conditions.select(items, self.ctx)
        if not len(items):
            return ()
        batch = self._sorted(items, prices, volumes)
        bars = self._cut(batch, self._pieces(batch))
        return (Frame(bars),) if bars is not None else ()

    def _usable(self, items: Columns) -> Columns:
        if not len(items):
            return items
        if "action" in items.data:
            items = self._new(items)
        price, size = items.array("price"), items.array("size")
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(price) & np.isfinite(size) & np.isfinite(price * size)
        items = keep(items, finite, "price, size or their product is not a finite number", self.ctx)
        items = keep(items, items.array("size") > 0, "size is not above zero", self.ctx)
        ts = items.array("ts_event")
        return keep(
            items, (ts > -FARTHEST) & (ts < FARTHEST), "its time is more than 146 years from 1970, in ns", self.ctx
        )

    def _new(self, items: Columns) -> Columns:
        """Only trades that correct or cancel no other."""
        action = items.dictionary("action")
        known = np.array([name in ACTIONS for name in action.names], bool)
        items = keep(items, known[action.codes], f"action: none of {', '.join(ACTIONS)}", self.ctx)
        new = np.array([name == "new" for name in action.names], bool)[items.dictionary("action").codes]
        self.ctx.count("ignored", int(len(items) - new.sum()))
        return items if new.all() else items.take(new)

    def _sorted(self, items: Columns, prices: Array | None, volumes: Array | None) -> Batch:
        code = self._open.intern(items.dictionary("symbol"))
        order = np.argsort(code.astype(np.uint16) if len(self._open) <= 0xFFFF else code, kind="stable")
        code = code[order]
        price = items.array("price").astype(np.float64, copy=False)[order]
        size = items.array("size").astype(np.float64, copy=False)[order]
        quoted = price if prices is None else np.where(prices[order], price, np.nan)
        if volumes is not None:
            size = np.where(volumes[order], size, 0.0)
        return Batch(
            arrival=order,
            code=code,
            first=np.flatnonzero(np.concatenate(([True], code[1:] != code[:-1]))),
            ts=items.array("ts_event")[order],
            price=price,
            quoted=quoted,
            size=size,
            side=sides_of(items)[order],
        )

    def _cut(self, batch: Batch, pieces: Pieces) -> Columns | None:
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
        np.multiply(side == SIDE_CODES["buy"], size, out=values[:, 2])
        np.multiply(side == SIDE_CODES["sell"], size, out=values[:, 3])
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


def whole(batch: Batch, full: Array) -> Pieces:
    """Trades as they are, of which those in the rows ``full`` complete a bar."""
    closes = np.zeros(len(batch.code), bool)
    closes[full] = True
    return Pieces(slice(None), closes, batch.size)


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
