"""Event-time progress, pure: the merge of marks over inputs, and the watermark of a source.

The vocabulary is that of timely dataflow (Murray et al., SOSP 2013) and of the Dataflow model (Akidau et al., VLDB 2015).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from market_data_pipeline.frame import END, NO_MARK, Columns, Items
from market_data_pipeline.records import field


class MarkMerger:
    """The watermark of a node: the minimum of the marks of its inputs. Never goes back."""

    def __init__(self, inputs: Iterable[str]) -> None:
        self.marks = dict.fromkeys(inputs, NO_MARK)
        self.watermark = NO_MARK

    def update(self, key: str, mark: int) -> bool:
        """Take ``mark`` for the input ``key``; whether the watermark advanced."""
        if mark <= self.marks[key]:
            return False
        self.marks[key] = mark
        merged = min(self.marks.values())
        if merged <= self.watermark:
            return False
        self.watermark = merged
        return True

    def restore(self, marks: dict[str, int]) -> None:
        """Continue with marks that were committed; inputs that are not mentioned have promised nothing."""
        for key, mark in marks.items():
            if key in self.marks:
                self.marks[key] = max(mark, self.marks[key])
        self.watermark = max(self.watermark, min(self.marks.values()))


class SourceWatermark:
    """Bounded out-of-orderness: the largest ``ts_event`` seen less ``max_delay`` (ns).

    An event exactly ``max_delay`` behind the largest is still on time. ``max_delay`` None promises nothing before the end.
    Items without ``ts_event`` do not move it.
    """

    def __init__(self, max_delay: int | None) -> None:
        self.max_delay = max_delay
        self.mark = NO_MARK

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
