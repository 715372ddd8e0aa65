"""What a synthetic feed is made of beside its trades: quotes around them, and runs of numbers that are missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from market_data_pipeline.frame import Array, Columns
from market_data_pipeline.records import SIDE_CODES, Gap
from market_data_pipeline.sources.synthetic_time import mixed

_BLOCK_BITS = 6
_BLOCK = 1 << _BLOCK_BITS
_LONGEST = 19
_MEAN = (1 + _LONGEST) / 2
MOST_MISSING = 0.15
"""In each block of 64 numbers at most one run of 1 to 19 is missing: a larger share would leave no gaps between gaps."""


class MissingRuns:
    """Which numbers never come: about the share ``share`` (0 to 0.15) of them, in runs of 1 to 19, by ``seed``."""

    def __init__(self, share: float, seed: int) -> None:
        self._chance = np.uint64(share * _BLOCK / _MEAN * 2**32)
        self._seed = seed + (1 << 40)  # not the words that bursts use

    def _runs(self, block: Array) -> tuple[Array, Array, Array]:
        """Of each block, whether a run is missing, its first number and the one behind it."""
        words = mixed(block, self._seed)
        missing = (words & np.uint64(0xFFFFFFFF)) < self._chance
        first = (block << _BLOCK_BITS) + 1 + (words >> np.uint64(32) & np.uint64(31)).astype(np.int64)
        length = 1 + ((words >> np.uint64(40)) % np.uint64(_LONGEST)).astype(np.int64)
        return missing, first, first + length

    def present(self, number: Array) -> Array:
        """Which of ``number`` (int64, shape (n,)) come."""
        missing, first, behind = self._runs(number >> _BLOCK_BITS)
        return ~(missing & (number >= first) & (number < behind))

    def ending(self, begin: int, end: int) -> list[tuple[int, int]]:
        """First and last number of each run behind which a number from ``begin`` to ``end`` (without it) is the next."""
        blocks = np.arange(begin >> _BLOCK_BITS, (end - 1 >> _BLOCK_BITS) + 1)
        missing, first, behind = self._runs(blocks)
        wanted = missing & (behind >= begin) & (behind < end)
        return [(a, b - 1) for a, b in zip(first[wanted].tolist(), behind[wanted].tolist(), strict=True)]


def with_gaps(
    items: Columns, number: Array, runs: list[tuple[int, int]], symbols: Callable[[int, int], list[str]]
) -> list[Any]:
    """``items``, whose numbers are ``number``, as rows, with a ``Gap`` record for each symbol that lost some in one of ``runs``
    before the first that came behind it. ``symbols(first, last)``: of which symbols those were."""
    rows = items.rows()
    gaps: dict[int, list[Gap]] = {}
    for first, last in runs:
        behind = np.flatnonzero(number > last)
        at = int(behind[0]) if len(behind) else len(rows)
        ts_event = rows[at].ts_event if at < len(rows) else 0
        lost = symbols(first, last)
        count = Counter(lost)
        seen: dict[str, list[int]] = {}
        for lost_number, symbol in enumerate(lost, first):
            seen.setdefault(symbol, []).append(lost_number)
        gaps.setdefault(at, []).extend(
            Gap(symbol, own[0], own[-1], count[symbol], ts_event) for symbol, own in sorted(seen.items())
        )
    made: list[Any] = []
    for at, row in enumerate(rows):
        made += gaps.pop(at, ())
        made.append(row)
    return made + gaps.pop(len(rows), [])


def quotes_around(trades: dict[str, Any], ts_event: Array, rng: np.random.Generator) -> dict[str, Any]:
    """A quote for each of ``trades``, at ``ts_event``: a buyer paid the ask, a seller got the bid, 1 to 5 ticks apart."""
    count = len(ts_event)
    price, buys = trades["price"], trades["side"] == SIDE_CODES["buy"]
    spread = rng.integers(1, 6, count, np.int8) * 0.01
    sizes = rng.integers(1, 1000, (2, count), np.int32) / 100.0
    return {
        "symbol": trades["symbol"],
        "ts_event": ts_event,
        "ts_recv": ts_event + 1_000_000,
        "bid": np.maximum(np.where(buys, np.round(price - spread, 2), price), 0.01),
        "bid_size": sizes[0],
        "ask": np.where(buys, price, np.round(price + spread, 2)),
        "ask_size": sizes[1],
        "update_id": trades["trade_id"],
    }
