"""Bars the plain way, to judge the library's against. Nothing here imports an operator."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

BarKey = tuple[str, int]


def plain_bars(rows: Iterable[Mapping[str, Any]], interval: int) -> tuple[dict[BarKey, dict[str, Any]], int]:
    """Bars by (symbol, ts_open) of the first row of each (symbol, trade_id), and how many rows were duplicates."""
    seen: set[tuple[str, Any]] = set()
    groups: dict[BarKey, list[tuple[int, int, float, float]]] = {}
    duplicates = 0
    for arrival, row in enumerate(rows):
        if row.get("trade_id", "") != "":
            key = (row["symbol"], row["trade_id"])
            if key in seen:
                duplicates += 1
                continue
            seen.add(key)
        ts = int(row["ts_event"])
        start = ts // interval * interval
        trade = (ts, arrival, float(row["price"]), float(row["size"]))
        groups.setdefault((row["symbol"], start), []).append(trade)
    return {key: _bar(trades) for key, trades in groups.items()}, duplicates


def _bar(trades: list[tuple[int, int, float, float]]) -> dict[str, Any]:
    prices = [price for _, _, price, _ in trades]
    volume = math.fsum(size for _, _, _, size in trades)
    notional = math.fsum(price * size for _, _, price, size in trades)
    return {
        "open": min(trades)[2],
        "close": max(trades)[2],
        "high": max(prices),
        "low": min(prices),
        "volume": volume,
        "vwap": notional / volume if volume else max(trades)[2],
        "trade_count": len(trades),
    }


def written_bars(folder: Path) -> dict[BarKey, dict[str, Any]]:
    """The bars in ``folder/*.jsonl``; fails on a half line and on a bar that is there twice."""
    bars: dict[BarKey, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            bar = json.loads(line)
            key = (bar["symbol"], bar["ts_open"])
            assert key not in bars, f"{key} is there twice, second time in {path.name}"
            bars[key] = bar
    return bars


def check_bars(folder: Path, expected: Mapping[BarKey, Mapping[str, Any]], interval: int) -> None:
    """Fails unless the bars in ``folder`` are exactly ``expected`` (sums within float rounding)."""
    found = written_bars(folder)
    missing, surplus = expected.keys() - found.keys(), found.keys() - expected.keys()
    assert not missing, f"{len(missing)} bars missing, first {min(missing)}"
    assert not surplus, f"{len(surplus)} bars too many, first {min(surplus)}"
    for key, bar in expected.items():
        got = found[key]
        assert got["ts_close"] == key[1] + interval
        for name, value in bar.items():
            assert math.isclose(got[name], value, rel_tol=1e-9), f"{key} {name}: {got[name]} instead of {value}"
