"""Gaps in sequence numbers.

=============================== ============================================
numbers of A: 1, 2, 5, 4, 6     all pass; ``Gap("A", 3, 4, 2, ts of 5)``; 4 is counted (``out_of_order``)
A from another connection: 40   passes; a reconnect starts anew
=============================== ============================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final, Literal

import numpy as np

from market_data_pipeline.frame import NO_MARK, Columns, Dictionary, Frame, to_rows
from market_data_pipeline.operators.base import Operator
from market_data_pipeline.operators.changes import Changes
from market_data_pipeline.operators.keys import check_field, check_key
from market_data_pipeline.packing import pack, unpack
from market_data_pipeline.records import FieldNames, Gap, field, fields_of

GAPS: Final = "gaps"
"""The output of :class:`~market_data_pipeline.records.Gap` records."""
_BUCKET = 256


class GapDetector(Operator):
    """Passes all items on and sends a :class:`Gap` to its output ``gaps`` (and counts it, ``gap``) where numbers are missing.

    ``seq`` names the field with the sequence number (an int that grows by one per ``symbol``; items with another value pass
    and are counted, ``unnumbered``). ``connection`` names a field that changes with a reconnect: the numbers then start anew,
    without a gap. A number at or below the largest so far passes and is counted (``out_of_order``). Never holds anything up.
    State: the last number of each symbol; a commit writes the blocks of 256 symbols that changed.
    """

    accepts: ClassVar[Literal["any"]] = "any"
    outputs = (GAPS,)

    def __init__(self, seq: str = "trade_id", symbol: str = "symbol", connection: str | None = None) -> None:
        self.seq, self.symbol = check_field(seq, "seq"), check_field(symbol, "symbol")
        self.connection = None if connection is None else check_field(connection, "connection")
        self._number: dict[Any, int] = {}
        self._last: list[tuple[Any, Any, int]] = []  # by number: symbol, connection, last sequence number
        self._changes = Changes()

    def fields_read(self, input: str = "") -> tuple[str, ...]:  # noqa: A002 - what it is
        return (self.seq, self.symbol, *([] if self.connection is None else [self.connection]))

    def fields_given(self, taken: FieldNames, output: str = "") -> FieldNames:
        return fields_of("gap") if output == GAPS else taken

    def process(self, frame: Frame) -> Iterable[Frame]:
        if not (isinstance(frame.items, Columns) and self._continues(frame.items)):
            gaps = [gap for item in to_rows(frame.items) if (gap := self._see(item)) is not None]
            self.ctx.count("gap", len(gaps))
            if gaps:
                return Frame(frame.items), Frame(gaps, port=GAPS)
        return (Frame(frame.items),)

    def _continues(self, items: Columns) -> bool:
        """Whether every symbol's numbers go on by one; then they are noted, at the speed of columns."""
        symbols, numbers = items.data.get(self.symbol), items.data.get(self.seq)
        if self.connection is not None or not isinstance(symbols, Dictionary):
            return False
        if not isinstance(numbers, np.ndarray) or numbers.dtype != np.int64:
            return False
        order = np.argsort(symbols.codes, kind="stable")
        codes, sorted_numbers = symbols.codes[order], numbers[order]
        first = np.flatnonzero(np.concatenate(([True], codes[1:] != codes[:-1])))
        steps = np.diff(sorted_numbers)
        steps[first[1:] - 1] = 1
        if not (steps == 1).all():
            return False
        names = [symbols.names[code] for code in codes[first].tolist()]
        last = np.append(first[1:], len(codes)) - 1
        starts, ends = sorted_numbers[first].tolist(), sorted_numbers[last].tolist()
        known = [self._last[self._number[name]] if name in self._number else None for name in names]
        if any(k is not None and k[2] + 1 != start for k, start in zip(known, starts, strict=True)):
            return False
        for name, end in zip(names, ends, strict=True):
            self._note(name, None, end)
        return True

    def _see(self, item: Any) -> Gap | None:
        try:
            symbol, number = check_key(field(item, self.symbol)), check_key(field(item, self.seq))
            connection = None if self.connection is None else field(item, self.connection)
            if connection is not None:
                check_key(connection)
        except (KeyError, AttributeError, TypeError, ValueError):
            number = None
        if type(number) is not int:
            self.ctx.count("unnumbered")
            return None
        _, before, last = self._last[self._number[symbol]] if symbol in self._number else (None, connection, number - 1)
        if before != connection:
            last = number - 1
        if number <= last:
            self.ctx.count("out_of_order")
            return None
        self._note(symbol, connection, number)
        if number == last + 1:
            return None
        ts = field(item, "ts_event") if _has(item, "ts_event") else 0
        return Gap(symbol, last + 1, number - 1, number - last - 1, ts if type(ts) is int else 0)

    def _note(self, symbol: Any, connection: Any, number: int) -> None:
        at = self._number.setdefault(symbol, len(self._number))
        if at == len(self._last):
            self._last.append((symbol, connection, number))
        else:
            self._last[at] = (symbol, connection, number)
        self._changes.touch((at // _BUCKET,))

    def snapshot(self) -> dict[str, bytes | None]:
        return self._changes.take(lambda block: pack(self._last[block * _BUCKET : (block + 1) * _BUCKET]))

    def restore(self, state: Mapping[str, bytes], watermark: int = NO_MARK) -> None:
        blocks = sorted(map(int, state))
        for block in blocks:
            self._last += [(symbol, connection, number) for symbol, connection, number in unpack(state[str(block)])]
        self._number = {symbol: at for at, (symbol, _, _) in enumerate(self._last)}
        self._changes.restored(blocks)


def _has(item: Any, name: str) -> bool:
    return name in item if isinstance(item, dict) else hasattr(item, name)
