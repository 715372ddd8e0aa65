"""Replay: formats, columns, units, bad rows, damaged files, exact resume, pacing."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from tools.fake_clock import FakeClock

from market_data_pipeline.errors import ConfigError, SourceError
from market_data_pipeline.frame import to_rows
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.records import Bar, Quote, Trade
from market_data_pipeline.sources.base import Batch, SourceContext
from market_data_pipeline.sources.replay import Replay

HEADER = "symbol,ts_event,ts_recv,price,size,side,trade_id"


def some_trades(n: int, seed: int = 0) -> list[Trade]:
    rng = random.Random(seed)
    prices = [rng.randrange(1, 999) / 8 for _ in range(n)]
    return [
        Trade(rng.choice("ABC"), i * 1000, i * 1000 + 5, price, float(i % 9 + 1), "buy", f"t{i}")
        for i, price in enumerate(prices)
    ]


def csv_text(rows: list[Any]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(rows[0]._fields)
    writer.writerows(rows)
    return out.getvalue()


def write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


async def batches(source: Replay, position: Any = None, clock: FakeClock | None = None) -> list[Batch]:
    fresh = source.fresh()
    await fresh.open(SourceContext("src", clock=clock or FakeClock()), position)
    found = []
    try:
        while (batch := await fresh.read()) is not None:
            found.append(batch)
    finally:
        await fresh.close()
    return found


async def everything(source: Replay, position: Any = None) -> tuple[list[Any], list[DeadLetter]]:
    found = await batches(source, position)
    rows = [row for batch in found for row in to_rows(batch.items)]
    return rows, [letter for batch in found for letter in batch.rejected]


# --- formats ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.jsonl", "t.jsonl.gz", "t.ndjson"])
@pytest.mark.parametrize("batch_items", [1, 7, 8192])
async def test_every_format_gives_the_records_of_the_file(tmp_path: Path, name: str, batch_items: int) -> None:
    rows = some_trades(40)
    text = csv_text(rows) if "csv" in name else "".join(json.dumps(row._asdict()) + "\n" for row in rows)
    source = Replay(write(tmp_path, name, text), batch_items=batch_items)
    source.check()
    assert await everything(source) == (rows, [])
    assert all(len(batch.items) <= batch_items for batch in await batches(source))


async def test_quotes_and_bars(tmp_path: Path) -> None:
    quote = Quote("A", 1, 2, 10.5, 100.0, 10.75, 200.0)
    bar = Bar("A", 0, 60, 1.0, 2.0, 0.5, 1.5, 10.0, 1.25, 3)
    assert await everything(Replay(write(tmp_path, "q.csv", csv_text([quote])), kind="quote")) == ([quote], [])
    assert await everything(Replay(write(tmp_path, "b.csv", csv_text([bar])), kind="bar")) == ([bar], [])


async def test_a_bar_without_vwap_gets_its_close(tmp_path: Path) -> None:
    path = write(tmp_path, "b.csv", "symbol,ts_open,ts_close,open,high,low,close\nA,0,60,1,2,0.5,1.5\n")
    source = Replay(path, kind="bar")
    source.check()
    assert await everything(source) == ([Bar("A", 0, 60, 1.0, 2.0, 0.5, 1.5, 0.0, 1.5, 0)], [])


async def test_plain_rows_pass_as_they_are(tmp_path: Path) -> None:
    source = Replay(write(tmp_path, "x.jsonl", '{"a": 1}\n{"b": [1, null]}\n'), kind="rows")
    source.check()
    assert await everything(source) == ([{"a": 1}, {"b": [1, None]}], [])


async def test_columns_are_mapped_and_a_symbol_is_given(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", "T,p,q,junk\n5,1.5,2,zzz\n")
    source = Replay(path, columns={"ts_event": "T", "price": "p", "size": "q"}, symbol="BTC")
    source.check()
    assert await everything(source) == ([Trade("BTC", 5, 0, 1.5, 2.0)], [])


@pytest.mark.parametrize(
    ("unit", "text", "expected"),
    [
        ("ns", "1767364200123456789", 1767364200123456789),
        ("us", "1767364200123456", 1767364200123456000),
        ("ms", "1767364200123", 1767364200123000000),
        ("s", "1767364200", 1767364200000000000),
        ("s", "-1.5", -1_500_000_000),
        ("iso", "2026-01-02T14:30:00.25Z", 1767364200250000000),
        ("iso", "2026-01-02T15:30:00+01:00", 1767364200000000000),
        ("iso", "2026-01-02 14:30:00", 1767364200000000000),
        ("iso", "1969-12-31T23:59:59.999999Z", -1000),
    ],
)
async def test_time_units(tmp_path: Path, unit: str, text: str, expected: int) -> None:
    path = write(tmp_path, "t.csv", f"symbol,ts_event,price,size\nA,{text},1,1\n")
    rows, bad = await everything(Replay(path, time_unit=unit))
    assert not bad
    assert rows[0].ts_event == expected


async def test_sides_and_ids(tmp_path: Path) -> None:
    lines = ["A,1,0,1,1,BUY,7", "A,2,0,1,1,s,x-9", "A,3,0,1,1,,", "A,4,0,1,1,unknown,007"]
    rows, bad = await everything(Replay(write(tmp_path, "t.csv", "\n".join([HEADER, *lines]))))
    assert not bad
    assert [(row.side, row.trade_id) for row in rows] == [("buy", "7"), ("sell", "x-9"), ("", ""), ("", "007")]


async def test_a_byte_order_mark_and_crlf_and_no_last_newline(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbfsymbol,ts_event,price,size\r\nA,1,2,3\r\nB,2,2,3"
    source = Replay(write(tmp_path, "t.csv", text))
    source.check()
    assert await everything(source) == ([Trade("A", 1, 0, 2.0, 3.0), Trade("B", 2, 0, 2.0, 3.0)], [])


async def test_quoted_fields(tmp_path: Path) -> None:
    text = 'symbol,ts_event,price,size,note\n"A,B",1,2,3,"x, ""y"""\n'
    rows, dead = await everything(Replay(write(tmp_path, "t.csv", text)))
    assert (rows, dead) == ([Trade("A,B", 1, 0, 2.0, 3.0)], [])


