"""Items of a frame as windows see them: times, keys and the numbers to aggregate, from rows as from columns.

Both forms give the same :class:`Batch`, and reject the same items for the same reasons; behind it there is one path.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np

from market_data_pipeline.decimals import decimal_float
from market_data_pipeline.errors import CodecError, RecordError
from market_data_pipeline.frame import Array, Columns, Dictionary, Items, to_rows
from market_data_pipeline.operators.base import OperatorContext
from market_data_pipeline.operators.buckets import FARTHEST
from market_data_pipeline.operators.stateless import apply
from market_data_pipeline.packing import pack
from market_data_pipeline.records import MAX_TIME, MIN_TIME, field

Key = str | tuple[str, ...] | Callable[[Any], Any] | None
"""The name of the key's field, several names, a function of the item, or ``None``: one group."""

_KEY_TYPES = {type(None), bool, int, float, str, bytes}
_SCALARS = {bool, int, float, str, bytes}


@dataclass
class Batch:
    """``n`` usable items: ``keys[codes[i]]`` and ``ts[i]`` of item i, its ``numbers`` (float64) and ``scalars`` by field."""

    items: Items
    keys: Sequence[Any]
    codes: Array
    ts: Array
    numbers: dict[str, Array]
    scalars: dict[str, Array | Dictionary]

    def __len__(self) -> int:
        return len(self.ts)

    @cached_property
    def rows(self) -> list[Any]:
        """The items as rows."""
        return to_rows(self.items)

    def only(self, index: Array) -> Items:
        """The items where ``index`` (bool) is true, in the form in which they came."""
        if isinstance(self.items, Columns):
            return self.items.take(index)
        return [self.items[at] for at in np.flatnonzero(index).tolist()]


