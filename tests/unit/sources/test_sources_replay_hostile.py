"""Replay of files that mean harm: one bad row, or header, costs no more than itself, and says what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tools.replayed import everything

from market_data_pipeline.errors import RecordError, SourceError
from market_data_pipeline.sources.replay import Replay
from market_data_pipeline.sources.rows import RowParser

HEADER = "symbol,ts_event,price,size\n"


@pytest.mark.parametrize("time", ["1e9999999", "-1e9999999", "1e20", "1e300000"])
async def test_a_time_that_no_int_can_hold_costs_its_row_only(tmp_path: Path, time: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{HEADER}A,1,1,1\nA,{time},1,1\nA,1.5e0,1,1\nA,2e0,1,1\n")
    rows, letters = await everything(Replay(path))
    assert [row.ts_event for row in rows] == [1, 1, 2]
    assert [(letter.where, f"ts_event: '{time}' is not an integer" in letter.reason) for letter in letters] == [
        ("a.csv:3", True)
    ]


@pytest.mark.parametrize("options", [{}, {"kind": "rows"}])
async def test_a_lone_surrogate_is_no_text_with_exact_too(tmp_path: Path, options: dict[str, Any]) -> None:
    """It could not travel; so it is told where it stands, as without exact."""
    path = tmp_path / "a.jsonl"
    good = '{"symbol": "\\u00c4\\ud83d\\ude00", "ts_event": 2, "price": "1.50", "size": "1"}\n'
    path.write_text(good.replace("\\u00c4", "\\ud800") + good)
    rows, letters = await everything(Replay(path, exact=True, **options))
    assert len(rows) == 1
    assert [letter.where for letter in letters] == ["a.jsonl:1"]
    assert "not valid JSON" in letters[0].reason


@pytest.mark.parametrize(
    "content",
    [HEADER.replace("\n", "\r") + "A,1,1,1\r", '"' + HEADER + "A,1,1,1\n" * 20_000, "x" * 200_000 + "\nA,1,1,1\n"],
    ids=["old line ends", "open quote", "huge"],
)
async def test_a_header_that_is_no_csv_is_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode())
    with pytest.raises(SourceError, match=r"a\.csv: its header is not valid CSV: "):
        Replay(path).check()
    with pytest.raises(SourceError, match=r"a\.csv: its header is not valid CSV: "):
        await everything(Replay(path))
    with pytest.raises(SourceError, match=r"a\.csv: its header is not valid CSV: "):
        await everything(Replay([path]))


async def test_a_nested_time_outside_of_pythons_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"at": pa.array([[2**62]], pa.list_(pa.timestamp("us")))}), path)
    with pytest.raises(SourceError, match=r"a\.parquet: cannot be read: "):
        await everything(Replay(path, kind="rows"))


@pytest.mark.parametrize("exact", [False, True])
async def test_a_negative_size_costs_its_row_only(tmp_path: Path, exact: bool) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{HEADER}A,1,-5,0\nA,2,1,-0.5\nA,3,1,-0\n")
    rows, letters = await everything(Replay(path, exact=exact))
    assert [(float(row.price), float(row.size)) for row in rows] == [(-5.0, 0.0), (1.0, 0.0)]
    assert [(letter.where, letter.reason) for letter in letters] == [
        ("a.csv:3", "size: '-0.5' is not a finite number of at least 0")
    ]


@pytest.mark.parametrize(
    ("kind", "row", "field"),
    [
        ("quote", {"bid": 1, "bid_size": -1, "ask": 2, "ask_size": 1}, "bid_size"),
        ("quote", {"bid": 1, "bid_size": 1, "ask": 2, "ask_size": -1}, "ask_size"),
        ("bar", {"ts_open": 1, "ts_close": 2, "open": 1, "high": 1, "low": 1, "close": 1, "volume": -1}, "volume"),
    ],
)
def test_sizes_of_quotes_and_bars_are_not_negative_either(kind: str, row: dict[str, Any], field: str) -> None:
    parser = RowParser(kind, None, "ns", "A")
    with pytest.raises(RecordError, match=f"{field}: -1 is not a finite number of at least 0"):
        parser.parse({"ts_event": 1, **row})


async def test_iso_times_without_their_unit_are_told_what_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{HEADER}A,2026-01-02T14:30:00Z,1,1\nA,soon,1,1\n")
    rows, letters = await everything(Replay(path))
    assert rows == []
    assert [letter.reason for letter in letters] == [
        "ts_event: '2026-01-02T14:30:00Z' is not an integer (time_unit=\"iso\" reads it)",
        "ts_event: 'soon' is not an integer (not a number)",
    ]
    rows, letters = await everything(Replay(path, time_unit="iso"))
    assert [row.ts_event for row in rows] == [1767364200_000000000]
    assert [letter.reason for letter in letters] == ["ts_event: 'soon' is not an ISO 8601 time"]


def test_the_hint_for_a_missing_column_names_the_field(tmp_path: Path) -> None:
    csv, parquet = tmp_path / "a.csv", tmp_path / "a.parquet"
    csv.write_text("symbol,when,price,size\nA,1,1,1\n")
    pq.write_table(pa.table({"symbol": ["A"], "when": [1], "price": [1.0], "size": [1.0]}), parquet)
    for path in (csv, parquet):
        with pytest.raises(SourceError, match=r"no column 'time'; .*columns=\{'ts_event': '...'\}"):
            Replay(path, columns={"ts_event": "time"}).check()
