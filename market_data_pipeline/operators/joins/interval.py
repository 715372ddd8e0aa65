"""The interval join: all pairs of two inputs whose times are near each other.

============================================================ ===========================================================
``IntervalJoin("-1s", "2s", ["price"])``                     output
============================================================ ===========================================================
left A at 10 s; right A at 9 s, 12 s and 13 s; W = 12 s      the pair with 9 s (at 12 s more may come)
W = 12.5 s                                                   the pair with 12 s
``how="left"``, left B at 10 s, no right; W above 12 s       B with ``price`` None, counted (``unmatched``)
============================================================ ===========================================================
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any, ClassVar, Final, Literal

from market_data_pipeline.durations import Duration, parse_duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import NO_MARK, Frame, Items, to_rows
from market_data_pipeline.operators.base import Operator
from market_data_pipeline.operators.buckets import FARTHEST
from market_data_pipeline.operators.field_names import read_by_join
from market_data_pipeline.operators.joins.keyed import Keys, as_columns, place
from market_data_pipeline.operators.joins.log import ItemLog
from market_data_pipeline.operators.joins.pairs import (
    Combine,
    How,
    as_dict,
    check_pairs,
    combined,
    flat,
    value_of,
)
from market_data_pipeline.operators.keys import check_field
from market_data_pipeline.operators.lateness import LATE, Lateness, LatePolicy, check_late_policy
from market_data_pipeline.operators.stateless import apply

RIGHT: Final = "right"
_LONGEST = FARTHEST // 2


class _Held:
    """An item that is held: its place among all arrivals, and whether it has been part of a pair."""

    __slots__ = ("item", "matched", "number")

    def __init__(self, number: int, item: Any) -> None:
        self.number, self.item, self.matched = number, item, False


class _Line:
    """The items of one key that the watermark has passed, by time."""

    def __init__(self) -> None:
        self._times: list[int] = []
        self._items: list[_Held] = []
        self._begin = 0

    def add(self, ts: int, held: _Held) -> None:
        """``ts`` is not before any that was added."""
        self._times.append(ts)
        self._items.append(held)

    def between(self, low: int, high: int) -> Iterable[tuple[int, _Held]]:
        """Those with ``low <= ts <= high``."""
        begin = bisect_left(self._times, low, self._begin)
        end = bisect_right(self._times, high, begin)
        return zip(self._times[begin:end], self._items[begin:end], strict=True)

    def pop_first(self) -> _Held:
        first = self._items[self._begin]
        self._begin += 1
        if self._begin > 32 and 2 * self._begin > len(self._items):
            del self._times[: self._begin], self._items[: self._begin]
            self._begin = 0
        return first

    def __len__(self) -> int:
        return len(self._items) - self._begin


class _Side:
    """One input: what waits for the watermark, and what it has passed and may still match, for ``keep`` ns."""

    def __init__(self, name: str, keep: int) -> None:
        self.keep = keep
        self.log = ItemLog(name)
        self.lines: dict[Any, _Line] = {}
        self._waiting: list[tuple[int, int, Any, _Held]] = []
        self._passed: deque[tuple[int, Any]] = deque()
        self._arrived = 0

    def add(self, ts: int, key: Any, item: Any) -> None:
        heappush(self._waiting, (ts, self._arrived, key, _Held(self._arrived, item)))
        self._arrived += 1

    def due(self, watermark: int) -> Iterable[tuple[int, int, Any, _Held]]:
        """Remove and give those that wait and are before ``watermark``, by time, then by arrival: time, number, key, item."""
        while self._waiting and self._waiting[0][0] < watermark:
            yield heappop(self._waiting)

    def passed(self, ts: int, key: Any, held: _Held) -> None:
        """The watermark has passed ``held``, which is not before any that it has passed."""
        line = self.lines.get(key)
        if line is None:
            line = self.lines[key] = _Line()
        line.add(ts, held)
        self._passed.append((ts, key))

    def expire(self, watermark: int) -> Iterable[tuple[int, _Held]]:
        """Remove and give those that nothing can match any more, by time."""
        while self._passed and self._passed[0][0] + self.keep < watermark:
            ts, key = self._passed.popleft()
            held = self.lines[key].pop_first()
            if not self.lines[key]:
                del self.lines[key]
            yield ts, held
        self.log.forget(watermark - self.keep)


class IntervalJoin(Operator):
    """All pairs of an item of the usual input (l) and one of the input ``right`` (r) with equal ``key`` and
    ``lower <= r.ts_event - l.ts_event <= upper``, each exactly once.

    ``lower`` and ``upper``: durations, ints (ns) or strings, with a minus for before. A pair comes out when the watermark,
    merged over both inputs, is above the later of its two times; pairs by that time, then by the left item's time, the right
    item's, and order of arrival. With ``how="left"`` a left item without any pair comes out alone when none can come any
    more: the watermark is above its time plus ``upper``; it is counted (``unmatched``).

    Result: a dict of the left item's fields and of the right item's ``fields``; one whose name the left item has already
    gets ``right_prefix`` before it; ``None`` for them in an item without pair. Or what ``combine(left, right)`` returns, with
    ``None`` as ``right``.

    Left items behind the watermark are counted (``late``) and dropped, or with ``late="side_output"`` sent to the output
    ``late``; right ones are counted (``late_right``) and dropped. Items without ``ts_event`` or key go the way of the error
    policy. State: both inputs' items that the watermark has not passed, and those it has until nothing can match them: left
    ones for ``upper``, right ones for ``-lower`` (with ``how="left"`` for ``upper - lower``). Works on rows.
    """

    accepts: ClassVar[Literal["any"]] = "any"
    keeps = "items that wait for the watermark"
    inputs = ("", RIGHT)
    outputs = (LATE,)

    def __init__(
        self,
        lower: Duration,
        upper: Duration,
        fields: Sequence[str] = (),
        key: str = "symbol",
        how: How = "inner",
        right_prefix: str = "right_",
        combine: Combine | None = None,
        late: LatePolicy = "drop",
    ) -> None:
        self.lower, self.upper = signed_duration(lower, "lower"), signed_duration(upper, "upper")
        if self.lower > self.upper:
            raise ConfigError(f"lower: {lower!r} is above upper={upper!r}")
        self.fields = check_pairs(fields, how, combine)
        self.key = check_field(key, "key")
        self.how: How = how
        self.right_prefix = check_field(right_prefix, "right_prefix")
        self.combine = combine
        self.late = check_late_policy(late, ("drop", "side_output"))
        behind = max(self.upper, 0)
        # with how="left", a right item stays as long as a left one that it matched: a restart finds its match again
        self._left = _Side("left", behind)
        self._right = _Side("right", max(0, (behind if how == "left" else 0) - self.lower))
        self._watermark = NO_MARK

    fields_read = read_by_join

    def required_outputs(self) -> tuple[str, ...]:
        return Lateness(self.late).required_outputs

    def process(self, frame: Frame) -> Iterable[Frame]:
        is_right = frame.port == RIGHT
        keys = Keys()
        chunk = place(as_columns(frame.items), self.key, keys, self.ctx.failed)
        behind = chunk.ts < self._watermark
        late = chunk.take(behind) if behind.any() else None
        items = chunk.items if late is None else chunk.take(~behind).items
        if self.combine is None and not is_right and isinstance(items, list):
            items = [item for item, _ in apply(as_dict, items, self.ctx.failed)]
        if len(items) > 0:
            side = self._right if is_right else self._left
            self._hold(side, side.log.append(items, int(chunk.ts.max()), self.ctx), NO_MARK)
        if late is None:
            return ()
        self.ctx.count("late_right" if is_right else "late", len(late.ts))
        return (Frame(late.items, port=LATE),) if self.late == "side_output" and not is_right else ()

    def _hold(self, side: _Side, items: Items, since: int) -> None:
        keys = Keys()
        chunk = place(items, self.key, keys, self.ctx.failed)
        for ts, code, item in zip(chunk.ts.tolist(), chunk.code.tolist(), to_rows(chunk.items), strict=True):
            if ts >= since:
                side.add(ts, keys.names[code], item)

    def advance(self, watermark: int) -> Iterable[Frame]:
        self._watermark = max(watermark, self._watermark)
        pairs = self._pass(watermark)
        for ts, left in self._left.expire(watermark):
            if self.how == "left" and not left.matched:
                self.ctx.count("unmatched")
                pairs.append((ts + self._left.keep, ts, ts, left.number, -1, left.item, None))
        for _ in self._right.expire(watermark):
            pass
        pairs.sort(key=lambda pair: pair[:5])
        return (Frame(self._results([(left, right) for *_, left, right in pairs])),) if pairs else ()

    def _pass(self, watermark: int) -> list[tuple[int, int, int, int, int, Any, Any]]:
        """The pairs whose later item ``watermark`` passes: the time of that, both times, both numbers, both items."""
        pairs: list[tuple[int, int, int, int, int, Any, Any]] = []
        due = [(ts, 0, number, key, held) for ts, number, key, held in self._left.due(watermark)]
        due += [(ts, 1, number, key, held) for ts, number, key, held in self._right.due(watermark)]
        due.sort(key=lambda event: event[:3])
        lefts, rights = self._left.lines, self._right.lines
        for ts, is_right, number, key, held in due:
            if is_right:
                self._right.passed(ts, key, held)
                for other, left in lefts[key].between(ts - self.upper, ts - self.lower) if key in lefts else ():
                    left.matched = True
                    pairs.append((ts, other, ts, left.number, number, left.item, held.item))
            else:
                self._left.passed(ts, key, held)
                for other, right in rights[key].between(ts + self.lower, ts + self.upper) if key in rights else ():
                    held.matched = True
                    pairs.append((ts, ts, other, number, right.number, held.item, right.item))
        return pairs

    def _results(self, pairs: list[tuple[Any, Any]]) -> list[Any]:
        if self.combine is not None:
            return combined(pairs, self.combine, self.ctx)
        return [
            flat(
                left,
                self.fields,
                (None if right is None else value_of(right, f) for f in self.fields),
                self.right_prefix,
            )
            for left, right in pairs
        ]

    def snapshot(self) -> dict[str, bytes | None]:
        return {**self._left.log.snapshot(), **self._right.log.snapshot()}

    def restore(self, state: Mapping[str, bytes], watermark: int = NO_MARK) -> None:
        self._watermark = watermark
        for side in (self._left, self._right):
            for items in side.log.restore(state):
                self._hold(side, items, watermark - side.keep)
        self._pass(watermark)  # those pairs are out: this finds which left items were part of one


def signed_duration(value: Duration, name: str) -> int:
    """Nanoseconds of ``value``, which may be negative (``"-1s"``). Raises ``ConfigError`` from 73 years on."""
    if isinstance(value, str) and value.lstrip().startswith("-"):
        nanos = -parse_duration(value.lstrip()[1:], name)
    else:
        nanos = parse_duration(value, name)
    if not -_LONGEST < nanos < _LONGEST:
        raise ConfigError(f"{name}: {value!r} is too long; less than 73 years")
    return nanos
