"""64-bit hashes of item keys, the same for a row and for its columns.

A string hashes by MurmurHash3 x64 (first 64 bits, seed 0), an int by splitmix64 (Steele, Lea, Flood 2014), a float by
its bits; fields are combined in order by splitmix64 again. Two different keys among n collide with probability of about
n**2 / 2**65: 3e-8 for a million keys.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import mmh3
import numpy as np

from market_data_pipeline.frame import Array, Columns, Dictionary
from market_data_pipeline.records import COLUMN_TYPES, FLOAT, SIDES, field

_MASK = (1 << 64) - 1
_GOLDEN, _M1, _M2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_U = np.uint64


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
        if COLUMN_TYPES.get(name) == FLOAT and isinstance(value, int):
            value = float(value)
        result = _mix((result * _GOLDEN + hash_value(value)) & _MASK)
    return result


def hash_columns(items: Columns, fields: Sequence[str]) -> tuple[Array, Array]:
    """The keys' hashes (uint64, shape (n,)) and which rows have a key (bool)."""
    result = np.zeros(len(items), _U)
    keyed = np.ones(len(items), bool)
    for name in fields:
        column = items.data.get(name)
        if column is None:
            return result, np.zeros(len(items), bool)
        if name == "side" and not isinstance(column, Dictionary):
            column = Dictionary(column.astype(np.uint32), SIDES)
        if isinstance(column, Dictionary):
            hashes = np.array([hash_value(v) for v in column.names], _U)[column.codes]
            if "" in column.names:
                keyed &= column.codes != column.names.index("")
        elif column.dtype == object:
            hashes = np.array([hash_value(v) for v in column.tolist()], _U)
            keyed &= np.array([v is not None and v != "" for v in column.tolist()], bool)
        elif column.dtype.kind == "f":
            hashes = _mix_array(column.astype(np.float64).view(_U))
        else:
            hashes = _mix_array(column.astype(np.int64).view(_U))
        result = _mix_array(result * _U(_GOLDEN) + hashes)
    return result, keyed
