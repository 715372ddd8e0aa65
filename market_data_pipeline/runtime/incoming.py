"""Frames that a task has read and decoded, and which of them it feeds together. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from market_data_pipeline.dag.plan import PlanEdge
from market_data_pipeline.frame import END, IDLE, NO_MARK, Columns, Frame, Items


class Incoming(NamedTuple):
    """A frame that was read: along which edge, the entry's name, the task that wrote it."""

    edge: PlanEdge
    unit: str
    origin: str
    frame: Frame


def together(incoming: Iterator[Incoming], enough: int) -> Iterator[list[Incoming]]:
    """Neighbouring small frames of an edge in groups of about ``enough`` items, so that operators, whose cost is mostly by the
    call, are called less often. Whether an item is late does not change by it: a frame with items before a mark in the group
    begins another one. What says that an input is idle or has ended stays by itself."""
    group: list[Incoming] = []
    count, mark = 0, NO_MARK
    for one in incoming:
        alone = one.frame.mark in (IDLE, END)
        if group and (
            alone
            or count + len(one.frame.items) > enough
            or one.edge is not group[0].edge
            or not _all_behind(one.frame.items, mark)
        ):
            yield group
            group, count, mark = [], 0, NO_MARK
        group.append(one)
        count = enough + 1 if alone else count + len(one.frame.items)
        mark = max(mark, one.frame.mark)
    if group:
        yield group


def _all_behind(items: Items, mark: int) -> bool:
    """Whether none of ``items`` is of a time before ``mark``, as far as that is quickly told."""
    if mark == NO_MARK or not len(items):
        return True
    times = items.data.get("ts_event") if isinstance(items, Columns) else None
    return isinstance(times, np.ndarray) and times.dtype == np.int64 and int(times.min()) >= mark
