"""Records as Parquet: the tables, their columns, the order of rows. No state, no decisions about files.

``symbol`` and other names are dictionary-encoded strings, times int64 nanoseconds, prices and sizes doubles. Ids, which may be
ints or text, are text. Every file of a table has all columns, in the record's order, and the same types.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from market_data_pipeline.errors import RecordError
from market_data_pipeline.extras import extra
from market_data_pipeline.frame import Array, Column, Columns, Dictionary, columns_from_rows, concat
from market_data_pipeline.records import (
    ANY,
    COLUMN_TYPES,
    FLAG,
    FLOAT,
    INT,
    KINDS,
    RECORDS,
    SIDE,
    SIDES,
    SYMBOL,
    Bar,
    Gap,
    Quote,
    Trade,
)

SCHEMA_VERSION = "1"
SCHEMA_KEY, TABLE_KEY = b"mdp.schema", b"mdp.table"
"""Keys of a file's metadata."""
ROW_GROUP = 131_072
COMPRESSIONS = ("zstd", "snappy", "lz4", "gzip", "none")

_GAP_TYPES = {"symbol": SYMBOL, "first": INT, "last": INT, "missing": INT, "ts_event": INT}


class Table(NamedTuple):
    """A table: its columns with their types (``records.COLUMN_TYPES``), and the one by which it is dated and sorted."""

    name: str
    kind: str
    columns: dict[str, str]
    time: str


def _table(name: str, kind: str, record: Any, time: str) -> Table:
    return Table(name, kind, {field: COLUMN_TYPES[field] for field in record._fields}, time)


TABLES: dict[str, Table] = {
    "trades": _table("trades", "trade", Trade, "ts_event"),
    "quotes": _table("quotes", "quote", Quote, "ts_event"),
    "bars": _table("bars", "bar", Bar, "ts_open"),
    "gaps": Table("gaps", "", _GAP_TYPES, "ts_event"),
}
BY_KIND = {table.kind: table for table in TABLES.values() if table.kind}
_BY_RECORD: dict[type[Any], Table] = {cls: BY_KIND[kind] for cls, kind in KINDS.items()} | {Gap: TABLES["gaps"]}


def check_extra(what: str) -> None:
    """Raises ``ConfigError`` where pyarrow is missing."""
    extra("pyarrow.parquet", "parquet", what)


def _arrow() -> Any:
    return extra("pyarrow", "parquet", "Parquet")


def parquet() -> Any:
    """The module ``pyarrow.parquet``."""
    return extra("pyarrow.parquet", "parquet", "Parquet")


# --- items to columns -------------------------------------------------------------------------------------------


def tables_of(items: Sequence[Any]) -> tuple[list[tuple[Table, Columns]], list[tuple[Any, str]]]:
    """Rows by table, as columns; and those that belong to none, each with the reason."""
    groups: dict[type[Any], list[Any]] = {}
    for item in items:
        groups.setdefault(type(item), []).append(item)
    found: list[tuple[Table, Columns]] = []
    bad: list[tuple[Any, str]] = []
    for cls, group in groups.items():
        table = _BY_RECORD.get(cls)
        if table is None:
            reason = "only Trade, Quote, Bar and Gap records have a table"
            bad += [(item, f"{cls.__name__}: {reason}") for item in group]
            continue
        columns, wrong = columns_from_rows(group) if table.kind else _gaps(group)
        bad += wrong
        if len(columns):
            found.append((table, columns))
    return found, bad


def _gaps(items: Sequence[Any]) -> tuple[Columns, list[tuple[Any, str]]]:
    good: list[Any] = []
    bad: list[tuple[Any, str]] = []
    for item in items:
        try:
            item.symbol.encode()
            np.array(item[1:], dtype=np.int64)
            good.append(item)
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            bad.append((item, f"needs a symbol and four ints of 64 bits: {type(error).__name__}: {error}"))
    data: dict[str, Column] = {"symbol": Dictionary.encode([item.symbol for item in good])}
    for place, name in enumerate(Gap._fields[1:], 1):
        data[name] = np.array([item[place] for item in good], dtype=np.int64)
    return Columns("", data), bad


def is_sound(columns: Columns) -> bool:
    """Whether the columns of a record have their fields' types, and codes that mean something, so that what was written can be
    read."""
    for name, column in columns.data.items():
        kind = COLUMN_TYPES[name]
        if isinstance(column, Dictionary) != (kind == SYMBOL):
            return False
        if not isinstance(column, Dictionary) and kind not in (ANY, column.dtype.str):
            return False
        if len(columns) and not _are_codes(column, kind):
            return False
    return True


def _are_codes(column: Column, kind: str) -> bool:
    if isinstance(column, Dictionary):
        return bool(column.codes.min() >= 0 and column.codes.max() < len(column.names))
    return kind != SIDE or bool(column.min() >= 0 and column.max() < len(SIDES))


# --- columns to sorted Parquet ----------------------------------------------------------------------------------


