"""Merging Parquet files: the rows stay the same, wherever it is cut off, and whatever jobs do meanwhile."""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from market_data_pipeline import ParquetFiles
from market_data_pipeline.cli import main
from market_data_pipeline.errors import ConfigError, SinkError
from market_data_pipeline.frame import Frame
from market_data_pipeline.records import Bar, Gap, Quote, Trade
from market_data_pipeline.sinks import compaction
from market_data_pipeline.sinks.base import SinkContext
from market_data_pipeline.sinks.compaction import COMPACTING, Compaction, Limits, plan
from market_data_pipeline.sinks.parquet_format import TABLES
from market_data_pipeline.sinks.parquet_merge import content_of

DAY = 86_400_000_000_000
LIMITS = Limits(1 << 27, 0.0, date(2020, 1, 1))


async def write(folder: Path, *steps: list[Any], job: str = "aaaaaaaa") -> None:
    """Each step becomes a file."""
    sink = ParquetFiles(folder, roll_bytes=1, keep_staged="0s")
    await sink.open(SinkContext("out", job, epoch=1), None)
    for items in steps:
        await sink.write([Frame(items)])
        await sink.prepare(False)
        await sink.committed()


def trade(n: int, day: int = 0) -> Trade:
    return Trade(f"S{n % 3}", day * DAY + n * 7919 % 1000, n, float(n), 1.0, "sell", n, venue=f"V{n % 2}")


def small(count: int, day: int = 0) -> list[list[Any]]:
    return [[trade(2 * n, day), trade(2 * n + 1, day)] for n in range(count)]


def files(folder: Path, table: str = "trades") -> list[Path]:
    return sorted(folder.glob(f"table={table}/date=*/*.parquet"))


def rows(folder: Path, table: str = "trades") -> list[Any]:
    found = [
        tuple(row.values())
        for path in files(folder, table)
        for row in pq.read_table(path, partitioning=None).to_pylist()
    ]
    return sorted(found)


def merge_all(folder: Path, limits: Limits = LIMITS, step: Any = lambda name: None) -> list[Any]:
    with Compaction(folder, step=step) as work:
        return [work.run(merge) for merge in plan(folder, limits)]


async def test_small_parts_become_one_sorted_file_with_the_same_rows(tmp_path: Path) -> None:
    await write(tmp_path, *small(20))
    before = rows(tmp_path)
    (done,) = merge_all(tmp_path)
    assert (done.files, done.files_after, done.rows) == (20, 1, 40)
    assert rows(tmp_path) == before
    (path,) = files(tmp_path)
    file = pq.ParquetFile(path)
    assert file.metadata.metadata[b"mdp.schema"] == b"1"
    assert file.metadata.row_group(0).sorting_columns[0].column_index == 0
    held = file.read().to_pylist()
    assert [(r["symbol"], r["ts_event"]) for r in held] == sorted((r["symbol"], r["ts_event"]) for r in held)
    assert [path.name for path in (tmp_path / COMPACTING).iterdir()] == ["lock"]
    assert merge_all(tmp_path) == []


async def test_every_table_and_date_apart(tmp_path: Path) -> None:
    def mixed(n: int) -> list[Any]:
        return [
            trade(n, day=n % 2), Quote("A", n, 0, 1.0, 2.0, 3.0, float("nan"), n), Gap("A", n, n, 1, n),
            Bar("A", n, n + 1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, n, is_final=n % 2 > 0),
        ]  # fmt: skip

    await write(tmp_path, *(mixed(n) for n in range(6)))
    before = {table: repr(rows(tmp_path, table)) for table in TABLES}
    merge_all(tmp_path)
    assert {table: repr(rows(tmp_path, table)) for table in TABLES} == before
    assert {table: len(files(tmp_path, table)) for table in TABLES} == {"trades": 2, "quotes": 1, "bars": 1, "gaps": 1}
    assert len(pl.read_parquet(tmp_path / "table=trades", hive_partitioning=True)) == 6


async def test_what_is_left_alone(tmp_path: Path) -> None:
    await write(tmp_path, *small(4), [trade(9, day=40_000)])
    (first, *_) = files(tmp_path)
    foreign = first.with_name("part-foreign.parquet")
    pl.DataFrame({"symbol": ["A"]}).write_parquet(foreign)
    first.with_name("part-broken.parquet").write_bytes(b"PAR1")
    first.with_name("notes.txt").write_text("mine")
    (tmp_path / "table=mine" / "date=1970-01-01").mkdir(parents=True)
    assert list(plan(tmp_path, LIMITS._replace(min_age=3600.0))) == []
    assert list(plan(tmp_path, LIMITS._replace(before=date(1970, 1, 1)))) == []
    assert list(plan(tmp_path, LIMITS, "trades", "1971-01-01")) == []
    assert list(plan(tmp_path, LIMITS._replace(target_bytes=100))) == []
    (merge,) = plan(tmp_path, LIMITS)
    assert (merge.day, merge.files) == ("1970-01-01", 4)
    merge_all(tmp_path)
    assert foreign.exists()
    assert first.with_name("notes.txt").read_text() == "mine"
    assert len(files(tmp_path)) == 4


