"""Records as checked columns, one :class:`Sheet` for each batch that goes into one table. No I/O here.

What a database would refuse is found here, because one bad row fails a whole COPY: NaN and infinity where a number is
wanted, NUL in text, text that is no Unicode, numbers over 64 bits. Columns are checked as columns; rows that do not fit into
columns as they are (prices kept as text, say) one by one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from market_data_pipeline.frame import Array, Columns, Dictionary, Frame, Items, compact, join_items
from market_data_pipeline.records import RECORDS, SIDES
from market_data_pipeline.sinks.encoding import records
from market_data_pipeline.sinks.sql_schema import NUMBERS, TIMES, Field, Kind, Table
from market_data_pipeline.sinks.sql_text import Values, cut, texts

Reject = Callable[[Any, str], None]

_INT64 = range(-(2**63), 2**63)
_FIRST_TIME = -(2**63) + 1000
"""Before it, rounding to microseconds would leave 64 bits; nothing happened then."""
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)


class Unfit(ValueError):
    """A value that cannot be stored; says which field, what was found, what is allowed."""


class _Unplain(Exception):
    """Columns that hold something else than their record's types: to be taken row by row."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """``columns[field]`` for each field of ``table``, as long as ``items``: what they were made of. Times are int64 ns."""

    table: Table
    items: Items
    columns: dict[str, Values]

    def __len__(self) -> int:
        return len(self.items)

    def part(self, start: int, stop: int) -> dict[str, Values]:
        """The columns of some rows."""
        if start == 0 and stop >= len(self):
            return self.columns
        return {name: cut(values, slice(start, stop)) for name, values in self.columns.items()}

    def item(self, index: int) -> Any:
        """The record of a row."""
        if isinstance(self.items, Columns):
            return self.items.take(slice(index, index + 1)).rows()[0]
        return self.items[index]


def sheets(
    frames: Iterable[Frame], tables: Mapping[type[Any], Table], interval: int | None, reject: Reject
) -> Iterator[Sheet]:
    """The records of ``frames`` by table. ``tables``: by class of record. ``interval``: what bars have in their column of that
    name, ns; ``None``: how long each is. What cannot be stored goes to ``reject`` with the reason."""
    for batch in join_items(records(frames)):
        for items, table in _by_table(batch, tables, reject):
            sheet = _of_columns(items, table, reject) if isinstance(items, Columns) else _of_rows(items, table, reject)
            if len(sheet):
                _derive(sheet, interval)
                yield sheet


def _by_table(items: Items, tables: Mapping[type[Any], Table], reject: Reject) -> Iterator[tuple[Items, Table]]:
    if isinstance(items, Columns) and items.kind and RECORDS[items.kind] in tables:
        yield items, tables[RECORDS[items.kind]]
        return
    groups: dict[type[Any], list[Any]] = {}
    for item in items.rows() if isinstance(items, Columns) else items:
        groups.setdefault(type(item), []).append(item)
    for cls, rows in groups.items():
        if cls in tables:
            yield compact(rows), tables[cls]
            continue
        allowed = ", ".join(sorted(known.__name__ for known in tables))
        for row in rows:
            reject(row, f"{cls.__name__}: there is no table for it; stored are records: {allowed}")


# --- columns --------------------------------------------------------------------------------------------------------


def _of_columns(items: Columns, table: Table, reject: Reject) -> Sheet:
    try:
        columns = _plain_columns(items, table)
    except _Unplain:
        return _of_rows(items.rows(), table, reject)
    bad = np.zeros(len(items), dtype=bool)
    for field in table.fields:
        if field.name in columns:
            bad |= _unfit(field, columns[field.name])
    if not bad.any():
        return Sheet(table, items, columns)
    _of_rows(items.take(bad).rows(), table, reject)  # says of each why
    good = items.take(~bad)
    return Sheet(table, good, _plain_columns(good, table))


def _plain_columns(items: Columns, table: Table) -> dict[str, Values]:
    defaults = table.record._field_defaults
    columns = {}
    for field in table.fields:
        column = items.data.get(field.name)
        if column is not None:
            columns[field.name] = _plain_column(field.kind, column)
        elif field.name in table.record._fields:
            columns[field.name] = _constant(defaults[field.name], len(items))
    return columns


def _constant(value: Any, n: int) -> Values:
    return Dictionary(np.zeros(n, np.uint32), (value,)) if isinstance(value, str) else np.full(n, value)


def _plain_column(kind: Kind, column: Array | Dictionary) -> Values:
    """``column`` with the type that ``kind`` wants; raises where it has another one."""
    if isinstance(column, Dictionary):
        if kind is not Kind.TEXT:
            raise _Unplain
        return column
    found = column.dtype.kind
    if kind is Kind.TEXT:
        if column.dtype == np.int8:
            if len(column) and not 0 <= column.min() <= column.max() < len(SIDES):
                raise _Unplain
            return Dictionary(column, SIDES)
        if found not in "iO":
            raise _Unplain
        return column if found == "i" else column.tolist()
    allowed = {Kind.FLAG: "b", Kind.NUMBER: "fi", Kind.MAYBE: "fi"}.get(kind, "i")
    if found not in allowed:
        raise _Unplain
    return column.astype(np.float64) if found == "f" else column


