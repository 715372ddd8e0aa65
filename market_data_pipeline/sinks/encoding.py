"""Items as plain data for text formats."""

from __future__ import annotations

import json
from typing import Any

import orjson


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
