"""Parquet, read row group by row group. A place is the row group, the row in it, and the row of the file.

Memory: never more than the needed columns of one row group, per file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from market_data_pipeline.extras import extra
from market_data_pipeline.records import COLUMN_TYPES, MIN_TIME, RECORDS, SAME_AS, SYMBOL
from market_data_pipeline.sources.formats.arrow import (
    ROWS,
    arrow_library,
    check_names,
    needed_columns,
    reading,
)
from market_data_pipeline.sources.formats.arrow_columns import UNIT_NS, Batches
from market_data_pipeline.sources.formats.base import (
    Chunk,
    Opened,
    Place,
    Wanted,
    is_shorter,
    must_be_file,
    time_of_first_row,
)
from market_data_pipeline.sources.rows import TIME_UNITS

_WHAT = "Replay of .parquet files"


class _Times:
    """What a file's statistics say about the times of its row groups, without reading them."""

    def __init__(self, pa: Any, parquet: Any, wanted: Wanted) -> None:
        self._groups = parquet.metadata
        names = parquet.schema_arrow.names
        column = wanted.columns.get("ts_event", "ts_event")
        if column not in names:  # a bar's is its opening then
            column = wanted.columns.get(SAME_AS.get(wanted.kind, {}).get("ts_event", ""), "ts_open")
        self._scale = self._scale_of(pa, parquet.schema_arrow, column, wanted)
        paths = [parquet.schema.column(n).path for n in range(len(parquet.schema))]
        self._at = paths.index(column) if self._scale and column in paths else -1

    @staticmethod
    def _scale_of(pa: Any, schema: Any, column: str, wanted: Wanted) -> int:
        """ns of one in the column; 0 where its statistics cannot be used."""
        at = schema.get_field_index(column)
        if at < 0 or wanted.kind not in RECORDS:
            return 0
        kind = schema.field(at).type
        if pa.types.is_timestamp(kind):
            return UNIT_NS[kind.unit]
        return TIME_UNITS.get(wanted.time_unit, 0) if pa.types.is_integer(kind) else 0

    def of(self, group: int) -> tuple[int, int] | None:
        """The smallest and the largest time of ``group`` in ns, ``None`` where it is not known."""
        if self._at < 0:
            return None
        column = self._groups.row_group(group).column(self._at)
        found = column.statistics if column.is_stats_set else None
        if found is None or not found.has_min_max or not isinstance(found.min_raw, int):
            return None
        return found.min_raw * self._scale, found.max_raw * self._scale

    def nulls(self, group: int) -> bool:
        """Whether rows of ``group`` may have no time: they become dead letters wherever they lie."""
        found = self._groups.row_group(group).column(self._at).statistics
        return not found.has_null_count or found.null_count > 0


class ParquetReader:
    """Reads one file; see the module."""

    def __init__(self, pa: Any, file: Opened, wanted: Wanted, place: Place | None) -> None:
        self._pa, self._file, self._wanted = pa, file, wanted
        self._group, self._row, self._first = place or (0, 0, 0)
        must_be_file(file.path)
        with reading(pa, file.path):
            self._parquet, self._columns = _opened(pa, file.path, wanted)
        self._times = _Times(pa, self._parquet, wanted)
        self._batches = Batches(pa, file, wanted)
        self._rows: Any = None
        self._skipped = 0
        if place is not None:
            self._go_on()

    def _go_on(self) -> None:
        meta = self._parquet.metadata
        before = sum(meta.row_group(n).num_rows for n in range(min(self._group, meta.num_row_groups)))
        rows = meta.row_group(self._group).num_rows if self._group < meta.num_row_groups else 0
        if self._group > meta.num_row_groups or rows < self._row or before + self._row != self._first:
            self.close()
            has = f"{meta.num_rows} rows in {meta.num_row_groups} row groups"
            raise is_shorter(
                self._file.path, has, f"row {self._row} of group {self._group}, the file's row {self._first}"
            )

    def _outside(self, group: int) -> bool:
        """Whether no row of ``group`` is wanted."""
        times = self._times.of(group)
        if times is None or self._times.nulls(group):
            return False
        start, end = self._wanted.start, self._wanted.end
        return (start is not None and times[1] < start) or (end is not None and times[0] >= end)

    def read(self, limit: int) -> Chunk | None:
        meta = self._parquet.metadata
        while self._group < meta.num_row_groups:
            if self._rows is None and self._row == 0 and self._outside(self._group):
                n = meta.row_group(self._group).num_rows
                self._skipped += n
                self._first += n
                self._group += 1
                continue
            with reading(self._pa, self._file.path):
                batch = self._next_batch()
                if batch is not None:
                    return self._chunk(batch)
            self._group, self._row, self._rows = self._group + 1, 0, None
        return self._rest()

    def _next_batch(self) -> Any:
        """The next rows of the row group, ``None`` at its end."""
        if self._rows is None:
            self._rows = self._parquet.iter_batches(ROWS, row_groups=[self._group], columns=self._columns)
            left = self._row
            while left:
                batch = next(self._rows)
                if batch.num_rows > left:
                    return batch.slice(left)
                left -= batch.num_rows
        return next(self._rows, None)

    def _chunk(self, batch: Any) -> Chunk:
        chunk = self._batches.chunk(batch, self._group, self._row, self._first)
        self._row += batch.num_rows
        self._first += batch.num_rows
        if self._skipped:
            chunk.skipped = np.full(len(chunk.places), self._skipped, np.int64)
            self._skipped = 0
        return chunk

    def _rest(self) -> Chunk | None:
        """The row groups at the end that were left out: no rows, but they are counted."""
        if not self._skipped:
            return None
        places = np.array([[self._group, 0, self._first]], np.int64)
        none = Chunk([], np.empty(0, np.int64), places, skipped=np.array([self._skipped], np.int64))
        self._skipped = 0
        return none

    def close(self) -> None:
        self._parquet.close()


def _opened(pa: Any, path: Path, wanted: Wanted) -> tuple[Any, list[str]]:
    """The file, and its columns that are needed."""
    parquet = extra("pyarrow.parquet", "parquet", _WHAT)
    schema = parquet.read_schema(path)
    columns = needed_columns(schema.names, wanted)
    fields = {wanted.columns.get(name, name) for name, kind in COLUMN_TYPES.items() if kind == SYMBOL or name == "side"}
    text = (pa.types.is_string, pa.types.is_large_string)
    coded = [name for name in columns if name in fields and any(is_text(schema.field(name).type) for is_text in text)]
    return parquet.ParquetFile(path, read_dictionary=coded), columns


class ParquetFormat:
    """``.parquet``."""

    def __init__(self) -> None:
        self._pa = arrow_library(_WHAT)

    def open(self, file: Opened, wanted: Wanted, place: Place | None) -> ParquetReader:
        return ParquetReader(self._pa, file, wanted, place)

    def first_time(self, file: Opened, wanted: Wanted) -> int:
        with reading(self._pa, file.path):
            parquet, _ = _opened(self._pa, file.path, wanted)
        with parquet:
            times = _Times(self._pa, parquet, wanted)
            known = [times.of(n) for n in range(min(1, parquet.metadata.num_row_groups))]
        if not known:
            return MIN_TIME
        return time_of_first_row(self, file, wanted) if known[0] is None else known[0][0]

    def check(self, path: Path, wanted: Wanted) -> None:
        parquet = extra("pyarrow.parquet", "parquet", _WHAT)
        must_be_file(path)
        with reading(self._pa, path):
            names = parquet.read_schema(path).names
        check_names(path, names, wanted)