async def test_an_unclosed_quote_costs_only_its_own_line(tmp_path: Path) -> None:
    text = 'symbol,ts_event,price,size\nA,1,1,1\nB,"2,1,1\nC,3,1,1\nD,4,1,1\n'
    rows, dead = await everything(Replay(write(tmp_path, "t.csv", text)))
    assert [row.symbol for row in rows] == ["A", "C", "D"]
    assert [(letter.where, letter.item) for letter in dead] == [("t.csv:3", 'B,"2,1,1\n')]


async def test_an_empty_file_with_a_header_has_no_rows(tmp_path: Path) -> None:
    source = Replay(write(tmp_path, "t.csv", HEADER + "\n"))
    source.check()
    assert await everything(source) == ([], [])


# --- bad rows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("A,x,0,1,1,buy,1", "ts_event: 'x'"),
        ("A,5,0,abc,1,buy,1", "price: 'abc' is not a finite number"),
        ("A,5,0,nan,1,buy,1", "price: 'nan' is not a finite number"),
        ("A,5,0,inf,1,buy,1", "price: 'inf'"),
        ("A,5,0,,1,buy,1", "price: empty"),
        (",5,0,1,1,buy,1", "symbol: empty"),
        ("A,5,0,1,1,both,1", "side: 'both' is not buy, sell or empty"),
        ("A,5,0,1,1,buy", "6 fields instead of 7"),
        ("A,5,0,1,1,buy,1,2", "8 fields instead of 7"),
        ('A,5,0,"1"x,1,buy,1', "not valid CSV"),
        ("A,99999999999999999999,0,1,1,buy,1", "outside 64 bits"),
    ],
)
@pytest.mark.parametrize("batch_items", [1, 2, 100])
async def test_a_bad_csv_row_is_a_dead_letter_with_its_line(
    tmp_path: Path, line: str, reason: str, batch_items: int
) -> None:
    lines = [HEADER, "A,1,0,1,1,buy,1", "A,2,0,1,1,buy,2", line, "A,3,0,1,1,buy,3", "A,4,0,1,1,buy,4"]
    source = Replay(write(tmp_path, "t.csv", "\n".join(lines) + "\n"), batch_items=batch_items)
    rows, bad = await everything(source)
    assert [row.ts_event for row in rows] == [1, 2, 3, 4]
    (letter,) = bad
    assert letter.node == "src"
    assert letter.where == "t.csv:4"
    assert reason in letter.reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{not json", "not valid JSON"),
        ("[1, 2]", "not a JSON object"),
        ("null", "not a JSON object"),
        ('{"symbol": "A", "ts_event": 5, "price": 1}', "size: missing"),
        ('{"symbol": 7, "ts_event": 5, "price": 1, "size": 1}', "symbol: 7 is not a symbol"),
        ('{"symbol": "A", "ts_event": 5, "price": true, "size": 1}', "price: True is not a finite number"),
        ('{"symbol": "A", "ts_event": 5, "price": [1], "size": 1}', "price: [1]"),
        ('{"symbol": "A", "ts_event": 5, "price": 1, "size": 1, "trade_id": 1.5}', "trade_id: 1.5 is not an id"),
        ('{"symbol": "A", "ts_event": {"a": 1}, "price": 1, "size": 1}', "ts_event: {'a': 1}"),
    ],
)
async def test_a_bad_json_row_is_a_dead_letter_with_its_line(tmp_path: Path, line: str, reason: str) -> None:
    good = [json.dumps({"symbol": "A", "ts_event": n, "price": 1, "size": 1}) for n in range(4)]
    text = "\n".join([good[0], good[1], good[2], line, "", good[3]])
    rows, bad = await everything(Replay(write(tmp_path, "t.jsonl", text)))
    assert [row.ts_event for row in rows] == [0, 1, 2, 3]
    (letter,) = bad
    assert letter.where == "t.jsonl:4"
    assert reason in letter.reason


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
async def test_a_line_that_is_not_utf8_is_a_dead_letter(tmp_path: Path, name: str) -> None:
    raw = b"symbol,ts_event,price,size\nA,1,1,1\n\xff\xfe\x80,2,1,1\nA,3,1,1\n"
    rows, bad = await everything(Replay(write(tmp_path, name, raw)))
    assert [row.ts_event for row in rows] == [1, 3]
    assert [(letter.where, letter.reason, letter.item) for letter in bad] == [
        (f"{name}:3", "not UTF-8", b"\xff\xfe\x80,2,1,1\n")
    ]