async def test_no_file_gets_larger_than_asked_for(tmp_path: Path) -> None:
    await write(tmp_path, *small(10))
    size = files(tmp_path)[0].stat().st_size
    before = rows(tmp_path)
    (done,) = merge_all(tmp_path, LIMITS._replace(target_bytes=4 * size))
    assert done.files_after >= 2
    assert rows(tmp_path) == before


async def test_a_date_that_holds_a_folder_is_refused_and_untouched(tmp_path: Path) -> None:
    await write(tmp_path, *small(2))
    (files(tmp_path)[0].parent / "sub").mkdir()
    with pytest.raises(SinkError, match="a date holds files only"):
        merge_all(tmp_path)
    assert len(files(tmp_path)) == 2
    assert [path.name for path in (tmp_path / COMPACTING).iterdir()] == ["lock"]


async def test_a_merged_file_that_differs_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await write(tmp_path, *small(3))
    before = files(tmp_path)
    whole = compaction.merge_files
    monkeypatch.setattr(compaction, "merge_files", lambda table, paths, to, how: whole(table, paths[1:], to, how))
    with pytest.raises(SinkError, match=r"holds 4 rows with checksum .* was made of 6 rows"):
        merge_all(tmp_path)
    assert files(tmp_path) == before


async def test_the_checksum_tells_rows_apart_and_not_their_order(tmp_path: Path) -> None:
    a, b = trade(1), trade(2)
    sets = [[a, b], [b, a], [a, a], [a._replace(price=2.0), b._replace(price=1.0)], [a._replace(venue="V0"), b]]
    for n, items in enumerate(sets):
        await write(tmp_path / str(n), items)
    found = [content_of(TABLES["trades"], files(tmp_path / str(n))[0]) for n in range(len(sets))]
    assert found[0] == found[1]
    assert len(set(found)) == len(sets) - 1


# --- cut off ----------------------------------------------------------------------------------------------------

STEPS = ["begun", "written", "compared", "linked", "noted", "exchanged", "in place", "deleted", "emptied", "done"]
WITHOUT_EXCHANGE = ["noted", "taken away", "in place", "deleted", "emptied"]
_KILLED = """
import os, signal, sys
from datetime import date
from pathlib import Path
from market_data_pipeline.sinks import compaction
from market_data_pipeline.sinks.compaction import Compaction, Limits, plan
folder, at, exchange = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
if exchange == "no":
    compaction.exchange_folders = lambda a, b: False
def step(name):
    if name == at:
        os.kill(os.getpid(), signal.SIGKILL)
with Compaction(folder, step=step) as work:
    for merge in plan(folder, Limits(1 << 27, 0.0, date(2020, 1, 1))):
        work.run(merge)
"""


def killed_at(folder: Path, step: str, exchange: bool) -> None:
    command = [sys.executable, "-c", _KILLED, str(folder), step, "yes" if exchange else "no"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(
    ("step", "exchange"), [*((step, True) for step in STEPS), *((step, False) for step in WITHOUT_EXCHANGE)]
)
async def test_a_compaction_killed_at_any_step_is_brought_to_its_end(tmp_path: Path, step: str, exchange: bool) -> None:
    await write(tmp_path, *small(5))
    (files(tmp_path)[0].parent / "notes.txt").write_text("mine")
    before = rows(tmp_path)
    killed_at(tmp_path, step, exchange)
    if step != "taken away":
        assert rows(tmp_path) == before, "a reader sees every row once, also before anybody recovers"
    await write(tmp_path, [trade(99)], job="bbbbbbbb")  # a late part comes before anybody recovers
    merge_all(tmp_path)
    after = sorted([*before, *rows_of([trade(99)])])
    assert rows(tmp_path) == after
    assert len(files(tmp_path)) == 1
    assert (files(tmp_path)[0].parent / "notes.txt").read_text() == "mine"
    assert [path.name for path in (tmp_path / COMPACTING).iterdir()] == ["lock"]


def rows_of(items: list[Trade]) -> list[Any]:
    return [tuple(item._replace(trade_id=str(item.trade_id), ref_trade_id=str(item.ref_trade_id))) for item in items]


@pytest.mark.parametrize("step", ["written", "linked", "noted", "exchanged", "in place", "deleted", "emptied"])
async def test_a_part_that_a_job_publishes_meanwhile_is_not_lost(tmp_path: Path, step: str) -> None:
    await write(tmp_path, *small(5))
    before = rows(tmp_path)
    others = iter([trade(99)])

    def publish(name: str) -> None:
        for item in others if name == step else ():
            late = tmp_path / "late"
            subprocess.run([sys.executable, "-c", _PUBLISH, str(late), str(item.trade_id)], check=True)
            (path,) = late.glob("table=trades/*/*.parquet")
            path.replace(tmp_path / "table=trades" / "date=1970-01-01" / path.name)

    merge_all(tmp_path, step=publish)
    found = [row for row in rows(tmp_path) if row[6] != "99"]
    assert found == before
    assert sum(row[6] == "99" for row in rows(tmp_path)) == 1


_PUBLISH = """
import asyncio, sys
from market_data_pipeline import Frame, ParquetFiles, SinkContext
from market_data_pipeline.records import Trade
async def run():
    sink = ParquetFiles(sys.argv[1])
    await sink.open(SinkContext("late", "cccccccc"), None)
    await sink.write([Frame([Trade("S0", 1, 2, 3.0, 4.0, trade_id=int(sys.argv[2]))])])
    await sink.prepare(True)
    await sink.committed()
asyncio.run(run())
"""


async def test_a_job_whose_date_is_exchanged_while_it_publishes_makes_its_folder_again(tmp_path: Path) -> None:
    sink = ParquetFiles(tmp_path, keep_staged="0s")
    await sink.open(SinkContext("out", "aaaaaaaa", epoch=1), None)
    await sink.write([Frame([trade(1)])])
    await sink.prepare(True)
    await sink.committed()
    (path,) = files(tmp_path)
    path.unlink()
    path.parent.rmdir()
    await sink.write([Frame([trade(2)])])
    await sink.prepare(True)
    await sink.committed()
    assert [row[6] for row in rows(tmp_path)] == ["2"]


# --- the command ------------------------------------------------------------------------------------------------


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["compact", *arguments])


