"""Windows by plain lists: every window keeps its items, and every value is computed from them anew.

An oracle takes one item at a time and answers with the rows that a window operator must emit, as dicts.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from market_data_pipeline.frame import END, Columns, Dictionary, Frame, Items, to_rows
from market_data_pipeline.operators.aggregations import Count, First, ItemList, Last, Max, Mean, Min, Std, Sum, Vwap
from market_data_pipeline.operators.base import OperatorContext
from market_data_pipeline.operators.fold import Fold
from market_data_pipeline.operators.quantile import Quantile
from market_data_pipeline.operators.window import WindowAggregate

Row = dict[str, Any]


def quantile(values: list[float], q: float) -> float:
    """Linear between the two nearest, as numpy does by default."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def values_of(items: list[Row]) -> Row:
    """What :data:`NUMERIC` and :data:`PER_ITEM` must give for ``items``, in order of arrival."""
    prices, sizes = [item["price"] for item in items], [item["size"] for item in items]
    by_time = sorted(items, key=lambda item: item["ts_event"])
    total = sum(sizes)
    notional = sum(price * size for price, size in zip(prices, sizes, strict=True))
    return {
        "n": len(items),
        "sum": sum(prices),
        "min": min(prices),
        "max": max(prices),
        "mean": sum(prices) / len(prices),
        "vwap": notional / total if total else math.nan,
        "std": statistics.pstdev(prices),
        "first": by_time[0]["n"],
        "last": by_time[-1]["n"],
        "median": quantile(prices, 0.5),
        "items": items,
        "folded": (len(items), [item["n"] for item in items]),
    }


NUMERIC = {
    "n": Count(), "sum": Sum("price"), "min": Min("price"), "max": Max("price"), "mean": Mean("price"),
    "vwap": Vwap(), "std": Std("price"), "first": First("n"), "last": Last("n"), "median": Quantile("price"),
}  # fmt: skip
PER_ITEM = {
    "items": ItemList(),
    "folded": Fold((0, []), lambda s, i: (s[0] + 1, [*s[1], i["n"]]), lambda a, b: (a[0] + b[0], a[1] + b[1])),
}


@dataclass
class Group:
    """One window of one key."""

    key: str
    start: int
    items: list[Row] = field(default_factory=list)
    revision: int = 0
    dirty: bool = False
    shown: int | None = None

    def row(self, end: int, final: bool) -> Row:
        made = {"key": self.key, "ts_open": self.start, "ts_close": end, "revision": self.revision, "is_final": final}
        self.revision += 1
        self.dirty = False
        self.shown = self.start
        return {**made, **values_of(self.items)}


