"""The merge of sorted streams of rows, by columns. Pure.

Of the rows that are there, those come next whose turn it is whatever is not there yet. The rule is the one of a heap of
heads: of all streams' next rows the one with the smallest time, ties by the stream's rank. It keeps disorder as small as it
is in the streams: no row comes further behind a later one than it does in its own stream. Where a stream is not sorted, a
row waits only for the rows before it in its own stream, so its *key* is the largest time so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from market_data_pipeline.frame import Array

ALONE = 1024
"""So many rows of one stream before the next one's first are taken as they are, rather than sorted with others."""


class Picked(NamedTuple):
    """How many rows to take from each stream, and the order of these rows, counted through stream by stream; ``None`` where
    all are of one."""

    counts: list[int]
    order: Array | None


def keys_of(times: Array) -> Array:
    """The keys of rows with ``times``, int64, not decreasing."""
    if len(times) < 2 or bool((times[1:] >= times[:-1]).all()):
        return times
    return np.maximum.accumulate(times)


def pick(keys: Sequence[Array], limit: int, stop: tuple[int, int] | None = None) -> Picked:
    """The next rows, at most ``limit``, of streams with ``keys``, each not empty and by rank.

    Each stream may go on behind its keys, with any time: so nothing comes that is behind the last key of one. ``stop``: a time
    and how many of the streams rank before it: a further stream begins there. Takes at least one row, unless ``stop`` is
    before all.
    """
    counts = [0] * len(keys)
    lead, rest = _first_two([int(stream[0]) for stream in keys])
    alone = len(keys[lead]) if rest is None else _before(keys[lead], int(keys[rest][0]), lead < rest)
    if rest is None or alone >= min(limit, ALONE):
        if stop is not None:
            alone = min(alone, _before(keys[lead], stop[0], lead < stop[1]))
        counts[lead] = min(alone, limit)
        return Picked(counts, None)
    end, last = min((int(stream[-1]), rank) for rank, stream in enumerate(keys))
    for rank, stream in enumerate(keys):
        n = _before(stream, end, rank <= last)
        if stop is not None:
            n = min(n, _before(stream, stop[0], rank < stop[1]))
        counts[rank] = min(n, limit)
    taken = [rank for rank, n in enumerate(counts) if n]
    if len(taken) < 2:
        return Picked(counts, None)
    order = np.argsort(np.concatenate([keys[rank][: counts[rank]] for rank in taken]), kind="stable")
    if len(order) > limit:
        order = order[:limit]
        order = _renumbered(order, counts, taken)
    return Picked(counts, order)


def _renumbered(order: Array, counts: list[int], taken: list[int]) -> Array:
    """``order``, of fewer rows than ``counts`` says, with ``counts`` made what it holds."""
    starts = np.concatenate([[0], np.cumsum([counts[rank] for rank in taken])])
    stream = np.searchsorted(starts, order, side="right") - 1
    kept = np.bincount(stream, minlength=len(taken))
    for rank, n in zip(taken, kept.tolist(), strict=True):
        counts[rank] = n
    shift = starts[:-1] - np.concatenate([[0], np.cumsum(kept)[:-1]])
    moved: Array = order - shift[stream]
    return moved


def _first_two(heads: list[int]) -> tuple[int, int | None]:
    """The streams with the first and the second head."""
    lead = min(range(len(heads)), key=lambda rank: (heads[rank], rank))
    others = [rank for rank in range(len(heads)) if rank != lead]
    return lead, min(others, key=lambda rank: (heads[rank], rank)) if others else None


def _before(keys: Array, time: int, ties: bool) -> int:
    """How many ``keys`` come before ``time``, with those at it where the stream wins ``ties``."""
    return int(np.searchsorted(keys, time, side="right" if ties else "left"))
