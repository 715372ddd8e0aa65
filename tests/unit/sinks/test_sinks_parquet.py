"""Parquet files: exactly once through crashes at every point, and what readers of other makes find there."""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.small_disk import SmallDisk

from market_data_pipeline import Batcher, DagRuntime, ParquetFiles, Pipeline, Synthetic
from market_data_pipeline.errors import ConfigError, CorruptState, SinkError
from market_data_pipeline.frame import Columns, Dictionary, Frame, columns_from_rows
from market_data_pipeline.packing import pack, unpack
from market_data_pipeline.records import SIDES, Bar, Gap, Quote, Trade, Window
from market_data_pipeline.sinks.base import SinkContext
from market_data_pipeline.sinks.compaction import Compaction, Limits, plan
from market_data_pipeline.sinks.parquet import sweep_done
from market_data_pipeline.sinks.staging import STAGING

DAY = 86_400_000_000_000
ODD_SYMBOLS = ["../x", "BRK/B", "A\0B", "x" * 300, "..", "", "*", "é€😀", "a b", "date=2020-01-01"]


def context(epoch: int, **more: Any) -> SinkContext:
    return SinkContext("out", "0123456789abcdef", 0, epoch, f"owner{epoch}")._replace(**more)


def trades(start: int, stop: int, day: int = 0) -> Frame:
    return Frame([Trade(f"S{n % 3}", day * DAY + n, n, float(n), 1.0, "buy", n) for n in range(start, stop)])


def visible(folder: Path) -> list[int]:
    """The ids of the trades that a reader sees."""
    found: list[int] = []
    for path in folder.glob("table=trades/date=*/*.parquet"):
        rows = pq.read_table(path, partitioning=None).to_pylist()
        assert [(row["symbol"], row["ts_event"]) for row in rows] == sorted(
            (row["symbol"], row["ts_event"]) for row in rows
        )
        found += [int(row["trade_id"]) for row in rows]
    return sorted(found)


async def opened(folder: Path, epoch: int, state: Any = None, **arguments: Any) -> ParquetFiles:
    sink = ParquetFiles(folder, **{"keep_staged": "0s", **arguments})
    await sink.open(context(epoch), state)
    return sink


async def step(sink: ParquetFiles, items: Frame, ended: bool = False) -> Any:
    await sink.write([items])
    state = unpack(pack(await sink.prepare(ended)))
    await sink.committed()
    return state


def staged(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / STAGING).iterdir())


# --- what readers find ------------------------------------------------------------------------------------------

TRADE = Trade("B", 5, 6, 1.5, 2.0, "buy", "x", "odd", "correct", 12, "V", "snapshot")
QUOTE = Quote("Q", DAY + 7, 8, 1.0, 2.0, 3.0, 4.0, 9)
BAR = Bar("A", 3 * DAY, 3 * DAY + 60, 1.0, 4.0, 0.5, 2.0, 10.0, 1.25, 3, 3 * DAY + 60, 4.0, 5.0, 2, False, True)
GAP = Gap("G", 1, 5, 5, 2 * DAY)


async def test_polars_and_duckdb_read_every_table(tmp_path: Path) -> None:
    sink = await opened(tmp_path, 1)
    await step(sink, Frame([TRADE, QUOTE, BAR, GAP, TRADE._replace(symbol="A", trade_id=3)]), ended=True)
    frame = pl.read_parquet(tmp_path / "table=trades", hive_partitioning=True)
    text = {"trade_id": "3", "ref_trade_id": "12"}
    assert frame.drop("date", "table", strict=False).to_dicts() == [
        {**TRADE._asdict(), **text, "symbol": "A"},
        {**TRADE._asdict(), **text, "trade_id": "x"},
    ]
    assert frame["date"].cast(pl.String).to_list() == ["1970-01-01"] * 2
    for table, record, date in (
        ("quotes", QUOTE, "1970-01-02"),
        ("bars", BAR, "1970-01-04"),
        ("gaps", GAP, "1970-01-03"),
    ):
        files = f"{tmp_path}/table={table}/*/*.parquet"
        found = duckdb.sql(f"SELECT * FROM read_parquet('{files}', hive_partitioning = true)")
        (row,) = found.fetchall()
        expected = [str(v) if name == "update_id" else v for name, v in record._asdict().items()]
        assert list(row)[: len(expected)] == expected
        assert found.columns[: len(expected)] == list(record._fields)
        assert f"date={date}" in str(next((tmp_path / f"table={table}").rglob("*.parquet")))


