"""What stands in a case: times, items, expected results. Text in, values out."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import yaml

from market_data_pipeline.durations import parse_duration
from market_data_pipeline.frame import Column, Columns, Dictionary, columns_from_rows
from market_data_pipeline.records import KINDS, Bar, Gap, Quote, Trade

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER = r"(-?\d+(?:\.\d+)?(?:e-?\d+)?|nan|-?inf)"
_TRADE = re.compile(rf"(\S+) (\S+) {_NUMBER} x {_NUMBER}(?: (buy|sell))?((?: \w+=\S+)*)")
_GAP = re.compile(r"(\S+) (\S+) gap (\d+)-(\d+)")
_QUOTE = re.compile(rf"(\S+) (\S+) {_NUMBER} x {_NUMBER} / {_NUMBER} x {_NUMBER}")
_EVENT = re.compile(r"(\S+) (\S+)((?: \w+=\S+)*)")
_BAR = re.compile(rf"(\S+) \[(\S+), (\S+)\) {' '.join([_NUMBER] * 6)} (\d+)((?: \w+=\S+)*)")
_BAR_FIELDS = ("open", "high", "low", "close", "volume", "vwap")


def time_of(value: Any, epoch: int = 0) -> int:
    """ns of ``0.5s``, ``-3m``, an int of ns (each from ``epoch``), or of an ISO time (absolute). Raises ``ValueError``."""
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
    if isinstance(value, str) and "T" in value:
        return time_of(datetime.fromisoformat(value))
    if isinstance(value, str):
        sign, text = (-1, value[1:]) if value.startswith("-") else (1, value)
        return epoch + sign * parse_duration(text, "time")
    if type(value) is int:
        return epoch + value
    raise ValueError(f"{value!r} is not a time; write for example 0.5s, -3m, 2026-03-08T14:30:00Z, or an int of ns")


def _trade(text: str, epoch: int) -> Trade | Gap | None:
    found = _TRADE.fullmatch(text)
    if found is None:
        return _gap(text, epoch)
    symbol, ts, price, size, side, rest = found.groups()
    named = {"trade_id" if name == "id" else name: value for name, value in _named(rest, epoch).items()}
    return Trade(symbol, time_of(ts, epoch), named.pop("ts_recv", 0), float(price), float(size), side or "", **named)


def _gap(text: str, epoch: int) -> Gap | None:
    """What stands among trades where some did not come."""
    found = _GAP.fullmatch(text)
    if found is None:
        return None
    first, last = int(found[3]), int(found[4])
    return Gap(found[1], first, last, last - first + 1, time_of(found[2], epoch))


def _quote(text: str, epoch: int) -> Quote | None:
    found = _QUOTE.fullmatch(text)
    return found and Quote(found[1], time_of(found[2], epoch), 0, *(float(found[n]) for n in range(3, 7)))


def _event(text: str, epoch: int) -> dict[str, Any] | None:
    found = _EVENT.fullmatch(text)
    return found and {"symbol": found[1], "ts_event": time_of(found[2], epoch), **_named(found[3], epoch)}


def _named(text: str, epoch: int) -> dict[str, Any]:
    parts = (part.partition("=") for part in text.split())
    return {name: _value_of(name, yaml.safe_load(value), epoch) for name, _, value in parts}


def _value_of(name: str, value: Any, epoch: int) -> Any:
    return time_of(value, epoch) if name.startswith("ts_") and value is not None else value


def _bar_fields(text: str, epoch: int) -> dict[str, Any] | None:
    found = _BAR.fullmatch(text)
    if found is None:
        return None
    numbers = {name: float(found[4 + n]) for n, name in enumerate(_BAR_FIELDS)}
    times = {"ts_open": time_of(found[2], epoch), "ts_close": time_of(found[3], epoch)}
    return {"symbol": found[1], **times, **numbers, "trade_count": int(found[10]), **_named(found[11], epoch)}


def _bar(text: str, epoch: int) -> Bar | None:
    fields = _bar_fields(text, epoch)
    return None if fields is None else Bar(**fields)


FORMS: dict[str, tuple[Callable[[str, int], Any], str]] = {
    "trade": (_trade, "A 0.1s 10 x 1 buy id=7"),
    "quote": (_quote, "A 0.1s 10 x 1 / 11 x 2"),
    "event": (_event, "A 0.1s n=1"),
    "bar": (_bar, "A [0s, 1s) 10 12 9 11 5 10.5 3"),
}
"""Kinds of items with their text form, and an example of it."""
KINDS_OF_ITEMS = (*FORMS, "plain")


def item_of(value: Any, kind: str, epoch: int = 0) -> Any:
    """An item: text of ``kind``, a mapping (a dict; fields ``ts_*`` are times), or with ``plain`` anything as it is."""
    if kind == "plain":
        return value
    if isinstance(value, Mapping):
        return {name: _value_of(name, inner, epoch) for name, inner in value.items()}
    if not isinstance(value, str):
        return value
    form, example = FORMS[kind]
    item = form(value, epoch)
    if item is None:
        raise ValueError(f"{value!r} is not a {kind}; write it like: {example}")
    return item


class Expected:
    """One expected result. Text of a bar and a mapping compare the fields they name; everything else compares whole."""

    def __init__(self, value: Any, kind: str, epoch: int) -> None:
        self.written = value
        self.fields: dict[str, Any] | None = None
        if isinstance(value, Mapping) and kind != "plain":
            self.fields = {name: self._inner(name, inner, kind, epoch) for name, inner in value.items()}
        elif isinstance(value, list):
            self.whole: Any = [item_of(inner, kind, epoch) for inner in value]
        elif isinstance(value, str) and (bar := _bar_fields(value, epoch)) is not None:
            self.fields = bar
        else:
            self.whole = item_of(value, kind, epoch)

    @staticmethod
    def _inner(name: str, value: Any, kind: str, epoch: int) -> Any:
        if name == "items" and isinstance(value, list):
            return [item_of(inner, kind, epoch) for inner in value]
        return _value_of(name, value, epoch)

    def matches(self, item: Any, ordered: bool) -> bool:
        """Whether ``item`` is the expected one. A dict must have exactly the named fields, a record at least them. Lists
        within it count as sets of items unless ``ordered``."""
        if self.fields is None:
            return same(self.whole, item, ordered)
        found = item if isinstance(item, dict) else item._asdict() if hasattr(item, "_asdict") else None
        if found is None or (isinstance(item, dict) and found.keys() != self.fields.keys()):
            return False
        return all(name in found and same(value, found[name], ordered) for name, value in self.fields.items())

    def __repr__(self) -> str:
        return repr(self.written)


def same(a: Any, b: Any, ordered: bool = True) -> bool:
    """Equality with float rounding (1e-9, NaN equal to NaN); lists in any order unless ``ordered``."""
    if isinstance(a, bool) or isinstance(b, bool) or a is None or b is None:
        return a is b
    if isinstance(a, int | float) and isinstance(b, int | float):
        if isinstance(a, int) and isinstance(b, int):
            return a == b
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(value, b[name], ordered) for name, value in a.items())
    if isinstance(a, tuple) and isinstance(b, tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(lambda x, y: same(x, y, ordered), a, b))
    if isinstance(a, list) and isinstance(b, tuple):  # YAML has no tuples
        return len(a) == len(b) and all(map(lambda x, y: same(x, y, ordered), a, b))
    if isinstance(a, list) and isinstance(b, list):
        return not surplus(a, b, lambda x, y: same(x, y, ordered), ordered)
    return bool(type(a) is type(b) and a == b)


def surplus(
    expected: Sequence[Any], found: Sequence[Any], alike: Callable[[Any, Any], bool], ordered: bool
) -> list[tuple[str, Any]]:
    """What differs: ``("missing", expected)`` and ``("unexpected", found)``; empty where nothing does."""
    if ordered and len(expected) == len(found):
        pairs = zip(expected, found, strict=True)
        wrong = [(a, b) for a, b in pairs if not alike(a, b)]
        return [("missing", a) for a, _ in wrong] + [("unexpected", b) for _, b in wrong]
    left = list(found)
    missing: list[tuple[str, Any]] = []
    for wanted in expected:
        at = next((n for n, item in enumerate(left) if alike(wanted, item)), None)
        if at is None:
            missing.append(("missing", wanted))
        else:
            del left[at]
    return missing + [("unexpected", item) for item in left]


def as_columns(items: list[Any]) -> list[Any] | Columns:
    """``items`` as columns where they are records of one kind, or dicts with equal fields of one type each."""
    classes = {type(item) for item in items}
    if len(classes) == 1 and classes <= set(KINDS):
        columns, bad = columns_from_rows(items)
        return items if bad else columns
    if classes != {dict} or any(item.keys() != items[0].keys() for item in items):
        return items
    data = {name: column for name in items[0] if (column := _column([item[name] for item in items])) is not None}
    return Columns("", data) if len(data) == len(items[0]) else items


def _column(values: list[Any]) -> Column | None:
    types = {type(value) for value in values}
    if types == {str}:
        return Dictionary.encode(values)
    return np.array(values) if types in ({int}, {float}, {bool}) else None
