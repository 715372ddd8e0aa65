"""64-bit hashes of item keys, the same for a row and for its columns.

A string hashes by MurmurHash3 x64 (first 64 bits, seed 0), an int by splitmix64 (Steele, Lea, Flood 2014), a float by
its bits; fields are combined in order by splitmix64 again. Two different keys among n collide with probability of about
n**2 / 2**65: 3e-8 for a million keys.

The content of an item is the sum over its fields, whatever their order, of a multilinear hash of the value (Lemire, Kaser
2014): strongly universal over the multipliers, which are MurmurHash3 of the field's name. It takes a fourth of the operations,
and 31 bits of it are enough to compare two items of one key.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import mmh3
import numpy as np

from market_data_pipeline.decimals import decimal_float
from market_data_pipeline.frame import Array, Column, Columns, Dictionary
from market_data_pipeline.names import Names, PerNames
from market_data_pipeline.records import COLUMN_TYPES, FLOAT, OPTIONAL, RECORDS, SIDES, field

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


def _mix_in_place(values: Array) -> Array:
    """:func:`_mix` of each of ``values`` (uint64), which are overwritten."""
    values += _U(_GOLDEN)
    values ^= values >> _U(30)
    values *= _U(_M1)
    values ^= values >> _U(27)
    values *= _U(_M2)
    values ^= values >> _U(31)
    return values


def _word(value: Any) -> int:
    """64 bits of a field's value: a number's own, MurmurHash3 of a text, and of the ``repr`` of anything else."""
    if isinstance(value, str):  # bytes, because mmh3 crashes on a lone surrogate
        return mmh3.hash64(value.encode("utf-8", "surrogatepass"), 0, signed=False)[0]
    if isinstance(value, int | np.integer):
        return int(value) & _MASK
    if isinstance(value, float):
        word: int = struct.unpack("<Q", struct.pack("<d", value))[0]
        return word
    return mmh3.hash64(repr(value).encode("utf-8", "surrogatepass"), 1, signed=False)[0]


def hash_value(value: Any) -> int:
    """The hash of one field's value; anything but str, int and float by its ``repr``."""
    return _mix(_word(value)) if isinstance(value, int | float | np.integer) else _word(value)


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
        result = _mix((result * _GOLDEN + hash_value(_typed(name, value))) & _MASK)
    return result


def _typed(name: str, value: Any) -> Any:
    """``value`` as it would be in the column ``name``."""
    if COLUMN_TYPES.get(name) != FLOAT or not isinstance(value, int | str):
        return value
    try:
        return decimal_float(value) if isinstance(value, str) else float(value)
    except (ValueError, OverflowError):  # it could not stand in the column
        return value


def hash_columns(items: Columns, fields: Sequence[str]) -> tuple[Array, Array]:
    """The keys' hashes (uint64, shape (n,)) and which rows have a key (bool)."""
    result: Array | None = None
    keyed = np.ones(len(items), bool)
    for name in fields:
        if name not in items.data:
            return np.zeros(len(items), _U), np.zeros(len(items), bool)
        column = _by_names(name, items.data[name])
        if isinstance(column, Dictionary):
            names = _hashes(column.names)
            if names.empty is not None:
                keyed &= column.codes != names.empty
            hashed = (names.mixed if result is None else names.words).take(column.codes)
        else:
            if column.dtype == object:
                keyed &= np.array([v is not None and v != "" for v in column.tolist()], bool)
            hashed = _hash_array(name, column)
            if result is None:
                hashed = _mix_in_place(hashed)
        if result is None:  # nothing to combine it with, so each name was mixed but once
            result = hashed
        else:
            result *= _U(_GOLDEN)
            result += hashed
            result = _mix_in_place(result)
    return np.zeros(len(items), _U) if result is None else result, keyed


