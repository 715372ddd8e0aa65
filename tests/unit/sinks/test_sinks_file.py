"""File sinks: exactly once through crashes at every point, zombies, and names that stay inside the folder."""

from __future__ import annotations

import csv
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from market_data_pipeline.errors import ConfigError, CorruptState, SinkError
from market_data_pipeline.frame import Frame
from market_data_pipeline.packing import pack, unpack
from market_data_pipeline.records import Bar, Trade
from market_data_pipeline.sinks.base import SinkContext
from market_data_pipeline.sinks.file import STAGING, CsvFiles, FileSink, JsonLines

ODD_SYMBOLS = [
    "../x",
    "../../etc/passwd",
    "BRK/B",
    "A\0B",
    "x" * 300,
    "..",
    "",
    "C:\\x",
    "*",
    "é€😀",
    "a b",
    "a,b",
    'q"q',
    "l\nl",
]


def context(epoch: int, node: str = "out", partition: int = 0) -> SinkContext:
    return SinkContext(node, "0123456789abcdef", partition, epoch, f"owner{epoch}")


def frame(*items: Any) -> Frame:
    return Frame(list(items))


def numbers(start: int, stop: int) -> Frame:
    return Frame([{"n": n} for n in range(start, stop)])


def visible(folder: Path) -> list[int]:
    """What a reader of the finished files sees; fails on half a line."""
    found: list[int] = []
    for path in sorted(folder.glob("*.jsonl")):
        text = path.read_text()
        assert text.endswith("\n"), f"half a line in {path.name}"
        found += [json.loads(line)["n"] for line in text.splitlines()]
    return found


async def step(sink: FileSink, items: Frame, ended: bool = False) -> Any:
    """A whole step; returns what was committed, as the store gives it back."""
    await sink.write([items])
    state = unpack(pack(await sink.prepare(ended)))
    await sink.committed()
    return state


async def opened(folder: Path, epoch: int, state: Any = None, **arguments: Any) -> JsonLines:
    sink = JsonLines(folder, **arguments)
    await sink.open(context(epoch), state)
    return sink


# --- the way it goes when nothing fails -------------------------------------------------------------------------


async def test_nothing_is_visible_before_it_is_sealed_and_all_of_it_after(tmp_path: Path) -> None:
    sink = await opened(tmp_path, 1)
    await step(sink, numbers(0, 5))
    await step(sink, numbers(5, 9))
    assert visible(tmp_path) == []
    await step(sink, frame(), ended=True)
    await sink.close()
    assert visible(tmp_path) == list(range(9))
    assert list((tmp_path / STAGING).iterdir()) == []


async def test_a_file_is_finished_when_it_is_full(tmp_path: Path) -> None:
    sink = await opened(tmp_path, 1, roll_bytes=20)
    for start in range(0, 30, 3):
        await step(sink, numbers(start, start + 3))
    await step(sink, frame(), ended=True)
    assert visible(tmp_path) == list(range(30))
    sizes = [path.stat().st_size for path in tmp_path.glob("*.jsonl")]
    assert len(sizes) == 10
    assert all(size >= 20 for size in sizes)


async def test_a_file_is_finished_when_it_is_old(tmp_path: Path) -> None:
    sink = await opened(tmp_path, 1, roll_interval="1ns")
    for start in range(3):
        await step(sink, numbers(start, start + 1))
    assert visible(tmp_path) == [0, 1, 2]
    assert len(list(tmp_path.glob("*.jsonl"))) == 3


async def test_fsync_writes_the_same(tmp_path: Path) -> None:
    sink = await opened(tmp_path, 1, fsync=True)
    await step(sink, numbers(0, 3))
    await step(sink, numbers(3, 5), ended=True)
    assert visible(tmp_path) == [0, 1, 2, 3, 4]


