"""Replay of Parquet and Arrow IPC: Arrow's types, nulls, row groups, resume; judged by polars and by the same rows as CSV."""

from __future__ import annotations

import asyncio
import gzip
import sys
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.recorded import DATA
from tools.replayed import Counted, batches, check_resume, everything, rows_of, some_trades, table_of, write_trades

from market_data_pipeline.errors import ConfigError, SourceError
from market_data_pipeline.frame import Columns, Dictionary
from market_data_pipeline.records import Bar, Quote, Trade
from market_data_pipeline.sources.replay import Replay

BASE = {"symbol": ["A", "B"], "ts_event": [1, 2], "price": [1.5, 2.5], "size": [3.0, 4.0]}
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the recorded market data is not on this machine")


def write(path: Path, columns: dict[str, Any], group: int = 1000) -> Path:
    """``columns`` of Arrow arrays or values as a file in the format that ``path`` names."""
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=group)
        return path
    make = pa.ipc.new_stream if "stream" in path.name else pa.ipc.new_file
    with make(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=group)
    return path


NAMES = ["t.parquet", "t.arrow", "t.feather", "stream.arrow"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch_items", [7, 8192])
async def test_every_format_gives_the_trades_as_columns(tmp_path: Path, name: str, batch_items: int) -> None:
    trades = some_trades(100)
    path = write(tmp_path / name, table_of(trades).to_dict(as_series=False), group=16)
    source = Replay(path, batch_items=batch_items)
    source.check()
    found = await check_resume(source)
    assert rows_of(found) == trades
    for batch in found:
        assert isinstance(batch.items, Columns)
        assert batch.items.kind == "trade"
        assert isinstance(batch.items.data["symbol"], Dictionary)


async def test_polars_writes_what_is_read(tmp_path: Path) -> None:
    trades = some_trades(50)
    table = table_of(trades).with_columns(pl.col("symbol").cast(pl.Categorical), pl.lit("x").alias("ignored"))
    table.write_parquet(tmp_path / "t.parquet")
    table.write_ipc(tmp_path / "t.arrow", compression="zstd")
    for name in ("t.parquet", "t.arrow"):
        assert await everything(Replay(tmp_path / name)) == (trades, [])


async def test_quotes_and_bars(tmp_path: Path) -> None:
    quotes = [Quote("A", 1, 2, 10.5, 100.0, 10.75, 200.0, 7), Quote("B", 3, 4, 11.5, 1.0, 12.0, 2.0, 8)]
    bars = [Bar("A", 0, 60, 1.0, 2.0, 0.5, 1.5, 10.0, 1.25, 3), Bar("A", 60, 120, 1.0, 2.0, 0.5, 1.5, 0.0, 1.5, 0)]
    for kind, rows in (("quote", quotes), ("bar", bars)):
        columns = {name: [getattr(row, name) for row in rows] for name in rows[0]._fields}
        path = write(tmp_path / f"{kind}.parquet", columns)
        assert await everything(Replay(path, kind=kind)) == (rows, [])
    short = {
        name: [getattr(bar, name) for bar in bars[1:]]
        for name in ("symbol", "ts_open", "ts_close", "open", "high", "low")
    }
    path = write(tmp_path / "short.parquet", {**short, "close": [1.5], "vwap": pa.array([None], pa.float64())})
    assert await everything(Replay(path, kind="bar")) == ([bars[1]._replace(ts_event=60)], [])


async def test_optional_columns(tmp_path: Path) -> None:
    more = {"venue": ["X", None], "phase": [None, "snapshot"], "conditions": ["", "@"], "trade_id": [None, 5]}
    path = write(tmp_path / "t.parquet", {**BASE, **more})
    rows, dead = await everything(Replay(path))
    assert not dead
    assert rows == [
        Trade("A", 1, 0, 1.5, 3.0, "", "", venue="X"),
        Trade("B", 2, 0, 2.5, 4.0, "", 5, conditions="@", phase="snapshot"),
    ]


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([1, 2], pa.timestamp("s")), [10**9, 2 * 10**9]),
        (pa.array([1, 2], pa.timestamp("ms", "UTC")), [10**6, 2 * 10**6]),
        (pa.array([-1, 2], pa.timestamp("us", "Europe/Berlin")), [-1000, 2000]),
        (pa.array([1, 1767364200123456789], pa.timestamp("ns")), [1, 1767364200123456789]),
        (pa.array([date(1970, 1, 2), date(2026, 1, 2)], pa.date32()), [86400 * 10**9, 1767312000 * 10**9]),
        (pa.array([1, 2], pa.int32()), [1, 2]),
        (pa.array([1, 2], pa.uint64()), [1, 2]),
        (pa.array(["1", "2"]), [1, 2]),
        (pa.array([1.0, 2.0]), [1, 2]),
        (pa.array([Decimal("1"), Decimal("2")]), [1, 2]),
    ],
)
async def test_times(tmp_path: Path, name: str, values: Any, expected: list[int]) -> None:
    path = write(tmp_path / name, {**BASE, "ts_event": values})
    rows, dead = await everything(Replay(path))
    assert ([row.ts_event for row in rows], dead) == (expected, [])


