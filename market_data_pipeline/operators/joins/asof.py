"""The as-of join: each left item with the latest right item at or before it.

==================================================== ===================================================================
``AsofJoin(tolerance="5s")``, quotes are the right   output
==================================================== ===================================================================
quote bid 9 at 1 s, quote bid 10 at 3 s              nothing
trade at 3 s, trade at 2 s, then W = 3 s             the trade at 2 s with ``bid`` 9 (at 3 s another quote may still come)
quote bid 11 at 3 s, then W = 10 s                   the trade at 3 s with ``bid`` 11: of equal times the last to come
trade at 10 s, then END                              the trade with ``bid`` None, counted (``unmatched``): 3 s is too old
==================================================== ===================================================================
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Final, Literal

import numpy as np

from market_data_pipeline.durations import Duration, parse_duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import END, NO_MARK, Array, Column, Columns, Frame, Items, to_rows
from market_data_pipeline.operators.base import Operator
from market_data_pipeline.operators.buckets import FARTHEST
from market_data_pipeline.operators.changes import Changes
from market_data_pipeline.operators.field_names import read_by_join
from market_data_pipeline.operators.joins.keyed import (
    Chunk,
    Keys,
    Latest,
    Pending,
    as_columns,
    joined,
    object_array,
    place,
    plain_column,
)
from market_data_pipeline.operators.joins.log import ItemLog
from market_data_pipeline.operators.joins.pairs import (
    Combine,
    How,
    as_dict,
    check_pairs,
    combined,
    flat,
    names_of,
    value_of,
)
from market_data_pipeline.operators.keys import check_field
from market_data_pipeline.operators.lateness import LATE, Lateness, LatePolicy, check_late_policy
from market_data_pipeline.operators.stateless import apply
from market_data_pipeline.packing import pack, unpack

RIGHT: Final = "right"
"""The input of the items that are looked up."""
_BLOCK = 256
_FEW_KEYS = 1024
_ITEM = "item"


class LatestJoin(Operator):
    """What as-of and reference join share: a left item at t, which comes out when the watermark is behind t, gets the right
    item of its key with the largest time at or before t. Left items are looked up by arrays, all of an advance at once."""

    accepts: ClassVar[Literal["any"]] = "any"
    right_input: ClassVar[str]
    keeps = "items that wait for the watermark"
    fields: tuple[str, ...]
    key: str
    how: How
    right_prefix: str
    combine: Combine | None
    late: LatePolicy
    allow_exact: bool = True
    _since = -FARTHEST
    """Right items before this time (ns) are of no use to left items that may still come."""

    def _prepare(self) -> None:
        """Called at the end of ``__init__``: the empty state."""
        self.outputs = (LATE,)
        self._keys = Keys()
        self._left, self._right = Pending(), Pending()
        self._logs = ItemLog("left"), ItemLog("right")
        self._latest = Latest()
        self._changes = Changes()
        self._watermark = NO_MARK
        self._keys_to_look = _FEW_KEYS

    def required_outputs(self) -> tuple[str, ...]:
        return Lateness(self.late).required_outputs

    @abstractmethod
    def _matches(self, ts: Array, rights: Chunk, at: Array) -> Array:
        """Whether the right item ``rights[at]`` (the newest at or before ``ts``) may be used; all of shape (n,)."""

    @abstractmethod
    def _late_right(self, chunk: Chunk) -> None:
        """Right items behind the watermark."""

    def process(self, frame: Frame) -> Iterable[Frame]:
        chunk = self._place(frame.items if self.combine is not None else as_columns(frame.items))
        behind = chunk.ts < self._watermark
        late = chunk.take(behind) if behind.any() else None
        chunk = chunk if late is None else chunk.take(~behind)
        if frame.port == self.right_input:
            if late is not None:
                self._late_right(self._payload(late))
            self._hold_right(chunk)
            return ()
        results: list[Frame] = []
        if late is not None:
            self.ctx.count("late", len(late.ts))
            results += [Frame(late.items, port=LATE)] if self.late == "side_output" else []
        return [*results, *self._take_left(chunk)]

    def _take_left(self, chunk: Chunk) -> Iterable[Frame]:
        chunk = self._usable(chunk)
        if len(chunk.ts):
            self._left.add(self._logged(0, chunk))
        return ()

    def _usable(self, chunk: Chunk) -> Chunk:
        """Without the left items that have no fields to put others beside."""
        if self.combine is not None or isinstance(chunk.items, Columns):
            return chunk
        good = apply(as_dict, chunk.items, self.ctx.failed)
        return chunk if len(good) == len(chunk.ts) else self._place([item for item, _ in good])

    def _hold_right(self, chunk: Chunk) -> None:
        if not len(chunk.ts):
            return
        if isinstance(chunk.items, Columns) and self.combine is None:
            wanted = {name: c for name, c in chunk.items.data.items() if name in self._right_fields()}
            chunk = chunk._replace(items=Columns("", wanted))
        self._right.add(self._payload(self._logged(1, chunk)))

    def _right_fields(self) -> set[str]:
        return {"ts_event", self.key, *self.fields}

    def _logged(self, side: int, chunk: Chunk) -> Chunk:
        items = self._logs[side].append(chunk.items, int(chunk.ts.max()), self.ctx)
        return chunk if len(items) == len(chunk.ts) else self._place(items)

    def _place(self, items: Items) -> Chunk:
        return place(items, self.key, self._keys, self.ctx.failed)

    def _payload(self, chunk: Chunk) -> Chunk:
        """Right items as the plain arrays that results are made of."""
        items, n = chunk.items, len(chunk.ts)
        if self.combine is not None:
            data: dict[str, Column] = {_ITEM: object_array(to_rows(items), n)}
        elif isinstance(items, Columns):
            data = {name: plain_column(items, name) for name in self.fields}
        else:
            data = {name: object_array((value_of(item, name) for item in items), n) for name in self.fields}
        return chunk._replace(items=Columns("", data))

    def advance(self, watermark: int) -> Iterable[Frame]:
        self._watermark = max(watermark, self._watermark)
        left, right = self._left.pop_before(watermark), self._right.pop_before(watermark)
        results = [] if left is None else self._join(by_time(left), right)
        if watermark == END:
            self._latest = Latest()
            self._changes.touch(range(len(self._keys) // _BLOCK + 1))
        elif right is not None:
            self._stand(right)
        for log in self._logs:
            log.forget(watermark)
        if len(self._keys) > self._keys_to_look:
            self._forget_keys()
        return results

    def _stand(self, right: Chunk) -> None:
        self._changes.touch(np.unique(self._latest.update(right) // _BLOCK).tolist())

    def _join(self, left: Chunk, right: Chunk | None) -> list[Frame]:
        """Results for ``left``, in its order; ``right`` is newer than what is kept of each key."""
        known = self._latest.of(np.unique(left.code), self._since)
        parts = [chunk for chunk in (known, right) if chunk is not None]
        rights = joined(parts) if parts else None
        if rights is None:
            at = np.full(len(left.ts), -1, np.int64)
        else:
            at = latest_at(left, rights, self.allow_exact)
            hit = np.flatnonzero(at >= 0)
            at[hit[~self._matches(left.ts[hit], rights, at[hit])]] = -1
        matched = at >= 0
        self.ctx.count("unmatched", int(len(at) - matched.sum()))
        if self.how == "inner" and not matched.all():
            left, at = left.take(matched), at[matched]
        return self._results(left, rights, at) if len(at) else []

    def _results(self, left: Chunk, rights: Chunk | None, at: Array) -> list[Frame]:
        values = {name: _values(rights, name, at) for name in ([_ITEM] if self.combine else self.fields)}
        if self.combine is not None:
            pairs = list(zip(to_rows(left.items), values[_ITEM].tolist(), strict=True))
            return [Frame(combined(pairs, self.combine, self.ctx))]
        if isinstance(left.items, Columns):
            names = names_of(self.fields, left.items.data, self.right_prefix)
            return [Frame(Columns("", left.items.data | dict(zip(names, values.values(), strict=True))))]
        rows = zip(*(column.tolist() for column in values.values()), strict=True)
        return [
            Frame([flat(i, self.fields, r, self.right_prefix) for i, r in zip(to_rows(left.items), rows, strict=True)])
        ]

    def _forget_keys(self) -> None:
        """Forget the keys that nothing is held of; looked for when there are twice as many as were left the last time."""
        parts = [*self._left.codes(), *self._right.codes()]
        known = self._latest.of(np.arange(len(self._keys)), self._since)
        used = np.unique(np.concatenate([*parts, np.empty(0, np.int64), *([] if known is None else [known.code])]))
        self._changes.touch(range(len(self._keys) // _BLOCK + 1))
        renumbered = self._keys.keep(used)
        self._left.renumber(renumbered)
        self._right.renumber(renumbered)
        self._latest.keep(used)
        self._keys_to_look = max(_FEW_KEYS, 2 * len(used))

    def snapshot(self) -> dict[str, bytes | None]:
        latest = {f"latest:{block}": blob for block, blob in self._changes.take(self._blob).items()}
        return {**self._logs[0].snapshot(), **self._logs[1].snapshot(), **latest}

    def _blob(self, block: int) -> bytes | None:
        stop = min((block + 1) * _BLOCK, len(self._keys))
        chunk = self._latest.of(np.arange(block * _BLOCK, stop), self._since)
        if chunk is None:
            return None
        assert isinstance(chunk.items, Columns)
        codes = chunk.code.tolist()
        columns = {name: plain_column(chunk.items, name) for name in chunk.items.data}
        values = {name: [column.dtype.str, column.tolist()] for name, column in columns.items()}
        return pack([codes, [self._keys.names[code] for code in codes], chunk.ts.tolist(), values])

    def restore(self, state: Mapping[str, bytes], watermark: int = NO_MARK) -> None:
        self._watermark = watermark
        blocks = sorted(int(name.removeprefix("latest:")) for name in state if name.startswith("latest:"))
        for block in blocks:
            codes, keys, times, values = unpack(state[f"latest:{block}"])
            for code, key in zip(codes, keys, strict=True):
                self._keys.restored(key, code)
            data: dict[str, Column] = {n: np.fromiter(v, dtype, len(codes)) for n, (dtype, v) in values.items()}
            self._latest.update(Chunk(np.array(times, np.int64), np.array(codes, np.int64), Columns("", data)))
        self._changes.restored(blocks)
        for side, log in enumerate(self._logs):
            for items in log.restore(state):
                chunk = self._place(items)
                chunk = chunk.take(chunk.ts >= watermark)
                if len(chunk.ts):
                    (self._right.add(self._payload(chunk)) if side else self._left.add(chunk))


def by_time(chunk: Chunk) -> Chunk:
    """``chunk`` by time, then by arrival."""
    if bool((chunk.ts[1:] >= chunk.ts[:-1]).all()):
        return chunk
    return chunk.take(np.argsort(chunk.ts, kind="stable"))


def latest_at(left: Chunk, right: Chunk, allow_exact: bool) -> Array:
    """For each left item the position of the right item with its code and the largest time at or before its own (before it,
    unless ``allow_exact``), of equal times the last one; -1 where there is none. int64 of shape (n,)."""
    n, m = len(left.ts), len(right.ts)
    first, second = (right, left) if allow_exact else (left, right)
    base = 0 if allow_exact else n
    order = np.lexsort((np.concatenate([first.ts, second.ts]), code := np.concatenate([first.code, second.code])))
    is_right = (order >= base) & (order < base + m)
    seen = np.maximum.accumulate(np.where(is_right, np.arange(n + m), -1))
    found = order[seen]  # -1 takes the last: it is left out below
    good = (seen >= 0) & (code[found] == code[order])
    at = np.full(n + m, -1, np.int64)
    at[order[good]] = found[good] - base
    return at[m:] if allow_exact else at[:n]


def _values(rights: Chunk | None, name: str, at: Array) -> Array:
    """A field of the right items ``at``, ``None`` where that is -1."""
    hit = at >= 0
    if rights is None or not hit.any():
        return np.full(len(at), None, object)
    assert isinstance(rights.items, Columns)
    column = plain_column(rights.items, name)
    if hit.all():
        return column[at]
    values = np.full(len(at), None, object)
    values[hit] = column[at[hit]].astype(object)
    return values


class AsofJoin(LatestJoin):
    """Each item of the usual input (a trade) with the latest item of the input ``right`` (a quote) of equal ``key``.

    The latest is the one with the largest ``ts_event`` at or before the left item's (before it, with ``allow_exact=False``), of
    equal times the last to come, and not more than ``tolerance`` older (``None``: however old). A left item at t comes out
    when the watermark, merged over both inputs, is above t; by ``ts_event``, then in order of arrival.

    Result: a dict of the left item's fields and of the right item's ``fields``; one whose name the left item has already
    gets ``right_prefix`` before it. Or what ``combine(left, right)`` returns. A left item that matches nothing is counted
    (``unmatched``) and has ``None`` for the right fields (``right`` is ``None``), or is dropped with ``how="inner"``.

    Left items behind the watermark are counted (``late``) and dropped, or with ``late="side_output"`` sent to the output
    ``late``; right ones are counted (``late_right``) and dropped, because what they would change has come out already for
    some. Items without ``ts_event`` (int ns within 146 years of 1970) or key go the way of the error policy.

    State: the items of both inputs that the watermark has not passed, and of each key the latest right item that it has,
    while that is not older than ``tolerance``. Columns stay columns (where a right field is missing: a column of objects).
    """

    right_input = RIGHT
    inputs = ("", RIGHT)

    def __init__(
        self,
        fields: Sequence[str] = ("bid", "bid_size", "ask", "ask_size"),
        key: str = "symbol",
        tolerance: Duration | None = None,
        how: How = "left",
        allow_exact: bool = True,
        right_prefix: str = "right_",
        combine: Combine | None = None,
        late: LatePolicy = "drop",
    ) -> None:
        self.fields = check_pairs(fields, how, combine)
        self.key = check_field(key, "key")
        self.tolerance = None if tolerance is None else parse_duration(tolerance, "tolerance")
        if self.tolerance is not None and not 0 <= self.tolerance < FARTHEST:
            raise ConfigError(f"tolerance: {tolerance!r} is not allowed; zero or more, less than 146 years")
        self.how: How = how
        self.allow_exact = allow_exact
        self.right_prefix = check_field(right_prefix, "right_prefix")
        self.combine = combine
        self.late = check_late_policy(late, ("drop", "side_output"))
        self._prepare()

    fields_read = read_by_join

    def _matches(self, ts: Array, rights: Chunk, at: Array) -> Array:
        return np.ones(len(at), bool) if self.tolerance is None else ts - rights.ts[at] <= self.tolerance

    def _late_right(self, chunk: Chunk) -> None:
        self.ctx.count("late_right", len(chunk.ts))

    def advance(self, watermark: int) -> Iterable[Frame]:
        results = super().advance(watermark)
        if self.tolerance is not None and watermark != END:
            self._since = max(watermark - self.tolerance, -FARTHEST)
        return results

    def restore(self, state: Mapping[str, bytes], watermark: int = NO_MARK) -> None:
        if self.tolerance is not None and watermark != END:
            self._since = max(watermark - self.tolerance, -FARTHEST)
        super().restore(state, watermark)
