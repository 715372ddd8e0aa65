"""Records <-> plain objects: a map with ``kind`` and the record's fields, as the outside's formats write it.

====================================================== ===================================================================
``Trade("A", 1, 2, 1.5, 3.0, "buy", 7)``               ``{"kind": "trade", "symbol": "A", "ts_event": 1, "ts_recv": 2,
                                                       "price": 1.5, "size": 3.0, "side": "buy", "trade_id": 7}``
the same without side and id                           without these: fields at the record's own defaults are left out
price ``"1.50"`` or ``Decimal("1.50")``                ``"price": "1.50"``
``Window("A", 0, 9, [Trade(...)])``                    ``{..., "items": [{"kind": "trade", ...}]}``
``{"any": 1}``                                         as it is, also where ``kind`` is none of a record's
====================================================== ===================================================================
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from market_data_pipeline.decimals import decimal_float, decimal_text
from market_data_pipeline.errors import RecordError
from market_data_pipeline.frame import Column, Columns, Dictionary, make_column
from market_data_pipeline.records import (
    ANY,
    COLUMN_TYPES,
    FLAG,
    FLOAT,
    INT,
    MAX_TIME,
    MIN_TIME,
    OPTIONAL,
    RECORDS,
    ROW_RECORDS,
    SIDE,
    SIDES,
    SYMBOL,
)

KIND = "kind"
"""The key that says which record an object is."""
ROW_KINDS: dict[type[Any], str] = {cls: kind for kind, cls in ROW_RECORDS.items()}
_KEY, _ITEMS = "key", "items"
_OTHER_TYPES = {
    "first": INT, "last": INT, "missing": INT, "feed": SYMBOL, "event": SYMBOL, "detail": SYMBOL, "key": _KEY, "items": _ITEMS,
}  # fmt: skip
FIELD_TYPES: dict[str, dict[str, str]] = {
    kind: {name: {**COLUMN_TYPES, **_OTHER_TYPES}[name] for name in cls._fields} for kind, cls in ROW_RECORDS.items()
}
"""By kind, the type of each field of a record."""
_WORDS = {
    FLOAT: "a finite number", INT: "a whole number of 64 bits", FLAG: "true or false", SIDE: "buy, sell or empty",
    ANY: "text or a whole number", SYMBOL: "text", _ITEMS: "a list", _KEY: "a key",
}  # fmt: skip
_WHOLE = re.compile(r"-?[0-9]{1,19}")


class Digits(str):
    """A number as it stands in a document that was not read as a number yet. Never text of the document."""

    __slots__ = ()


def as_object(record: Any, int_as_text: bool) -> dict[str, Any]:
    """``record`` as an object; ``int_as_text``: its whole numbers as text. Raises ``RecordError`` naming field and value."""
    kind = ROW_KINDS[type(record)]
    types, defaults = FIELD_TYPES[kind], record._field_defaults
    made: dict[str, Any] = {KIND: kind}
    for name, value in zip(record._fields, record, strict=True):
        if name in defaults and type(value) is type(defaults[name]) and value == defaults[name]:
            continue
        try:
            made[name] = _written(types[name], value, int_as_text)
        except (ValueError, TypeError, OverflowError) as error:
            raise _wrong(kind, name, value, error) from error
    return made


def _wrong(kind: str, name: str, value: Any, error: Exception) -> RecordError:
    if isinstance(error, RecordError) and FIELD_TYPES[kind][name] == _ITEMS:
        return RecordError(f"{kind}.{name}: {error}")
    return RecordError(f"{kind}.{name}: {value!r:.100} is not {_WORDS[FIELD_TYPES[kind][name]]}")


def _written(kind: str, value: Any, int_as_text: bool) -> Any:  # noqa: PLR0912 - a line for each type of field
    if isinstance(value, np.generic):
        value = value.item()
    if kind == _ITEMS:
        if not isinstance(value, list | tuple):
            raise TypeError
        return [as_object(item, int_as_text) if type(item) in ROW_KINDS else item for item in value]
    if kind == _KEY:
        return value
    if isinstance(value, str):
        value.encode()
        if kind == FLOAT:
            return decimal_text(value)
        if kind in (SYMBOL, ANY) or (kind == SIDE and value in SIDES):
            return value
    elif kind == FLAG and isinstance(value, bool):
        return value
    elif kind == FLOAT and isinstance(value, Decimal) and value.is_finite():
        return decimal_text(str(value))
    elif kind == FLOAT and isinstance(value, float):
        return value
    elif isinstance(value, int) and not isinstance(value, bool):
        if kind == FLOAT and MIN_TIME <= value < 2**64:
            return value
        if (kind == INT and MIN_TIME <= value <= MAX_TIME) or (kind == ANY and MIN_TIME <= value < 2**64):
            return str(value) if int_as_text else value
    raise TypeError


_LEFT_OUT = object()


def column_objects(columns: Columns, int_as_text: bool) -> list[dict[str, Any]]:
    """The items of ``columns`` as objects, column by column. Does not look at their values."""
    if not columns.kind:
        return columns.rows()
    record, n = RECORDS[columns.kind], len(columns)
    defaults = record._field_defaults
    lists: dict[str, list[Any]] = {KIND: [columns.kind] * n}
    sparse: list[str] = []
    for name in record._fields:
        if name not in columns.data:
            continue
        values = _listed(columns.data[name], name)
        at_default = values.count(defaults[name]) if name in defaults else 0
        if n and at_default == n:
            continue
        if at_default:
            sparse.append(name)
            values = [_LEFT_OUT if value == defaults[name] else value for value in values]
        if int_as_text and COLUMN_TYPES[name] in (INT, ANY):
            values = [value if value is _LEFT_OUT else str(value) for value in values]
        lists[name] = values
    names = tuple(lists)
    objects = [dict(zip(names, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    for name in sparse:
        for one in objects:
            if one[name] is _LEFT_OUT:
                del one[name]
    return objects


def _listed(column: Column, name: str) -> list[Any]:
    values: list[Any] = column.tolist()
    coded = name == "side" and not isinstance(column, Dictionary) and column.dtype == np.int8
    return [SIDES[code] for code in values] if coded else values


def as_item(value: Any, exact: bool) -> Any:
    """What an object, list or scalar of a document is: objects with the ``kind`` of a record become that record, in lists and
    windows too; anything else stays. ``exact``: decimals stay the text that was sent. Raises ``RecordError``."""
    if type(value) is list:
        return [as_item(one, exact) for one in value]
    if type(value) is dict:
        kind = value.get(KIND)
        if type(kind) is str and kind in ROW_RECORDS:
            return _record(kind, value, exact)
    return plain(value, exact)


def plain(value: Any, exact: bool) -> Any:
    """``value`` with its :class:`Digits` as text (``exact``) or float."""
    if type(value) is Digits:
        return str.__str__(value) if exact else decimal_float(value)
    if type(value) is list:
        return [plain(one, exact) for one in value]
    if type(value) is dict:
        return {name: plain(one, exact) for name, one in value.items()}
    return value


def _record(kind: str, given: dict[str, Any], exact: bool) -> Any:
    """The record; what is no field of it is not looked at, so that others may add some."""
    cls = ROW_RECORDS[kind]
    defaults = cls._field_defaults
    values: list[Any] = []
    for name, type_ in FIELD_TYPES[kind].items():
        value = given.get(name, _LEFT_OUT)
        if value is _LEFT_OUT or (value is None and name in defaults and type_ != FLOAT):
            if name not in defaults:
                raise RecordError(f"{kind}.{name}: missing")
            values.append(defaults[name])
            continue
        try:
            values.append(_read(type_, value, exact))
        except (ValueError, TypeError, OverflowError) as error:
            raise _wrong(kind, name, value, error) from error
    return cls(*values)


def _read(kind: str, value: Any, exact: bool) -> Any:
    if kind == FLOAT:
        return _read_number(value, exact)
    if kind == INT:
        return _read_whole(value)
    if kind == _KEY:
        return plain(value, exact)
    if kind == _ITEMS and type(value) is list:
        return [as_item(one, exact) for one in value]
    if (kind == FLAG and type(value) is bool) or (kind == SIDE and type(value) is str and value in SIDES):
        return value
    if kind in (ANY, SYMBOL) and type(value) is str:
        return value
    if kind == ANY and type(value) is int:
        return value if MIN_TIME <= value < 2**64 else str(value)
    raise TypeError


def _read_number(value: Any, exact: bool) -> float | str:
    if value is None:  # JSON has no word for it
        return math.nan
    if isinstance(value, str):
        return decimal_text(str.__str__(value)) if exact else decimal_float(value)
    if type(value) is float:
        return value
    if type(value) is int:
        return str(value) if exact else float(value)
    raise TypeError


def _read_whole(value: Any) -> int:
    if isinstance(value, str):
        if _WHOLE.fullmatch(value) is None:
            raise ValueError
        value = int(value)
    if type(value) is not int or not MIN_TIME <= value <= MAX_TIME:
        raise TypeError
    return value


def as_columns(objects: Sequence[Any]) -> Columns | None:
    """Objects of one kind as columns with floats; ``None`` where some object wants a closer look."""
    try:
        kinds = {one[KIND] for one in objects}
        kind = kinds.pop() if len(kinds) == 1 else ""
        if kind not in RECORDS:
            return None
        cls, n, data = RECORDS[kind], len(objects), {}
        may_lack = cls._fields[len(cls._fields) - OPTIONAL[kind] :]
        for name in cls._fields:
            if name in cls._field_defaults:
                default = cls._field_defaults[name]
                values = [one.get(name, default) for one in objects]
                if name in may_lack and values.count(default) == n:
                    continue
            else:
                values = [one[name] for one in objects]
            data[name] = make_column(name, values)
        return Columns(kind, data)
    except (RecordError, KeyError, TypeError, ValueError, OverflowError, AttributeError):
        return None