@pytest.mark.parametrize("unit", ["iso", "ms", "s"])
async def test_timestamps_have_their_own_unit_also_beside_text(tmp_path: Path, unit: str) -> None:
    nanos = [1767364200123456789, 1767364200123456790]
    path = write(
        tmp_path / "t.parquet", {**BASE, "ts_event": pa.array(nanos, pa.timestamp("ns")), "price": ["1.5", "2.5"]}
    )
    rows, dead = await everything(Replay(path, time_unit=unit))
    assert ([row.ts_event for row in rows], dead) == (nanos, [])


@pytest.mark.parametrize(
    ("unit", "values", "expected"),
    [
        ("us", pa.array([5, 7], pa.int64()), [5000, 7000]),
        ("s", pa.array([1.5, -2.25]), [1_500_000_000, -2_250_000_000]),
        ("iso", pa.array(["2026-01-02T14:30:00.25Z", "1970-01-01"]), [1767364200250000000, 0]),
    ],
)
async def test_numbers_and_text_have_the_time_unit(tmp_path: Path, unit: str, values: Any, expected: list[int]) -> None:
    rows, dead = await everything(Replay(write(tmp_path / "t.arrow", {**BASE, "ts_event": values}), time_unit=unit))
    assert ([row.ts_event for row in rows], dead) == (expected, [])


@pytest.mark.parametrize(
    "values",
    [
        pa.array([Decimal("0.1"), Decimal("123456789.123456789")], pa.decimal128(38, 18)),
        pa.array([Decimal("0.1"), Decimal("-7.05")], pa.decimal256(40, 4)),
        pa.array([0.1, 3.5], pa.float32()),
        pa.array([1, 2**40], pa.int64()),
        pa.array(["0.1", "1e5"]),
        pa.array([0.1, 2.5]).dictionary_encode(),
    ],
)
async def test_prices(tmp_path: Path, values: Any) -> None:
    rows, dead = await everything(Replay(write(tmp_path / "t.parquet", {**BASE, "price": values})))
    assert ([row.price for row in rows], dead) == ([float(value) for value in values.to_pylist()], [])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.decimals(-(10**12), 10**12, places=9), min_size=1, max_size=20))
def test_a_decimal_becomes_the_nearest_float_or_its_text(
    tmp_path_factory: pytest.TempPathFactory, prices: list[Decimal]
) -> None:
    n = len(prices)
    columns = {
        "symbol": ["A"] * n,
        "ts_event": list(range(n)),
        "price": pa.array(prices, pa.decimal128(24, 9)),
        "size": [1.0] * n,
    }
    path = write(tmp_path_factory.mktemp("decimals") / "t.parquet", columns)
    rows, dead = asyncio.run(everything(Replay(path)))
    assert ([row.price for row in rows], dead) == ([float(price) for price in prices], [])
    rows, dead = asyncio.run(everything(Replay(path, exact=True)))
    assert [Decimal(row.price) for row in rows] == prices
    assert all(isinstance(row.price, str) and row.price == format(p, "f") for row, p in zip(rows, prices, strict=True))


async def test_exact_leaves_floats_in_columns(tmp_path: Path) -> None:
    (batch,) = await batches(Replay(write(tmp_path / "t.parquet", BASE), exact=True))
    assert isinstance(batch.items, Columns)


