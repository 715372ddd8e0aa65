"""Bars over buckets of event time: when they come out, in which revision, and what fills the buckets without a trade.

:class:`BarWindows` knows nothing of trades: ``TumblingBars`` and ``Resample`` merge groups into its table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import get_args

import numpy as np

from market_data_pipeline.durations import Duration, positive_duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import END, NO_MARK, Array, Columns, Frame
from market_data_pipeline.operators.as_records import keep
from market_data_pipeline.operators.bar_choices import BarConvention, Empty
from market_data_pipeline.operators.bar_segments import BarSegments
from market_data_pipeline.operators.bar_symbols import BarSymbols
from market_data_pipeline.operators.bar_table import (
    CARRIED,
    CHANGED,
    CLOSE,
    CODE_BITS,
    COUNT,
    FIRED,
    FLAGS,
    MAX_SYMBOLS,
    PARTIAL,
    REVISION,
    BarTable,
    Groups,
    no_trades,
)
from market_data_pipeline.operators.base import Operator
from market_data_pipeline.operators.buckets import FARTHEST, LONGEST, OUTSIDE, Buckets, Tumbling
from market_data_pipeline.operators.choices import check_choice
from market_data_pipeline.operators.lateness import LATE, Lateness
from market_data_pipeline.packing import pack, unpack


class BarWindows(Operator):
    """Base of operators whose results are bars over buckets of event time.

    A bar fires when the watermark reaches its end, ordered by bucket, then by its symbol's first appearance. What comes
    later is decided by :class:`Lateness`. ``empty``: buckets without a trade between a symbol's first bar and the watermark
    (at the end of input, its last bar) have no bar (``skip``), one with NaN prices and volume 0 (``null``), or one at the
    last close (``carry``); a symbol that is silent for ``max_empty`` buckets has none until its next trade.
    ``early_every``: when the watermark passes ``start + k * early_every``, a bar that changed is emitted before its end, not
    final. The first bar of every symbol is ``partial``. State: about 120 bytes per open bar, and 13 per symbol; at most
    524,288 symbols a partition. A commit writes the bars that changed, and the blocks of 256 symbols.
    """

    outputs = (LATE,)
    keeps = "open windows"

    def __init__(
        self,
        buckets: Buckets,
        lateness: Lateness,
        empty: Empty,
        early_every: Duration | None,
        convention: BarConvention,
    ) -> None:
        check_choice("empty", empty, get_args(Empty))
        if not isinstance(convention, BarConvention):
            raise ConfigError(
                f"convention: {convention!r} is not allowed; write for example BarConvention(label='right')"
            )
        self.interval: int | Buckets = buckets.size if isinstance(buckets, Tumbling) else buckets
        self.align_to = buckets.align_to if isinstance(buckets, Tumbling) else 0
        self.late, self.allowed_lateness = lateness.policy, lateness.allowed
        self.empty, self.convention = empty, convention
        self.early_every = None if early_every is None else positive_duration(early_every, "early_every")
        if self.early_every is not None and self.early_every > LONGEST:
            raise ConfigError(f"early_every: {early_every!r} is too long; at most 3660d")
        self._buckets = buckets
        self._lateness = lateness
        self._shift = 1 if convention.closed == "right" else 0  # (start, end] is [start + 1, end + 1)
        self._table = BarTable()
        self._symbols = BarSymbols()
        self._segments = BarSegments(self._table)
        self._watermark = NO_MARK
        self._partial: set[int] = set()
        """Keys of bars that lie where trades are missing."""
        self._facts = pack([None, []])
        self._filled: int | None = None
        """Buckets below have all their empty bars; ``None`` before the first watermark."""

    def required_outputs(self) -> tuple[str, ...]:
        return self._lateness.required_outputs

    # What comes in

    def times(self, items: Columns) -> Array:
        """The time by which each item is put into a bucket, ns."""
        return items.array(self.convention.ts)

    def place(self, items: Columns, late: list[Frame]) -> tuple[Columns, Array]:
        """The usable ones of ``items`` and their buckets. The others are rejected, counted, or added to ``late``."""
        if self.convention.ts == "ts_recv":
            items = keep(items, items.array("ts_recv") != 0, "it has no ts_recv", self.ctx)
        ts = self.times(items)
        near = (ts > -FARTHEST) & (ts < FARTHEST)
        if not near.all():
            items = keep(items, near, "its time is more than 146 years from 1970, in ns", self.ctx)
            ts = ts[near]
        bucket = self._buckets.indices(ts - self._shift if self._shift else ts)
        if isinstance(self._buckets, Tumbling):
            return self._on_time(items, bucket, late)
        inside = bucket != OUTSIDE
        if not inside.all():
            self.ctx.count("outside", int(len(inside) - inside.sum()))
            items, bucket = items.take(inside), bucket[inside]
        return self._on_time(items, bucket, late)

    def _on_time(self, items: Columns, bucket: Array, late: list[Frame]) -> tuple[Columns, Array]:
        closed = self.first_open()
        if self._watermark == NO_MARK or not len(bucket) or (closed is not None and int(bucket.min()) >= closed):
            return items, bucket
        behind = np.ones(len(bucket), bool) if closed is None else bucket < closed
        self.ctx.count("late", int(behind.sum()))
        if self._lateness.passes_on:
            late.append(Frame(items.take(behind), port=LATE))
        return items.take(~behind), bucket[~behind]

    def settle(self, fired: int | None) -> None:
        """Merge what came for buckets below ``fired`` (``None``: for all of them), if it was not merged at once."""

    def amend(self) -> None:
        """Change open bars before any come out, with everything merged. Only then, so that commits make no difference."""

    def merge(self, groups: Groups) -> None:
        """Groups of buckets that are not closed."""
        self._table.merge(groups)
        if self._filled is not None and int(groups.key[0] >> CODE_BITS) < self._filled:
            self._fill_behind(groups)

    def put(self, groups: Groups) -> None:
        """Put ``groups`` in the place of the same open bars, or beside the others."""
        known = self._table.has(groups.key)
        if known.any():
            self._table.replace(groups.take(known))
        if not known.all():
            self.merge(groups.take(~known))

    def row(self, key: int) -> Groups | None:
        """A copy of the open bar of ``key``, as it would be if it had never come out; ``None`` where there is none."""
        at = int(np.searchsorted(self._table.key, key))
        if at == len(self._table.key) or self._table.key[at] != key:
            return None
        row = self._table.rows.take(np.array([at]))
        row.ints[:, REVISION], row.ints[:, FLAGS] = 0, row.ints[:, FLAGS] & PARTIAL
        return row

    def mark_partial(self, symbol: str, ts: int) -> None:
        """Trades of ``symbol`` before ``ts`` are missing: the bar of ``ts`` is partial, and so are the open ones before it from
        the last one with a trade on."""
        code = self._symbols.code_of(symbol)
        self.settle(None)
        bucket = self._buckets.first_open(ts - self._shift)
        rows = self._table.rows
        known = np.flatnonzero((rows.code == code) & (rows.bucket < bucket))
        traded = np.flatnonzero(rows.ints[known, COUNT] > 0)
        since = rows.key[known[traded[-1] :]].tolist() if len(traded) else []
        self._partial.update([(bucket << CODE_BITS) | code, *since])

    # What comes out

    def _below(self, watermark: int) -> int | None:
        """Buckets below this number have ended at ``watermark``; ``None``: all have."""
        if watermark == END:
            return None
        return self._buckets.first_open(max(watermark, NO_MARK + 1) - self._shift)

    def first_open(self) -> int | None:
        """Buckets below are closed for good; ``None``: all are."""
        return self._below(self._lateness.closed_by(self._watermark))

    def advance(self, watermark: int) -> Iterable[Frame]:
        before, self._watermark = self._watermark, max(watermark, self._watermark)
        if self._watermark == before:
            return ()
        fired = self._below(self._watermark)
        self.settle(fired if self.early_every is None else None)
        self.amend()
        if self.empty != "skip":
            self._fill(fired)
        if not len(self._table.key):
            return ()
        if self.empty == "carry":
            self._carry(fired)
        n_fired = self._table.count_below(fired)
        n_closed = self._table.count_below(self.first_open())
        due = self._due(n_closed, n_fired, before)
        rows = self._table.rows.take(due)
        frames = (Frame(self._emit(due, rows, n_closed)),) if len(rows.key) else ()
        self._close(n_closed)
        return frames

    def _due(self, n_closed: int, n_fired: int, before: int) -> Array | slice:
        """Which rows come out now: the ``n_closed`` first ones; of the ``n_fired`` first ones those that changed or have not
        come out since their end; and further ones early."""
        rows = self._table.rows.take(slice(0, n_fired))
        chosen = np.ones(n_fired, bool)
        flags = rows.ints[n_closed:, FLAGS]
        chosen[n_closed:] = ((flags & CHANGED) != 0) | ((flags & FIRED) == 0)
        flags |= FIRED
        if self.empty == "skip":  # what was never emitted and lost all its trades has nothing to say
            chosen &= (rows.ints[:, REVISION] > 0) | (rows.ints[:, COUNT] > 0) | ~np.isnan(rows.floats[:, CLOSE])
        if self.early_every is not None and self._watermark != END:
            return np.flatnonzero(np.append(chosen, self._early_due(n_fired, before)))
        return slice(0, n_fired) if chosen.all() else np.flatnonzero(chosen)

    def _early_due(self, n_fired: int, before: int) -> Array:
        """Which of the rows behind the ``n_fired`` first ones come out early."""
        assert self.early_every is not None
        rows = self._table.rows.take(slice(n_fired, None))
        starts = self._buckets.starts(rows.bucket)
        steps = (self._watermark - starts) // self.early_every
        steps_before = np.maximum((max(before, -FARTHEST) - starts) // self.early_every, 0)
        due: Array = ((rows.ints[:, FLAGS] & CHANGED) != 0) & (steps > steps_before)
        return due

    def _emit(self, due: Array | slice, rows: Groups, n_closed: int) -> Columns:
        """The bars of ``rows``, which are those at ``due``."""
        code = rows.code
        first = self._symbols.start(code)
        if first is not None:
            rows.ints[first, FLAGS] |= PARTIAL
        if self._partial:
            rows.ints[np.isin(rows.key, list(self._partial)), FLAGS] |= PARTIAL
        ts_open, ts_close = self._buckets.starts(rows.bucket), self._buckets.ends(rows.bucket)
        label = ts_open if self.convention.label == "left" else ts_close
        final = np.arange(len(code)) < n_closed if isinstance(due, slice) else due < n_closed
        bars = rows.bars(self._symbols.names, ts_open, ts_close, label, final)
        self._table.ints[due, REVISION] += 1
        self._table.ints[due, FLAGS] = rows.ints[:, FLAGS] & ~CHANGED
        self._table.segment[due] = -1
        return bars

    def _close(self, n: int) -> None:
        """The first ``n`` bars will not be needed again."""
        if not n:
            return
        gone = self._table.rows.take(slice(0, n))
        if self.empty == "carry":
            priced = ~np.isnan(gone.floats[:, CLOSE])
            # of several bars of a symbol the last one stays, as they are in order
            self._symbols.close[gone.code[priced]] = gone.floats[priced, CLOSE]
            self._symbols.touch(gone.code)
        last = int(gone.bucket[-1])
        if self._partial:
            self._partial = {key for key in self._partial if key >> CODE_BITS > last}
        self._table.drop(n)
        self.closed(last)

    def closed(self, last: int) -> None:
        """The buckets up to ``last`` are closed for good."""

    # Buckets without a trade

    def _fill(self, fired: int | None) -> None:
        """Put empty bars into the buckets below ``fired``; at the end of input only before each symbol's last bar."""
        if self._filled is None and not self._table.count_below(fired):
            self._filled = fired
            return
        rows = self._table.rows
        last = np.full(len(self._symbols.names), -(2**62))
        if fired is None:
            np.maximum.at(last, rows.code, rows.bucket)
        bucket = int(rows.bucket[0]) if self._filled is None else self._filled
        empty: list[Array] = []
        while fired is None or bucket < fired:
            missing = self._symbols.step(self._table.rows_of(bucket).code, self.convention.max_empty)
            if fired is None:
                missing = missing[last[missing] > bucket]
            if len(missing):
                empty.append((bucket << CODE_BITS) | missing)
            waiting = self._symbols.waiting(self.convention.max_empty)
            if len(waiting if fired is not None else waiting[last[waiting] > bucket]):
                bucket = self._buckets.after(bucket)
                continue
            following = self._table.rows.bucket[self._table.count_below(bucket + 1) :][:1].tolist()
            if not following or (fired is not None and following[0] >= fired):
                break
            bucket = following[0]
        self._filled = bucket if fired is None else fired
        if empty:
            self._table.merge(no_trades(np.concatenate(empty)))

    def _fill_behind(self, groups: Groups) -> None:
        """Trades came for buckets that had their empty bars: where they are a symbol's first, the buckets behind need some."""
        assert self._filled is not None
        keys = groups.key[groups.bucket < self._filled]
        after = [
            (self._buckets.after(key >> CODE_BITS) << CODE_BITS) | key & (MAX_SYMBOLS - 1) for key in keys.tolist()
        ]
        going_on = self._table.has(np.array(after, np.int64)) & (np.array(after, np.int64) < self._filled << CODE_BITS)
        for key in keys[~going_on].tolist():
            bucket, code = key >> CODE_BITS, key & (MAX_SYMBOLS - 1)
            behind: list[int] = []
            while (bucket := self._buckets.after(bucket)) < self._filled and len(behind) < self.convention.max_empty:
                behind.append((bucket << CODE_BITS) | code)
            empty = np.array(behind, np.int64)
            empty = empty[~self._table.has(empty)]
            if len(empty):
                self._table.merge(no_trades(empty))
            self._symbols.know(code, len(behind))

    def _carry(self, fired: int | None) -> None:
        """Give bars without a price the close before them; where that is another than last time, they changed."""
        rows = self._table.rows.take(slice(0, self._table.count_below(fired)))  # views
        running = self._symbols.close.copy()
        if not len(rows.key):
            return
        buckets, codes = rows.bucket, rows.code
        starts = np.flatnonzero(np.append(True, buckets[1:] != buckets[:-1]))
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(buckets)], strict=True):
            code, close = codes[start:stop], rows.floats[start:stop, CLOSE]
            before, carried = running[code], rows.floats[start:stop, CARRIED]
            changed = np.isnan(close) & (before != carried) & ~np.isnan(before)
            carried[changed] = before[changed]
            rows.ints[start:stop, FLAGS] |= np.where(changed, CHANGED, 0)
            running[code] = np.where(np.isnan(close), before, close)
            self._table.segment[start:stop][changed] = -1

    # State

    def snapshot(self) -> dict[str, bytes | None]:
        self.settle(None)
        delta = self._segments.snapshot()
        delta.update(self._symbols.snapshot())
        facts = pack([self._filled, sorted(self._partial)])
        if facts != self._facts:
            delta["facts"] = self._facts = facts
        return delta

    def restore(self, state: Mapping[str, bytes], watermark: int = NO_MARK) -> None:
        self._watermark = watermark
        if "facts" in state:
            self._facts = state["facts"]
            self._filled, partial = unpack(self._facts)
            self._partial = set(partial)
        self._symbols.restore(state)
        self._segments.restore(state)
        if watermark != NO_MARK:
            self._table.drop(self._table.count_below(self.first_open()))
