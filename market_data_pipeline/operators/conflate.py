"""Conflation: only the last item of each key counts.

============================================ =======================================================================
``Conflate("1s")``: A 0.1 s, A 0.7 s, A 1.2 s when W >= 1 s: A 0.7 s; at the end: A 1.2 s. One is counted (``replaced``)
``Conflate()``, the output is full: A, A, B  nothing; when there is room again: the second A, and B
============================================ =======================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from market_data_pipeline.durations import Duration, positive_duration, signed_duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import END, NO_MARK, Columns, Dictionary, Frame, compact, to_rows
from market_data_pipeline.operators.base import Operator, pack_items
from market_data_pipeline.operators.buckets import LONGEST, Tumbling
from market_data_pipeline.operators.changes import Changes
from market_data_pipeline.operators.field_names import kept
from market_data_pipeline.operators.keys import check_field, check_key
from market_data_pipeline.operators.lateness import LATE, Lateness, LatePolicy, check_late_policy
from market_data_pipeline.operators.stateless import apply
from market_data_pipeline.packing import unpack
from market_data_pipeline.records import field

_LOOK_EVERY = 50_000_000
"""Nanoseconds between two looks whether there is room again."""
_BLOCK = 256
_BLOCK_BITS = 24
"""State is stored in blocks of so many keys, by ``interval << 24 | block``: a commit writes those that changed."""


class _Interval:
    """The last item of each key so far, in order of the keys' arrival."""

    def __init__(self) -> None:
        self.number: dict[Any, int] = {}
        self.last: list[tuple[int, Any]] = []  # by number: ts_event, item

    def put(self, key: Any, ts: int, item: Any) -> tuple[int, bool]:
        """Keep ``item`` unless a newer one is there. Returns the key's number, and whether one of the two was replaced."""
        at = self.number.setdefault(key, len(self.last))
        if at == len(self.last):
            self.last.append((ts, item))
            return at, False
        if ts >= self.last[at][0]:
            self.last[at] = (ts, item)
        return at, True

    def items(self, numbers: slice = slice(None)) -> list[Any]:
        return [item for _, item in self.last[numbers]]