@pytest.mark.parametrize(
    ("column", "values", "reasons"),
    [
        ("price", [1.0, None, float("nan"), float("inf"), 2.0], ["missing", "nan", "inf"]),
        ("ts_event", [1, None, None, None, 2], ["missing"] * 3),
        ("ts_event", pa.array([1, 2**62, None, -(2**62), 2], pa.timestamp("us")), ["64 bits", "missing", "64 bits"]),
        ("symbol", ["A", None, "", "", "B"], ["missing", "empty", "empty"]),
        ("side", ["buy", "both", "x", "?", None], ["both", "'x'", "?"]),
        ("price", ["1", "a", "", None, "2"], ["'a'", "empty", "missing"]),
        ("symbol", pa.array(["A", None, "", None, "B"]).dictionary_encode(), ["missing", "empty", "missing"]),
        ("size", pa.array([1, 2, 3, 4, 5], pa.float64()), []),
        ("trade_id", pa.array([2**63, 2**64 - 1, 1, 2, 3], pa.uint64()), []),
        ("trade_id", pa.array([1.0, 2.5, None, 3.0, None]), ["id", "id", "id"]),
    ],
)
@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
async def test_a_row_that_cannot_be_used_is_a_dead_letter_with_its_row(
    tmp_path: Path, name: str, column: str, values: Any, reasons: list[str]
) -> None:
    base = {"symbol": list("ABCDE"), "ts_event": [1, 2, 3, 4, 5], "price": [1.0] * 5, "size": [1.0] * 5, "n": range(5)}
    path = write(tmp_path / name, {**base, column: values}, group=2)
    source = Replay(path, batch_items=3)
    rows, dead = await everything(source)
    table = pa.table({**base, column: values})
    bad = [int(letter.where.split(":")[1]) for letter in dead if letter.where]
    assert len(rows) == 5 - len(bad)
    assert len(dead) == len(reasons)
    for letter, reason in zip(dead, reasons, strict=True):
        assert column in letter.reason
        assert reason in letter.reason
        assert letter.node == "src"
    assert bad == sorted(bad)
    good = [n for n in range(5) if n + 1 not in bad]
    if column not in ("ts_event", "symbol"):
        assert [row.symbol for row in rows] == [table["symbol"][n].as_py() for n in good]
    await check_resume(source)


async def test_columns_are_mapped_and_a_symbol_is_given(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"T": [5], "p": [1.5], "q": [2], "junk": ["z"]})
    source = Replay(path, columns={"ts_event": "T", "price": "p", "size": "q"}, symbol="BTC")
    source.check()
    assert await everything(source) == ([Trade("BTC", 5, 0, 1.5, 2.0)], [])
    with pytest.raises(SourceError, match=r"t\.parquet: no column 'ts_event'; it has: T, p, q, junk"):
        Replay(path, symbol="BTC").check()
    arrow = write(tmp_path / "t.arrow", {"T": [5]})
    with pytest.raises(SourceError, match=r"t\.arrow: no column 'symbol'; it has: T"):
        Replay(arrow).check()


async def test_plain_rows(tmp_path: Path) -> None:
    columns = {
        "a": [1, None], "at": pa.array([1, None], pa.timestamp("ms")), "d": [Decimal("1.10"), None], "l": [[1, 2], []],
        "t": [datetime(2026, 1, 2), None], "s": ["x", "y"],
    }  # fmt: skip
    path = write(tmp_path / "t.parquet", columns)
    first = {"a": 1, "at": 10**6, "d": 1.1, "l": [1, 2], "t": 1767312000 * 10**9, "s": "x"}
    second = {"a": None, "at": None, "d": None, "l": [], "t": None, "s": "y"}
    assert await everything(Replay(path, kind="rows", time_unit="iso")) == ([first, second], [])
    assert (await everything(Replay(path, kind="rows", exact=True)))[0] == [{**first, "d": "1.10"}, second]


async def test_row_groups_outside_the_range_are_not_read(tmp_path: Path) -> None:
    n = 1000
    columns = {
        "symbol": ["A"] * n,
        "ts_event": pa.array(range(n), pa.timestamp("us")),
        "price": [1.0] * n,
        "size": [1.0] * n,
    }
    path = write(tmp_path / "t.parquet", columns, group=100)
    raw = bytearray(path.read_bytes())
    meta = pq.ParquetFile(path).metadata
    for group in (0, 1, 7, 9):  # spoil their pages: who reads them fails
        column = meta.row_group(group).column(2)
        at = column.dictionary_page_offset or column.data_page_offset
        raw[at : at + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(raw)
    counted = Counted()
    source = Replay(path, start=250_000, end=650_000, batch_items=64)
    assert [row.ts_event for row in rows_of(await batches(source, counted=counted))] == [
        k * 1000 for k in range(250, 650)
    ]
    assert counted["out_of_range"] == 600
    with pytest.raises(SourceError, match=r"t\.parquet: cannot be read"):
        await everything(Replay(path))


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "stream.arrow"])
async def test_damaged_files_are_told(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, table_of(some_trades(2000)).to_dict(as_series=False), group=200)
    whole = path.read_bytes()
    for share in (0.0, 0.01, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(SourceError, match=f"{name}: cannot be read"):
            await everything(Replay(path))
    path.unlink()
    with pytest.raises(SourceError, match=f"{name}: no such file"):
        Replay(path).check()


@pytest.mark.parametrize(
    ("module", "name", "line"),
    [
        (
            "pyarrow",
            "t.parquet",
            r"Replay of \.parquet files needs the extra parquet \(pyarrow is missing\): PIP\[parquet\]'",
        ),
        (
            "pyarrow",
            "t.feather",
            r"Replay of \.arrow and \.feather files needs the extra parquet \(pyarrow is missing\): PIP\[parquet\]'",
        ),
        (
            "databento_dbn",
            "t.dbn",
            r"Replay of \.dbn files needs the extra databento \(databento_dbn is missing\): PIP\[databento\]'",
        ),
        (
            "zstandard",
            "t.csv.zst",
            r"Replay of t\.csv\.zst needs the extra databento \(zstandard is missing\): PIP\[databento\]'",
        ),
    ],
)
def test_a_missing_extra_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, name: str, line: str
) -> None:
    line = line.replace("PIP", "pip install 'market-data-pipeline")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=line):
        Replay(name)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ConfigError, match=line):
        Replay(tmp_path).check()