async def test_a_file_says_its_schema_its_order_and_its_statistics(tmp_path: Path) -> None:
    sink = await opened(tmp_path, 1)
    await step(sink, trades(0, 10), ended=True)
    (path,) = tmp_path.rglob("*.parquet")
    file = pq.ParquetFile(path)
    assert file.metadata.metadata[b"mdp.schema"] == b"1"
    assert file.metadata.metadata[b"mdp.table"] == b"trades"
    assert file.schema_arrow.field("ts_event").type == "int64"
    group = file.metadata.row_group(0)
    assert [order.column_index for order in group.sorting_columns] == [0, 1]
    assert (group.column(0).statistics.min, group.column(0).statistics.max) == ("S0", "S2")
    assert (group.column(1).statistics.min, group.column(1).statistics.max) == (0, 9)
    assert group.column(0).compression == "ZSTD"
    assert "RLE_DICTIONARY" in group.column(0).encodings


async def test_statistics_name_only_symbols_that_are_in_the_file(tmp_path: Path) -> None:
    columns, _ = columns_from_rows(trades(0, 9).items)  # type: ignore[arg-type]
    named = columns.dictionary("symbol")
    wide = Dictionary(named.codes + 1, ("A", *named.names, "Z"))
    sink = await opened(tmp_path, 1)
    await step(sink, Frame(Columns("trade", {**columns.data, "symbol": wide})), ended=True)
    (path,) = tmp_path.rglob("*.parquet")
    statistics = pq.ParquetFile(path).metadata.row_group(0).column(0).statistics
    assert (statistics.min, statistics.max) == ("S0", "S2")


rows = st.lists(
    st.builds(
        Trade,
        st.sampled_from(["A", "b", "", "é"]),
        st.integers(-3 * DAY, 3 * DAY),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        st.floats(allow_nan=False),
        st.sampled_from(SIDES),
        st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
        conditions=st.just(""),
        action=st.just("new"),
        ref_trade_id=st.sampled_from(["", 5]),
        venue=st.sampled_from(["", "V"]),
        phase=st.just("live"),
    ),
    max_size=30,
)


