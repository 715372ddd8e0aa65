"""Items as plain data for text formats."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from market_data_pipeline.frame import Columns, Frame, Items


def records(frames: Iterable[Frame]) -> Iterator[Items]:
    """The items of ``frames`` for a sink that stores records: columns as they are, rows with the lists that a ``Batcher`` makes
    taken apart."""
    for frame in frames:
        items = frame.items
        if isinstance(items, Columns):
            yield items
        elif any(type(item) is list for item in items):
            yield [one for item in items for one in (item if type(item) is list else (item,))]
        elif items:
            yield items


def plain(item: Any) -> Any:
    """``item`` with records as dicts (field names as in ``records.py``), also inside lists and dicts."""
    if isinstance(item, tuple):
        fields = getattr(item, "_asdict", None)
        return plain(fields()) if fields else [plain(part) for part in item]
    if isinstance(item, list):
        return [plain(part) for part in item]
    if isinstance(item, dict):
        return {str(key): plain(value) for key, value in item.items()}
    if isinstance(item, bytes):
        return item.hex()
    return item


def json_line(item: Any) -> bytes:
    """Plain data as one JSON line. What the fast writer refuses (an int over 64 bits, a lone surrogate) the slow one
    takes; what neither knows is written as text."""
    try:
        return orjson.dumps(
            item, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
        )
    except TypeError:
        return json.dumps(item, default=str).encode() + b"\n"
