"""Bars under test: an operator with what its store would hold, restarted on demand."""

import math
from collections.abc import Iterable
from typing import Any

from market_data_pipeline.frame import NO_MARK, Frame, columns_from_rows, to_rows
from market_data_pipeline.operators.bars import TumblingBars
from market_data_pipeline.operators.base import OperatorContext
from market_data_pipeline.records import Bar, Trade


def trade(ts: int, price: float, size: float = 1.0, symbol: str = "A", **more: Any) -> Trade:
    return Trade(symbol, ts, more.pop("ts_recv", 0), price, size, **more)


def rows(frames: Iterable[Frame], port: str = "") -> list[Any]:
    return [row for frame in frames if frame.port == port for row in to_rows(frame.items)]


def shown(bar: Bar) -> Bar:
    """NaN as None, so that bars can be compared."""
    return Bar(*(None if isinstance(value, float) and math.isnan(value) else value for value in bar))


class Job:
    """An operator with what its store would hold; restarted on demand."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.state: dict[str, bytes] = {}
        self.watermark = NO_MARK
        self.operator = self._new()

    def _new(self) -> TumblingBars:
        operator = TumblingBars(**self.options)
        operator.open(OperatorContext("bars"))
        return operator

    def feed(self, *items: Any, columns: bool = True) -> list[Any]:
        """The late ones."""
        made: Any = list(items)
        if columns:
            made, bad = columns_from_rows(made)
            assert bad == []
        return rows(self.operator.process(Frame(made)), "late")

    def advance(self, watermark: int) -> list[Bar]:
        self.watermark = max(self.watermark, watermark)
        return [shown(bar) for bar in rows(self.operator.advance(watermark))]

    def restart(self) -> None:
        for key, blob in self.operator.snapshot().items():
            if blob is None:
                self.state.pop(key, None)
            else:
                self.state[key] = blob
        counts = self.operator.ctx.counts
        self.operator = self._new()
        self.operator.ctx.counts.update(counts)
        self.operator.restore(self.state, self.watermark)
        assert self.operator.snapshot() == {}
