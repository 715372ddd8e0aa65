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

from market_data_pipeline.codec import unpack
from market_data_pipeline.durations import Duration, positive_duration, signed_duration
from market_data_pipeline.frame import END, NO_MARK, Columns, Dictionary, Frame, columns_from_rows, to_rows
from market_data_pipeline.operators.base import Operator, pack_items
from market_data_pipeline.operators.buckets import Tumbling
from market_data_pipeline.operators.changes import Changes
from market_data_pipeline.operators.lateness import LATE, Lateness, LatePolicy, check_late_policy
from market_data_pipeline.operators.stateless import apply
from market_data_pipeline.records import KINDS, field

_LOOK_EVERY = 50_000_000
"""Nanoseconds between two looks whether there is room again."""


class Conflate(Operator):
    """The last item per ``key`` (by ``ts_event``; of equal times the one that came last), for quotes; never use it on trades.

    With ``interval`` one item per key and interval of event time comes out when the watermark reaches the interval's end, by
    interval, then by key in order of arrival. Items behind are counted (``late``) and dropped, or with ``late="side_output"``
    sent to the output ``late``. Without ``interval`` everything passes while the outputs have room; while one is above its
    high level its task reads on, and only the last item of each key waits. What was replaced is counted (``replaced``).
    Items without key or ``ts_event`` go the way of the error policy. State: one item per key and open interval.
    """

    accepts: ClassVar[Literal["any"]] = "any"

    def __init__(
        self, interval: Duration | None = None, key: str = "symbol", align_to: Duration = 0, late: LatePolicy = "drop"
    ) -> None:
        self.interval = None if interval is None else positive_duration(interval, "interval")
        self.key = key
        self.align_to = signed_duration(align_to, "align_to")
        self.late = check_late_policy(late, ("drop", "side_output"))
        self.outputs = (LATE,)
        self.absorbs = self.interval is None
        self._windows = Tumbling(self.interval or 1, self.align_to)
        self._open: dict[int, dict[Any, tuple[int, Any]]] = {}
        self._changes = Changes()
        self._watermark = NO_MARK
        self._look_at = 0

    def required_outputs(self) -> tuple[str, ...]:
        return Lateness(self.late).required_outputs

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
        kept = np.sort(order[last])
        self.ctx.count("replaced", len(times) - len(kept))
        return to_rows(items.take(kept))

    def _place(self, item: Any) -> tuple[int, int, Any]:
        ts, key = field(item, "ts_event"), field(item, self.key)
        if type(ts) is not int:
            raise TypeError(f"ts_event {ts!r} is not a time in ns")
        hash(key)
        return (0 if self.interval is None else self._windows.index(ts)), ts, key

    def _keep(self, items: list[Any], late: list[Frame]) -> None:
        first_open = self._first_open()
        behind: list[Any] = []
        for item, (window, ts, key) in apply(self._place, items, self.ctx.failed):
            if first_open is not None and window < first_open:
                behind.append(item)
                continue
            group = self._open.setdefault(window, {})
            before = group.get(key)
            if before is not None:
                self.ctx.count("replaced")
            if before is None or ts >= before[0]:
                group[key] = (ts, item)
            self._changes.touch((window,))
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
        groups = [self._open.pop(window) for window in windows if window in self._open]
        self._changes.touch(windows)
        items = [item for group in groups for _, item in group.values()]
        if items and all(type(item) is type(items[0]) for item in items) and type(items[0]) in KINDS:
            columns, bad = columns_from_rows(items)
            if not bad:
                return (Frame(columns),)
        return (Frame(items),) if items else ()

    def snapshot(self) -> dict[str, bytes | None]:
        return self._changes.take(self._blob)

    def _blob(self, window: int) -> bytes | None:
        group = self._open.get(window)
        return None if not group else pack_items([item for _, item in group.values()], self.ctx)

    def restore(self, state: Mapping[str, bytes], watermark: int = NO_MARK) -> None:
        self._watermark = watermark
        for name, blob in state.items():
            items = unpack(blob)
            self._open[int(name)] = {field(item, self.key): (field(item, "ts_event"), item) for item in items}
        self._changes.restored(self._open)
