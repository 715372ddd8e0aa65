"""Which trades make a bar's prices and which its volume, by the venue's sale conditions.

``updates_ohlc=lambda c: "I" not in c`` (an odd lot makes no price), ``updates_volume=lambda c: "Q" not in c``:

========== =========== ============ ===================================
conditions makes price makes volume
========== =========== ============ ===================================
``""``     yes         yes          a usual trade
``"I"``    no          yes          adds to the volume only
``"Q"``    yes         no           moves the prices only
``"IQ"``   no          no           counted (``ignored``) and left out
========== =========== ============ ===================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from market_data_pipeline.frame import Array, Columns
from market_data_pipeline.operators.base import OperatorContext
from market_data_pipeline.operators.stateless import check_function

Predicate = Callable[[str], Any]
"""Of a trade's ``conditions``; its answer counts as true or false and must always be the same for the same string."""


class Selected(NamedTuple):
    """Trades that update anything, and which of them make prices and volume: bool of shape (n,), ``None`` where all do."""

    items: Columns
    prices: Array | None
    volumes: Array | None


class ConditionMask:
    """Two predicates of ``conditions``; ``None`` holds for every trade. Raises ``ConfigError`` for what is no function.

    A predicate is called once for each distinct string that a frame brings. Trades without the column have ``""``.
    """

    def __init__(self, updates_ohlc: Predicate | None = None, updates_volume: Predicate | None = None) -> None:
        for name, predicate in (("updates_ohlc", updates_ohlc), ("updates_volume", updates_volume)):
            if predicate is not None:
                check_function(predicate, name)
        self._predicates = (updates_ohlc, updates_volume)
        self._names: tuple[str, ...] | None = None
        self._verdicts: Array = np.empty((2, 0), bool)
        self._errors: dict[int, Exception] = {}

    def select(self, items: Columns, ctx: OperatorContext) -> Selected:
        """The trades of ``items`` that update anything."""
        verdicts = self.judge(items, ctx)
        if verdicts is None:
            return Selected(items, None, None)
        prices, volumes = verdicts
        wanted = prices | volumes
        if not wanted.all():
            items, prices, volumes = items.take(wanted), prices[wanted], volumes[wanted]
        return Selected(items, None if prices.all() else prices, None if volumes.all() else volumes)

    def judge(self, items: Columns, ctx: OperatorContext) -> tuple[Array, Array] | None:
        """Which of ``items`` make prices and which volume, bool of shape (n,); ``None`` where there are no predicates.

        Those that make neither are counted as ``ignored``; those at whose conditions a predicate raises go the way of the error
        policy, and make neither.
        """
        if self._predicates == (None, None):
            return None
        codes = self._codes(items)
        prices, volumes = self._verdicts[0, codes], self._verdicts[1, codes]
        n_broken = 0
        if (broken := self._broken(items, codes, ctx)) is not None:
            prices, volumes, n_broken = prices & ~broken, volumes & ~broken, int(broken.sum())
        ctx.count("ignored", int((~(prices | volumes)).sum()) - n_broken)
        return prices, volumes

    def usable(self, items: Columns, ctx: OperatorContext) -> Columns:
        """``items`` without those at whose conditions a predicate raises, which go the way of the error policy."""
        if self._predicates == (None, None):
            return items
        broken = self._broken(items, self._codes(items), ctx)
        return items if broken is None else items.take(~broken)

    def _codes(self, items: Columns) -> Array:
        """Where the verdicts on each item's conditions stand."""
        if "conditions" in items.data:
            column = items.dictionary("conditions")
            names, codes = column.names, column.codes
        else:
            names, codes = ("",), np.zeros(len(items), np.uint32)
        if names != self._names:
            self._judge(names)
        return codes

    def _broken(self, items: Columns, codes: Array, ctx: OperatorContext) -> Array | None:
        """Which of ``items`` have conditions at which a predicate raises, ``None`` if none; they are handed to ``ctx``."""
        if not self._errors or not (broken := np.isin(codes, list(self._errors))).any():
            return None
        for item, code in zip(items.take(broken).rows(), codes[broken].tolist(), strict=True):
            ctx.failed(item, self._errors[code])
        return broken

    def _judge(self, names: tuple[str, ...]) -> None:
        verdicts = np.ones((2, len(names)), bool)
        errors: dict[int, Exception] = {}
        for row, predicate in zip(verdicts, self._predicates, strict=True):
            if predicate is None:
                continue
            for code, name in enumerate(names):
                try:
                    row[code] = bool(predicate(name))
                except Exception as error:  # a user's function may raise anything
                    errors[code] = error
        self._names, self._verdicts, self._errors = names, verdicts, errors
