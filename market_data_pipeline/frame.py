"""Frames: what travels on a channel. A batch of items, as rows or as columns, plus a mark.

The mark is an event-time watermark W: no later frame on this channel carries an event with ``ts_event < W`` (late data
aside). ``END`` as a mark says that the channel has ended; ``NO_MARK`` promises nothing; ``IDLE`` says that the channel is
silent and must not hold others back until its next items or mark.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from market_data_pipeline.decimals import decimal_float
from market_data_pipeline.errors import RecordError
from market_data_pipeline.records import (
    ANY,
    COLUMN_TYPES,
    FLAG,
    FLOAT,
    INT,
    KINDS,
    MAX_TIME,
    MIN_TIME,
    OPTIONAL,
    RECORDS,
    SIDE,
    SIDE_CODES,
    SIDES,
    SYMBOL,
    field,
)

NO_MARK = MIN_TIME
IDLE = MIN_TIME + 1
END = MAX_TIME

Array = npt.NDArray[Any]


class Dictionary:
    """A dictionary-encoded string column: ``names[codes[i]]`` is row i. ``codes`` is uint32 of shape (n,)."""

    __slots__ = ("codes", "names")

    def __init__(self, codes: Array, names: tuple[str, ...]) -> None:
        self.codes = codes
        self.names = names

    @classmethod
    def encode(cls, values: Sequence[str]) -> Dictionary:
        table = {name: code for code, name in enumerate(dict.fromkeys(values))}
        return cls(np.fromiter(map(table.__getitem__, values), np.uint32, len(values)), tuple(table))

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, index: Array | slice) -> Dictionary:
        return Dictionary(self.codes[index], self.names)

    def tolist(self) -> list[str]:
        names = self.names
        return [names[code] for code in self.codes.tolist()]


Column = Array | Dictionary


def _take(column: Column, index: Array | slice) -> Column:
    return column.take(index) if isinstance(column, Dictionary) else column[index]


_FIELDS = {kind: frozenset(cls._fields) for kind, cls in RECORDS.items()}
_REQUIRED = {kind: cls._fields[: len(cls._fields) - OPTIONAL[kind]] for kind, cls in RECORDS.items()}
_OPTIONAL = {kind: cls._fields[len(cls._fields) - OPTIONAL[kind] :] for kind, cls in RECORDS.items()}


@lru_cache(maxsize=1024)
def _is_record(kind: str, names: tuple[str, ...]) -> bool:
    given = frozenset(names)
    return given <= _FIELDS[kind] and given.issuperset(_REQUIRED[kind])


class Columns:
    """Items as columns of equal length; ``kind`` is ``trade``, ``quote`` or ``bar`` where the columns are that record's
    fields (``OPTIONAL`` ones may be missing), else ``""``: plain dicts."""

    __slots__ = ("data", "kind", "n")

    def __init__(self, kind: str, data: dict[str, Column]) -> None:
        self.kind = kind if kind and _is_record(kind, tuple(data)) else ""
        self.data = data
        self.n = len(next(iter(data.values()))) if data else 0

    def __len__(self) -> int:
        return self.n

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Columns) and self.kind == other.kind and self.rows() == other.rows()

    __hash__ = None  # type: ignore[assignment]

    def array(self, name: str) -> Array:
        """The numeric column ``name``. Raises ``RecordError`` where it is absent or a dictionary."""
        column = self.data.get(name)
        if column is None or isinstance(column, Dictionary):
            raise RecordError(f"no numeric column {name!r}; there are: {', '.join(self.data)}")
        return column

    def dictionary(self, name: str) -> Dictionary:
        """The dictionary-encoded column ``name``. Raises ``RecordError`` where it is absent or numeric."""
        column = self.data.get(name)
        if not isinstance(column, Dictionary):
            raise RecordError(f"no dictionary column {name!r}; there are: {', '.join(self.data)}")
        return column

    def completed(self) -> Columns:
        """The same with the optional fields of its record that are missing, at their defaults."""
        if not self.kind or len(self.data) == len(_FIELDS[self.kind]):
            return self
        record = RECORDS[self.kind]
        missing = {
            n: make_column(n, [record._field_defaults[n]] * self.n) for n in record._fields if n not in self.data
        }
        data = {**missing, **self.data}
        return Columns(self.kind, {name: data[name] for name in record._fields})

    def take(self, index: Array | slice) -> Columns:
        """The rows ``index``, in that order."""
        return Columns(self.kind, {name: _take(column, index) for name, column in self.data.items()})

    def rows(self) -> list[Any]:
        """The items as records (or dicts where ``kind`` is ``""``), in order."""
        lists = {name: column.tolist() for name, column in self.data.items()}
        sides = self.data.get("side")
        if not isinstance(sides, Dictionary) and sides is not None and sides.dtype == np.int8:
            lists["side"] = [SIDES[code] for code in sides.tolist()]
        cls = RECORDS.get(self.kind)
        if cls is not None:
            defaults = cls._field_defaults
            values = [lists[name] if name in lists else repeat(defaults[name], self.n) for name in cls._fields]
            # what cls._make does, without its call: the number of values is right
            return list(map(partial(tuple.__new__, cls), zip(*values, strict=True)))
        names = list(lists)
        return [dict(zip(names, row, strict=True)) for row in zip(*lists.values(), strict=True)]


Items = list[Any] | Columns


class Frame(NamedTuple):
    """Items plus mark. ``born`` is the wall time (ns) at which the oldest item entered the job, 0 where unknown.

    ``port`` names one of an operator's inputs (in ``process``) or outputs (in what it returns); ``""`` is the usual one. It
    never travels: on the wire the edge says it.
    """

    items: Items
    mark: int = NO_MARK
    born: int = 0
    port: str = ""


_ALLOWED: dict[str, tuple[type, ...]] = {
    SYMBOL: (str,),
    SIDE: (str,),
    ANY: (str, int, np.integer),
    INT: (int, np.integer),
    FLOAT: (float, int, np.floating, np.integer, str),
    FLAG: (bool, np.bool_),
}


def _object_array(values: Sequence[Any]) -> Array:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _portable(name: str, value: Any) -> int | str:
    """An int or text as it can travel. Raises on what cannot."""
    if isinstance(value, str):
        if not value.isascii():
            value.encode()
        return value
    if not MIN_TIME <= value < 2**64:
        raise RecordError(f"{name}: a whole number of more than 64 bits")
    return int(value)


def _number(name: str, text: str) -> float:
    try:
        return decimal_float(text)
    except ValueError as error:
        raise RecordError(f"{name}: {error}") from None


def make_column(name: str, values: Sequence[Any]) -> Column:
    """A column of the type that :data:`COLUMN_TYPES` gives ``name``; text of a decimal number counts as a float. Raises on a
    value of another type."""
    kind = COLUMN_TYPES[name]
    types = set(map(type, values))
    for cls in types:
        if not issubclass(cls, _ALLOWED[kind]) or (cls is bool and kind != FLAG):
            raise RecordError(f"{name}: a value of type {cls.__name__}")
    if kind == SYMBOL:
        column = Dictionary.encode(values)
        "".join(column.names).encode()  # raises on text that is no Unicode, which could not travel
        return column
    if name == "side":
        return np.fromiter(map(SIDE_CODES.__getitem__, values), np.int8, len(values))
    if kind == ANY:
        whole = all(issubclass(cls, int | np.integer) for cls in types)
        if whole and min(values, default=0) >= MIN_TIME and max(values, default=0) <= MAX_TIME:
            return np.array(values, dtype=np.int64)
        return _object_array([_portable(name, v) for v in values])
    if kind == FLOAT and any(issubclass(cls, str) for cls in types):  # a decimal as the venue sent it
        values = [_number(name, v) if isinstance(v, str) else v for v in values]
    return np.array(values, dtype=kind)


def _values_of(kind: str, items: Sequence[Any], needs: tuple[str, ...]) -> dict[str, Sequence[Any]]:
    """The values of ``items`` by field: of records of ``kind`` without the optional fields of which all have the default; of
    other items the fields ``needs``."""
    if not kind:
        return {name: [field(item, name) for item in items] for name in needs}
    fields = RECORDS[kind]._fields
    values = list(zip(*items, strict=True)) or [()] * len(fields)
    found = dict(zip(fields, values, strict=True))
    defaults, n = RECORDS[kind]._field_defaults, len(items)
    return {
        name: given for name, given in found.items() if name not in _OPTIONAL[kind] or given.count(defaults[name]) < n
    }


def _made(kind: str, values: dict[str, Sequence[Any]]) -> Columns:
    return Columns(kind, {name: make_column(name, given) for name, given in values.items()})


_EXACT: dict[str, frozenset[type]] = {
    SYMBOL: frozenset({str}),
    SIDE: frozenset({str}),
    ANY: frozenset({str, int}),
    INT: frozenset({int}),
    FLOAT: frozenset({float, np.float64}),
    FLAG: frozenset({bool}),
}
"""Types that come back from a column as they went in (``np.float64``: as a row that travels does)."""


def compact(items: Items) -> Items:
    """Rows that are records of one kind as columns, which travel in a tenth of the time, where nothing changes by it: every
    value has exactly its field's type. Everything else as it is."""
    if isinstance(items, Columns) or not items:
        return items
    kind = KINDS.get(type(items[0]), "")
    if not kind or len(set(map(type, items))) > 1:
        return items
    try:
        values = _values_of(kind, items, ())
        if all(_EXACT[COLUMN_TYPES[name]].issuperset(map(type, given)) for name, given in values.items()):
            return _made(kind, values)
    except (RecordError, KeyError, ValueError, OverflowError):  # an int over 64 bits, an unknown side, no Unicode
        pass
    return items


