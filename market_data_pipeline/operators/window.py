"""The tumbling window of whole items, on event time.

Windows are half-open ``[start, end)``, aligned to ``align_to`` (default: the epoch), labelled by start. A window fires when
the watermark reaches its end; an item is late when its window has fired.

====================================== =====================================
TumblingWindow("1s"), watermarks       output
====================================== =====================================
items at 0.2 s, 0.9 s, 1.1 s; W = 1 s  ``Window(None, 0 s, 1 s, [0.2, 0.9])``
item at 0.5 s (late, counted); end     ``Window(None, 1 s, 2 s, [1.1])``
====================================== =====================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

from market_data_pipeline.codec import pack, unpack
from market_data_pipeline.durations import Duration, parse_duration, positive_duration
from market_data_pipeline.frame import END, NO_MARK, Frame, to_rows
from market_data_pipeline.operators.base import Operator, pack_items
from market_data_pipeline.operators.buckets import Tumbling
from market_data_pipeline.operators.changes import Changes
from market_data_pipeline.operators.lateness import LATE, Lateness, LatePolicy, check_late_policy
from market_data_pipeline.operators.stateless import apply
from market_data_pipeline.records import Window, field

_KEY_TYPES = {type(None), bool, int, float, str, bytes}


class TumblingWindow(Operator):
    """Collects items per window and key, and emits :class:`Window` (as rows) when the watermark passes its end.

    ``ts`` names the time field (ns) or is a function of the item; ``key`` likewise, ``None`` for one group. Windows come
    out by start, keys within a window by first arrival. Late items are counted (``late``) and dropped, or with
    ``late="side_output"`` sent along the edge with ``output="late"``.
    """

    accepts: ClassVar[Literal["rows"]] = "rows"

    def __init__(
        self,
        size: Duration,
        ts: str | Callable[[Any], int] = "ts_event",
        key: str | Callable[[Any], Any] | None = None,
        align_to: Duration = 0,
        late: LatePolicy = "drop",
    ) -> None:
        self.size = positive_duration(size, "size")
        self.ts = ts
        self.key = key
        self.align_to = parse_duration(align_to, "align_to")
        self.late = check_late_policy(late, ("drop", "side_output"))
        self.outputs = (LATE,)
        self._windows = Tumbling(self.size, self.align_to)
        self._open: dict[int, dict[Any, list[Any]]] = {}
        self._changes = Changes()
        self._watermark = NO_MARK

    def time_of(self, item: Any) -> int:
        """The event time of ``item``, ns."""
        return int(self.ts(item) if callable(self.ts) else field(item, self.ts))

    def _place(self, item: Any) -> tuple[int, Any]:
        key = self.key(item) if callable(self.key) else None if self.key is None else field(item, self.key)
        _check_key(key)
        return self._windows.index(self.time_of(item)), key

    def process(self, frame: Frame) -> Iterable[Frame]:
        first_open = self._windows.first_open(self._watermark) if self._watermark != NO_MARK else None
        late: list[Any] = []
        for item, (window, key) in apply(self._place, to_rows(frame.items), self.ctx.failed):
            if first_open is not None and window < first_open:
                late.append(item)
                continue
            self._open.setdefault(window, {}).setdefault(key, []).append(item)
            self._changes.touch((window,))
        self.ctx.count("late", len(late))
        return (Frame(late, port=LATE),) if late and self.late == "side_output" else ()

    def required_outputs(self) -> tuple[str, ...]:
        return Lateness(self.late).required_outputs

    def advance(self, watermark: int) -> Iterable[Frame]:
        self._watermark = max(watermark, self._watermark)
        first_open = self._windows.first_open(watermark)
        ready = sorted(self._open if watermark == END else (w for w in self._open if w < first_open))
        results: list[Any] = []
        for window in ready:
            start, end = self._windows.start(window), self._windows.end(window)
            results += [Window(key, start, end, items) for key, items in self._open.pop(window).items()]
        self._changes.touch(ready)
        return (Frame(results),) if results else ()

    def snapshot(self) -> dict[str, bytes | None]:
        return self._changes.take(self._blob)

    def _blob(self, window: int) -> bytes | None:
        groups = self._open.get(window)
        if groups is None:
            return None
        return pack([[key, pack_items(items, self.ctx)] for key, items in groups.items()])

    def restore(self, state: Mapping[str, bytes], watermark: int = NO_MARK) -> None:
        self._watermark = watermark
        for name, blob in state.items():
            groups = unpack(blob)
            self._open[int(name)] = {_hashable(key): unpack(items) for key, items in groups}
        self._changes.restored(self._open)


def _check_key(key: Any) -> None:
    """Raises ``TypeError`` for a key that would not come back from a snapshot as it was."""
    if isinstance(key, tuple) and type(key) is tuple:
        for part in key:
            _check_key(part)
    elif type(key) not in _KEY_TYPES:
        raise TypeError(
            f"a window's key may be None, bool, int, float, str, bytes or a tuple of these, not {key!r:.100}"
        )


def _hashable(key: Any) -> Any:
    return tuple(_hashable(part) for part in key) if isinstance(key, list) else key