def _unfit(field: Field, values: Values) -> Array:
    """Which values cannot be stored."""
    if isinstance(values, Dictionary):
        odd = np.fromiter((_is_odd(name) for name in values.names), bool, len(values.names))
        return odd[values.codes] if odd.any() else np.zeros(len(values), bool)
    if isinstance(values, list):
        return np.fromiter((not isinstance(v, str | int) or _is_odd(str(v)) for v in values), bool, len(values))
    if field.kind in NUMBERS and values.dtype.kind == "f":
        return np.isinf(values) if field.kind is Kind.MAYBE else ~np.isfinite(values)
    if field.kind in TIMES:
        return np.asarray(values < _FIRST_TIME)
    return np.zeros(len(values), bool)


def _is_odd(text: str) -> bool:
    """Whether no database takes ``text``."""
    if "\0" in text:
        return True
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


# --- rows -----------------------------------------------------------------------------------------------------------


def _of_rows(items: Sequence[Any], table: Table, reject: Reject) -> Sheet:
    fields = [field for field in table.fields if field.name in table.record._fields]
    good, rows = [], []
    for item in items:
        try:
            rows.append([_value(field, getattr(item, field.name)) for field in fields])
            good.append(item)
        except Unfit as error:
            reject(item, f"table {table.name}: {error}")
    found = list(map(list, zip(*rows, strict=True))) or [[] for _ in fields]
    columns = {
        field.name: _array(field.kind, values)
        for field, values in zip(fields, found, strict=True)
    }  # fmt: skip
    return Sheet(table, good, columns)


def _array(kind: Kind, values: list[Any]) -> Values:
    if kind in TIMES or kind is Kind.WHOLE:
        return np.array(values, dtype=np.int64)
    if kind is Kind.FLAG:
        return np.array(values, dtype=bool)
    if kind in NUMBERS and all(type(value) is float for value in values):
        return np.array(values, dtype=np.float64)
    return values


def _value(field: Field, value: Any) -> Any:
    """``value`` as it is stored. Raises :class:`Unfit`."""
    name, kind = field
    if kind is Kind.TEXT:
        return _text(name, value)
    if kind is Kind.FLAG:
        if not isinstance(value, bool | np.bool_):
            raise Unfit(f"{name} is {value!r:.100}; true or false is wanted")
        return bool(value)
    if kind in NUMBERS:
        return _number(name, value, kind is Kind.MAYBE)
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or int(value) not in _INT64:
        raise Unfit(f"{name} is {value!r:.100}; a whole number of 64 bits is wanted")
    if kind in TIMES and value < _FIRST_TIME:
        raise Unfit(f"{name} is {value!r:.100}; a time in ns since 1970 is wanted")
    return int(value)


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | np.integer):
        raise Unfit(f"{name} is {value!r:.100}; text is wanted")
    text = str(value)
    if _is_odd(text):
        raise Unfit(f"{name} is {value!r:.100}; text without NUL, and that is Unicode, is wanted")
    return text


def _number(name: str, value: Any, may_lack: bool) -> float | str:
    if isinstance(value, str | Decimal) and _DECIMAL.fullmatch(str(value)):
        return str(value)
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        if isinstance(value, int | np.integer) and abs(int(value)) > 2**53:
            return str(value)
        if math.isfinite(value) or (may_lack and math.isnan(value)):
            return float(value)
    raise Unfit(f"{name} is {value!r:.100}; a finite number is wanted{', or NaN for none' if may_lack else ''}")


# --- what is made of other fields -----------------------------------------------------------------------------------


def _derive(sheet: Sheet, interval: int | None) -> None:
    columns, table = sheet.columns, sheet.table
    if any(field.name == "interval" for field in table.fields):
        opened, closed = columns["ts_open"], columns["ts_close"]
        assert isinstance(opened, np.ndarray)
        assert isinstance(closed, np.ndarray)
        columns["interval"] = closed - opened if interval is None else np.full(len(sheet), interval)
    if table.made_of is not None:
        name, parts = table.made_of
        columns[name] = _identified(columns[name], [columns[part] for part in parts])


def _identified(values: Values, parts: list[Values]) -> Values:
    """``values``, of which the empty ones are made of the row's ``parts``."""
    if isinstance(values, np.ndarray):
        return values  # numbers, so none is empty
    found = texts(values)
    missing = np.fromiter((not text for text in found), bool, len(found))
    if not missing.any():
        return found if isinstance(values, list) else values
    where = np.flatnonzero(missing)
    for index, words in zip(where.tolist(), zip(*(_picked(part, where) for part in parts), strict=True), strict=True):
        found[index] = "~" + "/".join(words)
    return found


def _picked(values: Values, where: Array) -> list[str]:
    if isinstance(values, list):
        return texts([values[index] for index in where.tolist()])
    return texts(values.take(where))