def columns_from_rows(items: Sequence[Any], needs: tuple[str, ...] = ()) -> tuple[Columns, list[tuple[Any, str]]]:
    """Rows as columns, and the rows that could not be converted, each with the reason.

    Records of one class become that class's columns; otherwise (dicts, mixed records) the columns are ``needs``, which
    must be standard fields.
    """
    classes = {type(item) for item in items}
    only = classes.pop() if len(classes) == 1 else None
    kind = KINDS.get(only, "") if only is not None else ""
    names = _REQUIRED[kind] if kind else needs
    if not names:
        reason = "only records of one kind can become columns here"
        return Columns("", {}), [(item, f"{type(item).__name__}: {reason}") for item in items]
    try:
        return _made(kind, _values_of(kind, items, needs)), []
    except Exception:  # some item is bad: find which, one at a time; anything a user's item raises counts
        good: list[Any] = []
        bad: list[tuple[Any, str]] = []
        for item in items:
            try:
                _made(kind, _values_of(kind, [item], needs))
                good.append(item)
            except Exception as error:
                bad.append((item, f"needs {', '.join(names)}: {type(error).__name__}: {error}"))
        return _made(kind, _values_of(kind, good, needs)), bad


def to_rows(items: Items) -> list[Any]:
    """``items`` as rows."""
    return items.rows() if isinstance(items, Columns) else items