@settings(max_examples=30)
@given(st.lists(rows, max_size=4), st.booleans())
async def test_what_goes_in_comes_out_sorted(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any], cols: bool
) -> None:
    folder = tmp_path_factory.mktemp("out")
    sink = await opened(folder, 1, roll_bytes=400, open_parts=2)
    for batch in steps:
        await step(sink, Frame(columns_from_rows(batch)[0] if cols and batch else batch))
    await step(sink, Frame([]), ended=True)
    found = []
    for path in folder.rglob("*.parquet"):
        held = [Trade(**row) for row in pq.read_table(path, partitioning=None).to_pylist()]
        assert held == sorted(held, key=lambda trade: (trade.symbol, trade.ts_event))
        day = pl.Series([held[0].ts_event // DAY]).cast(pl.Int32).cast(pl.Date).cast(pl.String)[0]
        assert path.parent.name == f"date={day}"
        assert {trade.ts_event // DAY for trade in held} == {held[0].ts_event // DAY}
        found += held
    given_rows = [
        trade._replace(trade_id=str(trade.trade_id), ref_trade_id=str(trade.ref_trade_id))
        for batch in steps
        for trade in batch
    ]
    assert sorted(map(repr, found)) == sorted(map(repr, given_rows))
    assert staged(folder) == []


async def test_lists_of_a_batcher_and_a_whole_pipeline(tmp_path: Path) -> None:
    pipeline = (
        Pipeline("all")
        .source(Synthetic(symbols=7, items=3000))
        .key_by("symbol")
        .operator(Batcher(100), "batches")
        .sink(ParquetFiles(tmp_path))
    )
    await DagRuntime(pipeline).start()
    frame = pl.read_parquet(tmp_path / "table=trades")
    assert frame["trade_id"].n_unique() == len(frame) == 3000
    assert staged(tmp_path) == []


async def test_symbols_never_become_part_of_a_path(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    sink = await opened(folder, 1)
    await step(sink, Frame([Trade(symbol, 1, 2, 3.0, 4.0) for symbol in ODD_SYMBOLS]), ended=True)
    (path,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert path.parent == folder / "table=trades" / "date=1970-01-01"
    assert sorted(pq.read_table(path, partitioning=None)["symbol"].to_pylist()) == sorted(ODD_SYMBOLS)


async def test_bad_items_never_take_good_ones_with_them(tmp_path: Path) -> None:
    refused: list[Any] = []
    sink = ParquetFiles(tmp_path, keep_staged="0s")
    await sink.open(context(1, reject=lambda item, reason: refused.append((item, reason))), None)
    bad = [
        {"symbol": "A"},
        Window("A", 0, 1, []),
        Trade("A", "soon", 0, 1.0, 1.0),  # type: ignore[arg-type]
        Trade("A", 2**70, 0, 1.0, 1.0),
        Trade("\ud800", 1, 0, 1.0, 1.0),
        Trade("A", 1, 0, 1.0, 1.0, "both"),
        Gap("A", 2**70, 0, 0, 0),
    ]
    good = [Trade("A", 1, 0, 1.0, 1.0, trade_id=1), Gap("A", 1, 2, 2, 5)]
    await step(sink, Frame([good[0], *bad, good[1]]), ended=True)
    assert visible(tmp_path) == [1]
    assert len(list(tmp_path.glob("table=gaps/*/*.parquet"))) == 1
    assert sorted(repr(item) for item, _ in refused) == sorted(map(repr, bad))


async def test_codes_that_mean_nothing_are_refused_before_they_are_staged(tmp_path: Path) -> None:
    columns, _ = columns_from_rows(trades(0, 4).items)  # type: ignore[arg-type]
    sides = np.array([1, 7, 2, 0], np.int8)
    symbols = Dictionary(np.array([0, 9, 0, 0], np.uint32), ("A",))
    for name, bad in (("side", sides), ("symbol", symbols)):
        sink = await opened(tmp_path, 1)
        with pytest.raises(IndexError):
            await sink.write([Frame(Columns("trade", {**columns.data, name: bad}))])
        state = await step(sink, trades(0, 2))
        assert [part["table"] for part in state["parts"]] == ["trades"]


async def test_a_relative_folder_may_have_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("bars:2024 #1%20?")
    for n in range(2):
        sink = ParquetFiles(folder, keep_staged="0s")
        await sink.open(context(1, partition=n), None)
        await step(sink, trades(n, n + 1), ended=True)
    limits = Limits(1_000_000, 0.0, datetime.date(2000, 1, 1))
    with Compaction(folder) as compaction:
        (merge,) = plan(folder, limits)
        assert compaction.run(merge).rows == 2
    assert visible(tmp_path / folder) == [0, 1]


# --- when files are finished ------------------------------------------------------------------------------------


async def test_nothing_is_visible_before_it_is_sealed_and_all_of_it_after(tmp_path: Path) -> None:
    sink = await opened(tmp_path, 1)
    await step(sink, trades(0, 5))
    assert not sink.due()
    assert visible(tmp_path) == []
    await step(sink, trades(5, 9), ended=True)
    assert visible(tmp_path) == list(range(9))
    assert len(list(tmp_path.rglob("*.parquet"))) == 1
    assert staged(tmp_path) == []


@pytest.mark.parametrize("arguments", [{"roll_bytes": 1}, {"roll_interval": "1ns"}])
async def test_a_file_is_finished_when_it_is_full_or_old(tmp_path: Path, arguments: Any) -> None:
    sink = await opened(tmp_path, 1, **arguments)
    for n in range(3):
        await step(sink, trades(n, n + 1))
    assert visible(tmp_path) == [0, 1, 2]
    assert len(list(tmp_path.rglob("*.parquet"))) == 3


async def test_of_too_many_open_parts_the_one_unused_for_longest_is_finished(tmp_path: Path) -> None:
    sink = await opened(tmp_path, 1, open_parts=2)
    await step(sink, trades(0, 1, day=0))
    await step(sink, trades(1, 2, day=1))
    await step(sink, trades(2, 3, day=0))
    state = await step(sink, trades(3, 4, day=2))
    assert visible(tmp_path) == [1]
    assert [part["date"] for part in state["parts"]] == ["1970-01-01", "1970-01-03"]
    await step(sink, trades(4, 5, day=1))  # late: its date's part is opened again
    await step(sink, Frame([]), ended=True)
    assert visible(tmp_path) == [0, 1, 2, 3, 4]
    assert len(list(tmp_path.glob("*/date=1970-01-02/*.parquet"))) == 2


async def test_a_step_over_more_dates_than_may_be_open(tmp_path: Path) -> None:
    sink = await opened(tmp_path, 1, open_parts=3)
    state = await step(sink, Frame([Trade("A", n * DAY, 0, 1.0, 1.0, trade_id=n) for n in range(10)]))
    assert len(state["parts"]) == 3
    assert visible(tmp_path) == list(range(7))


# --- crashes ----------------------------------------------------------------------------------------------------

CRASHES = ["before write", "before prepare", "between prepare and commit", "between commit and rename", "after"]


@pytest.mark.parametrize("roll_bytes", [1, 700, 100_000], ids=["each step a file", "some", "one file"])
@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("crash", CRASHES)
@pytest.mark.parametrize("epoch", [1, 2], ids=["reload", "takeover"])
async def test_a_crash_at_any_point_loses_nothing_and_doubles_nothing(
    tmp_path: Path, crash: str, ended: bool, roll_bytes: int, epoch: int
) -> None:
    first = await opened(tmp_path, 1, roll_bytes=roll_bytes)
    await step(first, trades(0, 4))
    state = await step(first, trades(4, 6, day=1))
    done = 6
    if crash != "before write":
        await first.write([trades(6, 9)])
    if crash not in CRASHES[:2]:
        prepared = unpack(pack(await first.prepare(ended)))
        if crash in CRASHES[3:]:
            state, done = prepared, 9
        if crash == "after":
            await first.committed()
    second = await opened(tmp_path, epoch, state, roll_bytes=roll_bytes)
    assert len(set(visible(tmp_path))) == len(visible(tmp_path))
    await step(second, trades(done, 12))
    await step(second, Frame([]), ended=True)
    assert visible(tmp_path) == list(range(12))
    await step(second, Frame([]), ended=True)
    assert [name for name in staged(tmp_path) if not name.startswith("done-")] == []


async def test_a_zombie_that_goes_on_writing_is_never_seen(tmp_path: Path) -> None:
    zombie = await opened(tmp_path, 1)
    state = await step(zombie, trades(0, 4))
    await zombie.write([trades(100, 103)])
    owner = await opened(tmp_path, 2, state)
    state = await step(owner, trades(4, 6))
    with contextlib.suppress(SinkError, CorruptState):
        await zombie.prepare(True)
    await step(owner, trades(6, 8), ended=True)
    assert visible(tmp_path) == list(range(8))


@pytest.mark.parametrize("epoch", [1, 2], ids=["same owner", "another"])
async def test_a_server_that_was_rolled_back_finds_the_rows_of_finished_files_again(tmp_path: Path, epoch: int) -> None:
    first = await opened(tmp_path, 1, keep_staged="1h")
    state = await step(first, trades(0, 3))
    await step(first, trades(3, 5), ended=True)
    await step(first, trades(5, 9), ended=True)
    assert visible(tmp_path) == list(range(9))
    again = await opened(tmp_path, epoch, state, keep_staged="1h")
    await step(again, trades(3, 7), ended=True)
    assert visible(tmp_path) == list(range(7))


async def test_a_server_that_forgot_a_takeover_and_a_seal_finds_the_new_owners_rows(tmp_path: Path) -> None:
    first = await opened(tmp_path, 1, keep_staged="1h")
    state = await step(first, trades(0, 3))
    second = await opened(tmp_path, 2, state, keep_staged="1h")
    await step(second, trades(3, 5), ended=True)
    for path in (tmp_path / STAGING).glob("*.e1-*"):
        path.unlink()
    third = await opened(tmp_path, 3, state, keep_staged="1h")
    await step(third, trades(3, 7), ended=True)
    assert visible(tmp_path) == list(range(7))


async def test_rows_of_finished_files_are_kept_for_a_while_only(tmp_path: Path) -> None:
    first = await opened(tmp_path, 1, keep_staged="60s")
    await step(first, trades(0, 3), ended=True)
    (kept,) = (tmp_path / STAGING).iterdir()
    sweep_done(kept.parent, 60.0)
    assert kept.exists()
    os.utime(kept, (time.time() - 61,) * 2)
    other = ParquetFiles(tmp_path)
    await other.open(context(1, node="other"), None)
    await step(other, trades(3, 5), ended=True)
    assert not kept.exists(), "whoever finishes a file takes away what is old"


async def test_a_full_disk_gets_the_rows_of_finished_files_back(tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path / "disk", 16)
    try:
        folder = disk.path / "out"
        first = await opened(folder, 1, roll_bytes=1, keep_staged="60s")
        state = await step(first, trades(0, 3))
        (kept,) = (folder / STAGING).iterdir()
        os.utime(kept, (time.time() - 61,) * 2)
        with disk.full():
            await first.write([trades(3, 5)])
            with pytest.raises(SinkError, match="space"):
                await first.prepare(False)
            assert not kept.exists(), "it would be full for ever"
        again = await opened(folder, 1, state)
        await step(again, trades(3, 5), ended=True)
        assert visible(folder) == list(range(5))
    finally:
        disk.close()


async def test_rows_that_are_gone_short_or_broken_are_corrupt(tmp_path: Path) -> None:
    first = await opened(tmp_path, 1)
    state = await step(first, trades(0, 4))
    (path,) = (tmp_path / STAGING).iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(CorruptState, match="bytes were committed"):
        await opened(tmp_path, 2, state)
    path.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    sink = await opened(tmp_path, 2, state)
    with pytest.raises(CorruptState, match=r"at byte 0: .*checksum"):
        await sink.prepare(True)
    for copy in (tmp_path / STAGING).iterdir():
        copy.unlink()
    with pytest.raises(CorruptState, match="the file is gone"):
        await opened(tmp_path, 3, state)


async def test_partitions_share_a_folder(tmp_path: Path) -> None:
    for partition in range(3):
        sink = ParquetFiles(tmp_path, keep_staged="0s")
        await sink.open(context(1, partition=partition), None)
        await step(sink, trades(partition, partition + 1), ended=True)
    assert visible(tmp_path) == [0, 1, 2]


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"compression": "zip"}, "compression: 'zip' is not allowed; choose from zstd"),
        ({"roll_bytes": 0}, "roll_bytes: 0 must be at least 1"),
        ({"open_parts": 0}, "open_parts: 0 must be at least 1"),
        ({"roll_interval": "0s"}, "roll_interval"),
    ],
)
def test_arguments_are_checked(tmp_path: Path, arguments: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ParquetFiles(tmp_path, **arguments)


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(SinkError, match="output folder"):
        ParquetFiles(tmp_path / "out").check()


async def test_a_new_job_is_told_of_files_that_other_runs_have_there(tmp_path: Path) -> None:
    assert ParquetFiles(tmp_path / "new").others() == []
    former = await opened(tmp_path, 1, keep_staged="60s")
    await step(former, trades(0, 3))
    assert ParquetFiles(tmp_path).others() == [
        f"output folder {tmp_path} holds 1 file unfinished by another run, which was killed or writes there now"
    ]
    await step(former, trades(3, 6), ended=True)
    assert any(name.startswith("done-") for name in staged(tmp_path)), (
        "rows that stay for a while are no unfinished file"
    )
    assert ParquetFiles(tmp_path).others() == [
        f"output folder {tmp_path} holds 1 file of other runs already; they stay beside the new ones"
    ]