async def test_a_file_of_nothing_but_bad_rows_ends_with_all_of_them_dead(tmp_path: Path) -> None:
    path = write(tmp_path, "t.jsonl", "x\n" * 25)
    rows, bad = await everything(Replay(path, batch_items=10))
    assert rows == []
    assert [letter.where for letter in bad] == [f"t.jsonl:{n}" for n in range(1, 26)]


# --- damaged or missing files -----------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere\.csv: no such file"):
        Replay(tmp_path / "nowhere.csv").check()


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(SourceError, match=r"d\.csv: is not a file"):
        Replay(tmp_path / "d.csv").check()


def test_an_empty_csv_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="empty, not even a header"):
        Replay(write(tmp_path, "t.csv", "")).check()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "symbol,ts_event,px,size\nA,1,1,1\n"),
        ("t.jsonl", '{"symbol":"A","ts_event":1,"px":1,"size":1}\n'),
    ],
)
def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path, name: str, text: str) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(SourceError, match=r"no column 'price'.*px.*columns="):
        Replay(path).check()
    Replay(path, columns={"price": "px"}).check()


def test_a_mapped_optional_column_must_be_there(tmp_path: Path) -> None:
    path = write(tmp_path, "t.csv", "symbol,ts_event,price,size\nA,1,1,1\n")
    with pytest.raises(SourceError, match="no column 'aggressor'"):
        Replay(path, columns={"side": "aggressor"}).check()