async def test_the_command_says_what_it_does(tmp_path: Path) -> None:
    await write(tmp_path, *small(5))
    said = run(str(tmp_path), "--dry-run", "--min-age", "0s")
    assert said.exit_code == 0
    assert said.output.startswith("trades 1970-01-01: 5 files, ")
    assert len(files(tmp_path)) == 5
    assert not (tmp_path / COMPACTING).exists()
    young = "nothing to merge: 5 parts of finished dates are younger than --min-age (600 s)\n"
    assert [run(str(tmp_path), *more).output for more in ([], ["--dry-run"])] == [young] * 2
    said = run(str(tmp_path), "--min-age", "0s", "--table", "trades", "--date", "1970-01-01")
    assert ", 10 rows" in said.output
    assert len(files(tmp_path)) == 1
    assert run(str(tmp_path), "--min-age", "0s").output == "nothing to merge\n"


async def test_what_is_no_store_is_refused_with_what_to_give(tmp_path: Path) -> None:
    await write(tmp_path, *small(1))
    (part,) = files(tmp_path)
    for folder, said in [
        (part, f"{part}: is not a folder"),
        (part.parent, f"is a part of the store; give the folder above, {tmp_path}"),
        (part.parent.parent, f"is a part of the store; give the folder above, {tmp_path}"),
        (tmp_path / "none", "no such folder"),
    ]:
        result = run(str(folder))
        assert result.exit_code == 1
        assert said in result.output
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".staging") == ["table=trades"]


def test_a_missing_extra_is_one_line_without_the_command_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    said = run(str(tmp_path)).output
    assert "error: compaction needs the extra parquet (pyarrow.parquet is missing): pip install" in said


async def test_a_date_that_cannot_be_merged_does_not_keep_others_from_it(tmp_path: Path) -> None:
    await write(tmp_path, *small(2), *small(2, day=1), *small(2, day=2))
    (files(tmp_path)[2].parent / "sub").mkdir()
    said = run(str(tmp_path), "--min-age", "0s")
    assert said.exit_code == 1
    assert "1 of 3 dates were left as they are: " in said.output
    assert "date=1970-01-02/sub: a folder" in said.output
    assert [len(list(place.glob("part-*"))) for place in sorted(tmp_path.glob("table=trades/*"))] == [1, 2, 1]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--table", "trade"], 2, "--table 'trade' is not allowed; choose from trades"),
        (["--date", "1.1.2020"], 2, "--date '1.1.2020': not a date"),
        (["--before", "20200101"], 2, "--before '20200101': not a date"),
        (["--min-age", "soon"], 2, "--min-age: 'soon' is not a duration"),
    ],
)
def test_options_are_checked(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    result = run(str(tmp_path), *arguments)
    assert result.exit_code == code
    assert said in result.output


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    result = run(str(tmp_path / "none"))
    assert (result.exit_code, result.output) == (1, f"main compact: error: {tmp_path}/none: no such folder\n")


async def test_two_compactions_at_once_are_refused(tmp_path: Path) -> None:
    await write(tmp_path, *small(2))
    with Compaction(tmp_path), pytest.raises(ConfigError, match="another compaction is at work"):
        Compaction(tmp_path).__enter__()


def test_exchanging_works_here(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not compaction.exchange_folders(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange folders")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
