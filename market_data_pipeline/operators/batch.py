"""Micro-batches: lists of items.

============== ==========================
Batcher(2)     output
============== ==========================
1, 2, 3, 4     ``[1, 2]``, ``[3, 4]``
5, then END    ``[5]``
============== ==========================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from market_data_pipeline.codec import unpack
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import END, NO_MARK, Frame, to_rows
from market_data_pipeline.operators.base import Operator, pack_items


class Batcher(Operator):
    """Lists of exactly ``max_items`` items; at the end of input a shorter last one."""

    accepts: ClassVar[Literal["rows"]] = "rows"

    def __init__(self, max_items: int) -> None:
        if max_items < 1:
            raise ConfigError(f"batch: max_items={max_items} must be at least 1")
        self.max_items = max_items
        self._waiting: list[Any] = []
        self._changed = False

    @property
    def waiting(self) -> int:
        """How many items are in the batch that is not full yet."""
        return len(self._waiting)

    def process(self, frame: Frame) -> Iterable[Frame]:
        return self.take(to_rows(frame.items))

    def take(self, items: list[Any]) -> Iterable[Frame]:
        """Add ``items``; full batches come out."""
        self._waiting += items
        self._changed = self._changed or bool(items)
        full = len(self._waiting) // self.max_items * self.max_items
        batches: list[Any] = [self._waiting[i : i + self.max_items] for i in range(0, full, self.max_items)]
        del self._waiting[:full]
        return (Frame(batches),) if batches else ()

    def flush(self) -> Iterable[Frame]:
        """What is waiting, as a shorter batch."""
        rest, self._waiting = self._waiting, []
        self._changed = self._changed or bool(rest)
        return (Frame([rest]),) if rest else ()

    def advance(self, watermark: int) -> Iterable[Frame]:
        return self.flush() if watermark == END else ()

    def snapshot(self) -> dict[str, bytes | None]:
        if not self._changed:
            return {}
        self._changed = False
        blob = pack_items(self._waiting, self.ctx)
        return {"waiting": blob if self._waiting else None}

    def restore(self, state: Mapping[str, bytes], watermark: int = NO_MARK) -> None:
        if "waiting" in state:
            self._waiting = unpack(state["waiting"])
