"""Bars to coarser bars, and the labels of bars that come with one time only.

=========================================================== ===============================================================
Resample("5m"): bars of A (open, high, low, close, volume)  when W >= 5 min
=========================================================== ===============================================================
[0, 1 min) 10 12 9 11 5; [1, 2 min) 11 15 11 14 1           A [0, 5 min) 10 15 9 14 6, vwap by volume, counts added
the bar of 1 min again, revision 1: 11 13 11 12 1           when W next advances, with ``late="revise"``: 10 13 9 12 6
a bar [4, 6 min)                                            a dead letter: it lies in two of the coarser bars
=========================================================== ===============================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from market_data_pipeline.durations import Duration, positive_duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import NO_MARK, Array, Columns, Frame
from market_data_pipeline.operators.as_records import keep, record_columns
from market_data_pipeline.operators.bar_choices import LEFT, BarConvention, Empty, Side, make_buckets
from market_data_pipeline.operators.bar_table import CODE_BITS, Groups, combined, group_bars, groups_of
from market_data_pipeline.operators.bar_windows import BarWindows
from market_data_pipeline.operators.base import Operator
from market_data_pipeline.operators.buckets import FARTHEST, LONGEST, OUTSIDE, Buckets
from market_data_pipeline.operators.changes import Changes
from market_data_pipeline.operators.choices import check_choice
from market_data_pipeline.operators.field_names import of_bars
from market_data_pipeline.operators.lateness import Lateness, LatePolicy
from market_data_pipeline.operators.stateless import apply
from market_data_pipeline.packing import pack, unpack
from market_data_pipeline.records import COLUMN_TYPES, Bar, field

_SHADOW = "shadow:"


class Resample(BarWindows):
    """:class:`Bar` -> coarser :class:`Bar`: 1m -> 5m -> 1h.

    A bar belongs to the coarser one that holds all of it; one that does not fit is a dead letter. Open is that of the first
    bar, close that of the last; volumes and counts are added; vwap is weighted by volume. Bars without a price add their
    volume only. A bar that comes again in a later revision takes the place of the former one: bars that are not final are
    kept until they are. Carried prices of empty bars count like others. Behind bars with ``late="revise"`` give the same
    ``allowed_lateness`` here. The other arguments as for :class:`TumblingBars`; a coarser bar is ``partial`` if one of its
    bars is.
    """

    accepts: ClassVar[Literal["any"]] = "any"

    def __init__(
        self,
        interval: Duration | Buckets,
        align_to: Duration = 0,
        late: LatePolicy = "drop",
        allowed_lateness: Duration = 0,
        empty: Empty = "skip",
        early_every: Duration | None = None,
        convention: BarConvention = LEFT,
    ) -> None:
        buckets = make_buckets(interval, align_to)
        super().__init__(buckets, Lateness.of(late, allowed_lateness), empty, early_every, convention)
        if convention.ts != "ts_event":
            raise ConfigError(f"convention: ts={convention.ts!r} is not allowed; bars have no ts_recv")
        self._finals: dict[int, Groups | None] = {}
        """By key of a coarser bar that has bars which are not final: what the final ones amount to."""
        self._provisional: dict[int, dict[int, tuple[int, Groups]]] = {}
        """By the same key and ``ts_open``: the bars that are not final, with their revision."""
        self._shadows = Changes()

    fields_given = of_bars

    def process(self, frame: Frame) -> Iterable[Frame]:
        items = record_columns(frame.items, Bar, self.ctx)
        late: list[Frame] = []
        if len(items):
            items, bucket = self.place(self._fitting(items), late)
            if len(items):
                self._add(items, bucket)
        return late

    def times(self, items: Columns) -> Array:
        """The last moment of each bar: it decides to which bucket a bar belongs, in both conventions."""
        last: Array = np.maximum(items.array("ts_close") - 1, items.array("ts_open")) + self._shift
        return last

    def _fitting(self, items: Columns) -> Columns:
        near = (items.array("ts_open") > -FARTHEST) & (items.array("ts_close") < FARTHEST)
        items = keep(items, near, "its time is more than 146 years from 1970, in ns", self.ctx)
        items = keep(items, _is_finite(items), "a price or volume is not a finite number", self.ctx)
        first = self._buckets.indices(items.array("ts_open"))
        fits = (first == self._buckets.indices(self.times(items) - self._shift)) | (first == OUTSIDE)
        return keep(items, fits, "the bar lies in two of the coarser bars", self.ctx)

    def _add(self, items: Columns, bucket: Array) -> None:
        key = (bucket << CODE_BITS) | self._symbols.intern(items.dictionary("symbol"))
        final = items.data.get("is_final")
        single = np.zeros(len(key), bool) if not isinstance(final, np.ndarray) else ~final
        if self._finals:
            single |= np.isin(key, list(self._finals))
        if not single.all():
            for groups in group_bars(key[~single], items.take(~single)):
                self.merge(groups)
        if single.any():
            self._replace(key[single], items.take(single))

    def _replace(self, keys: Array, items: Columns) -> None:
        """Bars that are not final, or of a coarser bar that has such."""
        revisions, finals = items.data.get("revision"), items.data.get("is_final")
        rows = combined(group_bars(np.arange(len(keys)), items))
        final: list[Groups] = []
        for at, (key, ts) in enumerate(zip(keys.tolist(), items.array("ts_open").tolist(), strict=True)):
            one = _row(rows, at)._replace(key=keys[at : at + 1].copy())
            if key not in self._finals:
                self._finals[key], self._provisional[key] = self.row(key), {}
            provisional = self._provisional[key]
            revision = 0 if revisions is None else int(revisions[at])  # type: ignore[index]
            if finals is None or finals[at]:  # type: ignore[index]
                provisional.pop(ts, None)
                final.append(one)
            elif ts not in provisional or provisional[ts][0] <= revision:
                provisional[ts] = (revision, one)
        self._add_finals(final)
        changed = np.unique(keys).tolist()
        self._shadows.touch({key >> CODE_BITS for key in changed})
        parts: list[Groups] = []
        for key in changed:
            parts += [] if (sum_of_finals := self._finals[key]) is None else [sum_of_finals]
            parts += [groups for _, (_, groups) in sorted(self._provisional[key].items(), key=lambda item: item[0])]
        self.put(combined(parts))

    def _add_finals(self, bars: list[Groups]) -> None:
        if not bars:
            return
        before = [self._finals[key] for key in {int(one.key[0]) for one in bars}]
        sums = combined([*(groups for groups in before if groups is not None), *bars])
        for at, key in enumerate(sums.key.tolist()):
            self._finals[key] = _row(sums, at)

    def closed(self, last: int) -> None:
        gone = [key for key in self._finals if key >> CODE_BITS <= last]
        for key in gone:
            del self._finals[key], self._provisional[key]
        self._shadows.touch({key >> CODE_BITS for key in gone})

    def snapshot(self) -> dict[str, bytes | None]:
        delta = super().snapshot()
        delta.update({f"{_SHADOW}{bucket}": blob for bucket, blob in self._shadows.take(self._shadow).items()})
        return delta

    def _shadow(self, bucket: int) -> bytes | None:
        keys = [key for key in self._finals if key >> CODE_BITS == bucket]
        kept = []
        for key in keys:
            final = self._finals[key]
            bars = [[ts, revision, _packed(groups)] for ts, (revision, groups) in self._provisional[key].items()]
            kept.append([key, None if final is None else _packed(final), bars])
        return pack(kept) if kept else None

    def restore(self, state: Mapping[str, bytes], watermark: int = NO_MARK) -> None:
        own = {key for key in state if key.startswith(_SHADOW)}
        for name in own:
            for key, final, bars in unpack(state[name]):
                self._finals[key] = None if final is None else groups_of(*final)
                self._provisional[key] = {ts: (revision, groups_of(*groups)) for ts, revision, groups in bars}
        self._shadows.restored(int(name.removeprefix(_SHADOW)) for name in own)
        super().restore({key: blob for key, blob in state.items() if key not in own}, watermark)


def _is_finite(bars: Columns) -> Array:
    """Which of ``bars`` have finite volumes, and prices that are finite or none at all."""
    volume, priced = bars.array("volume"), ~np.isnan(bars.array("close"))
    good: Array = np.isfinite(volume) & ((volume == 0) | np.isfinite(bars.array("vwap")))
    for name in ("open", "high", "low", "close"):
        good &= ~priced | np.isfinite(bars.array(name))
    for name in ("buy_volume", "sell_volume"):
        if name in bars.data:
            good &= np.isfinite(bars.array(name))
    return good


def _row(groups: Groups, at: int) -> Groups:
    """A copy of one of ``groups``."""
    return Groups(*(array[at : at + 1].copy() for array in groups))


def _packed(groups: Groups) -> list[bytes]:
    return [array.tobytes() for array in groups]


class LabelBars(Operator):
    """Bars that come with one time -> :class:`Bar` with ``ts_open``, ``ts_close`` and ``ts_event``.

    ``ts`` names the field with that time, which is the start (``label="left"``) or the end (``"right"``) of the bar's
    ``interval``. Items are bars, or dicts with symbol, that time, open, high, low, close (volume, vwap, trade_count, and the
    other fields of a bar where all items have them). ``label_out``: which end is the result's ``ts_event``.

    ============================================== ================================================
    LabelBars("1m", label="right"), ts 10:01       ts_open 10:00, ts_close 10:01, ts_event 10:00
    ============================================== ================================================
    """

    accepts: ClassVar[Literal["any"]] = "any"

    def __init__(
        self, interval: Duration, label: Side = "left", ts: str = "ts_event", label_out: Side = "left"
    ) -> None:
        self.interval = positive_duration(interval, "interval")
        if self.interval > LONGEST:
            raise ConfigError(f"interval: {interval!r} is too long; at most 3660d")
        check_choice("label", label, get_args(Side))
        check_choice("label_out", label_out, get_args(Side))
        check_choice("ts", ts, tuple(name for name in COLUMN_TYPES if name.startswith("ts_")))
        self.label, self.ts, self.label_out = label, ts, label_out

    def fields_read(self, input: str = "") -> tuple[str, ...]:  # noqa: A002 - what it is
        return (self.ts,)

    fields_given = of_bars

    def process(self, frame: Frame) -> Iterable[Frame]:
        items = frame.items
        if not isinstance(items, Columns):
            items = [bar for _, bar in apply(self._with_times, items, self.ctx.failed)]
        items = record_columns(items, Bar, self.ctx)
        if not len(items):
            return ()
        label = items.array(self.ts)
        ts_open = label if self.label == "left" else label - self.interval
        ts_close = ts_open + self.interval
        none = {"volume": np.zeros(len(label)), "trade_count": np.zeros(len(label), np.int64)}
        given: dict[str, Any] = {name: column for name, column in items.data.items() if name in Bar._fields}
        data = {"vwap": items.array("close"), **none, **given}
        data |= {
            "ts_open": ts_open,
            "ts_close": ts_close,
            "ts_event": ts_open if self.label_out == "left" else ts_close,
        }
        return (Frame(Columns("bar", {name: data[name] for name in Bar._fields if name in data})),)

    def _with_times(self, item: Any) -> Any:
        """A dict with the fields that a bar must have; they are set anew."""
        ts = field(item, self.ts)
        return {**item, "ts_open": ts, "ts_close": ts} if isinstance(item, dict) else item