async def test_a_large_row_group_is_read_in_pieces(tmp_path: Path) -> None:
    n = 150_000
    ts = np.arange(n)
    path = write(
        tmp_path / "t.parquet",
        {"symbol": np.where(ts % 2, "A", "B"), "ts_event": ts, "price": ts / 8, "size": ts / 1},
        n,
    )
    source = Replay(path, batch_items=50_000)
    found = await batches(source)
    assert [len(batch.items) for batch in found] == [50_000] * 3
    assert [row.ts_event for row in rows_of(await batches(source, found[1].position))] == list(range(100_000, n))


@needs_data
async def test_the_recorded_trades_are_the_same_in_every_format(tmp_path: Path) -> None:
    path = DATA / "trades_crypto.jsonl.gz"
    with gzip.open(path) as file:
        table = pl.read_ndjson(file.read(), infer_schema_length=None)
    table.write_parquet(tmp_path / "t.parquet", row_group_size=3000)
    table.write_ipc(tmp_path / "t.arrow", record_batch_size=3000)
    wanted = ("symbol", "ts_event", "ts_recv", "price", "size", "side", "trade_id", "phase")
    expected = [
        Trade(symbol, ts, recv, float(price), float(size), side, trade_id, phase=phase)
        for symbol, ts, recv, price, size, side, trade_id, phase in table.select(wanted).iter_rows()
    ]
    assert len(expected) == 19_022
    for source in (path, tmp_path / "t.parquet", tmp_path / "t.arrow"):
        assert await everything(Replay(source, max_delay=None)) == (expected, [])
    rows, dead = await everything(Replay(tmp_path / "t.parquet", max_delay=None, exact=True))
    assert not dead
    assert [row.price for row in rows] == table["price"].to_list()


@needs_data
async def test_the_recorded_quotes_merged_with_themselves(tmp_path: Path) -> None:
    table = pl.read_csv(DATA / "quotes_crypto.csv.gz", infer_schema=False).filter(pl.col("ts_event") != "")
    numbers = [pl.col(name).cast(pl.Float64) for name in ("bid", "bid_size", "ask", "ask_size")]
    table = table.with_columns(pl.col("ts_event", "ts_recv").cast(pl.Int64), *numbers).sort(
        "ts_event", maintain_order=True
    )
    for n, (_, part) in enumerate(table.group_by("symbol", maintain_order=True)):
        part.write_parquet(tmp_path / f"{n:02}.parquet", row_group_size=256)
    rows, dead = await everything(Replay(tmp_path, kind="quote"))
    assert not dead
    assert [row.ts_event for row in rows] == table["ts_event"].to_list()
    columns = ("symbol", "ts_event", "bid", "ask", "update_id")
    assert sorted((r.symbol, r.ts_event, r.bid, r.ask, r.update_id) for r in rows) == sorted(
        (*row[:4], row[4] or "") for row in table.select(columns).iter_rows()
    )


async def test_files_are_written_by_the_tools_as_they_are_read(tmp_path: Path) -> None:
    """The tools that other tests use are true."""
    trades = some_trades(40)
    for suffix in ("csv", "jsonl", "parquet", "arrow"):
        assert await everything(Replay(write_trades(tmp_path / f"t.{suffix}", trades))) == (trades, [])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("exact", [False, True])
async def test_a_negative_size_is_a_bad_row(tmp_path: Path, name: str, exact: bool) -> None:
    path = write(tmp_path / name, {**BASE, "price": [-1.5, 2.5], "size": [0.0, -4.0]})
    rows, letters = await everything(Replay(path, exact=exact))
    assert [(row.symbol, row.price, row.size) for row in rows] == [("A", -1.5, 0.0)]
    assert [letter.reason for letter in letters] == ["size: -4.0 is not a finite number of at least 0"]
