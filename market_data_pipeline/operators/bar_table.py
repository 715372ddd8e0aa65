"""Open bars of a task in one table, and what is merged into it.

A *group* is what some items say of one bar. Groups, and the table, are sorted by key = bucket number << 19 | symbol code, so a
frame's groups are merged by binary search, and the bars that a watermark closes are the table's prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from market_data_pipeline.frame import Array, Columns, Dictionary
from market_data_pipeline.records import MAX_TIME, MIN_TIME, SIDE_CODES

CODE_BITS = 19
"""Symbol codes are below 2**19 per task, so that bucket numbers of intervals >= 1 ms fit in the other 44 bits."""
MAX_SYMBOLS = 1 << CODE_BITS

FIRST, LAST, COUNT, REVISION, FLAGS = range(5)
OPEN, HIGH, LOW, CLOSE, VOLUME, NOTIONAL, BUY, SELL, CARRIED = range(9)
INTS, FLOATS = 5, 9

CHANGED, FIRED, PARTIAL = 1, 2, 4
"""Flags: changed since it was last emitted; its end was reached; trades of it may be missing."""


class Groups(NamedTuple):
    """``key``: (n,) int64, sorted, distinct. ``ints``: (n, 5) time of the first and of the last price, trades, revision, flags.
    ``floats``: (n, 9) open, high, low, close (NaN where there is no price), volume, notional, volume bought and sold, and the
    price carried into a bar without one."""

    key: Array
    ints: Array
    floats: Array

    def take(self, index: Array | slice) -> Groups:
        return Groups(self.key[index], self.ints[index], self.floats[index])

    @property
    def bucket(self) -> Array:
        return self.key >> CODE_BITS

    @property
    def code(self) -> Array:
        return self.key & (MAX_SYMBOLS - 1)

    def bars(self, names: tuple[str, ...], ts_open: Array, ts_close: Array, ts_event: Array, final: Array) -> Columns:
        """The bars that they are, with the given symbols by code, times, and whether each is final."""
        close = self.floats[:, CLOSE]
        nothing = np.isnan(close)
        prices = [np.where(nothing, self.floats[:, CARRIED], self.floats[:, at]) for at in (OPEN, HIGH, LOW, CLOSE)]
        volume = self.floats[:, VOLUME].copy()
        vwap = np.where(volume > 0, self.floats[:, NOTIONAL] / np.where(volume > 0, volume, 1.0), prices[-1])
        return Columns(
            "bar",
            {
                "symbol": Dictionary(self.code.astype(np.uint32), names),
                "ts_open": ts_open,
                "ts_close": ts_close,
                **dict(zip(("open", "high", "low", "close"), prices, strict=True)),
                "volume": volume,
                "vwap": vwap,
                "trade_count": self.ints[:, COUNT].copy(),
                "ts_event": ts_event,
                "buy_volume": self.floats[:, BUY].copy(),
                "sell_volume": self.floats[:, SELL].copy(),
                "revision": self.ints[:, REVISION].copy(),
                "is_final": final,
                "partial": (self.ints[:, FLAGS] & PARTIAL) != 0,
            },
        )


def no_trades(key: Array) -> Groups:
    """Groups of bars without a trade. They count as changed."""
    ints, floats = _blank(len(key))
    floats[:, OPEN:VOLUME] = np.nan
    return Groups(key, ints, floats)


def _blank(n: int) -> tuple[Array, Array]:
    ints, floats = np.zeros((n, INTS), np.int64), np.zeros((n, FLOATS), np.float64)
    ints[:, FIRST], ints[:, LAST], ints[:, FLAGS] = MAX_TIME, MIN_TIME, CHANGED
    floats[:, CARRIED] = np.nan
    return ints, floats


def groups_of(key: bytes, ints: bytes, floats: bytes) -> Groups:
    """Groups from the bytes of their arrays."""
    return Groups(
        np.frombuffer(key, np.int64),
        np.frombuffer(ints, np.int64).reshape(-1, INTS),
        np.frombuffer(floats, np.float64).reshape(-1, FLOATS),
    )


def _sorted_by_key(bucket: Array, code: Array) -> tuple[Array, Array, Array]:
    """The order by (bucket, code), stable; the distinct keys; where each of them begins in that order."""
    low, high = int(bucket.min()), int(bucket.max())
    codes = int(code.max()) + 1
    sort_key = code if low == high else (bucket - low) * codes + code
    if (high - low + 1) * codes <= 0xFFFF:
        sort_key = sort_key.astype(np.uint16)  # numpy sorts 16 bits by radix
    order = np.argsort(sort_key, kind="stable")
    in_order = sort_key[order]
    first = np.flatnonzero(np.concatenate(([True], in_order[1:] != in_order[:-1])))
    begins = order[first]
    return order, (bucket[begins] << CODE_BITS) | code[begins], first


class Trades(NamedTuple):
    """Trades ready to be grouped, all arrays of shape (n,). ``side`` holds :data:`SIDE_CODES`; ``prices`` and ``volumes``
    say which of them make prices and which volume, ``None`` where all do."""

    bucket: Array
    code: Array
    ts: Array
    price: Array
    size: Array
    side: Array
    prices: Array | None = None
    volumes: Array | None = None

    def take(self, index: Array | slice) -> Trades:
        return Trades(*(None if column is None else column[index] for column in self))  # type: ignore[arg-type]

    def part(self, bucket: int) -> tuple[Trades, Trades]:
        """Those of buckets below ``bucket``, and the others."""
        if bool((self.bucket[1:] >= self.bucket[:-1]).all()):
            at = int(np.searchsorted(self.bucket, bucket))
            return self.take(slice(0, at)), self.take(slice(at, None))
        below = self.bucket < bucket
        return self.take(below), self.take(~below)


def join_trades(parts: Sequence[Trades]) -> Trades:
    """Several batches of trades as one."""
    bucket, code, ts, price, size, side = (np.concatenate(c) for c in zip(*(part[:6] for part in parts), strict=True))
    prices = _join_masks([(part.prices, len(part.ts)) for part in parts])
    volumes = _join_masks([(part.volumes, len(part.ts)) for part in parts])
    return Trades(bucket, code, ts, price, size, side, prices, volumes)


def _join_masks(masks: Sequence[tuple[Array | None, int]]) -> Array | None:
    if all(mask is None for mask, _ in masks):
        return None
    return np.concatenate([np.ones(n, bool) if mask is None else mask for mask, n in masks])


def grouped(trades: Trades) -> list[Groups]:
    """Trades (n > 0) as groups, to be merged one after another.

    The first and the last price are those with the smallest and the largest time; of equal times the first arrival opens and
    the last one closes.
    """
    if trades.volumes is not None:
        trades = trades._replace(size=np.where(trades.volumes, trades.size, 0.0))
    if trades.prices is None:
        return [_group(trades)]
    priced, rest = trades.take(trades.prices), trades.take(~trades.prices)
    groups = [_group(part) for part in (priced, rest) if len(part.ts)]
    if len(rest.ts):
        ints, floats = groups[-1].ints, groups[-1].floats
        ints[:, FIRST], ints[:, LAST], floats[:, OPEN:VOLUME] = MAX_TIME, MIN_TIME, np.nan
    return groups


def _ends(ts: Array, first: Array, count: Array) -> tuple[Array, Array, Array, Array]:
    """Of each run of ``count`` values from ``first`` on: where the smallest stands first and the largest last, and both."""
    low, high = np.minimum.reduceat(ts, first), np.maximum.reduceat(ts, first)
    at_low, at_high = np.flatnonzero(ts == np.repeat(low, count)), np.flatnonzero(ts == np.repeat(high, count))
    opens = at_low[np.searchsorted(at_low, first)]
    closes = at_high[np.searchsorted(at_high, first + count) - 1]
    return opens, closes, low, high


def _group(trades: Trades) -> Groups:
    """Trades as one group per bar."""
    order, key, first = _sorted_by_key(trades.bucket, trades.code)
    price, size = trades.price[order], trades.size[order]
    count = np.append(first[1:], len(price)) - first
    opens, closes = first, first + count - 1
    ints, floats = _blank(len(first))
    if bool((trades.ts[1:] >= trades.ts[:-1]).all()):
        ints[:, FIRST], ints[:, LAST] = trades.ts[order[opens]], trades.ts[order[closes]]
    else:
        opens, closes, ints[:, FIRST], ints[:, LAST] = _ends(trades.ts[order], first, count)
    ints[:, COUNT] = count
    floats[:, OPEN], floats[:, CLOSE] = price[opens], price[closes]
    floats[:, HIGH], floats[:, LOW] = np.maximum.reduceat(price, first), np.minimum.reduceat(price, first)
    floats[:, VOLUME], floats[:, NOTIONAL] = np.add.reduceat(size, first), np.add.reduceat(price * size, first)
    if trades.side.any():
        side = trades.side[order]
        floats[:, BUY] = np.add.reduceat(size * (side == SIDE_CODES["buy"]), first)
        floats[:, SELL] = np.add.reduceat(size * (side == SIDE_CODES["sell"]), first)
    return Groups(key, ints, floats)


def group_bars(key: Array, bars: Columns) -> list[Groups]:
    """Bars as groups of coarser bars, whose ``key`` they have each, to be merged one after another."""
    if not len(key):
        return []
    order = np.lexsort((bars.array("ts_open"), key))
    key, bars = key[order], bars.take(order)
    priced = ~np.isnan(bars.array("close"))
    parts = [(key[priced], bars.take(priced), True), (key[~priced], bars.take(~priced), False)]
    return [_group_bars(part, items, prices) for part, items, prices in parts if len(part)]


def _group_bars(key: Array, bars: Columns, priced: bool) -> Groups:
    first = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))
    last = np.append(first[1:], len(key)) - 1
    ints, floats = _blank(len(first))
    ints[:, COUNT] = np.add.reduceat(bars.array("trade_count"), first)
    partial = bars.data.get("partial")
    if isinstance(partial, np.ndarray):
        ints[:, FLAGS] |= np.where(np.logical_or.reduceat(partial, first), PARTIAL, 0)
    volume, ts = bars.array("volume"), bars.array("ts_open")
    floats[:, VOLUME] = np.add.reduceat(volume, first)
    floats[:, NOTIONAL] = np.add.reduceat(np.where(volume > 0, bars.array("vwap") * volume, 0.0), first)
    for at, name in ((BUY, "buy_volume"), (SELL, "sell_volume")):
        if name in bars.data:
            floats[:, at] = np.add.reduceat(bars.array(name), first)
    if not priced:
        floats[:, OPEN:VOLUME] = np.nan
        return Groups(key[first], ints, floats)
    ints[:, FIRST], ints[:, LAST] = ts[first], ts[last]
    floats[:, OPEN], floats[:, CLOSE] = bars.array("open")[first], bars.array("close")[last]
    floats[:, HIGH] = np.maximum.reduceat(bars.array("high"), first)
    floats[:, LOW] = np.minimum.reduceat(bars.array("low"), first)
    return Groups(key[first], ints, floats)


def combined(parts: Sequence[Groups]) -> Groups:
    """Groups (at least one), each bar's in the order given, as one per bar, with revision 0."""
    key, ints, floats = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(key, kind="stable")
    key, ints, floats = key[order], ints[order], floats[order]
    first = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))
    count = np.diff(first, append=len(key))
    one = Groups(key[first], ints[first], floats[first])
    opens, _, one.ints[:, FIRST], _ = _ends(ints[:, FIRST], first, count)
    _, closes, _, one.ints[:, LAST] = _ends(ints[:, LAST], first, count)
    one.ints[:, COUNT] = np.add.reduceat(ints[:, COUNT], first)
    one.ints[:, REVISION] = 0
    one.ints[:, FLAGS] = np.bitwise_or.reduceat(ints[:, FLAGS], first)
    one.floats[:, OPEN], one.floats[:, CLOSE] = floats[opens, OPEN], floats[closes, CLOSE]
    one.floats[:, HIGH] = np.fmax.reduceat(floats[:, HIGH], first)
    one.floats[:, LOW] = np.fmin.reduceat(floats[:, LOW], first)
    one.floats[:, VOLUME:CARRIED] = np.add.reduceat(floats[:, VOLUME:CARRIED], first, axis=0)
    return one


