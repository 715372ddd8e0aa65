"""Trades as columns, whatever they came as.

============================================================ =========================================================
``Trade(...)``, or columns with the four fields              as they are
``{"symbol": "A", "ts_event": 5, "price": 1.0, "size": 2}``  a trade; ``side``, ``conditions``, ``action`` are usual
``{... , "side": "buy"}``                                    a trade, bought
``{... , "side": "bid"}``, or without ``price``              a dead letter
============================================================ =========================================================
"""

from __future__ import annotations

from typing import Any

from market_data_pipeline.frame import Array, Columns, Items, columns_from_rows
from market_data_pipeline.operators.base import OperatorContext
from market_data_pipeline.operators.stateless import apply
from market_data_pipeline.records import Trade, field


def trade_columns(items: Items, ctx: OperatorContext) -> Columns:
    """``items`` as columns with at least symbol, ts_event, price and size; rows that lack one, or have what cannot stand in a
    column, go the way of the error policy. Rows need not be records; a field that a :class:`Trade` may leave out may be
    absent."""
    if isinstance(items, Columns):
        return items
    if all(type(item) is Trade for item in items):
        columns, bad = columns_from_rows(items)
        for item, reason in bad:
            ctx.reject(item, reason)
        return columns
    made = apply(_trade, items, ctx.failed)
    columns, bad = columns_from_rows([trade for _, trade in made])
    given = {id(trade): item for item, trade in made}
    for trade, reason in bad:
        ctx.reject(given[id(trade)], reason)
    return columns


def _trade(item: Any) -> Trade:
    return Trade(
        field(item, "symbol"), field(item, "ts_event"), 0, field(item, "price"), field(item, "size"),
        side=_given(item, "side"), conditions=_given(item, "conditions"), action=_given(item, "action"),
    )  # fmt: skip


def _given(item: Any, name: str) -> Any:
    default = Trade._field_defaults[name]
    return item.get(name, default) if isinstance(item, dict) else getattr(item, name, default)


def keep(items: Columns, good: Array, reason: str, ctx: OperatorContext) -> Columns:
    """The items where ``good`` (bool, shape (n,)) holds; the others are rejected for ``reason``."""
    if good.all():
        return items
    for item in items.take(~good).rows():
        ctx.reject(item, reason)
    return items.take(good)