async def test_a_sink_that_got_nothing_writes_no_file(tmp_path: Path) -> None:
    sink = await opened(tmp_path, 1)
    await step(sink, frame(), ended=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_partitions_and_nodes_share_a_folder(tmp_path: Path) -> None:
    for number, (node, partition) in enumerate([("a", 0), ("a", 1), ("b", 0), ("a", 10)]):
        sink = JsonLines(tmp_path)
        await sink.open(context(1, node, partition), None)
        await step(sink, numbers(number, number + 1), ended=True)
    assert sorted(visible(tmp_path)) == [0, 1, 2, 3]


# --- crashes ----------------------------------------------------------------------------------------------------

CRASHES = ["before write", "before prepare", "between prepare and commit", "between commit and rename", "after"]


@pytest.mark.parametrize("roll_bytes", [1, 25, 10_000], ids=["each step a file", "some", "one file"])
@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("crash", CRASHES)
async def test_a_crash_at_any_point_leaves_no_half_line_and_no_duplicate(
    tmp_path: Path, crash: str, ended: bool, roll_bytes: int
) -> None:
    first = await opened(tmp_path, 1, roll_bytes=roll_bytes)
    state = await step(first, numbers(0, 4))
    state = await step(first, numbers(4, 6))
    done = 6
    if crash != "before write":
        await first.write([numbers(6, 9)])
    if crash not in CRASHES[:2]:
        prepared = unpack(pack(await first.prepare(ended)))
        if crash in CRASHES[3:]:
            state, done = prepared, 9
        if crash == "after":
            await first.committed()
    # the new owner
    second = await opened(tmp_path, 2, state, roll_bytes=roll_bytes)
    assert visible(tmp_path) == list(range(len(visible(tmp_path))))
    await step(second, numbers(done, 12))
    await step(second, frame(), ended=True)
    await second.close()
    assert visible(tmp_path) == list(range(12))
    assert list((tmp_path / STAGING).iterdir()) == []


@pytest.mark.parametrize("crash", CRASHES)
async def test_the_same_owner_reloads_after_a_refused_commit(tmp_path: Path, crash: str) -> None:
    first = await opened(tmp_path, 1)
    state = await step(first, numbers(0, 4))
    done = 4
    if crash != "before write":
        await first.write([numbers(4, 7)])
    if crash not in CRASHES[:2]:
        prepared = unpack(pack(await first.prepare(False)))
        if crash in CRASHES[3:]:
            state, done = prepared, 7
        if crash == "after":
            await first.committed()
    await first.close()
    again = await opened(tmp_path, 1, state)
    await step(again, numbers(done, 10), ended=True)
    assert visible(tmp_path) == list(range(10))


async def test_bytes_behind_the_committed_ones_are_cut(tmp_path: Path) -> None:
    first = await opened(tmp_path, 1)
    state = await step(first, numbers(0, 2))
    staged = tmp_path / STAGING / state["part"]["staged"]
    with staged.open("ab") as file:
        file.write(b'{"n": 99}\n{"n"')
    second = await opened(tmp_path, 2, state)
    await step(second, numbers(2, 4), ended=True)
    assert visible(tmp_path) == [0, 1, 2, 3]


async def test_committed_renames_are_repeated_as_often_as_it_takes(tmp_path: Path) -> None:
    first = await opened(tmp_path, 1)
    await first.write([numbers(0, 3)])
    state = unpack(pack(await first.prepare(True)))
    assert visible(tmp_path) == []
    for epoch in (2, 3, 4):
        await opened(tmp_path, epoch, state)
        assert visible(tmp_path) == [0, 1, 2]
    await first.committed()  # the zombie does the same again
    assert visible(tmp_path) == [0, 1, 2]


async def test_what_was_never_committed_is_removed(tmp_path: Path) -> None:
    first = await opened(tmp_path, 1)
    await first.write([numbers(0, 3)])
    await first.prepare(False)
    assert len(list((tmp_path / STAGING).iterdir())) == 1
    second = await opened(tmp_path, 2, None)
    assert len(list((tmp_path / STAGING).iterdir())) == 1, "only a commit tells that we are no zombie"
    await step(second, numbers(0, 2), ended=True)
    assert list((tmp_path / STAGING).iterdir()) == []
    assert visible(tmp_path) == [0, 1]


async def test_an_owner_that_dies_before_its_first_commit_takes_nothing_with_it(tmp_path: Path) -> None:
    first = await opened(tmp_path, 1)
    state = await step(first, numbers(0, 3))
    second = await opened(tmp_path, 2, state)
    await second.write([numbers(50, 60)])
    await second.prepare(False)  # and dies
    third = await opened(tmp_path, 3, state)
    await step(third, numbers(3, 5), ended=True)
    assert visible(tmp_path) == [0, 1, 2, 3, 4]
    assert list((tmp_path / STAGING).iterdir()) == []


async def test_a_server_that_was_rolled_back_finds_its_files_again(tmp_path: Path) -> None:
    """Committed up to 3 rows; then 2 more rows, sealed and published, and another file: all lost by the server."""
    first = await opened(tmp_path, 1)
    state = await step(first, numbers(0, 3))
    await step(first, numbers(3, 5), ended=True)
    await step(first, numbers(5, 9), ended=True)
    assert visible(tmp_path) == list(range(9))
    again = await opened(tmp_path, 2, state)
    await step(again, numbers(3, 7), ended=True)
    assert visible(tmp_path) == list(range(7))


async def test_a_server_that_forgot_a_takeover_finds_the_new_owners_copy(tmp_path: Path) -> None:
    """The new owner adopted 3 rows, committed 2 more, and removed the old file; the server comes back without all that."""
    first = await opened(tmp_path, 1)
    state = await step(first, numbers(0, 3))
    second = await opened(tmp_path, 2, state)
    await step(second, numbers(3, 5))
    third = await opened(tmp_path, 3, state)
    await step(third, numbers(3, 7), ended=True)
    assert visible(tmp_path) == list(range(7))
    assert list((tmp_path / STAGING).iterdir()) == []


async def test_a_task_that_loads_again_under_the_same_epoch_uses_its_names_again(tmp_path: Path) -> None:
    """What it had staged and not committed has the very name of what it stages next: it must not be swept away."""
    first = await opened(tmp_path, 1)
    await first.write([numbers(50, 60)])
    await first.prepare(False)  # never committed: the server went away
    again = await opened(tmp_path, 1)
    state = await step(again, numbers(0, 3))
    third = await opened(tmp_path, 1, state)
    await step(third, numbers(3, 5), ended=True)
    assert visible(tmp_path) == [0, 1, 2, 3, 4]


async def test_an_item_over_64_bits_is_written_like_any_other(tmp_path: Path) -> None:
    sink = await opened(tmp_path, 1)
    await step(sink, Frame([{"n": 2**70}, {"n": 1}]), ended=True)
    assert visible(tmp_path) == [2**70, 1]


async def test_another_partitions_staging_is_left_alone(tmp_path: Path) -> None:
    other = JsonLines(tmp_path)
    await other.open(context(1, "out", 1), None)
    await step(other, numbers(0, 3))
    await opened(tmp_path, 2, None)
    await step(other, numbers(3, 5), ended=True)
    assert visible(tmp_path) == [0, 1, 2, 3, 4]


async def test_a_zombie_that_goes_on_writing_is_never_seen(tmp_path: Path) -> None:
    zombie = await opened(tmp_path, 1)
    state = await step(zombie, numbers(0, 4))
    await zombie.write([numbers(100, 103)])
    owner = await opened(tmp_path, 2, state)
    state = await step(owner, numbers(4, 6))
    try:  # the zombie's prepare may work or not; its commit is fenced, so it never says committed
        await zombie.write([numbers(103, 105)])
        await zombie.prepare(True)
    except SinkError:
        pass
    await step(owner, numbers(6, 8), ended=True)
    assert visible(tmp_path) == list(range(8))


async def test_a_committed_file_that_is_gone_or_short_is_corrupt(tmp_path: Path) -> None:
    first = await opened(tmp_path, 1)
    state = await step(first, numbers(0, 4))
    staged = tmp_path / STAGING / state["part"]["staged"]
    staged.write_bytes(staged.read_bytes()[:-3])
    with pytest.raises(CorruptState, match="bytes were committed"):
        await opened(tmp_path, 2, state)
    staged.unlink()
    with pytest.raises(CorruptState, match="the file is gone"):
        await opened(tmp_path, 2, state)


async def test_a_finished_file_that_its_reader_took_away_does_not_hold_the_task(tmp_path: Path) -> None:
    first = await opened(tmp_path, 1)
    state = await step(first, numbers(0, 4), ended=True)
    (path,) = tmp_path.glob("*.jsonl")
    path.unlink()
    second = await opened(tmp_path, 2, state)
    await step(second, numbers(4, 6), ended=True)
    assert visible(tmp_path) == [4, 5]
    assert not path.exists(), "its name is not used again"


# --- CSV --------------------------------------------------------------------------------------------------------


def csv_files(folder: Path) -> list[list[list[str]]]:
    found = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="") as file:
            found.append(list(csv.reader(file)))
    return found


