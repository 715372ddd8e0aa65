"""Replay of many files: folders, patterns, merging, ranges, positions, what changed in between."""

from __future__ import annotations

import asyncio
import gzip
import json
import resource
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.fake_clock import FakeClock
from tools.replayed import (
    Counted,
    batches,
    check_resume,
    everything,
    letters_of,
    rows_of,
    some_trades,
    write_trades,
)

from market_data_pipeline.errors import ConfigError, SourceError
from market_data_pipeline.records import Trade
from market_data_pipeline.sources.base import SourceContext
from market_data_pipeline.sources.replay import Replay

FORMATS = ["csv", "jsonl", "parquet", "arrow"]


def by_time(files: list[list[Trade]]) -> list[Trade]:
    """A plain sort: by time, ties by file, then as in the file."""
    return sorted((trade for trades in files for trade in trades), key=lambda trade: trade.ts_event)


def write_four(folder: Path) -> list[Trade]:
    """A file of each format, all over the same times. Returns their trades merged."""
    files = [some_trades(100 + 10 * n, seed=n) for n in range(4)]
    for n, (suffix, trades) in enumerate(zip(FORMATS, files, strict=True)):
        write_trades(folder / f"{n}.{suffix}", trades)
    return by_time(files)


# --- which files ------------------------------------------------------------------------------------------------


async def test_a_folder_a_pattern_and_a_sequence_name_the_same_files(tmp_path: Path) -> None:
    trades = write_four(tmp_path / "in")
    (tmp_path / "in" / "README.md").write_text("no data")
    (tmp_path / "in" / "_part.csv").write_text("not yet whole")
    folder = tmp_path / "in"
    for path in (
        folder,
        str(folder / "[0-9].*"),
        [folder / f"{n}.{s}" for n, s in enumerate(FORMATS)],
        [folder, folder],
    ):
        source = Replay(path)
        source.check()
        assert await everything(source) == (trades, [])


async def test_folders_within_folders_and_files_of_one_name(tmp_path: Path) -> None:
    files = [some_trades(20, seed=n) for n in range(3)]
    for n, trades in enumerate(files):
        write_trades(tmp_path / f"date=2026-01-0{n + 1}" / "part-0.csv", trades)
    second = tmp_path / "date=2026-01-02" / "part-0.csv"
    second.write_text(f"{second.read_text()}junk\n")
    rows, dead = await everything(Replay(tmp_path))
    assert rows == by_time(files)
    assert [letter.where for letter in dead] == [f"{second}:22"]
    assert (await everything(Replay(tmp_path / "**" / "*.csv")))[0] == rows


def test_what_names_nothing_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=rf"trades-\*\.csv: no file matches; looked in {tmp_path}$"):
        Replay(tmp_path / "trades-*.csv").check()
    with pytest.raises(SourceError, match=r"no file matches; looked in .*nowhere, which is no folder"):
        Replay(tmp_path / "nowhere" / "*.csv").check()
    with pytest.raises(SourceError, match=r"no file of a known format in this folder; known: \.csv"):
        Replay(tmp_path).check()
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(SourceError, match=r"matches x\.txt, whose format is unknown; known: \.csv"):
        Replay(tmp_path / "*").check()
    with pytest.raises(SourceError, match=r"later/: no file|no file matches"):
        Replay(f"{tmp_path}/later/").check()
    with pytest.raises(ConfigError, match="path: an empty sequence"):
        Replay([])


def test_the_file_without_the_column_is_named(tmp_path: Path) -> None:
    write_four(tmp_path)
    (tmp_path / "9.csv").write_text("symbol,ts_event,size\n")
    with pytest.raises(SourceError, match=r"9\.csv: no column 'price'"):
        Replay(tmp_path).check()


