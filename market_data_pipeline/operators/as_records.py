"""Items as columns of one record, whatever they came as.

============================================================ =========================================================
``Trade(...)``, or columns                                   as they are
``{"symbol": "A", "ts_event": 5, "price": 1.0, "size": 2}``  a trade; ``side``, ``conditions``, ``action`` are usual
``{... , "side": "buy"}``                                    a trade, bought
``{... , "side": "bid"}``, or without ``price``              a dead letter
============================================================ =========================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from market_data_pipeline.frame import Array, Columns, Items, columns_from_rows, make_column
from market_data_pipeline.operators.base import OperatorContext
from market_data_pipeline.operators.buckets import FARTHEST
from market_data_pipeline.operators.stateless import apply
from market_data_pipeline.records import KINDS, OPTIONAL, RECORDS, SAME_AS, USUAL, Gap


def record_columns(items: Items, record: type[Any], ctx: OperatorContext) -> Columns:
    """``items`` as columns with at least the fields of ``record`` that have no usual value. Rows need not be records; those
    that lack such a field, or have what cannot stand in a column, go the way of the error policy."""
    if isinstance(items, Columns):
        return _completed(items, KINDS[record])
    if all(type(item) is record for item in items):
        columns, bad = columns_from_rows(items)
        for item, reason in bad:
            ctx.reject(item, reason)
        return columns
    made = apply(lambda item: _made(item, record), items, ctx.failed)
    columns, bad = columns_from_rows([one for _, one in made])
    given = {id(one): item for item, one in made}
    for one, reason in bad:
        ctx.reject(given[id(one)], reason)
    return columns


def _completed(items: Columns, kind: str) -> Columns:
    """``items`` with those fields that have a usual value, and that records must have, where they are missing."""
    usual, same = USUAL[kind], SAME_AS.get(kind, {})
    needed = RECORDS[kind]._fields[: -OPTIONAL[kind] or None]
    missing = [name for name in needed if name not in items.data]
    if not missing or not len(items):
        return items
    data = dict(items.data)
    for name in missing:
        if name in same:
            if same[name] in data:
                data[name] = data[same[name]]
        elif name in usual:
            one = Columns("", {name: make_column(name, [usual[name]])})
            data |= one.take(np.zeros(len(items), np.intp)).data
    return Columns(kind, data)


def _is_usable(gap: Gap) -> bool:
    return type(gap.symbol) is str and type(gap.ts_event) is int and -FARTHEST < gap.ts_event < FARTHEST


def between_gaps(items: Items, ctx: OperatorContext) -> Iterator[Items | Gap]:
    """What stands before, between and behind the :class:`Gap` records among ``items``, and these, in order of arrival. A gap
    without a symbol or a time is rejected."""
    if isinstance(items, Columns):
        yield items
        return
    start = 0
    for at, item in enumerate(items):
        if type(item) is Gap:
            yield items[start:at]
            if _is_usable(item):
                yield item
            else:
                ctx.reject(item, "a gap without a symbol and a time in ns")
            start = at + 1
    yield items[start:] if start else items


def _made(item: Any, record: type[Any]) -> Any:
    kind = KINDS[record]
    usual, same = USUAL[kind], SAME_AS.get(kind, {})
    values: dict[str, Any] = {}
    for name in record._fields:
        if name in item if isinstance(item, dict) else hasattr(item, name):
            values[name] = item[name] if isinstance(item, dict) else getattr(item, name)
        elif name in same:
            values[name] = values[same[name]]
        elif name in usual:
            values[name] = usual[name]
        else:
            raise KeyError(name)
    return record(**values)


def keep(items: Columns, good: Array, reason: str, ctx: OperatorContext) -> Columns:
    """The items where ``good`` (bool, shape (n,)) holds; the others are rejected for ``reason``."""
    if good.all():
        return items
    for item in items.take(~good).rows():
        ctx.reject(item, reason)
    return items.take(good)
