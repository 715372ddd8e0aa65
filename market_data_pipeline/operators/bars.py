"""Tumbling OHLCV bars from trades, on event time, vectorised.

All open bars of a task stand in one table sorted by (window, symbol): a frame's trades are grouped by one sort, merged
into the table by binary search, and windows that the watermark closes are its prefix.

================================================== ==================================================
TumblingBars("1s"): trades (time, price, size)     bars (open, high, low, close, volume, vwap, count)
================================================== ==================================================
A 0.1 s 10 x 1; A 0.9 s 12 x 1; A 0.5 s 9 x 2      when W >= 1 s: A [0, 1 s) 10 12 9 12 4 10 3
A 1.2 s 11 x 5; then the end of input              A [1 s, 2 s) 11 11 11 11 5 11 1
A 0.7 s after W = 1 s                              nothing; counted as ``late``
================================================== ==================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

import numpy as np

from market_data_pipeline.codec import pack, unpack
from market_data_pipeline.durations import Duration, parse_duration, positive_duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import END, NO_MARK, Array, Columns, Dictionary, Frame
from market_data_pipeline.operators.base import Operator
from market_data_pipeline.operators.buckets import Tumbling
from market_data_pipeline.operators.changes import Changes
from market_data_pipeline.operators.lateness import LATE, Lateness, LatePolicy, check_late_policy

_CODE_BITS = 19
"""Symbol codes are below 2**19 per task, so that window numbers of intervals >= 1 ms fit in the other 44 bits."""
_MIN_INTERVAL, _MAX_INTERVAL = 1_000_000, 3660 * 86_400_000_000_000
_FARTHEST = 2**62
"""Times (ns) beyond this, some 146 years from 1970, are no market data; they would overflow the arithmetic of windows."""
FIRST, LAST, COUNT = range(3)
OPEN, HIGH, LOW, CLOSE, VOLUME, NOTIONAL = range(6)


class BarTable:
    """Open bars sorted by key = window << 19 | symbol code. ``ints``: (n, 3) first ts, last ts, count; ``floats``:
    (n, 6) open, high, low, close, volume, notional."""

    def __init__(self) -> None:
        self.key: Array = np.empty(0, np.int64)
        self.ints: Array = np.empty((0, 3), np.int64)
        self.floats: Array = np.empty((0, 6), np.float64)

    def merge(self, key: Array, ints: Array, floats: Array) -> None:
        """Add bars with sorted, distinct ``key``; where a bar is there already, the two become one.

        Open is the price with the smallest time, close the one with the largest; at equal times the earlier arrival
        opens and the later one closes.
        """
        at = np.searchsorted(self.key, key)
        known = np.zeros(len(key), bool)
        inside = at < len(self.key)
        known[inside] = self.key[at[inside]] == key[inside]
        if known.any():
            self._update(at[known], ints[known], floats[known])
        if not known.all():
            new = ~known
            self.key = np.insert(self.key, at[new], key[new])
            self.ints = np.insert(self.ints, at[new], ints[new], axis=0)
            self.floats = np.insert(self.floats, at[new], floats[new], axis=0)

    def _update(self, at: Array, ints: Array, floats: Array) -> None:
        old_ints, old = self.ints[at], self.floats[at]
        earlier = ints[:, FIRST] < old_ints[:, FIRST]
        later = ints[:, LAST] >= old_ints[:, LAST]
        old[:, OPEN] = np.where(earlier, floats[:, OPEN], old[:, OPEN])
        old[:, CLOSE] = np.where(later, floats[:, CLOSE], old[:, CLOSE])
        old[:, HIGH] = np.maximum(old[:, HIGH], floats[:, HIGH])
        old[:, LOW] = np.minimum(old[:, LOW], floats[:, LOW])
        old[:, VOLUME:] += floats[:, VOLUME:]
        old_ints[:, FIRST] = np.minimum(old_ints[:, FIRST], ints[:, FIRST])
        old_ints[:, LAST] = np.maximum(old_ints[:, LAST], ints[:, LAST])
        old_ints[:, COUNT] += ints[:, COUNT]
        self.ints[at], self.floats[at] = old_ints, old

    def window(self, window: int) -> slice:
        """The rows of one window."""
        low, high = np.searchsorted(self.key, [window << _CODE_BITS, (window + 1) << _CODE_BITS])
        return slice(int(low), int(high))

    def pop_before(self, window: int | None) -> tuple[Array, Array, Array]:
        """Remove and return the bars of all windows below ``window`` (all, when it is ``None``)."""
        n = len(self.key) if window is None else int(np.searchsorted(self.key >> _CODE_BITS, window))
        popped = self.key[:n], self.ints[:n], self.floats[:n]
        self.key, self.ints, self.floats = self.key[n:].copy(), self.ints[n:].copy(), self.floats[n:].copy()
        return popped


def group_trades(window: Array, code: Array, ts: Array, price: Array, size: Array) -> tuple[Array, Array, Array]:
    """Trades as bars: sorted distinct keys, ints and floats as in :class:`BarTable`. Inputs have shape (n,), n > 0."""
    if len(ts) > 1 and not bool((ts[1:] >= ts[:-1]).all()):
        by_time = np.argsort(ts, kind="stable")
        window, code, ts, price, size = (a[by_time] for a in (window, code, ts, price, size))
    low = int(window.min())
    codes = int(code.max()) + 1
    sort_key = (window - low) * codes + code
    if (int(window.max()) - low + 1) * codes <= 0xFFFF:
        sort_key = sort_key.astype(np.uint16)  # numpy sorts 16 bits by radix
    order = np.argsort(sort_key, kind="stable")
    key = ((window << _CODE_BITS) | code)[order]
    price, size = price[order], size[order]
    first = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))
    last = np.append(first[1:], len(key)) - 1
    ints = np.empty((len(first), 3), np.int64)
    ints[:, FIRST], ints[:, LAST], ints[:, COUNT] = ts[order[first]], ts[order[last]], last - first + 1
    floats = np.empty((len(first), 6), np.float64)
    floats[:, OPEN], floats[:, CLOSE] = price[first], price[last]
    floats[:, HIGH], floats[:, LOW] = np.maximum.reduceat(price, first), np.minimum.reduceat(price, first)
    floats[:, VOLUME], floats[:, NOTIONAL] = np.add.reduceat(size, first), np.add.reduceat(price * size, first)
    return key[first], ints, floats


class TumblingBars(Operator):
    """Trades (symbol, ts_event, price, size) -> :class:`Bar` columns, one per symbol and window with a trade.

    ``interval``: 1 ms to 3660 days. Bars come out when the watermark reaches ``ts_close``, ordered by window, within a
    window in an order that is the task's own. Trades of a window that has fired are counted (``late``) and dropped, or with
    ``late="side_output"`` sent along the edge with ``output="late"``; prices or sizes that are not finite go to the dead
    letters. State: about 80 bytes per open bar; at most 524,288 symbols a partition.
    """

    accepts: ClassVar[Literal["columns"]] = "columns"
    needs: ClassVar[tuple[str, ...]] = ("symbol", "ts_event", "price", "size")

    def __init__(self, interval: Duration = "1s", align_to: Duration = 0, late: LatePolicy = "drop") -> None:
        self.interval = positive_duration(interval, "interval")
        self.align_to = parse_duration(align_to, "align_to")
        if self.interval < _MIN_INTERVAL:
            raise ConfigError(f"interval: {interval!r} is too short; at least 1ms")
        if self.interval > _MAX_INTERVAL:
            raise ConfigError(f"interval: {interval!r} is too long; at most 3660d")
        self.late = check_late_policy(late, ("drop", "side_output"))
        self.outputs = (LATE,)
        self._late: list[Frame] = []
        self._windows = Tumbling(self.interval, self.align_to)
        self._table = BarTable()
        self._codes: dict[str, int] = {}
        self._names_stored = 0
        self._frame_names: tuple[str, ...] | None = None
        self._frame_codes: Array = np.empty(0, np.int64)
        self._changes = Changes()
        self._watermark = NO_MARK

    def process(self, frame: Frame) -> Iterable[Frame]:
        items = frame.items
        assert isinstance(items, Columns)
        if len(items):
            items = self._usable(items)
        late, self._late = self._late, []
        if not len(items):
            return late
        ts = items.array("ts_event")
        code = self._intern(items.dictionary("symbol"))
        table = group_trades(self._windows.indices(ts), code, ts, items.array("price"), items.array("size"))
        self._table.merge(*table)
        self._changes.touch(np.unique(table[0] >> _CODE_BITS).tolist())
        return late

    def required_outputs(self) -> tuple[str, ...]:
        return Lateness(self.late).required_outputs

    def _usable(self, items: Columns) -> Columns:
        finite = np.isfinite(items.array("price")) & np.isfinite(items.array("size"))
        items = self._only(items, finite, "price or size is not a finite number")
        near = np.abs(items.array("ts_event")) < _FARTHEST
        items = self._only(items, near, "ts_event is more than 146 years from 1970, in ns")
        if self._watermark == NO_MARK:
            return items
        start = self._windows.start(self._windows.first_open(self._watermark))
        late = items.array("ts_event") < start
        if not late.any():
            return items
        self.ctx.count("late", int(late.sum()))
        if self.late == "side_output":
            self._late = [Frame(items.take(late), port=LATE)]
        return items.take(~late)

    def _only(self, items: Columns, good: Array, reason: str) -> Columns:
        if good.all():
            return items
        for item in items.take(~good).rows():
            self.ctx.reject(item, reason)
        return items.take(good)

    def _intern(self, symbols: Dictionary) -> Array:
        if symbols.names is not self._frame_names:
            table = self._codes
            codes = [table.setdefault(name, len(table)) for name in symbols.names]
            if len(table) > 1 << _CODE_BITS:
                raise ConfigError(f"more than {1 << _CODE_BITS} symbols in one partition; use more partitions")
            self._frame_names = symbols.names
            self._frame_codes = np.array(codes, np.int64)
        return self._frame_codes[symbols.codes]

    def advance(self, watermark: int) -> Iterable[Frame]:
        self._watermark = max(watermark, self._watermark)
        if not len(self._table.key):
            return ()
        key, ints, floats = self._table.pop_before(None if watermark == END else self._windows.first_open(watermark))
        if not len(key):
            return ()
        self._changes.touch(np.unique(key >> _CODE_BITS).tolist())
        return (Frame(self._bars(key, ints, floats)),)

    def _bars(self, key: Array, ints: Array, floats: Array) -> Columns:
        ts_open = (key >> _CODE_BITS) * self.interval + self.align_to
        code = key & ((1 << _CODE_BITS) - 1)
        volume, close = floats[:, VOLUME].copy(), floats[:, CLOSE].copy()
        traded = volume > 0
        vwap = np.where(traded, floats[:, NOTIONAL] / np.where(traded, volume, 1.0), close)
        return Columns(
            "bar",
            {
                "symbol": Dictionary(code.astype(np.uint32), tuple(self._codes)),
                "ts_open": ts_open,
                "ts_close": ts_open + self.interval,
                "open": floats[:, OPEN].copy(),
                "high": floats[:, HIGH].copy(),
                "low": floats[:, LOW].copy(),
                "close": close,
                "volume": volume,
                "vwap": vwap,
                "trade_count": ints[:, COUNT].copy(),
            },
        )

    def snapshot(self) -> dict[str, bytes | None]:
        delta = self._changes.take(self._blob)
        if len(self._codes) > self._names_stored:
            names = list(self._codes)[self._names_stored :]
            delta[f"names:{self._names_stored}"] = pack(names)
            self._names_stored = len(self._codes)
        return delta

    def _blob(self, window: int) -> bytes | None:
        rows = self._table.window(window)
        if rows.start == rows.stop:
            return None
        t = self._table
        return pack([t.key[rows].tobytes(), t.ints[rows].tobytes(), t.floats[rows].tobytes()])

    def restore(self, state: Mapping[str, bytes], watermark: int = NO_MARK) -> None:
        self._watermark = watermark
        chunks = sorted((int(k.removeprefix("names:")), v) for k, v in state.items() if k.startswith("names:"))
        for _, blob in chunks:
            for name in unpack(blob):
                self._codes[name] = len(self._codes)
        self._names_stored = len(self._codes)
        windows = sorted(int(name) for name in state if not name.startswith("names:"))
        parts = [unpack(state[str(window)]) for window in windows]
        if parts:
            self._table.key = np.concatenate([np.frombuffer(p[0], np.int64) for p in parts])
            self._table.ints = np.concatenate([np.frombuffer(p[1], np.int64).reshape(-1, 3) for p in parts])
            self._table.floats = np.concatenate([np.frombuffer(p[2], np.float64).reshape(-1, 6) for p in parts])
        self._changes.restored(windows)
