"""Event-time progress, pure: the merge of marks over inputs, and the watermark of a source.

The vocabulary is that of timely dataflow (Murray et al., SOSP 2013) and of the Dataflow model (Akidau et al., VLDB 2015).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from market_data_pipeline.frame import END, IDLE, NO_MARK, Columns, Items
from market_data_pipeline.records import field

_IDLE_POLL = 0.1
"""Seconds between the steps of an idle live source's watermark."""


class MarkMerger:
    """The watermark of a node: the minimum of the marks of its inputs. Never goes back.

    An idle input is left out until its next items or mark. When all inputs that have not ended are idle, so is the node, and
    its watermark is the largest of theirs (as in Flink: nothing is to be waited for).
    """

    def __init__(self, inputs: Iterable[str]) -> None:
        self.marks = dict.fromkeys(inputs, NO_MARK)
        self.idle: set[str] = set()
        self.watermark = NO_MARK
        self.last = NO_MARK
        """The largest mark of any input before its end: when all have ended, event time has come this far."""

    def update(self, key: str, mark: int) -> bool:
        """Take ``mark`` (``IDLE`` too) for the input ``key``; whether the watermark advanced."""
        if mark == IDLE:
            if self.marks[key] == END:
                return False
            self.idle.add(key)
        else:
            self.idle.discard(key)
            if mark <= self.marks[key]:
                return False
            self.marks[key] = mark
            if mark != END:
                self.last = max(self.last, mark)
        merged = self._merge() if self.idle else min(self.marks.values())
        if merged <= self.watermark:
            return False
        self.watermark = merged
        return True

    def _merge(self) -> int:
        heard = [mark for key, mark in self.marks.items() if mark != END and key not in self.idle]
        return min(heard) if heard else max(self.marks[key] for key in self.idle)

    def came(self, key: str) -> None:
        """Items came from ``key``: it is not idle."""
        self.idle.discard(key)

    @property
    def is_idle(self) -> bool:
        """Whether every input that has not ended is idle."""
        return bool(self.idle) and all(key in self.idle or mark == END for key, mark in self.marks.items())

    def saved(self) -> dict[str, Any]:
        """What :meth:`restore` takes, plain data."""
        return {"marks": dict(self.marks), "idle": sorted(self.idle), "watermark": self.watermark, "last": self.last}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Continue with what was committed; inputs that are not mentioned have promised nothing."""
        for key, mark in saved.get("marks", {}).items():
            if key in self.marks:
                self.marks[key] = max(mark, self.marks[key])
        self.idle = {key for key in saved.get("idle", ()) if key in self.marks}
        self.last = saved.get("last", NO_MARK)
        heard = NO_MARK if self.idle else min(self.marks.values())
        self.watermark = max(self.watermark, heard, saved.get("watermark", NO_MARK))


class SourceWatermark:
    """Bounded out-of-orderness: the largest ``ts_event`` seen less ``max_delay`` (ns).

    An event exactly ``max_delay`` behind the largest is still on time. ``max_delay`` None promises nothing before the end.
    Items without ``ts_event`` do not move it. A source that is silent for ``idle_after`` ns is idle; a ``live`` one's
    watermark then follows the clock. Times of silence are monotonic seconds.
    """

    def __init__(self, max_delay: int | None, idle_after: int | None = None, live: bool = False) -> None:
        self.max_delay, self.idle_after, self.live = max_delay, idle_after, live
        self.mark = NO_MARK
        self._heard_at = 0.0
        self._idle = False

    def heard(self, now: float) -> None:
        """Something came (or the source was opened)."""
        self._heard_at, self._idle = now, False

    def patience(self, now: float) -> float:
        """Seconds to wait for the source before asking :meth:`silence`, at most."""
        if self.idle_after is None:
            return 1.0
        left = self.idle_after / 1e9 - (now - self._heard_at)
        return min(1.0, left) if left > 0 else _IDLE_POLL

    def silence(self, now: float, wall: int) -> int | None:
        """The mark that a silent source gives at wall time ``wall`` (ns), ``None`` where it has nothing to say."""
        if self.idle_after is None or self.mark == END:
            return None
        if round((now - self._heard_at) * 1e9) < self.idle_after:  # seconds in floats are not exact to the ns
            return None
        if self.live and self.max_delay is not None:
            before, self.mark = self.mark, max(self.mark, wall - self.max_delay)
            return self.mark if self.mark > before else None
        if self._idle:
            return None
        self._idle = True
        return IDLE

    def observe(self, items: Items) -> int:
        """The watermark behind ``items``."""
        if self.max_delay is not None and len(items):
            newest = _newest(items)
            if newest is not None:
                self.mark = max(self.mark, newest - self.max_delay)
        return self.mark

    def end(self) -> int:
        self.mark = END
        return END


def _newest(items: Items) -> int | None:
    if isinstance(items, Columns):
        times = items.data.get("ts_event")
        return int(times.max()) if isinstance(times, np.ndarray) else None
    newest: int | None = None
    for item in items:
        try:
            ts = field(item, "ts_event")
        except (KeyError, AttributeError, TypeError):
            continue
        if type(ts) is int and (newest is None or ts > newest):
            newest = ts
    return newest