class WindowInput:
    """What windows read of an item: ``ts`` and ``key`` (names or functions), fields with ``numbers`` and with ``scalars``."""

    def __init__(
        self, ts: str | Callable[[Any], int], key: Key, numbers: tuple[str, ...] = (), scalars: tuple[str, ...] = ()
    ) -> None:
        self._ts, self._key, self._numbers, self._scalars = ts, key, numbers, scalars
        self._codes: dict[Any, int] = {}
        self._checked: dict[str, tuple[str, ...]] = {}

    def read(self, items: Items, ctx: OperatorContext) -> Batch:
        """The usable ones of ``items``; ``ctx`` is told of the others."""
        if isinstance(items, Columns) and self._plain(items):
            return self._from_columns(items, ctx)
        rows = to_rows(items)
        return self._from_alike(rows) or self._from_rows(rows, ctx)

    def time_of(self, item: Any) -> int:
        """The event time of ``item``, ns."""
        return int(self._ts(item) if callable(self._ts) else field(item, self._ts))

    def _from_rows(self, items: list[Any], ctx: OperatorContext) -> Batch:
        self._codes = {}
        placed = apply(self._place, items, ctx.failed)
        n = len(placed)
        values = list(zip(*(place for _, place in placed), strict=True)) or [()] * (2 + self._width)
        split = 2 + len(self._numbers)
        return Batch(
            [item for item, _ in placed],
            list(self._codes),
            np.fromiter(values[1], np.int64, n),
            np.fromiter(values[0], np.int64, n),
            {name: np.array(column, np.float64) for name, column in zip(self._numbers, values[2:split], strict=True)},
            {name: _objects(column) for name, column in zip(self._scalars, values[split:], strict=True)},
        )

    @property
    def _width(self) -> int:
        return len(self._numbers) + len(self._scalars)

    def _place(self, item: Any) -> tuple[Any, ...]:
        """Time, key's code, numbers and scalars of ``item``; raises where one cannot be used."""
        key = self._key_of(item)
        ts = self.time_of(item)
        if not -FARTHEST < ts < FARTHEST:
            raise RecordError(f"time {ts}: more than 146 years from 1970, in ns")
        numbers = [number(item, name) for name in self._numbers]
        scalars = [scalar(item, name) for name in self._scalars]
        code = self._codes.get(key)
        if code is None:
            check_key(key)
            code = self._codes[key] = len(self._codes)
        return (ts, code, *numbers, *scalars)

    def _key_of(self, item: Any) -> Any:
        if isinstance(self._key, str):
            return field(item, self._key)
        if callable(self._key):
            return self._key(item)
        return None if self._key is None else tuple([field(item, name) for name in self._key])

    def _from_alike(self, items: list[Any]) -> Batch | None:
        """The same for rows of one type without a flaw, several times as fast; ``None`` for others."""
        names = (self._ts, *_names(self._key), *self._numbers, *self._scalars)
        kinds = set(map(type, items))
        if callable(self._ts) or callable(self._key) or len(names) < 2 or len(kinds) != 1:
            return None
        get = itemgetter(*names) if dict in kinds else attrgetter(*map(str, names))
        try:
            ts, *columns = zip(*map(get, items), strict=True)
            if set(map(type, ts)) != {int} or not -FARTHEST < min(ts) <= max(ts) < FARTHEST:
                return None
            split = len(_names(self._key))
            parts, values = columns[:split], columns[split:]
            numbers, scalars = values[: len(self._numbers)], values[len(self._numbers) :]
            checked = [_clean(part, {int, str}) for part in parts]
            keys: Sequence[Any] = list(zip(*checked, strict=True)) or [None] * len(items)
            keys = checked[0] if isinstance(self._key, str) else keys
            codes = {key: at for at, key in enumerate(dict.fromkeys(keys))}
            return Batch(
                items,
                list(codes),
                np.fromiter(map(codes.__getitem__, keys), np.int64, len(items)),
                np.array(ts, np.int64),
                dict(zip(self._numbers, (_floats(column) for column in numbers), strict=True)),
                dict(
                    zip(self._scalars, (_objects(_clean(column, {int, float, str})) for column in scalars), strict=True)
                ),
            )
        except Exception:  # whatever it is, the slow way finds the item
            return None

    def _plain(self, items: Columns) -> bool:
        """Whether ``items`` can be used without making rows of them."""
        if callable(self._ts) or callable(self._key):
            return False
        names = {self._ts, *self._numbers, *self._scalars, *_names(self._key)}
        if not names <= items.data.keys():
            return False
        kinds = {name: _kind(name, column) for name, column in items.data.items() if name in names}
        usable = (
            kinds[self._ts] == "i"
            and all(kinds[name] in "if" for name in self._numbers)
            and all(kinds[name] in "ifd" for name in self._scalars)
            and all(kinds[name] in "id" for name in _names(self._key))
        )
        return usable and all(self._storable(name, items.data[name]) for name in names)

    def _storable(self, name: str, column: Array | Dictionary) -> bool:
        """Whether the texts of ``column``, if it has any, can be written."""
        if not isinstance(column, Dictionary) or column.names is self._checked.get(name):
            return True
        try:
            pack(column.names)
        except CodecError:
            return False
        self._checked[name] = column.names
        return True

    def _from_columns(self, items: Columns, ctx: OperatorContext) -> Batch:
        assert isinstance(self._ts, str)
        assert not callable(self._key)
        ts = items.array(self._ts)
        good = (ts > -FARTHEST) & (ts < FARTHEST)
        for name in (*self._numbers, *self._scalars):
            column = items.data[name]
            if not isinstance(column, Dictionary) and column.dtype.kind == "f":
                good &= np.isfinite(column)
        if not good.all():
            apply(self._place, items.take(~good).rows(), ctx.failed)
            items = items.take(good)
        keys: Sequence[Any] = [None]
        codes = np.zeros(len(items), np.int64)
        if isinstance(self._key, str):
            keys, codes = _encode(items.data[self._key])
        elif self._key is not None:
            keys, codes = _encode_all([items.data[name] for name in self._key])
        return Batch(
            items,
            keys,
            codes,
            items.array(self._ts).astype(np.int64, copy=False),
            {name: items.array(name).astype(np.float64, copy=False) for name in self._numbers},
            {name: items.data[name] for name in self._scalars},
        )