def test_an_unreadable_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(b"this is no gzip")
    with pytest.raises(SourceError, match="not a complete gzip file"):
        Replay(path).check()


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("name", ["t.csv.gz", "t.jsonl.gz"])
async def test_a_truncated_gzip_gives_whole_rows_and_then_an_error(tmp_path: Path, name: str, share: float) -> None:
    rows = some_trades(3000)
    text = csv_text(rows) if "csv" in name else "".join(json.dumps(row._asdict()) + "\n" for row in rows)
    path = write(tmp_path, name, text)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    source = Replay(path, batch_items=64)
    with pytest.raises(SourceError, match="not a complete gzip file"):
        source.check()
    found: list[Any] = []

    async def read_all() -> None:
        fresh = source.fresh()
        await fresh.open(SourceContext("src", clock=FakeClock()), None)
        try:
            while (batch := await fresh.read()) is not None:
                assert not batch.rejected, "half a row is no bad row"
                found.extend(to_rows(batch.items))
        finally:
            await fresh.close()

    with pytest.raises(SourceError, match=name):
        await read_all()
    assert found == rows[: len(found)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "trades"}, "kind: 'trades'.*trade, quote, bar, rows"),
        ({"time_unit": "sec"}, "time_unit: 'sec'.*ns, us, ms, s, iso"),
        ({"columns": {"prize": "p"}}, "columns: 'prize'.*price"),
        ({"speed": 0}, "speed: 0 must be greater"),
        ({"speed": -1}, "speed: -1 must be greater"),
        ({"max_delay": "soon"}, "max_delay: 'soon'"),
        ({"idle_after": "-1s"}, "idle_after: '-1s'"),
        ({"live": True}, "live: True needs idle_after"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Replay("t.csv", **arguments)


def test_idleness_is_off_unless_it_is_asked_for() -> None:
    assert (Replay("t.csv").idle_after, Replay("t.csv").live) == (None, False)
    source = Replay("t.csv", idle_after="1m", live=True)
    assert (source.idle_after, source.live) == (60_000_000_000, True)


@pytest.mark.parametrize("name", ["t.xlsx", "t", "t.gz", "t.csv.zip", "t.parquet.gz"])
def test_an_unknown_format_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown format; allowed: \.csv, \.jsonl"):
        Replay(name)


# --- resume -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.jsonl", "t.jsonl.gz"])
async def test_resume_from_every_position_gives_the_same_rest(tmp_path: Path, name: str) -> None:
    rows = some_trades(60)
    if "csv" in name:
        lines = csv_text(rows).splitlines()
        lines[10:10] = ["bad"]
        lines[30:30] = ['"multi\nline",1,0,1,1,buy,"é,é"']
    else:
        lines = [json.dumps(row._asdict(), ensure_ascii=False) for row in rows]
        lines[10:10] = ["bad", ""]
        lines[30:30] = ['{"symbol": "é€😀", "ts_event": 1, "price": 1, "size": 1}']
    source = Replay(write(tmp_path, name, "\n".join(lines)), batch_items=4)
    whole = await batches(source)
    assert len(whole) > 10
    for at, batch in enumerate(whole):
        position = json.loads(json.dumps(batch.position))  # plain data, as a commit stores it
        rest = await batches(source, position)
        assert [to_rows(b.items) for b in rest] == [to_rows(b.items) for b in whole[at + 1 :]]
        assert [b.rejected for b in rest] == [b.rejected for b in whole[at + 1 :]]
        assert [b.position for b in rest] == [b.position for b in whole[at + 1 :]]


# --- pacing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", [0.5, 1.0, 10.0])
async def test_speed_paces_by_event_time(tmp_path: Path, speed: float) -> None:
    times = [0, 1_000_000_000, 1_500_000_000, 4_000_000_000]
    text = "symbol,ts_event,price,size\n" + "".join(f"A,{1000 + ts},1,1\n" for ts in times)
    clock = FakeClock()
    source = Replay(write(tmp_path, "t.csv", text), speed=speed).fresh()
    await source.open(SourceContext("src", clock=clock), None)
    arrived: list[tuple[int, float]] = []
    while (batch := await source.read()) is not None:
        arrived += [(row.ts_event - 1000, clock.monotonic()) for row in to_rows(batch.items)]
    await source.close()
    assert [ts for ts, _ in arrived] == times
    for ts, at in arrived:
        assert ts / 1e9 / speed == pytest.approx(at), "no row waits for the one behind it"
    assert clock.monotonic() == pytest.approx(times[-1] / 1e9 / speed)


async def test_resume_with_a_speed_gives_the_same_rest(tmp_path: Path) -> None:
    """Rows close together share a batch, the row that is held for the next one is read again, bad ones are told once."""
    times = [0, 5, 9, 10, 400, 402, 1000]
    lines = [f"A,{ts * 1_000_000},1,1" for ts in times]
    text = "\n".join(["symbol,ts_event,price,size", *lines[:4], "bad", *lines[4:6], "", "\ufffd", lines[6], ""])
    path = write(tmp_path, "t.csv", text.encode().replace("\ufffd".encode(), b"\xff"))
    source = Replay(path, speed=1.0)
    whole = await batches(source)
    assert [[row.ts_event // 1_000_000 for row in to_rows(b.items)] for b in whole] == [
        [0, 5, 9],
        [10],
        [400, 402],
        [1000],
    ]
    assert [letter.where for b in whole for letter in b.rejected] == ["t.csv:6", "t.csv:10"]
    for at, batch in enumerate(whole):
        rest = await batches(source, batch.position)
        assert [to_rows(b.items) for b in rest] == [to_rows(b.items) for b in whole[at + 1 :]]
        assert [b.rejected for b in rest] == [b.rejected for b in whole[at + 1 :]]


async def test_without_speed_nothing_waits(tmp_path: Path) -> None:
    clock = FakeClock()
    source = Replay(write(tmp_path, "t.csv", csv_text(some_trades(30))), batch_items=5)
    await batches(source, clock=clock)
    assert clock.slept == []


async def test_a_slow_reader_is_not_made_to_wait_again(tmp_path: Path) -> None:
    text = "symbol,ts_event,price,size\n" + "".join(f"A,{n * 1_000_000_000},1,1\n" for n in range(6))
    clock = FakeClock()
    source = Replay(write(tmp_path, "t.csv", text), speed=1.0, batch_items=1).fresh()
    await source.open(SourceContext("src", clock=clock), None)
    await source.read()
    clock.advance(10)  # the consumer took its time
    while await source.read() is not None:
        pass
    await source.close()
    assert clock.monotonic() == 10, "it is behind, so it hurries"
