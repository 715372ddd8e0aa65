"""Columns of values as text: what COPY reads, and what identifiers are made of. Whole columns at once, no loop over rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from market_data_pipeline.frame import Array, Dictionary
from market_data_pipeline.sinks.sql_schema import Kind

Values = Array | Dictionary | list[Any]
"""A column: an array of numbers, dictionary-encoded text, or a list (text, or numbers of which some are text as sent)."""

_NULL = "\\N"
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_SPECIAL = frozenset("\\\t\n\r")


def cut(values: Values, part: slice) -> Values:
    """``values[part]``."""
    return values.take(part) if isinstance(values, Dictionary) else values[part]


def texts(values: Values) -> list[str]:
    """Each value as text, a float as the shortest text that reads as the same float; NaN as ``null``."""
    if isinstance(values, Dictionary):
        return looked_up(values, values.names)
    if isinstance(values, list):
        return [value if isinstance(value, str) else orjson.dumps(value).decode() for value in values]
    if not len(values):
        return []
    return orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].decode().split(",")


def looked_up(values: Dictionary, names: tuple[str, ...] | list[str]) -> list[str]:
    """``names`` by the codes of ``values``."""
    table = np.empty(len(names), dtype=object)
    table[:] = names
    found: list[str] = table[values.codes].tolist()
    return found


def copied(kind: Kind, values: Values) -> list[str]:
    """``values`` as the fields of COPY's text format."""
    if kind is Kind.TEXT:
        if isinstance(values, Dictionary):
            return looked_up(values, [name.translate(_ESCAPES) for name in values.names])
        found = texts(values)
        return found if _SPECIAL.isdisjoint("".join(found)) else [text.translate(_ESCAPES) for text in found]
    found = texts(values)
    if kind is Kind.MAYBE and (isinstance(values, list) or bool(np.isnan(values).any())):  # type: ignore[arg-type]
        return [_NULL if text == "null" else text for text in found]
    return found


def lines(fields: list[list[str]]) -> str:
    """Rows for COPY, each ended by a newline."""
    return "\n".join(map("\t".join, zip(*fields, strict=True))) + "\n"


def moments(ns: Array, zero_is_none: bool) -> list[str | None]:
    """Times as ISO text in microseconds, UTC, as SQLite's functions read them."""
    found = np.char.add(np.datetime_as_string((ns // 1000).astype("M8[us]")), "Z").tolist() if len(ns) else []
    if zero_is_none and not ns.all():
        return [text if value else None for text, value in zip(found, ns.tolist(), strict=True)]
    return list(found)