def concat(parts: Sequence[Columns]) -> Columns:
    """Columns of the same kind and names (but for a record's optional ones), one after another."""
    if len(parts) == 1:
        return parts[0]
    if any(part.data.keys() != parts[0].data.keys() for part in parts):
        parts = [part.completed() for part in parts]
    first = parts[0]
    return Columns(first.kind, {name: _concat([part.data[name] for part in parts]) for name in first.data})


def _concat(columns: list[Column]) -> Column:
    if isinstance(columns[0], Dictionary):
        return _concat_dictionaries([c for c in columns if isinstance(c, Dictionary)])
    arrays: list[Array] = [c for c in columns if not isinstance(c, Dictionary)]
    if len({array.dtype for array in arrays}) > 1:  # int ids beside text ids
        arrays = [array.astype(object) for array in arrays]
    return np.concatenate(arrays)


def _concat_dictionaries(columns: list[Dictionary]) -> Dictionary:
    first = columns[0]
    if all(column.names is first.names for column in columns):
        return Dictionary(np.concatenate([column.codes for column in columns]), first.names)
    table: dict[str, int] = {}
    parts = []
    for column in columns:
        remap = np.fromiter((table.setdefault(n, len(table)) for n in column.names), np.uint32, len(column.names))
        parts.append(remap[column.codes] if len(column) else column.codes)
    return Dictionary(np.concatenate(parts), tuple(table))


def same_shape(a: Items, b: Items) -> bool:
    """Whether two batches can be joined into one."""
    if isinstance(a, Columns) and isinstance(b, Columns):
        return (
            a.kind == b.kind
            and (a.kind != "" or a.data.keys() == b.data.keys())
            and all(
                isinstance(c, Dictionary) == isinstance(b.data[name], Dictionary)
                for name, c in a.data.items()
                if name in b.data
            )
        )
    return not isinstance(a, Columns) and not isinstance(b, Columns)


def join_items(batches: Iterable[Items]) -> list[Items]:
    """Neighbouring batches of the same shape joined, order kept, empty ones dropped."""
    groups: list[list[Items]] = []
    for batch in batches:
        if not len(batch):
            continue
        if groups and same_shape(groups[-1][0], batch):
            groups[-1].append(batch)
        else:
            groups.append([batch])
    joined: list[Items] = []
    for group in groups:
        if isinstance(group[0], Columns):
            joined.append(concat([part for part in group if isinstance(part, Columns)]))
        else:
            joined.append([item for part in group for item in to_rows(part)])
    return joined


def cut_items(items: Items, size: int) -> list[Items]:
    """``items`` in batches of at most ``size``."""
    if len(items) <= size:
        return [items]
    return [slice_items(items, start, start + size) for start in range(0, len(items), size)]


def slice_items(items: Items, start: int, stop: int) -> Items:
    """``items[start:stop]``."""
    return items.take(slice(start, stop)) if isinstance(items, Columns) else items[start:stop]