# --- merging ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_items", [1, 7, 64, 8192])
async def test_files_are_merged_by_time(tmp_path: Path, batch_items: int) -> None:
    trades = write_four(tmp_path)
    found = await batches(Replay(tmp_path, batch_items=batch_items))
    assert rows_of(found) == trades
    assert all(len(batch.items) <= batch_items for batch in found)
    assert all(len(batch.items) == batch_items for batch in found[:-1])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.lists(st.integers(0, 30), max_size=30), st.sampled_from(FORMATS)), min_size=1, max_size=4),
    st.integers(1, 40),
)
def test_any_files_come_as_a_plain_sort_gives_them(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[list[int], str]], batch_items: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    made: list[list[Trade]] = []
    for n, (times, suffix) in enumerate(files):
        made.append([Trade("A", ts, 0, 1.0, 1.0, "", f"{n}-{i}") for i, ts in enumerate(sorted(times))])
        if made[-1]:
            write_trades(folder / f"{n}.{suffix}", made[-1], rows=4)
    if not any(made):
        return
    source = Replay(folder, batch_items=batch_items)
    assert asyncio.run(everything(source)) == (by_time(made), [])


async def test_daily_files_need_one_handle_and_a_small_position(tmp_path: Path) -> None:
    n = 300
    for day in range(n):
        lines = [f"A,{day * 1000 + i},1,1,{day}-{i}" for i in range(5)]
        (tmp_path / f"{day:04}.csv").write_text("\n".join(["symbol,ts_event,price,size,trade_id", *lines]))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 20, hard))
    try:
        found = await batches(Replay(tmp_path, batch_items=8))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [row.ts_event for row in rows_of(found)] == [day * 1000 + i for day in range(n) for i in range(5)]
    assert max(len(json.dumps(batch.position)) for batch in found) < 1000


