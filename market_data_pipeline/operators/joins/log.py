"""Items that are held, as state: packed once, in order of arrival, in segments that are forgotten whole.

A commit writes only the segment that grew; nothing is written when items are used up. Whoever restores leaves out the items
that the watermark has passed since, which a segment may still hold because of its newer ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from market_data_pipeline.codec import decode, encode
from market_data_pipeline.errors import CodecError
from market_data_pipeline.frame import NO_MARK, Columns, Frame, Items, to_rows
from market_data_pipeline.operators.base import OperatorContext, pack_items
from market_data_pipeline.operators.changes import Changes
from market_data_pipeline.packing import pack, unpack

_SEGMENT_ITEMS = 1024


@dataclass
class _Segment:
    newest: int = NO_MARK
    count: int = 0
    parts: list[tuple[bool, bytes]] = field(default_factory=list)


class ItemLog:
    """Packed items under state keys ``name:number``."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._segments: dict[int, _Segment] = {}
        self._next = 0
        self._changes = Changes()

    def append(self, items: Items, newest: int, ctx: OperatorContext) -> Items:
        """Add ``items``, of which the newest is at ``newest`` (ns). Those that cannot be kept as state are rejected; returns
        the others."""
        items, part = _packed(items, ctx)
        if not len(items):
            return items
        number = self._next - 1
        if number not in self._segments or self._segments[number].count >= _SEGMENT_ITEMS:
            number, self._next = self._next, self._next + 1
            self._segments[number] = _Segment()
        segment = self._segments[number]
        segment.parts.append(part)
        segment.count += len(items)
        segment.newest = max(segment.newest, newest)
        self._changes.touch((number,))
        return items

    def forget(self, before: int) -> None:
        """Nothing older than ``before`` (ns) is needed any more."""
        gone = [number for number, segment in self._segments.items() if segment.newest < before]
        for number in gone:
            del self._segments[number]
        self._changes.touch(gone)

    def snapshot(self) -> dict[str, bytes | None]:
        return {f"{self._name}:{number}": blob for number, blob in self._changes.take(self._blob).items()}

    def _blob(self, number: int) -> bytes | None:
        segment = self._segments.get(number)
        return None if segment is None else pack([segment.newest, segment.count, segment.parts])

    def restore(self, state: Mapping[str, bytes]) -> list[Items]:
        """Everything that is stored, in order of arrival; some of it may be past."""
        prefix = f"{self._name}:"
        numbers = sorted(int(key.removeprefix(prefix)) for key in state if key.startswith(prefix))
        batches: list[Items] = []
        for number in numbers:
            newest, count, parts = unpack(state[f"{prefix}{number}"])
            self._segments[number] = _Segment(newest, count, [(columns, blob) for columns, blob in parts])
            batches += [decode(blob, len(blob)).frame.items if columns else unpack(blob) for columns, blob in parts]
            self._next = number + 1
        self._changes.restored(numbers)
        return batches


def _packed(items: Items, ctx: OperatorContext) -> tuple[Items, tuple[bool, bytes]]:
    """``items`` as a part of a segment: whether it is columns, and its bytes."""
    if isinstance(items, Columns):
        try:
            return items, (True, encode("", Frame(items)))
        except CodecError:  # of a type that cannot travel
            items = items.rows()
    rows = list(to_rows(items))
    blob = pack_items(rows, ctx)
    return rows, (False, blob)
