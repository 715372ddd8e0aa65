"""What Arrow's record batches become: chunks, for Arrow IPC and Parquet.

Columns are made without a loop over rows wherever Arrow's types say what they hold. Text where numbers or times belong, and
what else has to be looked at value by value, goes through the same parser as a row of CSV; so does each row that cannot be
used, for its reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np

from market_data_pipeline.errors import RecordError
from market_data_pipeline.frame import Array, Column, Columns, Dictionary
from market_data_pipeline.operators.base import DeadLetter
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
    SAME_AS,
    SIDE,
    SIDE_CODES,
    USUAL,
)
from market_data_pipeline.sources.formats.base import Chunk, Opened, Wanted, chunk_of_rows, times_of
from market_data_pipeline.sources.rows import SIZES, TIME_UNITS, side_of

UNIT_NS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_DAY_NS = 86_400_000_000_000


class _NeedsRows(Exception):
    """A column that has to be looked at value by value."""


class Batches:
    """Makes chunks of the record batches of one file."""

    def __init__(self, pa: Any, file: Opened, wanted: Wanted) -> None:
        self._pa = pa
        self._file, self._wanted = file, wanted
        kind = wanted.kind
        self._fields: tuple[str, ...] = RECORDS[kind]._fields if kind in RECORDS else ()
        self._usual, self._same = USUAL.get(kind, {}), SAME_AS.get(kind, {})
        self._may_miss = self._fields[len(self._fields) - OPTIONAL.get(kind, 0) :]

    def chunk(self, batch: Any, group: int, row: int, first: int) -> Chunk:
        """The rows of ``batch``, which begins at ``row`` of ``group``, the file's row ``first``, as a chunk."""
        batch = self._without_views(batch)
        n = batch.num_rows
        places = np.stack(
            [np.full(n + 1, group, np.int64), np.arange(row, row + n + 1), np.arange(first, first + n + 1)], 1
        )
        if self._wanted.kind == "rows":
            return chunk_of_rows(self._rows(batch), places, [], self._wanted, self._file)
        try:
            data, bad = self._columns(batch)
        except _NeedsRows:
            return self._by_row(batch, places)
        columns = Columns(self._wanted.kind, data)
        if not bad.any():
            return Chunk(columns, times_of(columns), places)
        at = np.flatnonzero(bad)
        good = np.flatnonzero(~bad)
        letters: list[tuple[int, DeadLetter]] = []
        for n_bad, (index, found) in enumerate(
            zip(at.tolist(), self._rows(batch.take(self._pa.array(at))), strict=True)
        ):
            try:
                self._wanted.parser.parse(found)
            except RecordError as error:
                letters.append((index - n_bad, self._file.dead(first + index + 1, str(error), found)))
            else:
                return self._by_row(batch, places)
        columns = columns.take(good)
        return Chunk(columns, times_of(columns), places[np.append(good, n)], letters)

    def _without_views(self, batch: Any) -> Any:
        """Arrow's string views, which polars writes, as strings: few of Arrow's functions know them."""
        pa = self._pa

        def plain(array: Any) -> Any:
            if pa.types.is_dictionary(array.type):
                values = array.dictionary
                return pa.DictionaryArray.from_arrays(array.indices, plain(values)) if is_view(values) else array
            return array.cast(pa.large_string()) if is_view(array) else array

        def is_view(array: Any) -> bool:
            return bool(pa.types.is_string_view(array.type))

        return pa.RecordBatch.from_arrays([plain(array) for array in batch.columns], names=batch.schema.names)

    def _by_row(self, batch: Any, places: Array) -> Chunk:
        records: list[Any] = []
        kept: list[int] = []
        letters: list[tuple[int, DeadLetter]] = []
        for index, row in enumerate(self._rows(batch)):
            try:
                records.append(self._wanted.parser.parse(row))
                kept.append(index)
            except RecordError as error:
                letters.append((len(records), self._file.dead(int(places[index, 2]) + 1, str(error), row)))
        return chunk_of_rows(records, places[[*kept, len(places) - 1]], letters, self._wanted, self._file)

    # --- rows ---------------------------------------------------------------------------------------------------

    def _rows(self, batch: Any) -> list[dict[str, Any]]:
        """Dicts, as a JSON line would give them: times in the unit of ``time_unit`` (ns for kind ``rows``), decimals as text
        where exact, else as floats."""
        names = batch.schema.names
        columns = [self._plain(batch.column(n)) for n in range(len(names))]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    def _plain(self, array: Any) -> list[Any]:
        types = self._pa.types
        if types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if types.is_timestamp(array.type) or types.is_date(array.type):
            values, good, nulls = self._nanos(array)
            return [
                None if null else self._written(ns) if fits else "outside 64 bits"
                for ns, null, fits in zip(values.tolist(), nulls.tolist(), good.tolist(), strict=True)
            ]
        if types.is_time(array.type) or types.is_duration(array.type):
            array = array.cast(self._pa.int32() if array.type.bit_width == 32 else self._pa.int64())
        values = array.to_pylist()
        if types.is_decimal(array.type):
            exact = self._wanted.exact
            return [None if v is None else format(v, "f") if exact else float(v) for v in values]
        return list(values)

    def _written(self, nanos: int) -> Any:
        unit = self._wanted.time_unit
        if unit == "iso" and self._wanted.kind != "rows":
            return f"{np.datetime64(nanos, 'ns')}Z"
        scale = 1 if self._wanted.kind == "rows" else TIME_UNITS[unit]
        return nanos if scale == 1 else nanos // scale if nanos % scale == 0 else Decimal(nanos) / scale

    # --- columns ------------------------------------------------------------------------------------------------

    def _columns(self, batch: Any) -> tuple[dict[str, Column], Array]:
        """The record's columns, and which rows cannot be used."""
        n = batch.num_rows
        bad = np.zeros(n, dtype=bool)
        data: dict[str, Column] = {}
        for name in self._fields:
            if name == "symbol" and self._wanted.symbol is not None:
                data[name] = Dictionary(np.zeros(n, np.uint32), (self._wanted.symbol,))
                continue
            at = batch.schema.get_field_index(self._wanted.columns.get(name, name))
            if at < 0:
                if name not in self._usual and name not in self._same:
                    raise _NeedsRows
                if name in self._same:
                    data[name] = data[self._same[name]]
                elif name not in self._may_miss:
                    data[name] = self._filled(name, n)
                continue
            data[name], wrong = self._column(name, batch.column(at), data)
            bad |= wrong
        return data, bad

    def _filled(self, name: str, n: int) -> Column:
        """``n`` times what the field usually has."""
        value = self._usual[name]
        if COLUMN_TYPES[name] == ANY:
            column: Array = np.empty(n, dtype=object)
            column[:] = value
            return column
        return np.full(n, SIDE_CODES[value] if name == "side" else value, dtype=COLUMN_TYPES[name])

    def _column(self, name: str, array: Any, data: Mapping[str, Any]) -> tuple[Column, Array]:
        """The column of ``array``, and which rows have none: it is missing where it must not be, or cannot be."""
        nulls = _numpy(array.is_null())
        if name.startswith("ts_"):
            values, wrong = self._times(array)
        elif COLUMN_TYPES[name] == FLOAT:
            values, wrong = self._floats(array)
            if name in SIZES:
                wrong |= values < 0
        elif COLUMN_TYPES[name] == INT:
            values, wrong = self._whole(array)
        elif COLUMN_TYPES[name] == FLAG:
            if not self._pa.types.is_boolean(array.type):
                raise _NeedsRows
            values, wrong = _numpy(array.fill_null(False)), np.zeros(len(array), dtype=bool)
        elif COLUMN_TYPES[name] == ANY:
            return self._ids(array, nulls)
        else:
            return self._texts(name, array, nulls)
        if nulls.any():
            if name in self._same:
                values = np.where(nulls, data[self._same[name]], values)
            elif name in self._usual:
                values = np.where(nulls, np.array(self._usual[name], dtype=values.dtype), values)
        optional = name in self._usual or name in self._same
        return values, (wrong & ~nulls) if optional else (wrong | nulls)

    def _nanos(self, array: Any) -> tuple[Array, Array, Array]:
        """Timestamps and dates as ns, which are null, and which fit into 64 bits."""
        nulls = _numpy(array.is_null())
        if self._pa.types.is_timestamp(array.type):
            scale = UNIT_NS[array.type.unit]
            values = _numpy(array.cast(self._pa.int64()).fill_null(0))
        elif self._pa.types.is_date32(array.type):
            scale, values = _DAY_NS, _numpy(array.cast(self._pa.int32()).fill_null(0)).astype(np.int64)
        else:
            scale, values = UNIT_NS["ms"], _numpy(array.cast(self._pa.int64()).fill_null(0))
        return *_scaled(values, scale, nulls), nulls

    def _times(self, array: Any) -> tuple[Array, Array]:
        types = self._pa.types
        if types.is_timestamp(array.type) or types.is_date(array.type):
            values, good, _ = self._nanos(array)
            return values, ~good
        if not types.is_integer(array.type) or self._wanted.time_unit == "iso":
            raise _NeedsRows
        values, wrong = self._whole(array)
        values, good = _scaled(values, TIME_UNITS[self._wanted.time_unit], np.zeros(len(array), dtype=bool))
        return values, wrong | ~good

    def _floats(self, array: Any) -> tuple[Array, Array]:
        types = self._pa.types
        if types.is_decimal(array.type):
            if self._wanted.exact:
                raise _NeedsRows
            # through text: Arrow's own way from a decimal to a float is not always the nearest one
            array = array.cast(self._pa.string()).cast(self._pa.float64())
        elif not (types.is_floating(array.type) or (types.is_integer(array.type) and not self._wanted.exact)):
            raise _NeedsRows
        values = _numpy(array.cast(self._pa.float64(), safe=False).fill_null(0.0))
        return values, ~np.isfinite(values)

    def _whole(self, array: Any) -> tuple[Array, Array]:
        if not self._pa.types.is_integer(array.type):
            raise _NeedsRows
        raw = _numpy(array.fill_null(0))
        if raw.dtype == np.uint64:
            return raw.astype(np.int64), raw >= np.uint64(MAX_TIME)
        values = raw.astype(np.int64)
        return values, (values <= MIN_TIME) | (values >= MAX_TIME)

    def _ids(self, array: Any, nulls: Array) -> tuple[Column, Array]:
        types = self._pa.types
        fine = np.zeros(len(array), dtype=bool)
        if types.is_integer(array.type) and not nulls.any():
            values, wrong = self._whole(array)
            if not wrong.any():
                return values, fine
        if types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if not (types.is_string(array.type) or types.is_large_string(array.type)):
            raise _NeedsRows
        texts: Array = np.empty(len(array), dtype=object)
        texts[:] = array.fill_null("").to_pylist()
        return texts, fine

    def _texts(self, name: str, array: Any, nulls: Array) -> tuple[Column, Array]:
        """A column of names, dictionary-encoded, or of sides. Empty is missing."""
        codes, names = self._encoded(array)
        n = len(names)
        codes = np.where(nulls, n, codes)
        missing = np.array([not text for text in (*names, "")], dtype=bool)
        if COLUMN_TYPES[name] == SIDE:
            known = [_side_code(text) for text in (*names, "")]
            sides = np.array(known, dtype=np.int8)[codes]
            return sides, sides < 0
        if name not in self._usual:
            used = names if n else ("",)
            return Dictionary(np.minimum(codes, len(used) - 1).astype(np.uint32), used), missing[codes]
        usual = self._usual[name]
        codes = np.where(missing[codes], n, codes)
        if usual in names:
            codes = np.where(codes == n, names.index(usual), codes)
            return Dictionary(codes.astype(np.uint32), names), np.zeros(len(codes), dtype=bool)
        return Dictionary(codes.astype(np.uint32), (*names, usual)), np.zeros(len(codes), dtype=bool)

    def _encoded(self, array: Any) -> tuple[Array, tuple[str, ...]]:
        types = self._pa.types
        if types.is_dictionary(array.type):
            names = array.dictionary.to_pylist()
            if None in names or len(set(names)) < len(names):
                array = array.dictionary_decode()
        value = array.type.value_type if types.is_dictionary(array.type) else array.type
        if not (types.is_string(value) or types.is_large_string(value)):
            raise _NeedsRows
        if not types.is_dictionary(array.type):
            array = array.dictionary_encode()
        codes = _numpy(array.indices.cast(self._pa.int64()).fill_null(0))
        return codes, tuple(array.dictionary.to_pylist())


def _scaled(values: Array, scale: int, nulls: Array) -> tuple[Array, Array]:
    """``values`` x ``scale``, and where that fits into 64 bits (nulls do)."""
    good = nulls | ((values > -(MAX_TIME // scale)) & (values < MAX_TIME // scale))
    return np.where(good, values, 0) * scale, good


def _side_code(text: str) -> int:
    try:
        return SIDE_CODES[side_of(text)]
    except KeyError:
        return -1


def _numpy(array: Any) -> Array:
    found: Array = array.to_numpy(zero_copy_only=False)
    return found
