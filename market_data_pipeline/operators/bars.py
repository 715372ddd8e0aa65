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

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from market_data_pipeline.durations import Duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import NO_MARK, Array, Columns, Dictionary, Frame, Items
from market_data_pipeline.operators.as_records import between_gaps, keep, record_columns
from market_data_pipeline.operators.bar_choices import LEFT, BarConvention, Empty, make_buckets
from market_data_pipeline.operators.bar_table import Trades, grouped, join_trades
from market_data_pipeline.operators.bar_windows import BarWindows
from market_data_pipeline.operators.buckets import Buckets
from market_data_pipeline.operators.conditions import ConditionMask, Predicate
from market_data_pipeline.operators.field_names import of_bars
from market_data_pipeline.operators.lateness import Lateness, LatePolicy
from market_data_pipeline.operators.phases import LIVE, Phases, check_phases, in_phases
from market_data_pipeline.operators.trade_log import Correction, TradeLog, Values
from market_data_pipeline.records import ACTIONS, SIDE_CODES, Gap, Trade, field

_GROUP_AT = 65_536
"""Trades are grouped when so many wait, a bar comes out, or a commit is made: larger groups are cheaper by the trade."""


class _Waiting(NamedTuple):
    """Trades that are not in the table yet, of buckets from ``low`` to ``high``."""

    low: int
    high: int
    trades: Trades


@dataclass(frozen=True)
class TradeRules:
    """Which trades count, and for what.

    ``updates_ohlc`` and ``updates_volume``: functions of a trade's ``conditions`` (text) -> bool, ``None`` for every trade; see
    :mod:`~market_data_pipeline.operators.conditions`. ``corrections``: trades of open bars are kept (about 600 bytes each), so
    that items with the ``action`` ``correct`` or ``cancel`` change the trade ``ref_trade_id``; a bar that was emitted already
    is emitted again. Without it such items are counted (``ignored``) and left out. ``phases``: trades of other phases are
    counted (``not_live``) and left out, so by default the history that a feed sends at its beginning is; ``None``: all count.
    """

    updates_ohlc: Predicate | None = None
    updates_volume: Predicate | None = None
    corrections: bool = False
    phases: Phases = LIVE

    def __post_init__(self) -> None:
        check_phases(self.phases)
        if not isinstance(self.corrections, bool):
            raise ConfigError(f"corrections: {self.corrections!r} is not allowed; True or False")
        ConditionMask(self.updates_ohlc, self.updates_volume)


ALL_TRADES = TradeRules()


