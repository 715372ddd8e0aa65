"""Parquet files in the suite of all sinks. An outage is a disk that is full."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from market_data_pipeline import ParquetFiles, Sink
from tools.small_disk import SmallDisk


class ParquetCase:
    keyed, exactly_once = False, True

    def __init__(self, folder: Path) -> None:
        self.disk = SmallDisk(folder / "disk", 16)
        self.path = self.disk.path / "out"

    def sink(self) -> Sink:
        return ParquetFiles(self.path, roll_bytes=20_000, keep_staged="1s")

    def expression(self) -> str:
        return f"ParquetFiles({str(self.path)!r}, roll_bytes=20_000)"

    def read(self) -> list[Any]:
        names = ["symbol", "trade_id", "price", "ts_event"]
        rows: list[Any] = []
        for path in self.path.glob("table=trades/date=*/*.parquet"):
            rows += pq.read_table(path, columns=names, partitioning=None).to_pylist()
        return [(row["symbol"], int(row["trade_id"]), row["price"], row["ts_event"]) for row in rows]

    @contextmanager
    def outage(self) -> Iterator[None]:
        with self.disk.full():
            yield

    def spoil(self) -> str | None:
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.write_text("not a folder")
        return "out"

    def close(self) -> None:
        self.disk.close()


def make_parquet(folder: Path) -> ParquetCase:
    return ParquetCase(folder)
