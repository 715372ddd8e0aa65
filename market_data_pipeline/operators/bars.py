"""OHLCV bars from trades, on event time, vectorised.

================================================== ==================================================
TumblingBars("1s"): trades (time, price, size)     bars (open, high, low, close, volume, vwap, count)
================================================== ==================================================
A 0.1 s 10 x 1; A 0.9 s 12 x 1; A 0.5 s 9 x 2      when W >= 1 s: A [0, 1 s) 10 12 9 12 4 10 3, partial
A 1.2 s 11 x 5; then the end of input              A [1 s, 2 s) 11 11 11 11 5 11 1
A 0.7 s after W = 1 s                              nothing; counted as ``late``
the same with late="revise", allowed_lateness="5s" when W next advances: A [0, 1 s) again, revision 1, not final
A 1.2 s, A 3.5 s with empty="carry", W = 4 s       the bars of 1 s, 2 s (all prices the close of 1 s, volume 0) and 3 s
================================================== ==================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import numpy as np

from market_data_pipeline.durations import Duration
from market_data_pipeline.frame import Array, Columns, Dictionary, Frame, columns_from_rows, to_rows
from market_data_pipeline.operators.bar_table import group_trades
from market_data_pipeline.operators.bar_windows import BarConvention, BarWindows, Empty, make_buckets
from market_data_pipeline.operators.buckets import Buckets
from market_data_pipeline.operators.lateness import Lateness, LatePolicy
from market_data_pipeline.records import SIDE_CODES, Gap

LEFT = BarConvention()
"""The convention of the field: closed left, labelled left, by ``ts_event``."""


class TumblingBars(BarWindows):
    """Trades (symbol, ts_event, price, size; side, where there is one) -> :class:`Bar` columns.

    ``interval``: 1 ms to 3660 days, or other buckets (:class:`SessionBuckets`). Bars come out when the watermark reaches
    ``ts_close``, ordered by window, within a window in an order that is the task's own. Prices or sizes that are not finite
    go to the dead letters. ``late`` and ``allowed_lateness``: see :mod:`~market_data_pipeline.operators.lateness`. The rest
    as :class:`BarWindows` says. A :class:`Gap` record among the trades makes the bars around it ``partial``.
    """

    accepts: ClassVar[Literal["any"]] = "any"

    def __init__(
        self,
        interval: Duration | Buckets = "1s",
        align_to: Duration = 0,
        late: LatePolicy = "drop",
        allowed_lateness: Duration = 0,
        empty: Empty = "skip",
        early_every: Duration | None = None,
        convention: BarConvention = LEFT,
    ) -> None:
        buckets = make_buckets(interval, align_to)
        super().__init__(buckets, Lateness.of(late, allowed_lateness), empty, early_every, convention)
        self._needs = tuple(dict.fromkeys(("symbol", "ts_event", convention.ts, "price", "size")))

    def process(self, frame: Frame) -> Iterable[Frame]:
        items = frame.items if isinstance(frame.items, Columns) else self._columns(to_rows(frame.items))
        late: list[Frame] = []
        if len(items):
            self._add(items, late)
        return late

    def _columns(self, rows: list[object]) -> Columns:
        for item in rows:
            if type(item) is Gap:
                self.mark_partial(item.symbol, item.ts_event)
        items, bad = columns_from_rows([item for item in rows if type(item) is not Gap], self._needs)
        for item, reason in bad:
            self.ctx.reject(item, reason)
        return items

    def _add(self, items: Columns, late: list[Frame]) -> None:
        finite = np.isfinite(items.array("price")) & np.isfinite(items.array("size"))
        items, bucket = self.place(self.only(items, finite, "price or size is not a finite number"), late)
        if not len(items):
            return
        code = self._symbols.intern(items.dictionary("symbol"))
        ts, price, size = items.array(self.convention.ts), items.array("price"), items.array("size")
        self.merge(group_trades(bucket, code, ts, price, size, _sides(items)))


def _sides(items: Columns) -> Array | None:
    """The side of each trade by its code, ``None`` where none is known."""
    sides = items.data.get("side")
    if isinstance(sides, Dictionary):
        return np.array([SIDE_CODES.get(name, 0) for name in sides.names] or [0], np.int8)[sides.codes]
    return sides if isinstance(sides, np.ndarray) and sides.dtype == np.int8 else None