class TumblingBars(BarWindows):
    """Trades (symbol, ts_event, price, size; side, conditions, action where there are any) -> :class:`Bar` columns.

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
        rules: TradeRules = ALL_TRADES,
    ) -> None:
        buckets = make_buckets(interval, align_to)
        super().__init__(buckets, Lateness.of(late, allowed_lateness), empty, early_every, convention)
        if not isinstance(rules, TradeRules):
            raise ConfigError(f"rules: {rules!r} is not allowed; write for example TradeRules(corrections=True)")
        self.rules = rules
        self._mask = ConditionMask(rules.updates_ohlc, rules.updates_volume)
        self._log = TradeLog() if rules.corrections else None
        self._waiting: list[_Waiting] = []
        self._n_waiting = 0

    fields_given = of_bars

    def process(self, frame: Frame) -> Iterable[Frame]:
        late: list[Frame] = []
        for part in between_gaps(frame.items, self.ctx):
            if isinstance(part, Gap):
                self.mark_partial(part.symbol, part.ts_event)
            else:
                self._trades(part, late)
        return late

    def _trades(self, given: Items, late: list[Frame]) -> None:
        items = in_phases(record_columns(given, Trade, self.ctx), self.rules.phases, self.ctx)
        if not len(items):
            return
        finite = np.isfinite(items.array("price")) & np.isfinite(items.array("size"))
        if "action" in items.data:  # who cancels a trade need not repeat its values
            finite |= _is_action(items, "cancel")
        items = keep(items, finite, "price or size is not a finite number", self.ctx)
        if "action" in items.data:
            items = self._without_corrections(items)
        items, bucket = self.place(items, late)
        if len(items):
            self._add(items, bucket)

    def _add(self, items: Columns, bucket: Array) -> None:
        """New trades of open buckets."""
        prices, volumes = self._mask.judge(items, self.ctx) or (None, None)
        if prices is not None and volumes is not None and not (wanted := prices | volumes).all():
            items, bucket, prices, volumes = items.take(wanted), bucket[wanted], prices[wanted], volumes[wanted]
            if not len(items):
                return
        code = self._symbols.intern(items.dictionary("symbol"))
        ts, price, size = items.array(self.convention.ts), items.array("price"), items.array("size")
        trades = Trades(bucket, code, ts, price, size, sides_of(items), prices, volumes)
        self._waiting.append(_Waiting(int(bucket.min()), int(bucket.max()), trades))
        self._n_waiting += len(items)
        if self._log is not None:
            ids = items.data.get("trade_id")
            self._log.add_all(trades, [""] * len(items) if ids is None else ids.tolist())
        if self._n_waiting >= _GROUP_AT:
            self.settle(None)

    def settle(self, fired: int | None) -> None:
        due = self._waiting_below(None if self._log is not None else fired)
        if due:
            for groups in grouped(join_trades(due)):
                self.merge(groups)

    def amend(self) -> None:
        if self._log is not None:
            for groups in self._log.corrected():
                self.put(groups)

    def _waiting_below(self, fired: int | None) -> list[Trades]:
        """Take the trades of buckets below ``fired`` out of those that wait. The others are not grouped before their bars are
        due, so that each bar is made at once."""
        due: list[Trades] = []
        rest: list[_Waiting] = []
        for batch in self._waiting:
            if fired is None or batch.high < fired:
                due.append(batch.trades)
            elif batch.low >= fired:
                rest.append(batch)
            else:
                below, behind = batch.trades.part(fired)
                due.append(below)
                rest.append(_Waiting(int(behind.bucket.min()), batch.high, behind))
        self._n_waiting -= sum(len(trades.ts) for trades in due)
        self._waiting = rest
        return due

    def advance(self, watermark: int) -> Iterable[Frame]:
        frames = super().advance(watermark)
        if self._log is not None:
            for correction in self._log.close(self.first_open()):
                self.ctx.reject(correction.item, f"no open bar has the trade {correction.ref!r} that it refers to")
        return frames

    def _without_corrections(self, items: Columns) -> Columns:
        """New trades only. Corrections and cancels go where they are applied, if they are."""
        action = items.dictionary("action")
        known = np.array([name in ACTIONS for name in action.names] or [True])
        items = keep(items, known[action.codes], f"action: none of {', '.join(ACTIONS)}", self.ctx)
        new = _is_action(items, "new")
        if new.all():
            return items
        if self._log is None:
            self.ctx.count("ignored", int((~new).sum()))
        else:
            self._note(self._log, items.take(~new))
        return items.take(new)

    def _note(self, log: TradeLog, items: Columns) -> None:
        """Corrections and cancels, to be applied when the next bars come out."""
        items = self._mask.usable(items, self.ctx)
        prices, volumes = self._mask.judge(items, self.ctx) or (np.ones(len(items), bool), np.ones(len(items), bool))
        code, side = self._symbols.intern(items.dictionary("symbol")), sides_of(items)
        ts, price, size = items.array(self.convention.ts), items.array("price"), items.array("size")
        for at, item in enumerate(items.rows()):
            ref = optional(item, "ref_trade_id")
            if ref == "":
                self.ctx.reject(item, "a correction without ref_trade_id")
                continue
            bucket = self._buckets.first_open(int(ts[at]) - self._shift)
            values = Values(float(price[at]), float(size[at]), int(side[at]), bool(prices[at]), bool(volumes[at]))
            cancel = field(item, "action") == "cancel"
            log.wait(
                Correction(int(code[at]), ref, optional(item, "trade_id"), bucket, int(ts[at]), cancel, values, item)
            )

    def snapshot(self) -> dict[str, bytes | None]:
        delta = super().snapshot()
        return delta if self._log is None else {**delta, **self._log.snapshot()}

    def restore(self, state: Mapping[str, bytes], watermark: int = NO_MARK) -> None:
        own = self._log.restore(state) if self._log is not None else set()
        super().restore({key: blob for key, blob in state.items() if key not in own}, watermark)


def sides_of(items: Columns) -> Array:
    """The side of each trade by its code, int8; 0 where none is known."""
    sides = items.data.get("side")
    if isinstance(sides, Dictionary):
        return np.array([SIDE_CODES.get(name, 0) for name in sides.names] or [0], np.int8)[sides.codes]
    return sides if isinstance(sides, np.ndarray) and sides.dtype == np.int8 else np.zeros(len(items), np.int8)


def _is_action(items: Columns, name: str) -> Array:
    """Which of ``items`` have the action ``name``, bool of shape (n,)."""
    action = items.dictionary("action")
    return np.array([one == name for one in action.names] or [True])[action.codes]


def optional(item: Any, name: str) -> Any:
    """The field ``name`` of ``item``, ``""`` where it has none."""
    return item.get(name, "") if isinstance(item, dict) else getattr(item, name, "")
