"""The open bar of every symbol, and bars as columns: what bars without time windows keep and give out.

A symbol without an open bar has the bar of no trades, to which any other can be added: no count, no prices (NaN), no
volume, a first time behind and a last one before all others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from market_data_pipeline.frame import Array, Columns, Dictionary
from market_data_pipeline.operators.changes import Changes
from market_data_pipeline.packing import pack, unpack
from market_data_pipeline.records import MAX_TIME, MIN_TIME

FIRST, LAST, COUNT, PARTIAL = range(4)
INTS, FLOATS = 4, 9
OPEN, HIGH, LOW, CLOSE, VOLUME, NOTIONAL, BOUGHT, SOLD, PROGRESS = range(9)
PRICES, SUMS = slice(OPEN, VOLUME), slice(VOLUME, PROGRESS)
_BLOCK = 256


class OpenBars:
    """By number of the symbol: ``ints`` (n, 4) first ts, last ts, count, whether trades are missing; ``floats`` (n, 9) open,
    high, low, close, volume, notional, bought, sold, progress towards the next bar."""

    def __init__(self) -> None:
        self._reset()
        self._changes = Changes()

    def _reset(self) -> None:
        self.ints, self.floats = self.empty(0)
        self.names: tuple[str, ...] = ()
        self._numbers: dict[str, int] = {}
        self._frame_names: tuple[str, ...] | None = None
        self._frame_numbers: Array = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._numbers)

    @staticmethod
    def empty(n: int) -> tuple[Array, Array]:
        """``n`` bars of no trades, as ints and floats."""
        ints, floats = np.empty((n, INTS), np.int64), np.zeros((n, FLOATS))
        ints[:] = MAX_TIME, MIN_TIME, 0, 0
        floats[:, PRICES] = np.nan
        return ints, floats

    def intern(self, symbols: Dictionary) -> Array:
        """The number of each row's symbol, int64 of shape (n,); new ones get the next."""
        if symbols.names != self._frame_names:
            self._frame_names = symbols.names
            self._frame_numbers = np.array([self._numbers.get(name, -1) for name in symbols.names], np.int64)
        numbers = self._frame_numbers[symbols.codes]
        if len(numbers) and numbers.min() < 0:
            for code in np.unique(symbols.codes[numbers < 0]).tolist():
                self._frame_numbers[code] = self._numbers.setdefault(symbols.names[code], len(self._numbers))
            self._grow()
            numbers = self._frame_numbers[symbols.codes]
        return numbers

    def mark_partial(self, symbol: str) -> None:
        """Trades of ``symbol`` are missing in its open bar, or before the next one's first."""
        number = self._numbers.setdefault(symbol, len(self._numbers))
        self._frame_names = None
        self._grow()
        self.ints[number, PARTIAL] = 1
        self._changes.touch((number // _BLOCK,))

    def _grow(self) -> None:
        self.names = tuple(self._numbers)
        missing = len(self.names) - len(self.ints)
        if missing > 0:
            ints, floats = self.empty(max(missing, len(self.ints), _BLOCK))
            self.ints, self.floats = np.concatenate((self.ints, ints)), np.concatenate((self.floats, floats))

    def add_to(self, code: Array, goes_on: Array, ints: Array, floats: Array) -> None:
        """Put what is open before those of the given bars that go on with it (``goes_on``, bool). Sums have it already."""
        before, prices = self.ints[code[goes_on]], self.floats[code[goes_on]]
        now, later = ints[goes_on], floats[goes_on]
        now[:, FIRST] = np.minimum(before[:, FIRST], now[:, FIRST])
        now[:, LAST] = np.maximum(before[:, LAST], now[:, LAST])
        now[:, COUNT] += before[:, COUNT]
        now[:, PARTIAL] |= before[:, PARTIAL]
        later[:, OPEN] = np.where(np.isnan(prices[:, OPEN]), later[:, OPEN], prices[:, OPEN])
        later[:, CLOSE] = np.where(np.isnan(later[:, CLOSE]), prices[:, CLOSE], later[:, CLOSE])
        later[:, HIGH] = np.fmax(prices[:, HIGH], later[:, HIGH])
        later[:, LOW] = np.fmin(prices[:, LOW], later[:, LOW])
        ints[goes_on], floats[goes_on] = now, later

    def keep(self, code: Array, closed: Array, ints: Array, floats: Array) -> None:
        """Of bars in order of symbol, keep each symbol's last one, unless it is closed: then nothing is open."""
        final = np.append(code[1:] != code[:-1], True)
        code, closed, ints, floats = code[final], closed[final], ints[final], floats[final]
        ints[closed], floats[closed] = self.empty(int(closed.sum()))
        self.ints[code], self.floats[code, :PROGRESS] = ints, floats[:, :PROGRESS]
        self._changes.touch(np.unique(code // _BLOCK).tolist())

    def clear(self) -> None:
        """Forget all symbols."""
        self._changes.touch(range(-(-len(self) // _BLOCK)))
        self._reset()

    def snapshot(self) -> dict[str, bytes | None]:
        """The blocks of 256 symbols that changed."""
        return self._changes.take(self._blob)

    def _blob(self, block: int) -> bytes | None:
        rows = slice(block * _BLOCK, min((block + 1) * _BLOCK, len(self)))
        if rows.start >= len(self):
            return None
        return pack([self.names[rows], self.ints[rows].tobytes(), self.floats[rows].tobytes()])

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Continue from all that snapshots have left."""
        blocks = sorted(map(int, state))
        for block in blocks:
            names, ints, floats = unpack(state[str(block)])
            for name in names:
                self._numbers[name] = len(self._numbers)
            self._grow()
            rows = slice(block * _BLOCK, len(self))
            self.ints[rows] = np.frombuffer(ints, np.int64).reshape(-1, INTS)
            self.floats[rows] = np.frombuffer(floats, np.float64).reshape(-1, FLOATS)
        self._changes.restored(blocks)


def bar_columns(
    names: Sequence[str], code: Array, ints: Array, floats: Array, label: str, partial: bool = False
) -> Columns:
    """Bars of the symbols ``code`` (shape (n,)) from ints and floats as in :class:`OpenBars`, with all fields. ``partial``:
    all of them are."""
    ts_open, ts_close = ints[:, FIRST].copy(), ints[:, LAST] + 1
    volume, close = floats[:, VOLUME].copy(), floats[:, CLOSE].copy()
    traded = volume > 0
    return Columns(
        "bar",
        {
            "symbol": Dictionary(code.astype(np.uint32), tuple(names)),
            "ts_open": ts_open,
            "ts_close": ts_close,
            "open": floats[:, OPEN].copy(),
            "high": floats[:, HIGH].copy(),
            "low": floats[:, LOW].copy(),
            "close": close,
            "volume": volume,
            "vwap": np.where(traded, floats[:, NOTIONAL] / np.where(traded, volume, 1.0), close),
            "trade_count": ints[:, COUNT].copy(),
            "ts_event": (ts_close if label == "right" else ts_open).copy(),
            "buy_volume": floats[:, BOUGHT].copy(),
            "sell_volume": floats[:, SOLD].copy(),
            "revision": np.zeros(len(code), np.int64),
            "is_final": np.ones(len(code), bool),
            "partial": (ints[:, PARTIAL] != 0) | partial,
        },
    )