async def csv_sink(folder: Path, epoch: int = 1, state: Any = None) -> CsvFiles:
    sink = CsvFiles(folder)
    await sink.open(context(epoch), state)
    return sink


async def test_csv_has_a_header_once_also_after_a_takeover(tmp_path: Path) -> None:
    first = await csv_sink(tmp_path)
    rest = ["", "new", "", "", "live"]
    state = await step(first, frame(Trade("A", 1, 2, 3.5, 4.0, "buy", "x")))
    second = await csv_sink(tmp_path, 2, state)
    await step(second, frame(Trade("B", 5, 6, 7.0, 8.0)), ended=True)
    assert csv_files(tmp_path) == [
        [
            list(Trade._fields),
            ["A", "1", "2", "3.5", "4.0", "buy", "x", *rest],
            ["B", "5", "6", "7.0", "8.0", "", "", *rest],
        ]
    ]


async def test_other_fields_start_a_file_of_their_own(tmp_path: Path) -> None:
    sink = await csv_sink(tmp_path)
    bar = Bar("A", 0, 1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1)
    await step(sink, frame({"a": 1, "b": 2}, {"a": 3, "b": 4}, {"b": 5, "a": 6}, bar, bar))
    await step(sink, frame({"a": 7, "b": 8}), ended=True)
    files = csv_files(tmp_path)
    assert [rows[0] for rows in files] == [["a", "b"], ["b", "a"], list(Bar._fields), ["a", "b"]]
    assert [len(rows) - 1 for rows in files] == [2, 1, 2, 1]
    assert all(len(row) == len(rows[0]) for rows in files for row in rows)