def order_of(symbol: Dictionary, time: Array) -> Array:
    """Indices of shape (n,) that sort by symbol, then time, then as before."""
    ranks = np.empty(len(symbol.names), np.uint16 if len(symbol.names) <= 0xFFFF else np.uint32)
    ranks[sorted(range(len(symbol.names)), key=symbol.names.__getitem__)] = np.arange(len(symbol.names))
    keys = ranks[symbol.codes]
    if len(time) < 2 or bool(np.all(time[1:] >= time[:-1])):
        return np.argsort(keys, kind="stable")  # of 16 bits: a radix sort
    by_time = np.argsort(time, kind="stable")
    return by_time[np.argsort(keys[by_time], kind="stable")]


def sorted_columns(table: Table, parts: list[Columns]) -> Columns:
    """The rows of ``parts`` in order. Takes them out of the list and out of the parts, column by column, so that each row is in
    memory hardly more than once."""
    if any(part.data.keys() != parts[0].data.keys() for part in parts):
        parts[:] = [part.completed() for part in parts]
    kind, names = parts[0].kind, list(parts[0].data)
    loose = [part.data for part in parts]
    parts.clear()
    symbol = concat([Columns("", {"symbol": data["symbol"]}) for data in loose]).dictionary("symbol")
    index = order_of(symbol, np.concatenate([data[table.time] for data in loose]))
    done: dict[str, Column] = {}
    for name in names:
        whole = concat([Columns("", {name: data.pop(name)}) for data in loose])
        done[name] = whole.take(index).data[name]
    return Columns(kind, done)


def schema_of(table: Table) -> Any:
    """The pyarrow schema of a table's files."""
    pa = _arrow()
    types = {INT: pa.int64(), FLOAT: pa.float64(), FLAG: pa.bool_(), ANY: pa.string()}
    names = pa.dictionary(pa.int32(), pa.string())
    fields = [pa.field(name, types.get(kind, names), nullable=False) for name, kind in table.columns.items()]
    return pa.schema(fields)


def writer(table: Table, path: Path, compression: str) -> Any:
    """A ``pyarrow.parquet.ParquetWriter`` for a file of ``table``. Statistics for all but ids, by which nobody prunes."""
    pq, schema = parquet(), schema_of(table)
    ids = {name for name, kind in table.columns.items() if kind == ANY}
    order = [pq.SortingColumn(schema.get_field_index(name)) for name in ("symbol", table.time)]
    encodings = {INT: "DELTA_BINARY_PACKED", ANY: "DELTA_LENGTH_BYTE_ARRAY"}
    file = pq.ParquetWriter(
        str(path.absolute()),  # a relative one with a colon would be taken for a URL
        schema,
        version="2.6",
        compression=compression,
        use_dictionary=[name for name, kind in table.columns.items() if kind in (SYMBOL, SIDE, FLOAT)],  # prices repeat
        column_encoding={name: encodings[kind] for name, kind in table.columns.items() if kind in encodings},
        write_batch_size=16_384,
        write_statistics=[name for name in table.columns if name not in ids],
        sorting_columns=order,
        store_schema=False,  # dictionaries are for the file: readers get plain strings
    )
    file.add_key_value_metadata({SCHEMA_KEY: SCHEMA_VERSION.encode(), TABLE_KEY: table.name.encode()})
    return file


def batches_of(table: Table, columns: Columns) -> Iterator[Any]:
    """Sorted columns as arrow tables of one row group each."""
    pa, schema = _arrow(), schema_of(table)
    for start in range(0, columns.n, ROW_GROUP):
        part = columns.take(slice(start, start + ROW_GROUP))
        arrays = [_array(table, name, part) for name in table.columns]
        yield pa.table(arrays, schema=schema)


def _array(table: Table, name: str, columns: Columns) -> Any:
    pa, kind, column = _arrow(), table.columns[name], columns.data.get(name)
    if column is None:
        default = RECORDS[table.kind]._field_defaults[name]
        if kind in (SYMBOL, SIDE):
            return _names(np.zeros(columns.n, np.uint32), (default,))
        return pa.repeat(pa.scalar(default, schema_of(table).field(name).type), columns.n)
    if isinstance(column, Dictionary):
        return _names(column.codes, column.names)
    if kind == SIDE:
        return _names(column, SIDES)
    if kind == ANY:
        return _text(column)
    return pa.array(column)


def _names(codes: Array, names: tuple[str, ...]) -> Any:
    """A dictionary array with the names in use only: statistics and dictionary pages hold no others."""
    pa = _arrow()
    if len(names) == 1:
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(codes), np.int32)), pa.array(names, pa.string()))
    used = np.flatnonzero(np.bincount(codes, minlength=len(names)))
    places = np.zeros(len(names), np.int32)
    places[used] = np.arange(len(used))
    return pa.DictionaryArray.from_arrays(pa.array(places[codes]), pa.array([names[i] for i in used], pa.string()))


def _text(column: Array) -> Any:
    pa = _arrow()
    if column.dtype == object:
        return pa.array(list(map(str, column.tolist())), pa.string())
    return pa.array(column).cast(pa.string())


def write_file(table: Table, parts: list[Columns], path: Path, compression: str) -> int:
    """The rows of ``parts`` (which are taken out of the list) as a sorted file; its size in bytes."""
    if not parts:
        raise RecordError(f"{path}: no rows")
    columns = sorted_columns(table, parts)
    with writer(table, path, compression) as file:
        for batch in batches_of(table, columns):
            file.write_table(batch, row_group_size=ROW_GROUP)
    return path.stat().st_size
