"""The trades of open bars, kept so that corrections and cancels can be applied to them.

A correction replaces price, size, side and conditions of the trade it refers to; the trade keeps its time and its place among
the others. A later correction (by ``ts_event``) wins over an earlier one, a cancel over all. One that comes before its trade
waits for it until its own bucket is closed. Of two trades with one id, the first has it as long as its bucket is open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from market_data_pipeline.operators.bar_table import CODE_BITS, BarTable, Groups, Trades, grouped, no_trades
from market_data_pipeline.operators.changes import Changes
from market_data_pipeline.packing import pack, unpack
from market_data_pipeline.records import MIN_TIME

_CHUNK = 1024
_CHUNK_BITS = 32
_TRADES, _WAITING = "trades:", "corrections"

Id = int | str


class Values(NamedTuple):
    """What a correction can change. ``side`` by its code; whether it makes prices, and volume."""

    price: float
    size: float
    side: int
    prices: bool = True
    volumes: bool = True


@dataclass(slots=True)
class Logged:
    """A trade of an open bar: its values as they are now. ``changed_at``: ``ts_event`` of the correction that set them;
    ``names``: its id and those of its corrections."""

    code: int
    ts: int
    values: Values
    names: list[Id]
    changed_at: int = MIN_TIME
    cancelled: bool = False


@dataclass(slots=True)
class Correction:
    """What ``item`` says of the trade ``ref``. ``trade_id``: its own id, by which others may refer to it, ``""`` if it has
    none. ``bucket`` is that of its own time ``ts``."""

    code: int
    ref: Id
    trade_id: Id
    bucket: int
    ts: int
    cancel: bool
    values: Values
    item: Any


class TradeLog:
    """Trades by bucket, in order of arrival, and by (symbol code, id). About 600 bytes a trade, 50 stored."""

    def __init__(self) -> None:
        self._buckets: dict[int, list[Logged]] = {}
        self._places: dict[tuple[int, Id], tuple[int, int]] = {}
        self._waiting: list[Correction] = []
        self._waiting_changed, self._waiting_stored = False, False
        self._changes = Changes()

    def add_all(self, trades: Trades, ids: Sequence[Id]) -> None:
        """New trades of open buckets, with their ids (``""``: none)."""
        n = len(ids)
        masks = [[True] * n if mask is None else mask.tolist() for mask in (trades.prices, trades.volumes)]
        values = map(Values, trades.price.tolist(), trades.size.tolist(), trades.side.tolist(), *masks)
        for bucket, code, ts, value, name in zip(
            trades.bucket.tolist(), trades.code.tolist(), trades.ts.tolist(), values, ids, strict=True
        ):
            self._add(bucket, Logged(code, ts, value, [] if name == "" else [name]))

    def _add(self, bucket: int, trade: Logged) -> None:
        trades = self._buckets.setdefault(bucket, [])
        trade.names = [name for name in trade.names if (trade.code, name) not in self._places]  # the first one has it
        for name in trade.names:
            self._places[trade.code, name] = (bucket, len(trades))
        trades.append(trade)
        self._touch(bucket, len(trades) - 1)

    def wait(self, correction: Correction) -> None:
        """Keep ``correction`` until :meth:`apply`."""
        self._waiting.append(correction)
        self._waiting_changed = True

    def corrected(self) -> list[Groups]:
        """Apply the corrections whose trades are there; the bars that changed, as they are now."""
        changed: set[tuple[int, int]] = set()
        progress = bool(self._waiting)
        while progress:  # a correction may refer to another one
            waiting, self._waiting = self._waiting, []
            for correction in waiting:
                place = self._places.get((correction.code, correction.ref))
                if place is None:
                    self._waiting.append(correction)
                else:
                    changed.add((place[0], correction.code))
                    self._correct(place, correction)
            progress = len(self._waiting) < len(waiting)
            self._waiting_changed = self._waiting_changed or progress
        return [self._bar(bucket, code) for bucket, code in sorted(changed)]

    def _correct(self, place: tuple[int, int], correction: Correction) -> None:
        trade = self._buckets[place[0]][place[1]]
        if correction.trade_id != "" and (correction.code, correction.trade_id) not in self._places:
            self._places[correction.code, correction.trade_id] = place
            trade.names.append(correction.trade_id)
        trade.cancelled = trade.cancelled or correction.cancel
        if not correction.cancel and correction.ts >= trade.changed_at:
            trade.changed_at, trade.values = correction.ts, correction.values
        self._touch(*place)

    def _bar(self, bucket: int, code: int) -> Groups:
        trades = [t for t in self._buckets.get(bucket, ()) if t.code == code and not t.cancelled]
        trades = [t for t in trades if t.values.prices or t.values.volumes]
        key = np.array([(bucket << CODE_BITS) | code], np.int64)
        if not trades:
            return no_trades(key)
        types = (np.float64, np.float64, np.int8, bool, bool)
        columns = zip(*(t.values for t in trades), strict=True)
        values = [np.array(column, kind) for column, kind in zip(columns, types, strict=True)]
        times = np.array([t.ts for t in trades], np.int64)
        table = BarTable()
        for groups in grouped(Trades(np.full(len(trades), bucket), np.full(len(trades), code), times, *values)):
            table.merge(groups)
        return table.rows

    def close(self, first_open: int | None) -> list[Correction]:
        """Forget the buckets below ``first_open`` (all, when it is ``None``); the corrections that waited in vain."""
        gone = [bucket for bucket in self._buckets if first_open is None or bucket < first_open]
        for bucket in gone:
            trades = self._buckets.pop(bucket)
            for trade in trades:
                for name in trade.names:
                    del self._places[trade.code, name]
            self._changes.touch(_chunk_key(bucket, chunk) for chunk in range(-(-len(trades) // _CHUNK)))
        vain = [c for c in self._waiting if first_open is None or c.bucket < first_open]
        if vain:
            self._waiting = [c for c in self._waiting if first_open is not None and c.bucket >= first_open]
            self._waiting_changed = True
        return vain

    def _touch(self, bucket: int, at: int) -> None:
        self._changes.touch((_chunk_key(bucket, at // _CHUNK),))

    def snapshot(self) -> dict[str, bytes | None]:
        delta = {f"{_TRADES}{key}": blob for key, blob in self._changes.take(self._blob).items()}
        if self._waiting_changed:
            self._waiting_changed = False
            waiting = [[c.code, c.ref, c.trade_id, c.bucket, c.ts, c.cancel, c.values, c.item] for c in self._waiting]
            if waiting or self._waiting_stored:
                delta[_WAITING] = pack(waiting) if waiting else None
            self._waiting_stored = bool(waiting)
        return delta

    def _blob(self, key: int) -> bytes | None:
        bucket, chunk = key >> _CHUNK_BITS, key & ((1 << _CHUNK_BITS) - 1)
        trades = self._buckets.get(bucket)
        if trades is None:
            return None
        part = trades[chunk * _CHUNK : (chunk + 1) * _CHUNK]
        return pack([[t.code, t.ts, t.values, t.names, t.changed_at, t.cancelled] for t in part])

    def restore(self, state: Mapping[str, bytes]) -> set[str]:
        """Continue from ``state``; the keys that were its own."""
        own = {key for key in state if key.startswith(_TRADES)}
        keys = sorted(int(key.removeprefix(_TRADES)) for key in own)
        for key in keys:
            for code, ts, values, *rest in unpack(state[f"{_TRADES}{key}"]):
                self._add(key >> _CHUNK_BITS, Logged(code, ts, Values(*values), *rest))
        self._changes = Changes()
        self._changes.restored(keys)
        if _WAITING in state:
            for code, ref, name, bucket, ts, cancel, values, item in unpack(state[_WAITING]):
                self._waiting.append(Correction(code, ref, name, bucket, ts, cancel, Values(*values), item))
            own.add(_WAITING)
            self._waiting_stored = True
        return own


def _chunk_key(bucket: int, chunk: int) -> int:
    return (bucket << _CHUNK_BITS) | chunk