class Conflate(Operator):
    """The last item per ``key`` (by ``ts_event``; of equal times the one that came last), for quotes; never use it on trades.

    With ``interval`` one item per key and interval of event time comes out when the watermark reaches the interval's end, by
    interval, then by key in order of arrival. Items behind are counted (``late``) and dropped, or with ``late="side_output"``
    sent to the output ``late``. Without ``interval`` everything passes while the outputs have room; while one is above its
    high level its task reads on, and only the last item of each key waits. What was replaced is counted (``replaced``).
    Items without key or ``ts_event`` go the way of the error policy. State: one item per key and open interval; a commit
    writes the blocks of 256 keys that changed.
    """

    accepts: ClassVar[Literal["any"]] = "any"

    def __init__(
        self, interval: Duration | None = None, key: str = "symbol", align_to: Duration = 0, late: LatePolicy = "drop"
    ) -> None:
        self.interval = None if interval is None else positive_duration(interval, "interval")
        self.key = check_field(key, "key")
        self.align_to = signed_duration(align_to, "align_to")
        self.late = check_late_policy(late, ("drop", "side_output"))
        self.outputs = (LATE,)
        self.absorbs = self.interval is None
        self.keeps = "items that wait for room" if self.interval is None else "open windows"
        if max(self.interval or 1, abs(self.align_to)) > LONGEST:
            raise ConfigError(f"interval: {interval!r} with align_to={align_to!r}: at most 3660d")
        self._windows = Tumbling(self.interval or 1, self.align_to)
        self._open: dict[int, _Interval] = {}
        self._changes = Changes()
        self._watermark = NO_MARK
        self._look_at = 0

    def required_outputs(self) -> tuple[str, ...]:
        return Lateness(self.late).required_outputs

    def fields_read(self, input: str = "") -> tuple[str, ...]:  # noqa: A002 - what it is
        return (self.key,)

    fields_given = kept

    def process(self, frame: Frame) -> Iterable[Frame]:
        if self.interval is None and not self.ctx.pressed and not self._open:
            return (Frame(frame.items),)
        late: list[Frame] = []
        items = self._last_of_frame(frame.items, late)
        self._keep(items, late)
        if self.interval is None and not self.ctx.pressed:
            return self._pop([0])
        return late if self.late == "side_output" else ()

    def _first_open(self) -> int | None:
        """The smallest interval that has not come out, ``None`` where all are open."""
        if self.interval is None or self._watermark == NO_MARK:
            return None
        return self._windows.first_open(self._watermark)

    def _last_of_frame(self, items: Any, late: list[Frame]) -> list[Any]:
        """Of columns, only the last row of each key and interval; the late ones go to ``late``."""
        times = items.data.get("ts_event") if isinstance(items, Columns) else None
        keys = items.data.get(self.key) if isinstance(items, Columns) else None
        if not isinstance(times, np.ndarray) or not isinstance(keys, Dictionary):
            return to_rows(items)
        windows = self._windows.indices(times) if self.interval is not None else np.zeros(len(times), np.int64)
        first_open = self._first_open()
        if first_open is not None and (behind := windows < first_open).any():
            self.ctx.count("late", int(behind.sum()))
            late.append(Frame(items.take(behind), port=LATE))
            items, windows, times, codes = items.take(~behind), windows[~behind], times[~behind], keys.codes[~behind]
        else:
            codes = keys.codes
        if not len(items):
            return []
        order = np.lexsort((times, codes, windows))  # stable: of equal times the last to come stays last
        window, code = windows[order], codes[order]
        last = np.append((window[1:] != window[:-1]) | (code[1:] != code[:-1]), True)
        arrived = np.minimum.reduceat(order, np.append(0, np.flatnonzero(last)[:-1] + 1))
        kept = order[last][np.argsort(arrived)]
        self.ctx.count("replaced", len(times) - len(kept))
        return to_rows(items.take(kept))

    def _place(self, item: Any) -> tuple[int, int, Any]:
        ts, key = field(item, "ts_event"), field(item, self.key)
        if type(ts) is not int:
            raise TypeError(f"ts_event {ts!r} is not a time in ns")
        check_key(key)
        return (0 if self.interval is None else self._windows.index(ts)), ts, key

    def _keep(self, items: list[Any], late: list[Frame]) -> None:
        first_open = self._first_open()
        behind: list[Any] = []
        changed: set[int] = set()
        n_replaced = 0
        for item, (window, ts, key) in apply(self._place, items, self.ctx.failed):
            if first_open is not None and window < first_open:
                behind.append(item)
                continue
            if window not in self._open:
                self._open[window] = _Interval()
            number, replaced = self._open[window].put(key, ts, item)
            n_replaced += replaced
            changed.add(window << _BLOCK_BITS | number // _BLOCK)
        self.ctx.count("replaced", n_replaced)
        self._changes.touch(changed)
        if behind:
            self.ctx.count("late", len(behind))
            late.append(Frame(behind, port=LATE))

    def advance(self, watermark: int) -> Iterable[Frame]:
        self._watermark = max(watermark, self._watermark)
        if self.interval is None:
            return self._pop([0]) if watermark == END or not self.ctx.pressed else ()
        first_open = self._windows.first_open(watermark)
        return self._pop(sorted(self._open if watermark == END else (w for w in self._open if w < first_open)))

    def wake_at(self) -> int | None:
        return self._look_at if self.interval is None and self._open else None

    def tick(self, now: int) -> Iterable[Frame]:
        """What waits for room goes out as soon as there is some, though nothing more comes."""
        self._look_at = now + _LOOK_EVERY
        return () if self.ctx.pressed else self._pop([0])

    def _pop(self, windows: list[int]) -> tuple[Frame, ...]:
        items: list[Any] = []
        for window in windows:
            interval = self._open.pop(window, None)
            if interval is not None:
                items += interval.items()
                self._changes.touch(window << _BLOCK_BITS | n for n in range(-(-len(interval.last) // _BLOCK)))
        return (Frame(compact(items)),) if items else ()

    def snapshot(self) -> dict[str, bytes | None]:
        return self._changes.take(self._blob)

    def _blob(self, block: int) -> bytes | None:
        interval = self._open.get(block >> _BLOCK_BITS)
        start = (block & ((1 << _BLOCK_BITS) - 1)) * _BLOCK
        items = [] if interval is None else interval.items(slice(start, start + _BLOCK))
        return pack_items(items, self.ctx) if items else None

    def restore(self, state: Mapping[str, bytes], watermark: int = NO_MARK) -> None:
        self._watermark = watermark
        blocks = sorted(map(int, state))
        for block in blocks:
            interval = self._open.setdefault(block >> _BLOCK_BITS, _Interval())
            if (
                len(interval.last) % _BLOCK
            ):  # something before it could not be stored, so its keys have other numbers now
                self._changes.touch(blocks)
            for item in unpack(state[str(block)]):
                interval.put(field(item, self.key), field(item, "ts_event"), item)
        self._changes.restored(blocks)
