"""Several Parquet files as one sorted one, and a fingerprint of what a file holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mmh3
import numpy as np

from market_data_pipeline.extras import extra
from market_data_pipeline.frame import Array, Dictionary
from market_data_pipeline.records import SIDE, SYMBOL
from market_data_pipeline.sinks.parquet_format import ROW_GROUP, Table, order_of, parquet, schema_of, writer

_MIX = np.uint64(0x9E3779B97F4A7C15)


class Content(NamedTuple):
    """What a file holds, whatever the order of its rows: their number, and the sum of their hashes modulo 2**64."""

    rows: int
    checksum: int

    @classmethod
    def sum(cls, parts: Iterable[Content]) -> Content:
        """The content of all of them together."""
        rows = checksum = 0
        for part in parts:
            rows, checksum = rows + part.rows, (checksum + part.checksum) % 2**64
        return cls(rows, checksum)

    def __str__(self) -> str:
        return f"{self.rows} rows with checksum {self.checksum:016x}"


def content_of(table: Table, path: Path) -> Content:
    """Reads the whole file, in pieces."""
    rows, checksum = 0, np.uint64(0)
    with parquet().ParquetFile(path.absolute(), read_dictionary=_names(table)) as file:
        for batch in file.iter_batches(ROW_GROUP, columns=list(table.columns)):
            hashes = np.zeros(batch.num_rows, np.uint64)
            for name in table.columns:
                hashes = _mixed(hashes * _MIX + _hashes(batch.column(name)))
            rows += batch.num_rows
            checksum = np.add(checksum, np.add.reduce(hashes, dtype=np.uint64), dtype=np.uint64)
    return Content(rows, int(checksum))


def _mixed(values: Array) -> Array:
    values = (values ^ (values >> np.uint64(31))) * _MIX
    mixed: Array = values ^ (values >> np.uint64(29))
    return mixed


def _hashes(column: Any) -> Array:
    """64 bits per row that are equal where the values are."""
    pa = extra("pyarrow", "parquet", "Parquet")
    if pa.types.is_string(column.type):
        column = column.dictionary_encode()
    if pa.types.is_dictionary(column.type):
        words = [mmh3.hash64(word.encode(), signed=False)[0] for word in column.dictionary.to_pylist()]
        hashes: Array = np.array(words, np.uint64)[column.indices.to_numpy(zero_copy_only=False)]
        return hashes
    values = column.to_numpy(zero_copy_only=False)
    return _mixed(values.view(np.uint64) if values.dtype.itemsize == 8 else values.astype(np.uint64))


def merge_files(table: Table, paths: Sequence[Path], target: Path, compression: str) -> None:
    """All rows of ``paths``, sorted. They are in memory together: some fifteen times their size as files."""
    pa, schema = extra("pyarrow", "parquet", "Parquet"), schema_of(table)
    columns = _columns_of(table, paths)
    symbol = columns["symbol"].combine_chunks()
    codes = symbol.indices.to_numpy(zero_copy_only=False).astype(np.uint32)
    index = pa.array(order_of(Dictionary(codes, tuple(symbol.dictionary.to_pylist())), columns[table.time].to_numpy()))
    del symbol, codes
    # column by column, so that each row is in memory hardly more than once
    ordered = {name: columns.pop(name).combine_chunks().take(index) for name in table.columns}
    with writer(table, target, compression) as file:
        for start in range(0, len(index), ROW_GROUP):
            part = [_narrowed(column.slice(start, ROW_GROUP)) for column in ordered.values()]
            file.write_table(pa.table(part, schema=schema), row_group_size=ROW_GROUP)


def _columns_of(table: Table, paths: Sequence[Path]) -> dict[str, Any]:
    pa = extra("pyarrow", "parquet", "Parquet")
    read = [
        parquet()
        .read_table(
            path.absolute(),
            columns=list(table.columns),
            read_dictionary=_names(table),
            partitioning=None,
            pre_buffer=False,
        )
        .replace_schema_metadata(None)
        for path in paths
    ]
    whole = pa.concat_tables(read).unify_dictionaries()
    return {name: whole.column(name) for name in table.columns}


def _narrowed(column: Any) -> Any:
    """A dictionary with the words in use only."""
    pa = extra("pyarrow", "parquet", "Parquet")
    if not pa.types.is_dictionary(column.type):
        return column
    return column.cast(pa.string()).dictionary_encode()


def _names(table: Table) -> list[str]:
    return [name for name, kind in table.columns.items() if kind in (SYMBOL, SIDE)]
