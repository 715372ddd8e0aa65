"""Throttle: at most so many items a second, by a token bucket.

==================================== ==================================================================================
``Throttle(1, burst=2)``             output
==================================== ==================================================================================
A at 0 s, 0.1 s, 0.2 s; B at 0.2 s   A at 0 s and 0.1 s, B; A at 0.2 s is dropped, counted (``throttled``)
A at 1 s, A at 1.1 s                 A at 1 s (one token is back); the other is dropped
``over="conflate", by="event"``      A at 0.2 s waits; one at 0.3 s replaces it (``replaced``) and comes out when W >= 1 s
``over="delay", by="event"``         those at 0.2 s and 0.3 s wait and come out when W >= 1 s and W >= 2 s
==================================== ==================================================================================

The bucket is kept as GCRA does (ITU-T I.371; https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm): one theoretical
arrival time, in whole numbers, so that nothing is lost to rounding at any rate and over any gap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from heapq import heapify, heappop, heappush
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import END, NO_MARK, Columns, Dictionary, Frame, to_rows
from market_data_pipeline.operators.base import Operator, pack_items
from market_data_pipeline.operators.changes import Changes
from market_data_pipeline.operators.choices import check_choice
from market_data_pipeline.operators.field_names import kept
from market_data_pipeline.operators.keys import check_field, check_key
from market_data_pipeline.operators.stateless import apply
from market_data_pipeline.packing import pack, unpack
from market_data_pipeline.records import field

Over = Literal["drop", "conflate", "delay"]
By = Literal["event", "wall"]

_SECOND = 10**9
_BLOCK = 256


class Rate:
    """``rate`` items a second, ``burst`` at once, in units of which a nanosecond has ``scale``."""

    def __init__(self, rate: float, burst: int) -> None:
        exact = Fraction(str(rate))
        self.scale = exact.numerator
        self.interval = _SECOND * exact.denominator
        self.slack = (burst - 1) * self.interval

    def due(self, arrival: int) -> int:
        """When (ns) an item passes a bucket whose theoretical arrival time is ``arrival`` (units)."""
        return -((self.slack - arrival) // self.scale)


class _Bucket:
    """The tokens of one key. Full at time t when ``arrival <= t``."""

    __slots__ = ("arrival", "due", "key", "seen", "slot", "waiting")

    def __init__(self, key: Any, slot: int, seen: int, arrival: int) -> None:
        self.key, self.slot = key, slot
        self.seen = seen
        """The latest time (ns) of an item."""
        self.arrival = arrival
        """When, in units, the next item is expected at this rate."""
        self.waiting: dict[Any, Any] = {}
        self.due = 0
        """When (ns) the first of ``waiting`` comes out."""


class Throttle(Operator):
    """Lets at most ``rate`` items a second (a number above 0, also below 1) through, after a pause ``burst`` at once.

    Each value of the field ``key`` has a bucket of its own; with ``total=True`` all share one (that of the task: run the node
    with ``singleton=True`` for one bucket in the whole job). What is over the rate: ``over="drop"``: is dropped and counted
    (``throttled``); ``"conflate"``: the last item of each key waits, and those that it replaces are counted (``replaced``);
    ``"delay"``: waits in order, at most ``max_waiting`` items a bucket; beyond that it is dropped and counted (``throttled``).

    ``by="event"`` (the default of ``drop``) goes by ``ts_event``: results depend only on the order of each bucket's items. Time
    never goes back: an item counts as at the latest time of its bucket so far, or at the watermark. What waits comes out when
    the watermark or the bucket's next item reaches its turn. ``by="wall"`` (the default of ``conflate`` and ``delay``) goes by
    the clock: a restart may give other results. At the end of input what waits comes out at once, in order.

    Items without key (or with ``by="event"`` without ``ts_event``) go the way of the error policy. State: one number and what
    waits per bucket that is not full; a full one is forgotten.
    """

    accepts: ClassVar[Literal["any"]] = "any"

    def __init__(
        self,
        rate: float,
        burst: int = 1,
        key: str = "symbol",
        total: bool = False,
        over: Over = "drop",
        by: By | None = None,
        max_waiting: int = 1000,
    ) -> None:
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
            raise ConfigError(f"rate: {rate!r} is not allowed; a number of items a second above 0")
        for name, value in (("burst", burst), ("max_waiting", max_waiting)):
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name}: {value!r} is not allowed; a whole number from 1 on")
        check_choice("over", over, get_args(Over))
        if by is not None:
            check_choice("by", by, get_args(By))
        self.rate, self.burst, self.key, self.total = rate, burst, check_field(key, "key"), total
        self.over: Over = over
        self.by: By = by or ("event" if over == "drop" else "wall")
        self.max_waiting = max_waiting
        self.keeps = "" if over == "drop" else "items that wait for their turn"
        self._limit = Rate(rate, burst)
        self._buckets: dict[Any, _Bucket] = {}
        self._slots: list[_Bucket | None] = []
        self._free: list[int] = []
        self._full_at: list[tuple[int, int]] = []  # (arrival, slot), one for each bucket; it may be later by now
        self._turns: list[tuple[int, int]] = []  # (due, slot) of buckets where something waits; some are over
        self._number = 0
        self._blocks, self._queues = Changes(), Changes()
        self._watermark = NO_MARK

    def fields_read(self, input: str = "") -> tuple[str, ...]:  # noqa: A002 - what it is
        return () if self.total else (self.key,)

    fields_given = kept

    def process(self, frame: Frame) -> Iterable[Frame]:
        out: list[Any] = []
        if self.by == "wall":
            self._release(self.ctx.now, out)
            self._forget(self.ctx.now)
        items = frame.items
        if self.over == "drop" and isinstance(items, Columns) and (placed := self._places(items)) is not None:
            passes = np.fromiter((self._passes(key, ts) for key, ts in placed), bool, len(items))
            self.ctx.count("throttled", int(len(items) - passes.sum()))
            return (Frame(items if passes.all() else items.take(passes)),)
        for item, (key, ts) in apply(self._place, to_rows(items), self.ctx.failed):
            self._see(key, ts, item, out)
        return (Frame(out),) if out else ()

    def _places(self, items: Columns) -> Iterable[tuple[Any, int]] | None:
        """Key and time of each row, ``None`` where rows must be looked at one by one."""
        keys, times = items.data.get(self.key), items.data.get("ts_event")
        if not isinstance(keys, Dictionary) or not isinstance(times, np.ndarray) or times.dtype != np.int64:
            return None
        names = [None] * len(items) if self.total else keys.tolist()
        moments = times.tolist() if self.by == "event" else [self.ctx.now] * len(items)
        return zip(names, moments, strict=True)

    def _place(self, item: Any) -> tuple[Any, int]:
        if self.by == "wall":
            ts = self.ctx.now
        elif type(ts := field(item, "ts_event")) is not int:
            raise TypeError(f"ts_event {ts!r} is not a time in ns")
        key = None if self.total and self.over != "conflate" else check_key(field(item, self.key))
        return key, ts

    def _bucket(self, key: Any, ts: int) -> _Bucket:
        """The bucket of ``key``, at the time ``ts`` or, if that is later, its own."""
        bucket = self._buckets.get(key)
        if self.by == "event" and ts < self._watermark:
            ts = self._watermark
        if bucket is None:
            slot = heappop(self._free) if self._free else len(self._slots)
            bucket = self._buckets[key] = _Bucket(key, slot, ts, ts * self._limit.scale)
            self._slots[slot : slot + 1] = [bucket]
            heappush(self._full_at, (bucket.arrival, slot))
        elif ts > bucket.seen:
            bucket.seen = ts
        self._blocks.touch((bucket.slot // _BLOCK,))
        return bucket

    def _passes(self, key: Any, ts: int) -> bool:
        """Whether an item at ``ts`` gets a token."""
        return self._token(self._bucket(key, ts))

    def _token(self, bucket: _Bucket) -> bool:
        now = bucket.seen * self._limit.scale
        arrival = max(bucket.arrival, now)
        if arrival - now > self._limit.slack:
            return False
        bucket.arrival = arrival + self._limit.interval
        return True

    def _see(self, key: Any, ts: int, item: Any, out: list[Any]) -> None:
        bucket = self._bucket(None if self.total else key, ts)
        self._let_out(bucket, bucket.seen, out)
        if not bucket.waiting and self._token(bucket):
            out.append(item)
        elif self.over == "drop" or (self.over == "delay" and len(bucket.waiting) >= self.max_waiting):
            self.ctx.count("throttled")
        else:
            self._wait(bucket, key, item)

    def _wait(self, bucket: _Bucket, key: Any, item: Any) -> None:
        self._number += 1
        place = key if self.over == "conflate" else self._number
        if place in bucket.waiting:
            self.ctx.count("replaced")
        bucket.waiting[place] = item
        if len(bucket.waiting) == 1:
            self._set_due(bucket)
        self._queues.touch((bucket.slot,))

    def _set_due(self, bucket: _Bucket) -> None:
        bucket.due = self._limit.due(bucket.arrival)
        heappush(self._turns, (bucket.due, bucket.slot))

    def _let_out(self, bucket: _Bucket, until: int, out: list[Any]) -> None:
        """Let out what waits in ``bucket`` and has its turn by ``until`` (ns)."""
        while bucket.waiting and bucket.due <= until:
            out.append(bucket.waiting.pop(next(iter(bucket.waiting))))
            bucket.arrival = max(bucket.arrival, bucket.due * self._limit.scale) + self._limit.interval
            if bucket.waiting:
                self._set_due(bucket)
            self._queues.touch((bucket.slot,))
            self._blocks.touch((bucket.slot // _BLOCK,))

    def _release(self, until: int, out: list[Any]) -> None:
        """Let out whatever has its turn by ``until`` (ns), by turn."""
        while self._turns and self._turns[0][0] <= until:
            due, slot = heappop(self._turns)
            bucket = self._slots[slot]
            if bucket is not None and bucket.waiting and bucket.due == due:
                self._let_out(bucket, due, out)

    def _forget(self, now: int) -> None:
        """Forget the buckets that are full at ``now`` (ns)."""
        while self._full_at and self._full_at[0][0] <= now * self._limit.scale:
            _, slot = heappop(self._full_at)
            bucket = self._slots[slot]
            assert bucket is not None
            if bucket.waiting or bucket.arrival > now * self._limit.scale:
                heappush(self._full_at, (max(bucket.arrival, now * self._limit.scale + 1), slot))
                continue
            del self._buckets[bucket.key]
            self._slots[slot] = None
            heappush(self._free, slot)
            self._blocks.touch((slot // _BLOCK,))

    def advance(self, watermark: int) -> Iterable[Frame]:
        self._watermark = max(watermark, self._watermark)
        out: list[Any] = []
        if self.by == "event" or watermark == END:
            self._release(self._last_turn() if watermark == END else watermark, out)
            self._forget(watermark)
        return (Frame(out),) if out else ()

    def _last_turn(self) -> int:
        """A time by which everything that waits has had its turn."""
        most = max((len(bucket.waiting) for bucket in self._buckets.values()), default=0)
        latest = max((due for due, _ in self._turns), default=0)
        return latest + (most + 1) * self._limit.interval

    def wake_at(self) -> int | None:
        return self._turns[0][0] if self.by == "wall" and self._turns else None

    def tick(self, now: int) -> Iterable[Frame]:
        out: list[Any] = []
        self._release(now, out)
        self._forget(now)
        return (Frame(out),) if out else ()

    def snapshot(self) -> dict[str, bytes | None]:
        queues = {f"waiting:{slot}": blob for slot, blob in self._queues.take(self._queue_blob).items()}
        return {f"buckets:{block}": blob for block, blob in self._blocks.take(self._blob).items()} | queues

    def _blob(self, block: int) -> bytes | None:
        buckets = [bucket for bucket in self._slots[block * _BLOCK : (block + 1) * _BLOCK] if bucket is not None]
        if not buckets:
            return None
        return pack([[b.slot, b.key, b.seen, str(b.arrival)] for b in buckets])  # arrival may have more than 64 bits

    def _queue_blob(self, slot: int) -> bytes | None:
        bucket = self._slots[slot]
        if bucket is None or not bucket.waiting:
            return None
        items = list(bucket.waiting.values())
        blob = pack_items(items, self.ctx)
        if len(items) < len(bucket.waiting):
            kept = set(map(id, items))
            bucket.waiting = {place: item for place, item in bucket.waiting.items() if id(item) in kept}
        return pack([list(bucket.waiting), blob]) if items else None

    def restore(self, state: Mapping[str, bytes], watermark: int = NO_MARK) -> None:
        self._watermark = watermark
        blocks = sorted(int(name.removeprefix("buckets:")) for name in state if name.startswith("buckets:"))
        for block in blocks:
            for slot, key, seen, arrival in unpack(state[f"buckets:{block}"]):
                self._slots += [None] * (slot + 1 - len(self._slots))
                self._slots[slot] = self._buckets[key] = _Bucket(key, slot, seen, int(arrival))
        self._free = [slot for slot, bucket in enumerate(self._slots) if bucket is None]
        self._full_at = [(bucket.arrival, bucket.slot) for bucket in self._buckets.values()]
        heapify(self._full_at)
        self._blocks.restored(blocks)
        slots = [int(name.removeprefix("waiting:")) for name in state if name.startswith("waiting:")]
        for slot in slots:
            places, items = unpack(state[f"waiting:{slot}"])
            bucket = self._slots[slot]
            assert bucket is not None
            bucket.waiting = dict(zip(places, unpack(items), strict=True))
            self._number = max(self._number, *(places if self.over == "delay" else [0]))
            self._set_due(bucket)
        self._queues.restored(slots)
