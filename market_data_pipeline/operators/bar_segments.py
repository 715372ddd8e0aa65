"""The open bars of a table as the store holds them.

A commit writes the bars that changed since the one before, as one segment of rows. Of a bar that stands in several segments
the newest counts. A segment goes away when nothing in it counts any more; when the segments together are over twice as large
as the table, what still counts of the oldest is written anew. So a commit writes what changed, however much is open, and
what is stored is a small multiple of what is open.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from market_data_pipeline.frame import Array
from market_data_pipeline.operators.bar_table import BarTable, Groups, groups_of
from market_data_pipeline.packing import pack, unpack

_SEGMENT = "rows:"
_SLACK = 1024
"""Rows that may be stored in vain."""


class BarSegments:
    """Writes and reads the rows of ``table``; ``table.segment`` says where each of them is stored."""

    def __init__(self, table: BarTable) -> None:
        self._table = table
        self._sizes: dict[int, int] = {}
        """Rows of each segment in the store."""
        self._next = 0

    def snapshot(self) -> dict[str, bytes | None]:
        """What changed since the last call."""
        table, delta = self._table, dict[str, bytes | None]()
        self._outdate()
        changed = np.flatnonzero(table.segment < 0)
        if len(changed):
            rows = table.rows.take(changed)
            delta[f"{_SEGMENT}{self._next}"] = pack([array.tobytes() for array in rows])
            table.segment[changed] = self._next
            self._sizes[self._next] = len(changed)
            self._next += 1
        for segment in self._sizes.keys() - set(np.unique(table.segment).tolist()):
            del self._sizes[segment]
            delta[f"{_SEGMENT}{segment}"] = None
        return delta

    def _outdate(self) -> None:
        """Let the oldest segments' rows be written again where too much is stored in vain."""
        stored = sum(self._sizes.values())
        for segment in sorted(self._sizes):
            if stored <= 2 * len(self._table.key) + _SLACK:
                break
            stored -= self._sizes[segment]
            self._table.segment[self._table.segment == segment] = -1

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Fill the table. Bars that were closed may be among those that come back, as long as their segment was needed."""
        own = sorted(int(key.removeprefix(_SEGMENT)) for key in state if key.startswith(_SEGMENT))
        parts = {segment: groups_of(*unpack(state[f"{_SEGMENT}{segment}"])) for segment in own}
        self._sizes = {segment: len(groups.key) for segment, groups in parts.items()}
        self._next = max(own, default=-1) + 1
        if parts:
            self._table.load(*_newest(parts))


def _newest(parts: Mapping[int, Groups]) -> tuple[Groups, Array]:
    """The newest row of each bar, by key, and the segment of each."""
    segment = np.repeat(np.fromiter(parts, np.int64), [len(groups.key) for groups in parts.values()])
    rows = Groups(*(np.concatenate(columns) for columns in zip(*parts.values(), strict=True)))
    order = np.argsort(rows.key, kind="stable")  # segments are in order of age
    key = rows.key[order]
    newest = order[np.append(key[1:] != key[:-1], True)]
    return rows.take(newest), segment[newest]
