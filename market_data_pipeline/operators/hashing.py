"""64-bit hashes of item keys, the same for a row and for its columns.

A string hashes by MurmurHash3 x64 (first 64 bits, seed 0), an int by splitmix64 (Steele, Lea, Flood 2014), a float by
its bits; fields are combined in order by splitmix64 again. Two different keys among n collide with probability of about
n**2 / 2**65: 3e-8 for a million keys.

The content of an item is hashed over its fields by name, whatever their order, so that it too is the same for a row and for
its columns; 32 bits of it are enough to compare two items of one key.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Any

import mmh3
import numpy as np

from market_data_pipeline.frame import Array, Column, Columns, Dictionary
from market_data_pipeline.records import COLUMN_TYPES, FLOAT, OPTIONAL, RECORDS, SIDE_CODES, SIDES, field

_MASK = (1 << 64) - 1
_GOLDEN, _M1, _M2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_U = np.uint64
_DEFAULTS = {
    name: record._field_defaults[name]
    for kind, record in RECORDS.items()
    for name in record._fields[len(record._fields) - OPTIONAL[kind] :]
}
"""Optional fields of records, which columns may leave out where all have these values."""


def _mix(value: int) -> int:
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * _M1) & _MASK
    value = ((value ^ (value >> 27)) * _M2) & _MASK
    return value ^ (value >> 31)


def _mix_array(values: Array) -> Array:
    values = values + _U(_GOLDEN)
    values = (values ^ (values >> _U(30))) * _U(_M1)
    values = (values ^ (values >> _U(27))) * _U(_M2)
    mixed: Array = values ^ (values >> _U(31))
    return mixed


def hash_value(value: Any) -> int:
    """The hash of one field's value; anything but str, int and float by its ``repr``."""
    if isinstance(value, str):  # bytes, because mmh3 crashes on a lone surrogate
        return mmh3.hash64(value.encode("utf-8", "surrogatepass"), 0, signed=False)[0]
    if isinstance(value, int | np.integer):
        return _mix(int(value) & _MASK)
    if isinstance(value, float):
        return _mix(struct.unpack("<Q", struct.pack("<d", value))[0])
    return mmh3.hash64(repr(value).encode("utf-8", "surrogatepass"), 1, signed=False)[0]


def hash_row(item: Any, fields: Sequence[str]) -> int | None:
    """The key's hash, or ``None`` where a field is absent, ``None`` or ``""``."""
    result = 0
    for name in fields:
        try:
            value = field(item, name)
        except (KeyError, AttributeError, TypeError):
            return None
        if value is None or value == "":
            return None
        result = _mix((result * _GOLDEN + _hash_field(name, value)) & _MASK)
    return result


def _hash_field(name: str, value: Any) -> int:
    if COLUMN_TYPES.get(name) == FLOAT and isinstance(value, int):
        value = float(value)
    return hash_value(value)


def hash_columns(items: Columns, fields: Sequence[str]) -> tuple[Array, Array]:
    """The keys' hashes (uint64, shape (n,)) and which rows have a key (bool)."""
    result = np.zeros(len(items), _U)
    keyed = np.ones(len(items), bool)
    for name in fields:
        column = items.data.get(name)
        if column is None:
            return result, np.zeros(len(items), bool)
        if isinstance(column, Dictionary):
            if "" in column.names:
                keyed &= column.codes != column.names.index("")
        elif name == "side" and column.dtype == np.int8:
            keyed &= column != SIDE_CODES[""]
        elif column.dtype == object:
            keyed &= np.array([v is not None and v != "" for v in column.tolist()], bool)
        result = _mix_array(result * _U(_GOLDEN) + _hash_column(name, column))
    return result, keyed


def _hash_column(name: str, column: Column) -> Array:
    """:func:`hash_value` of each row."""
    if name == "side" and not isinstance(column, Dictionary) and column.dtype == np.int8:
        column = Dictionary(column, SIDES)
    if isinstance(column, Dictionary):
        return _hash_names(column.names)[column.codes]
    if column.dtype == object:
        return np.array([_hash_field(name, value) for value in column.tolist()], _U)
    if column.dtype.kind == "f":
        return _mix_array(column.astype(np.float64, copy=False).view(_U))
    return _mix_array(column.astype(np.int64, copy=False).view(_U))


@lru_cache(maxsize=64)
def _hash_names(names: tuple[str, ...]) -> Array:
    hashes = np.array([hash_value(name) for name in names], _U)
    hashes.flags.writeable = False
    return hashes


def content_fields(item: Any) -> Iterable[str]:
    """The names of an item's fields; none for what is neither a record nor a dict."""
    if isinstance(item, dict):
        return item
    names: Iterable[str] = getattr(item, "_fields", ())
    return names


def hash_content(item: Any, only: Collection[str] | None, but: Collection[str] = ()) -> int:
    """32 bits over the fields ``only`` (``None``: all that it has) without ``but``; a field that is absent, or an optional one
    with its default, counts for nothing. An item that is neither a record nor a dict counts as a whole."""
    names = sorted({str(name) for name in content_fields(item)}.difference(but))
    result = 0 if names or only is not None else hash_value(item)
    for name in names:
        if only is None or name in only:
            value = field(item, name)
            if name not in _DEFAULTS or value != _DEFAULTS[name]:
                result = _mix((result * _GOLDEN + hash_value(name) + _hash_field(name, value)) & _MASK)
    return result >> 32


def _is_default(name: str, column: Column) -> Array:
    """Which rows have the default of the optional field ``name``."""
    default = _DEFAULTS[name]
    if isinstance(column, Dictionary):
        return np.array([value == default for value in column.names] or [False])[column.codes]
    return np.array([value == default for value in column.tolist()], bool)


def hash_content_columns(items: Columns, only: Collection[str] | None, but: Collection[str] = ()) -> Array:
    """:func:`hash_content` of each row: uint32 of shape (n,)."""
    result = np.zeros(len(items), _U)
    for name in sorted(items.data.keys() - set(but)):
        if only is None or name in only:
            column = items.data[name]
            mixed = _mix_array(result * _U(_GOLDEN) + _U(hash_value(name)) + _hash_column(name, column))
            result = np.where(_is_default(name, column), result, mixed) if name in _DEFAULTS else mixed
    return (result >> _U(32)).astype(np.uint32)