async def test_disorder_stays_within_max_delay(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("symbol,ts_event,price,size\nA,100,1,1\nA,95,1,1\nA,120,1,1\n")
    (tmp_path / "b.csv").write_text("symbol,ts_event,price,size\nB,90,1,1\nB,99,1,1\nB,97,1,1\nB,130,1,1\n")
    rows, _ = await everything(Replay(tmp_path, max_delay=5))
    assert [row.ts_event for row in rows] == [90, 99, 97, 100, 95, 120, 130]


async def test_plain_rows_of_many_files_come_file_by_file(tmp_path: Path) -> None:
    for name in "cab":
        (tmp_path / f"{name}.jsonl").write_text("".join(f'{{"from": "{name}", "n": {n}}}\n' for n in range(5)))
    source = Replay(tmp_path, kind="rows", batch_items=4)
    rows, _ = await everything(source)
    assert rows == [{"from": name, "n": n} for name in "abc" for n in range(5)]
    await check_resume(source)


async def test_bad_rows_of_a_merged_file_come_with_its_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("symbol,ts_event,price,size\njunk\nA,10,1,1\nA,x,1,1\nA,30,1,1\njunk\n")
    (tmp_path / "b.csv").write_text("symbol,ts_event,price,size\nB,20,1,1\nB,40,1,1\n")
    source = Replay(tmp_path, batch_items=1)
    found = await check_resume(source)
    assert [row.ts_event for row in rows_of(found)] == [10, 20, 30, 40]
    assert sorted(letter.where or "" for letter in letters_of(found)) == ["a.csv:2", "a.csv:4", "a.csv:6"]


# --- range ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(("start", "end"), [(None, 40_000), (25_000, None), (25_000, 40_000), (10**9, None), (None, 0)])
async def test_a_range_is_half_open_and_what_is_left_out_is_counted(
    tmp_path: Path, suffix: str, start: int | None, end: int | None
) -> None:
    files = [some_trades(60, seed=n, step=500) for n in range(2)]
    for n, trades in enumerate(files):
        write_trades(tmp_path / f"{n}.{suffix}", trades)
    expected = [t for t in by_time(files) if (start or 0) <= t.ts_event < (10**12 if end is None else end)]
    source = Replay(tmp_path, start=start, end=end, batch_items=7)
    counted = Counted()
    found = await batches(source, counted=counted)
    assert rows_of(found) == expected
    assert counted["out_of_range"] == 120 - len(expected)
    for batch in found[:: max(1, len(found) // 4)]:  # counted once, wherever it goes on
        before, behind = Counted(), Counted()
        fresh = source.fresh()
        await fresh.open(SourceContext("src", counted=before.add), None)
        while (again := await fresh.read()) is not None and again.position != batch.position:
            pass
        await fresh.close()
        await batches(source, batch.position, counted=behind)
        assert before["out_of_range"] + behind["out_of_range"] == 120 - len(expected)


@pytest.mark.parametrize(
    "moment",
    [
        "2026-01-02T14:30:00Z",
        "2026-01-02 15:30:00+01:00",
        1767364200 * 10**9,
        datetime(2026, 1, 2, 14, 30, tzinfo=UTC),
        datetime(2026, 1, 2, 14, 30),
        datetime(2026, 1, 2, 9, 30, tzinfo=timezone(timedelta(hours=-5))),
    ],
)
def test_a_moment_is_a_text_nanoseconds_or_a_datetime(moment: Any) -> None:
    assert Replay("t.csv", start=moment).start == 1767364200 * 10**9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": "noon"}, "start: 'noon' is no time"),
        ({"end": True}, "end: True is no time"),
        ({"start": 5, "end": 5}, "end: 5 must be later than start, 5"),
        ({"start": 5, "kind": "rows"}, "start, end: need records"),
    ],
)
def test_a_wrong_range_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Replay("t.csv", **arguments)


# --- resume -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_items", [5, 33])
@pytest.mark.parametrize("start", [None, 30_000])
async def test_resume_of_a_merge_gives_exactly_the_rest(tmp_path: Path, batch_items: int, start: int | None) -> None:
    trades = write_four(tmp_path)
    found = await check_resume(Replay(tmp_path, batch_items=batch_items, start=start))
    assert rows_of(found) == [trade for trade in trades if trade.ts_event >= (start or 0)]


async def test_resume_of_a_paced_merge(tmp_path: Path) -> None:
    files = [some_trades(30, seed=n, step=4_000_000) for n in range(3)]
    for n, trades in enumerate(files):
        write_trades(tmp_path / f"{n}.{FORMATS[n]}", trades)
    clock = FakeClock()
    source = Replay(tmp_path, speed=2.0)
    found = await batches(source, clock=clock)
    assert rows_of(found) == by_time(files)
    ordered = by_time(files)
    assert clock.monotonic() == pytest.approx((ordered[-1].ts_event - ordered[0].ts_event) / 2e9)
    for batch in found:
        times = [row.ts_event for row in rows_of([batch])]
        assert max(times) - times[0] < 20_000_000
    await check_resume(source)


async def position_in_the_middle(source: Replay) -> Any:
    found = await batches(source)
    return json.loads(json.dumps(found[len(found) // 2].position))


async def test_a_file_that_was_being_read_and_is_gone_is_named(tmp_path: Path) -> None:
    write_four(tmp_path)
    source = Replay(tmp_path, batch_items=8)
    position = await position_in_the_middle(source)
    (tmp_path / "2.parquet").unlink()
    with pytest.raises(SourceError, match=r"2\.parquet: no such file; the job was reading it"):
        await batches(source, position)


@pytest.mark.parametrize("n", range(4))
async def test_a_file_that_is_shorter_is_refused(tmp_path: Path, n: int) -> None:
    write_four(tmp_path)
    source = Replay(tmp_path, batch_items=8)
    found = await batches(source)
    position = found[int(len(found) * 0.8)].position
    name = f"{n}.{FORMATS[n]}"
    write_trades(tmp_path / name, some_trades(100 + 10 * n, seed=n)[:20])
    with pytest.raises(SourceError, match=rf"{name}: is shorter than when it was read: it has .*, and the job is at"):
        await batches(source, position)


@pytest.mark.parametrize("suffix", ["csv", "jsonl.gz", "csv.zst"])
async def test_a_single_file_that_is_shorter_or_gone_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t.{suffix}"
    plain = write_trades(tmp_path / f"t.{suffix.split('.', maxsplit=1)[0]}", some_trades(50))
    raw = plain.read_bytes()

    def compressed(data: bytes) -> bytes:
        if suffix.endswith(".gz"):
            return gzip.compress(data)
        return zstandard.ZstdCompressor().compress(data) if suffix.endswith(".zst") else data

    path.write_bytes(compressed(raw))
    source = Replay(path, batch_items=8)
    source.check()
    position = (await check_resume(source))[4].position
    path.write_bytes(compressed(raw[: len(raw) // 3]))
    with pytest.raises(
        SourceError, match=r"is shorter than when it was read: it has \d+ bytes, and the job is at byte"
    ):
        await batches(source, position)
    path.unlink()
    with pytest.raises(SourceError, match="no such file"):
        await batches(source, position)


async def test_files_may_come_behind_but_not_before_what_was_read(tmp_path: Path) -> None:
    for day in range(4):
        write_trades(
            tmp_path / f"{day}.csv", [t._replace(ts_event=t.ts_event + day * 10**6) for t in some_trades(20, day)]
        )
    source = Replay(tmp_path, batch_items=8)
    found = await batches(source)
    position, rest = found[4].position, rows_of(found[5:])
    write_trades(tmp_path / "5.csv", [Trade("Z", 10**9, 0, 1.0, 1.0)])
    assert [row.symbol for row in rows_of(await batches(source, position))] == [*(r.symbol for r in rest), "Z"]
    write_trades(tmp_path / "6.csv", [Trade("Z", 0, 0, 1.0, 1.0)])
    with pytest.raises(SourceError, match=r"not those that were read: 2 then, 3 now.*new ones only behind"):
        await batches(source, position)
    (tmp_path / "6.csv").unlink()
    (tmp_path / "0.csv").unlink()
    with pytest.raises(SourceError, match=r"not those that were read: 2 then, 1 now"):
        await batches(source, position)


async def test_a_file_not_read_yet_that_is_missing_is_told(tmp_path: Path) -> None:
    for day in range(4):
        write_trades(
            tmp_path / f"{day}.csv", [t._replace(ts_event=t.ts_event + day * 10**6) for t in some_trades(20, day)]
        )
    source = Replay(tmp_path, batch_items=8)
    position = (await batches(source))[1].position
    (tmp_path / "3.csv").unlink()
    with pytest.raises(SourceError, match="3 files are there, and 4 were"):
        await batches(source, position)


async def test_a_damaged_file_is_told_when_its_turn_comes_and_not_before_whole_rows(tmp_path: Path) -> None:
    trades = some_trades(50)
    write_trades(tmp_path / "a.csv", trades)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 is not enough")
    source = Replay(tmp_path)
    with pytest.raises(SourceError, match=r"b\.parquet: cannot be read"):
        source.check()
    with pytest.raises(SourceError, match=r"b\.parquet: cannot be read"):
        await batches(source)


async def test_a_read_that_is_cancelled_is_waited_for_when_the_source_closes(tmp_path: Path) -> None:
    trades = write_four(tmp_path)
    source = Replay(tmp_path, batch_items=16).fresh()
    await source.open(SourceContext("src"), None)
    first = await source.read()
    assert first is not None
    reading = asyncio.create_task(source.read())
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await source.close()
    assert rows_of([first, *await batches(Replay(tmp_path, batch_items=16), first.position)]) == trades


# --- exact ------------------------------------------------------------------------------------------------------


async def test_exact_keeps_the_text_that_was_sent(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("symbol,ts_event,price,size\nA,1,0.10,1e-8\nA,2,nan,1\nA,3,007.0,2\n")
    (tmp_path / "t.jsonl").write_text(
        '{"symbol":"A","ts_event":1,"price":0.10,"size":1e-8}\n{"symbol":"A","ts_event":2,"price":"1.50","size":3}\n'
        '{"symbol":"A","ts_event":3,"price":NaN,"size":1}\n{"symbol":"A","ts_event":4,"price":123456789012345678901.5,"size":1}\n'
    )
    rows, dead = await everything(Replay(tmp_path / "t.csv", exact=True))
    assert [(row.price, row.size) for row in rows] == [("0.10", "1e-8"), ("007.0", "2")]
    assert [letter.where for letter in dead] == ["t.csv:3"]
    source = Replay(tmp_path / "t.jsonl", exact=True)
    rows, dead = await everything(source)
    assert [(row.price, row.size) for row in rows] == [
        ("0.10", "1e-8"),
        ("1.50", "3"),
        ("123456789012345678901.5", "1"),
    ]
    assert [letter.where for letter in dead] == ["t.jsonl:3"]
    await check_resume(Replay(tmp_path, exact=True, batch_items=1))
