"""What a round must come to, worked out by plain loops over the feed's items in one process."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tools.oracle import BarKey, plain_bars

INTERVAL = 5_000_000_000
_FAR_BEHIND = 50_000_000_000
"""Items are either within the feed's ``max_delay`` of the newest (2 s) or 100 s behind it."""

Row = Mapping[str, Any]


@dataclass
class Expected:
    """``forwarded``: per symbol, trade ids in order, duplicates and poison left out. ``late``: those of them that no bar
    may hold. ``keys``: distinct trades that the dedupe has seen. ``raised``: poison behind the dedupe, whose node said so;
    ``killed``: poison that never got past the task's entry."""

    items: int = 0
    duplicates: int = 0
    late: int = 0
    keys: int = 0
    raised: list[int] = field(default_factory=list)
    killed: list[int] = field(default_factory=list)
    forwarded: dict[str, list[int]] = field(default_factory=dict)
    bars: dict[BarKey, dict[str, Any]] = field(default_factory=dict)


def expect(feeds: Iterable[Iterable[Row]], raises: Collection[int], kills: Collection[int]) -> Expected:
    """From the items of each feed, in order."""
    result = Expected()
    kept: list[Row] = []
    for rows in feeds:
        seen: set[tuple[str, int]] = set()
        newest = 0
        for row in rows:
            result.items += 1
            newest = max(newest, row["ts_event"])
            if row["trade_id"] in kills:
                result.killed.append(row["trade_id"])
                continue
            key = (row["symbol"], row["trade_id"])
            if key in seen:
                result.duplicates += 1
                continue
            seen.add(key)
            if row["trade_id"] in raises:
                result.raised.append(row["trade_id"])
                continue
            result.forwarded.setdefault(row["symbol"], []).append(row["trade_id"])
            if newest - row["ts_event"] > _FAR_BEHIND:
                result.late += 1
            else:
                kept.append(row)
        result.keys += len(seen)
    result.bars, again = plain_bars(kept, INTERVAL)
    assert again == 0
    return result