@dataclass
class Oracle:
    """What all kinds of windows share. ``allowed`` is ``None`` unless late items revise."""

    allowed: int | None = None
    early_items: int | None = None
    early_every: int | None = None
    watermark: float = -math.inf
    late: int = 0
    late_partly: int = 0
    groups: list[Group] = field(default_factory=list)

    @property
    def closed(self) -> float:
        return self.watermark if self.watermark == math.inf else self.watermark - (self.allowed or 0)

    def passed(self, group: Group, before: float) -> bool:
        if self.early_every is None or self.watermark == -math.inf:
            return False
        steps = (self.watermark - group.start) // self.early_every
        return bool(steps >= 1 and (before == -math.inf or steps > (before - group.start) // self.early_every))


@dataclass
class TimeOracle(Oracle):
    size: int = 1
    slide: int = 1
    align_to: int = 0

    def add(self, item: Row) -> list[Row]:
        first = math.floor(Fraction(item["ts_event"] - self.align_to - self.size, self.slide)) + 1
        last = math.floor(Fraction(item["ts_event"] - self.align_to, self.slide))
        starts = [number * self.slide + self.align_to for number in range(first, last + 1)]
        open_ = [start for start in starts if start + self.size > self.closed]
        self.late += bool(starts) and not open_
        self.late_partly += 0 < len(open_) < len(starts)
        rows = []
        for start in open_:
            group = next((g for g in self.groups if (g.start, g.key) == (start, item["key"])), None)
            if group is None:
                group = Group(item["key"], start)
                self.groups.append(group)
            group.items = [*group.items, item]
            group.dirty = True
            fired = start + self.size <= self.watermark
            if self.early_items and len(group.items) % self.early_items == 0 and not fired:
                rows.append(group.row(start + self.size, False))
        return rows

    def advance(self, mark: int) -> list[Row]:
        before, self.watermark = self.watermark, max(self.watermark, math.inf if mark == END else mark)
        rows = []
        for group in sorted(self.groups, key=lambda g: g.start):
            end = group.start + self.size
            if end <= self.closed:
                rows.append(group.row(end, True))
                self.groups.remove(group)
            elif group.dirty and (end <= self.watermark or self.passed(group, before)):
                rows.append(group.row(end, False))
        return rows


@dataclass
class SessionOracle(Oracle):
    """Sessions by looking at all of them."""

    gap: int = 1
    retractions: list[Row] = field(default_factory=list)

    @property
    def repeats(self) -> bool:
        return not (self.allowed is self.early_items is self.early_every is None)

    @staticmethod
    def last(group: Group) -> int:
        return max(item["ts_event"] for item in group.items)

    def add(self, item: Row) -> list[Row]:
        ts = item["ts_event"]
        near = [
            g for g in self.groups
            if g.key == item["key"] and g.start - self.gap <= ts <= self.last(g) + self.gap
        ]  # fmt: skip
        if not near and ts + self.gap < self.closed:
            self.late += 1
            return []
        near.sort(key=lambda g: g.start)
        if not near:
            near = [Group(item["key"], ts)]
            self.groups += near
        group, swallowed = near[0], near[1:]
        for other in swallowed:
            if other.shown is not None:
                self.take_back(other, self.last(other) + self.gap)
            group.items = [*group.items, *other.items]
            group.revision = max(group.revision, other.revision)
            place = min(self.groups.index(group), self.groups.index(other))  # as old as its oldest part
            self.groups = [g for g in self.groups if g is not group and g is not other]
            self.groups.insert(place, group)
        group.items = [*group.items, item]
        group.start = min(group.start, ts)
        group.dirty = True
        end = self.last(group) + self.gap
        if self.early_items and len(group.items) % self.early_items == 0 and end >= self.watermark:
            return self.emitted([(group, False)])
        return []

    def take_back(self, group: Group, end: int) -> None:
        assert group.shown is not None
        nothing = dict.fromkeys(values_of([{"price": 1, "size": 1, "n": 1, "ts_event": 1}]))
        row = {"key": group.key, "ts_open": group.shown, "ts_close": end, "revision": group.revision, "is_final": True}
        self.retractions.append({**row, "retracted": True, **nothing})

    def emitted(self, groups: list[tuple[Group, bool]]) -> list[Row]:
        for group, _ in groups:
            if group.shown not in (None, group.start):
                self.take_back(group, self.last(group) + self.gap)
        rows, self.retractions = self.retractions, []
        flag = {"retracted": False} if self.repeats else {}
        return rows + [{**group.row(self.last(group) + self.gap, final), **flag} for group, final in groups]

    def advance(self, mark: int) -> list[Row]:
        before, self.watermark = self.watermark, max(self.watermark, math.inf if mark == END else mark)
        due = []
        for group in sorted(self.groups, key=lambda g: g.start):
            end = self.last(group) + self.gap
            if end < self.closed:
                due.append((group, True))
                self.groups.remove(group)
            elif group.dirty and (end < self.watermark or self.passed(group, before)):
                due.append((group, False))
        return self.emitted(due)


@dataclass
class CountOracle(Oracle):
    n: int = 1

    def add(self, item: Row) -> list[Row]:
        group = next((g for g in self.groups if g.key == item["key"]), None)
        if group is None:
            group = Group(item["key"], 0)
            self.groups.append(group)
        group.items.append(item)
        return self._close(group) if len(group.items) == self.n else []

    def _close(self, group: Group) -> list[Row]:
        times = [item["ts_event"] for item in group.items]
        group.start = min(times)
        self.groups.remove(group)
        return [group.row(max(times) + 1, True)]

    def advance(self, mark: int) -> list[Row]:
        return [row for group in list(self.groups) for row in self._close(group)] if mark == END else []


def columns_of(items: list[Row]) -> Columns:
    """``items`` as columns."""
    return Columns(
        "",
        {
            "key": Dictionary.encode([item["key"] for item in items]),
            "ts_event": np.array([item["ts_event"] for item in items], np.int64),
            "price": np.array([item["price"] for item in items], np.float64),
            "size": np.array([item["size"] for item in items], np.float64),
            "n": np.array([item["n"] for item in items], np.int64),
        },
    )


class Played:
    """An operator and its oracle, given the same steps: lists of items, watermarks, ``"commit"`` and ``"restart"``."""

    def __init__(self, oracle: Any, **options: Any) -> None:
        self.oracle, self.options = oracle, {"aggregations": {**NUMERIC, **PER_ITEM}, "key": "key", **options}
        self.operator = self._started()
        self.state: dict[str, bytes] = {}
        self._number = 0

    def _started(self) -> WindowAggregate:
        operator = WindowAggregate(**self.options)
        operator.open(OperatorContext("window"))
        return operator

    def items(self, made: list[tuple[str, int, float, float]]) -> list[Row]:
        rows = []
        for key, ts, price, size in made:
            rows.append({"key": key, "ts_event": ts, "price": price, "size": size, "n": self._number})
            self._number += 1
        return rows

    def step(self, step: Any, as_columns: bool) -> tuple[list[Row], list[Row]]:
        """What the operator emitted, and what it must."""
        if isinstance(step, list):
            items = self.items(step)
            given: Items = columns_of(items) if as_columns else items
            frames = list(self.operator.process(Frame(given)))
            expected = [row for item in items for row in self.oracle.add(item)]
        elif isinstance(step, int):
            frames, expected = list(self.operator.advance(step)), self.oracle.advance(step)
        else:
            self._commit(step == "restart")
            frames, expected = [], []
        names = self.options["aggregations"]
        known = set(values_of([{"price": 1, "size": 1, "n": 1, "ts_event": 1}])) - set(names)
        return (
            [row for frame in frames if not frame.port for row in to_rows(frame.items)],
            [{name: value for name, value in row.items() if name not in known} for row in expected],
        )

    def _commit(self, restart: bool) -> None:
        for name, blob in self.operator.snapshot().items():
            if blob is None:
                del self.state[name]
            else:
                self.state[name] = blob
        if restart:
            counts, watermark = self.operator.ctx.counts, self.operator._book.watermark
            self.operator = self._started()
            self.operator.ctx.counts.update(counts)
            self.operator.restore(self.state, watermark)

    def play(self, steps: list[Any], as_columns: bool) -> None:
        """All ``steps`` and the end of input; then nothing may be left."""
        for number, step in enumerate([*steps, END, "commit"]):
            found, expected = self.step(step, as_columns)
            assert_same(found, expected, f"step {number}: {step!r}")
            counts = self.operator.ctx.counts
            assert (counts["late"], counts["late_partly"]) == (self.oracle.late, self.oracle.late_partly)
        assert self.state == {}
        assert self.operator.ctx.dead_letters == []


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def assert_same(found: list[Row], expected: list[Row], where: str) -> None:
    """Equal to the last bit, but for ``std``."""
    assert len(found) == len(expected), f"{where}: {found} instead of {expected}"
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys(), where
        for name, value in other.items():
            same = one[name] == value or (_is_nan(value) and _is_nan(one[name]))
            if name in ("std", "median") and not same:
                same = math.isclose(one[name], value, rel_tol=1e-9, abs_tol=1e-9)
            assert same, f"{where}: {name} is {one[name]!r} instead of {value!r} in {one}"