def _by_names(name: str, column: Column) -> Column:
    """A column of sides is a dictionary, too."""
    if name == "side" and not isinstance(column, Dictionary) and column.dtype == np.int8:
        return Dictionary(column, SIDES)
    return column


def _hash_array(name: str, column: Array) -> Array:
    """:func:`hash_value` of each row; a new array."""
    if column.dtype == object:
        return np.array([hash_value(_typed(name, value)) for value in column.tolist()], _U)
    return _mix_in_place(_bits(column).copy())


def _bits(column: Array) -> Array:
    """The 64 bits of each number."""
    return column.astype(np.float64 if column.dtype.kind == "f" else np.int64, copy=False).view(_U)


class _Hashes(NamedTuple):
    """Of a dictionary's names: MurmurHash3 of each, the hash of each as the only field of a key, and where ``""`` is."""

    words: Array
    mixed: Array
    empty: int | None


def _hash_names(names: Names) -> _Hashes:
    digests = b"".join([mmh3.mmh3_x64_128_digest(name.encode("utf-8", "surrogatepass")) for name in names])
    words = np.frombuffer(digests, "<u8")[::2].astype(_U)
    return _Hashes(words, _mix_in_place(words.copy()), names.index("") if "" in names else None)


_hashes = PerNames(_hash_names)


def content_fields(item: Any) -> Iterable[str]:
    """The names of an item's fields; none for what is neither a record nor a dict."""
    if isinstance(item, dict):
        return item
    names: Iterable[str] = getattr(item, "_fields", ())
    return names


class _Multipliers(NamedTuple):
    """For the lower and the upper half of a field's value, and what says that the field is there."""

    low: int
    high: int
    there: int


@lru_cache(maxsize=1024)
def _multipliers(name: str) -> _Multipliers:
    data = name.encode("utf-8", "surrogatepass")
    low, high = mmh3.hash64(data, 0, signed=False)
    return _Multipliers(low, high, mmh3.hash64(data, 1, signed=False)[0])


def hash_content(item: Any, only: Collection[str] | None, but: Collection[str] = ()) -> int:
    """32 bits over the fields ``only`` (``None``: all that it has) without ``but``; a field that is absent, or an optional one
    with its default, counts for nothing. An item that is neither a record nor a dict counts as a whole. Never 0."""
    names = {str(name) for name in content_fields(item)}.difference(but)
    result = 0 if names or only is not None else hash_value(item)
    for name in names:
        if only is None or name in only:
            value = field(item, name)
            if name not in _DEFAULTS or value != _DEFAULTS[name]:
                by, word = _multipliers(name), _word(_typed(name, value))
                result += word * by.low + (word >> 32) * by.high + by.there
    return max((result & _MASK) >> 32, 1)


def hash_content_columns(items: Columns, only: Collection[str] | None, but: Collection[str] = ()) -> Array:
    """:func:`hash_content` of each row: uint32 of shape (n,)."""
    result = np.zeros(len(items), _U)
    for name in items.data.keys() - set(but):
        if only is None or name in only:
            column = _by_names(name, items.data[name])
            if isinstance(column, Dictionary):
                names = column.names or ("",)
                result += _content(name, _hashes(names).words, names).take(column.codes)
            elif column.dtype == object:
                values = column.tolist()
                result += _content(name, np.array([_word(_typed(name, value)) for value in values], _U), values)
            else:
                result += _content(name, _bits(column), column)
    result >>= _U(32)
    return np.maximum(result, _U(1), out=result).astype(np.uint32)


def _content(name: str, words: Array, values: Sequence[Any] | Array) -> Array:
    """What each of ``values``, whose :func:`_word` is given, adds to the content."""
    by = _multipliers(name)
    added = words * _U(by.low)
    added += (words >> _U(32)) * _U(by.high)
    added += _U(by.there)
    if name in _DEFAULTS:
        plain = values.tolist() if isinstance(values, np.ndarray) else values
        added[[value == _DEFAULTS[name] for value in plain]] = 0
    return added