def _names(key: Key) -> tuple[str, ...]:
    return (key,) if isinstance(key, str) else key if isinstance(key, tuple) else ()


def _kind(name: str, column: Array | Dictionary) -> str:
    """``i`` ints, ``f`` floats, ``d`` texts, ``?`` what is better read as rows."""
    if isinstance(column, Dictionary):
        return "d"
    coded_side = name == "side" and column.dtype == np.int8
    return column.dtype.kind if column.dtype.kind in "if" and not coded_side else "?"


def _encode(column: Array | Dictionary) -> tuple[Sequence[Any], Array]:
    """Distinct values (perhaps more than there are in it), and the number of each row's."""
    if isinstance(column, Dictionary):
        return column.names, column.codes.astype(np.int64)
    distinct, codes = np.unique(column, return_inverse=True)
    return distinct.tolist(), codes


def _encode_all(columns: list[Array | Dictionary]) -> tuple[list[tuple[Any, ...]], Array]:
    """The same of rows of several columns, as tuples."""
    keys: list[tuple[Any, ...]] = [()]
    codes = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        parts, own = _encode(column)
        both, codes = np.unique(codes * len(parts) + own, return_inverse=True)
        keys = [(*keys[pair // len(parts)], parts[pair % len(parts)]) for pair in both.tolist()]
    return keys, codes


def _clean(values: Sequence[Any], kinds: set[type]) -> Sequence[Any]:
    """``values`` if all are of one of ``kinds``, finite, and can be stored. Raises where not."""
    found = set(map(type, values))
    if len(found) > 1 or not found <= kinds:
        raise RecordError(f"values of types {found}")
    if str in found:
        pack(list(set(values)))
    elif float in found and not all(map(math.isfinite, values)):
        raise RecordError("not all are finite")
    elif int in found and not MIN_TIME <= min(values) <= max(values) <= MAX_TIME:
        raise RecordError("not all are ints of 64 bits")
    return values


def _floats(values: Sequence[Any]) -> Array:
    if set(map(type, values)) == {str}:
        return np.array(list(map(decimal_float, values)), np.float64)
    return np.array(_clean(values, {int, float}), np.float64)


def _objects(values: Sequence[Any]) -> Array:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def number(item: Any, name: str) -> float:
    """The field as a float. Raises ``RecordError`` unless it is a finite number, or text of a decimal one."""
    value = field(item, name)
    if type(value) is float and math.isfinite(value):
        return value
    if isinstance(value, str):
        try:
            return decimal_float(value)
        except ValueError as error:
            raise RecordError(f"{name}: {error}") from None
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise RecordError(f"{name}: {value!r:.100} is not a finite number")
    made = float(value)
    if not math.isfinite(made):
        raise RecordError(f"{name}: {value!r:.100} is not a finite number")
    return made


def scalar(item: Any, name: str) -> Any:
    """The field. Raises ``RecordError`` unless it is a bool, an int of 64 bits, a finite float, text or bytes."""
    value = field(item, name)
    value = value.item() if isinstance(value, np.generic) else value
    if type(value) not in _SCALARS or (type(value) is float and not math.isfinite(value)):
        raise RecordError(f"{name}: {value!r:.100} is not a finite number, text or bytes")
    if type(value) in (int, str):
        pack(value)
    return value


def check_key(key: Any) -> None:
    """Raises ``TypeError`` for a key that would not come back from a snapshot as it was, ``CodecError`` for one that cannot
    be written."""
    _check_type(key)
    pack(key)


def _check_type(key: Any) -> None:
    if type(key) is tuple:
        for part in key:
            _check_type(part)
    elif type(key) not in _KEY_TYPES or (type(key) is float and math.isnan(key)):
        raise TypeError(
            f"a window's key may be None, bool, int, float, str, bytes or a tuple of these, not {key!r:.100}"
        )


def as_key(stored: Any) -> Any:
    """A key as it was before it was stored, where tuples become lists."""
    return tuple(as_key(part) for part in stored) if isinstance(stored, list) else stored