class BarTable:
    """Groups under merge. Sums of a bar are taken in the order in which its groups came."""

    def __init__(self) -> None:
        self.key: Array = np.empty(0, np.int64)
        self.ints: Array = np.empty((0, INTS), np.int64)
        self.floats: Array = np.empty((0, FLOATS), np.float64)
        self.segment: Array = np.empty(0, np.int64)
        """Which stored segment holds each row as it is; -1 where it changed since."""

    def merge(self, groups: Groups) -> None:
        """Add ``groups``; where a bar is there already, the two become one. Of equal times the table's price is the earlier."""
        if not len(self.key):
            self.key, self.ints, self.floats = (array.copy() for array in groups)
            self.segment = np.full(len(self.key), -1)
            return
        at = np.searchsorted(self.key, groups.key)
        known = self._stand_at(at, groups.key)
        n_known = np.count_nonzero(known)
        if n_known:
            self._update(at[known], groups.ints[known], groups.floats[known])
        if n_known < len(known):
            self._insert(at[~known], groups.take(~known))

    def _insert(self, at: Array, groups: Groups) -> None:
        """Put ``groups``, none of which is there, before the rows ``at``."""
        places = at + np.arange(len(at))
        old = np.ones(len(self.key) + len(at), np.bool_)
        old[places] = False
        for name, new in (*zip(("key", "ints", "floats"), groups, strict=True), ("segment", -1)):
            array: Array = getattr(self, name)
            larger = np.empty((len(old), *array.shape[1:]), array.dtype)
            larger[old], larger[places] = array, new
            setattr(self, name, larger)

    def _update(self, at: Array, ints: Array, floats: Array) -> None:
        old_ints, old = self.ints[at], self.floats[at]
        earlier = ints[:, FIRST] < old_ints[:, FIRST]
        later = (ints[:, LAST] >= old_ints[:, LAST]) & (ints[:, LAST] > MIN_TIME)
        old[:, OPEN] = np.where(earlier, floats[:, OPEN], old[:, OPEN])
        old[:, CLOSE] = np.where(later, floats[:, CLOSE], old[:, CLOSE])
        old[:, HIGH] = np.fmax(old[:, HIGH], floats[:, HIGH])
        old[:, LOW] = np.fmin(old[:, LOW], floats[:, LOW])
        old[:, VOLUME:CARRIED] += floats[:, VOLUME:CARRIED]
        old_ints[:, FIRST] = np.minimum(old_ints[:, FIRST], ints[:, FIRST])
        old_ints[:, LAST] = np.maximum(old_ints[:, LAST], ints[:, LAST])
        old_ints[:, COUNT] += ints[:, COUNT]
        old_ints[:, FLAGS] |= ints[:, FLAGS]
        self.ints[at], self.floats[at], self.segment[at] = old_ints, old, -1

    def replace(self, groups: Groups) -> None:
        """Put ``groups`` in the place of the bars of the same keys, which keep revision and flags and count as changed."""
        at = np.searchsorted(self.key, groups.key)
        kept = self.ints[at, REVISION:].copy()
        self.ints[at], self.floats[at], self.segment[at] = groups.ints, groups.floats, -1
        self.ints[at, REVISION:] = kept
        self.ints[at, FLAGS] |= CHANGED

    def has(self, key: Array) -> Array:
        """Which of ``key`` are there, bool of shape (n,)."""
        return self._stand_at(np.searchsorted(self.key, key), key)

    def _stand_at(self, at: Array, key: Array) -> Array:
        """Which of ``key``, whose places in the table are ``at``, are there."""
        if not len(self.key):
            return np.zeros(len(key), np.bool_)
        found: Array = self.key[np.minimum(at, len(self.key) - 1)] == key
        return found

    def rows_of(self, bucket: int) -> Groups:
        """The rows of one bucket, not copied."""
        low, high = np.searchsorted(self.key, [bucket << CODE_BITS, (bucket + 1) << CODE_BITS])
        return self.rows.take(slice(int(low), int(high)))

    def count_below(self, bucket: int | None) -> int:
        """How many rows are of buckets below ``bucket``; all of them when it is ``None``."""
        return len(self.key) if bucket is None else int(np.searchsorted(self.key, bucket << CODE_BITS))

    @property
    def rows(self) -> Groups:
        """Everything, not copied."""
        return Groups(self.key, self.ints, self.floats)

    def drop(self, n: int) -> None:
        """Remove the first ``n`` rows."""
        if n:
            self.key, self.ints, self.floats = self.key[n:].copy(), self.ints[n:].copy(), self.floats[n:].copy()
            self.segment = self.segment[n:].copy()

    def load(self, rows: Groups, segment: Array) -> None:
        """Put ``rows``, which are stored in ``segment`` each, in the place of everything."""
        self.key, self.ints, self.floats = rows
        self.segment = segment