@pytest.mark.parametrize("crash", CRASHES[1:])
async def test_a_header_change_in_a_step_that_crashes(tmp_path: Path, crash: str) -> None:
    first = await csv_sink(tmp_path)
    state = await step(first, frame({"a": 0}))
    await first.write([frame({"a": 1}, {"b": 2})])
    rest = [{"a": 1}, {"b": 2}]
    if crash != "before prepare":
        prepared = unpack(pack(await first.prepare(False)))
        if crash in CRASHES[3:]:
            state, rest = prepared, []
        if crash == "after":
            await first.committed()
    second = await csv_sink(tmp_path, 2, state)
    await step(second, frame(*rest, {"b": 3}), ended=True)
    assert csv_files(tmp_path) == [[["a"], ["0"], ["1"]], [["b"], ["2"], ["3"]]]


async def test_csv_quotes_what_needs_it_and_nests_json(tmp_path: Path) -> None:
    sink = await csv_sink(tmp_path)
    await step(sink, frame({"s": 'a,"b"\nc', "l": [1, "x"], "n": None}), ended=True)
    ((_, row),) = csv_files(tmp_path)
    assert row == ['a,"b"\nc', '[1,"x"]', ""]


async def test_csv_takes_plain_values(tmp_path: Path) -> None:
    sink = await csv_sink(tmp_path)
    await step(sink, frame(1, "x"), ended=True)
    assert csv_files(tmp_path) == [[["value"], ["1"], ["x"]]]


