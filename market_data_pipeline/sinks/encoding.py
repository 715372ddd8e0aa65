"""Items as plain data for text formats."""

from __future__ import annotations

from typing import Any


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