# --- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [JsonLines, CsvFiles])
async def test_symbols_never_become_part_of_a_path(tmp_path: Path, kind: type[FileSink]) -> None:
    folder = tmp_path / "in" / "side"
    sink = kind(folder)
    await sink.open(context(1), None)
    await step(sink, frame(*(Trade(symbol, 1, 2, 3.0, 4.0) for symbol in ODD_SYMBOLS)), ended=True)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert all(path.parent == folder for path in files)
    if kind is JsonLines:
        (path,) = files
        found = [json.loads(line)["symbol"] for line in path.read_text().split("\n")[:-1]]
    else:
        ((_, *rows),) = csv_files(folder)
        found = [row[0] for row in rows]
    assert found == ODD_SYMBOLS


async def test_final_names_grow_and_never_repeat(tmp_path: Path) -> None:
    sink = await opened(tmp_path, 1, roll_bytes=1)
    state = None
    for n in range(3):
        state = await step(sink, numbers(n, n + 1))
    sink = await opened(tmp_path, 2, state, roll_bytes=1)
    for n in range(3, 6):
        await step(sink, numbers(n, n + 1))
    names = sorted(path.name for path in tmp_path.glob("*.jsonl"))
    found = [int(name.removesuffix(".jsonl").rpartition("-")[2]) for name in names]
    assert found == list(range(6))
    assert all(a < b for a, b in pairwise(names))
    assert all(name.startswith("out-01234567-p0000-") for name in names)


# --- configuration and the outside ------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_made_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SinkError, match=r"output folder .*file/sub"):
        JsonLines(tmp_path / "file" / "sub").check()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"roll_bytes": 0}, "roll_bytes: 0"), ({"roll_interval": 0}, "roll_interval: 0"), ({"roll_interval": "x"}, "'x'")],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        JsonLines("out", **arguments)


async def test_a_disk_that_refuses_is_a_sink_error(tmp_path: Path) -> None:
    sink = await opened(tmp_path, 1)
    (tmp_path / STAGING).rmdir()
    await sink.write([numbers(0, 2)])
    with pytest.raises(SinkError, match=str(tmp_path)):
        await sink.prepare(False)


async def test_no_price_is_an_empty_csv_value(tmp_path: Path) -> None:
    sink = await csv_sink(tmp_path)
    await step(sink, frame({"a": math.nan, "b": 1.5}), ended=True)
    assert [path.read_text() for path in tmp_path.glob("*.csv")] == ["a,b\n,1.5\n"]


async def test_what_the_fast_writer_refuses_inside_lists_is_kept_in_csv(tmp_path: Path) -> None:
    sink = CsvFiles(tmp_path)
    await sink.open(context(1), None)
    values = [[2**70], {"a": "\ud800"}, [float("nan")], [np.float64(1.5)], [{1}]]
    await step(sink, frame(*({"v": value} for value in values)), ended=True)
    (path,) = tmp_path.glob("*.csv")
    with path.open(newline="") as file:
        found = [json.loads(row["v"]) for row in csv.DictReader(file)]
    assert found == [[2**70], {"a": "\ud800"}, [None], [1.5], ["{1}"]]


async def test_a_stale_file_that_cannot_be_deleted_is_a_sink_error(tmp_path: Path) -> None:
    first = await opened(tmp_path, 1)
    (
        tmp_path / STAGING / "out-01234567-p0000-000007.jsonl.e1-owner1"
    ).mkdir()  # stands for a folder that is read-only now
    again = await opened(tmp_path, 2)
    await again.write([numbers(0, 1)])
    await again.prepare(False)
    with pytest.raises(SinkError, match=r"irectory|permitted"):
        await again.committed()
    await first.close()


async def test_a_new_job_is_told_of_files_that_other_runs_have_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not ours")
    former = await opened(tmp_path, 1)
    await step(former, numbers(0, 3), ended=True)
    await step(former, numbers(3, 6))
    finished, unfinished = JsonLines(tmp_path).others()
    assert finished == f"output folder {tmp_path} holds 1 file of other runs already; they stay beside the new ones"
    assert unfinished.startswith(f"output folder {tmp_path} holds 1 file unfinished by another run")
    assert len(CsvFiles(tmp_path).others()) == 1, "no CSV is there; somebody writes there nevertheless"
