"""Replay of Databento's DBN, written by Databento's own encoder and judged by its own decoded objects."""

from __future__ import annotations

import datetime as dt
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import databento_dbn as dbn
import pytest
import zstandard
from tools.replayed import batches, check_resume, everything, letters_of, rows_of

from market_data_pipeline.errors import SourceError
from market_data_pipeline.frame import Columns
from market_data_pipeline.records import Bar, Quote, Trade
from market_data_pipeline.sources.base import SourceContext
from market_data_pipeline.sources.formats import dbn_records
from market_data_pipeline.sources.replay import Replay

DAY = 86_400 * 10**9
NOON = 20_000 * DAY + DAY // 2  # 2024-10-04
SIDES = {"A": "sell", "B": "buy", "N": ""}
IDS = {7: "ESZ4", 9: "NQZ4"}


def mapping(symbol: str, *intervals: tuple[int, int, str]) -> SimpleNamespace:
    """``intervals``: first day and end day around the day of ``NOON``, and the number."""
    day = dt.date(1970, 1, 1) + dt.timedelta(days=20_000)
    return SimpleNamespace(
        raw_symbol=symbol,
        intervals=[
            SimpleNamespace(start_date=day + dt.timedelta(days=a), end_date=day + dt.timedelta(days=b), symbol=number)
            for a, b, number in intervals
        ],
    )


def metadata(schema: str | None, mappings: list[Any] | None = None, **more: Any) -> bytes:
    if mappings is None:
        mappings = [mapping(symbol, (-1, 2, str(number))) for number, symbol in IDS.items()]
    given: dict[str, Any] = {
        "dataset": "GLBX.MDP3", "start": 0, "stype_in": dbn.SType.RAW_SYMBOL, "stype_out": dbn.SType.INSTRUMENT_ID,
        "schema": None if schema is None else dbn.Schema.from_str(schema), "mappings": mappings,
    }  # fmt: skip
    return bytes(dbn.Metadata(**{**given, **more}))


def trade(ts: int, price: int = 10**9, *, side: str = "B", sequence: int = 1, number: int = 7, **more: Any) -> Any:
    return dbn.TradeMsg(
        publisher_id=1, instrument_id=number, ts_event=NOON + ts, price=price, size=3, action=dbn.Action.TRADE,
        side=dbn.Side(side), depth=0, ts_recv=NOON + ts + 50, sequence=sequence, **more,
    )  # fmt: skip


def top(cls: Any, ts: int, bid: int, ask: int, **more: Any) -> Any:
    level = dbn.BidAskPair(bid_px=bid, ask_px=ask, bid_sz=5, ask_sz=6, bid_ct=1, ask_ct=2)
    given: dict[str, Any] = {
        "publisher_id": 1, "instrument_id": 7, "ts_event": NOON + ts, "price": 10**9, "size": 3, "side": dbn.Side.ASK,
        "ts_recv": NOON + ts + 50, "sequence": ts, "levels": level,
    }  # fmt: skip
    if cls is dbn.MBP1Msg:
        given |= {"action": dbn.Action.ADD, "depth": 0}
    return cls(**{**given, **more})


def write(path: Path, head: bytes, records: list[Any]) -> Path:
    raw = head + b"".join(map(bytes, records))
    path.write_bytes(zstandard.ZstdCompressor().compress(raw) if path.suffix == ".zst" else raw)
    return path


def many(n: int) -> list[Any]:
    """Trades with runs of one sequence number, two instruments, and all sides."""
    rng = random.Random(5)
    found, sequence = [], 10
    for ts in range(n):
        sequence += rng.choice((0, 0, 1, 2))
        price = rng.randrange(-(10**12), 10**15)
        found.append(trade(ts, price, side=rng.choice("ABN"), sequence=sequence, number=rng.choice((7, 9))))
    return found


def expected(records: list[Any]) -> list[Trade]:
    """From the library's own objects, one by one."""
    found, last, seen = [], None, dict[int, int]()
    for record in records:
        if record.sequence != last:
            last, seen = record.sequence, {}
        ordinal = seen[record.instrument_id] = seen.get(record.instrument_id, -1) + 1
        trade_id = record.sequence if ordinal == 0 else f"{record.sequence}.{ordinal}"
        side = SIDES[str(record.side)]
        symbol, price = IDS[record.instrument_id], record.price / 1e9
        found.append(Trade(symbol, record.ts_event, record.ts_recv, price, float(record.size), side, trade_id))
    return found


@pytest.mark.parametrize("name", ["t.dbn", "t.dbn.zst"])
@pytest.mark.parametrize("batch_items", [7, 8192])
async def test_trades(tmp_path: Path, name: str, batch_items: int) -> None:
    records = many(300)
    source = Replay(write(tmp_path / name, metadata("trades"), records), batch_items=batch_items)
    source.check()
    found = await check_resume(source)
    assert rows_of(found) == expected(records)
    assert letters_of(found) == []
    assert all(isinstance(batch.items, Columns) for batch in found)


async def test_more_than_one_read_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("market_data_pipeline.sources.formats.dbn._READ_BYTES", 500)
    records = many(200)
    source = Replay(write(tmp_path / "t.dbn", metadata("trades"), records), batch_items=9)
    assert rows_of(await check_resume(source)) == expected(records)


async def test_a_run_without_end_is_taken_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("market_data_pipeline.sources.formats.dbn._READ_BYTES", 500)
    for module in ("dbn", "dbn_records"):
        monkeypatch.setattr(f"market_data_pipeline.sources.formats.{module}.RUN_RECORDS", 16)
    records = [trade(ts, sequence=5) for ts in range(100)]
    found = await check_resume(Replay(write(tmp_path / "t.dbn", metadata("trades"), records), batch_items=7))
    assert [row.ts_event - NOON for row in rows_of(found)] == list(range(100))
    assert len({row.trade_id for row in rows_of(found)}) == 100


async def test_without_a_sequence_there_is_no_id(tmp_path: Path) -> None:
    rows, _ = await everything(
        Replay(write(tmp_path / "t.dbn", metadata("trades"), [trade(n, sequence=0) for n in range(3)]))
    )
    assert [row.trade_id for row in rows] == ["", "", ""]


async def test_the_layouts_are_the_librarys() -> None:
    for schema, cls in {
        "trades": dbn.TradeMsg, "mbp-1": dbn.MBP1Msg, "tbbo": dbn.MBP1Msg, "bbo-1s": dbn.BBOMsg, "ohlcv-1m": dbn.OHLCVMsg,
    }.items():  # fmt: skip
        layout, _ = dbn_records.LAYOUTS[schema]
        assert sum(int(kind[-1]) for _, kind in layout) == cls.size_hint


@pytest.mark.parametrize(
    ("schema", "kind"), [("mbp-1", "quote"), ("tbbo", "quote"), ("mbp-1", "trade"), ("tbbo", "trade")]
)
async def test_top_of_book(tmp_path: Path, schema: str, kind: str) -> None:
    records = [
        top(dbn.MBP1Msg, 1, 999_500_000_000, 1_000_250_000_000),
        top(dbn.MBP1Msg, 2, 999_500_000_000, 1_000_250_000_000, action=dbn.Action.TRADE, price=-37_630_000_000),
    ]
    source = Replay(write(tmp_path / "t.dbn", metadata(schema), records), kind=kind)
    rows, dead = await everything(source)
    assert not dead
    if kind == "trade":
        assert rows == [Trade("ESZ4", NOON + 2, NOON + 52, -37.63, 3.0, "sell", 2)]
    else:
        assert rows == [Quote("ESZ4", NOON + n, NOON + n + 50, 999.5, 5.0, 1000.25, 6.0, n) for n in (1, 2)]


async def test_a_quote_by_interval_has_the_time_of_its_interval(tmp_path: Path) -> None:
    records = [
        top(dbn.BBOMsg, 1, 10**9, 2 * 10**9, rtype=195, ts_recv=NOON + 10**9),
        top(dbn.BBOMsg, 2, 10**9, 2 * 10**9, rtype=195, ts_event=dbn.UNDEF_TIMESTAMP, ts_recv=NOON + 2 * 10**9),
    ]
    rows, dead = await everything(Replay(write(tmp_path / "t.dbn", metadata("bbo-1s"), records), kind="quote"))
    assert not dead
    assert [(row.ts_event, row.ts_recv) for row in rows] == [(NOON + 10**9,) * 2, (NOON + 2 * 10**9,) * 2]


@pytest.mark.parametrize(
    ("unit", "rtype", "seconds"), [("1s", 32, 1), ("1m", 33, 60), ("1h", 34, 3600), ("1d", 35, 86400)]
)
async def test_bars(tmp_path: Path, unit: str, rtype: int, seconds: int) -> None:
    prices = {"open": 10**9, "high": 3 * 10**9, "low": 5 * 10**8, "close": 2 * 10**9}
    record = dbn.OHLCVMsg(rtype=rtype, publisher_id=1, instrument_id=9, ts_event=NOON, volume=12, **prices)
    rows, dead = await everything(Replay(write(tmp_path / "t.dbn", metadata(f"ohlcv-{unit}"), [record]), kind="bar"))
    close = NOON + seconds * 10**9
    assert (rows, dead) == ([Bar("NQZ4", NOON, close, 1.0, 3.0, 0.5, 2.0, 12.0, 2.0, 0, NOON)], [])


async def test_what_is_undefined_is_a_dead_letter_with_its_record(tmp_path: Path) -> None:
    records = [
        trade(1), trade(2, dbn.UNDEF_PRICE, sequence=2), trade(3, sequence=3, number=8), trade(4, sequence=4),
    ]  # fmt: skip
    source = Replay(write(tmp_path / "t.dbn", metadata("trades"), records), batch_items=1)
    found = await check_resume(source)
    assert [row.ts_event - NOON for row in rows_of(found)] == [1, 4]
    letters = letters_of(found)
    assert [(letter.where, letter.reason) for letter in letters] == [
        ("t.dbn:2", "undefined price: price"),
        ("t.dbn:3", "instrument_id 8: has no symbol on 2024-10-04; give one with symbol="),
    ]
    assert letters[0].item["price"] is None
    assert letters[1].item["instrument_id"] == 8
    quote = top(dbn.MBP1Msg, 1, dbn.UNDEF_PRICE, 10**9)
    _, dead = await everything(Replay(write(tmp_path / "q.dbn", metadata("mbp-1"), [quote]), kind="quote"))
    assert [letter.reason for letter in dead] == ["undefined price: bid_px"]


async def test_a_number_has_the_symbol_of_its_day(tmp_path: Path) -> None:
    mappings = [mapping("OLD", (-5, 0, "7"), (1, 3, "")), mapping("NEW", (0, 1, "7")), mapping("LATER", (1, 9, "7"))]
    before, behind = -DAY // 2 - 60, DAY // 2 - 50  # the index time is ts_recv, 50 ns later
    records = [trade(ts, sequence=n) for n, ts in enumerate((before, before + 10, behind - 1, behind, behind + DAY), 1)]
    rows, dead = await everything(Replay(write(tmp_path / "t.dbn", metadata("trades", mappings), records)))
    assert [row.symbol for row in rows] == ["OLD", "NEW", "NEW", "LATER", "LATER"]
    assert not dead
    by_id = metadata(
        "trades", [mapping("7", (0, 1, "ESZ4"))], stype_in=dbn.SType.INSTRUMENT_ID, stype_out=dbn.SType.RAW_SYMBOL
    )
    rows, _ = await everything(Replay(write(tmp_path / "t.dbn", by_id, [trade(1)])))
    assert [row.symbol for row in rows] == ["ESZ4"]
    rows, _ = await everything(Replay(write(tmp_path / "t.dbn", metadata("trades", []), [trade(1)]), symbol="X"))
    assert [row.symbol for row in rows] == ["X"]


def said(number: int, symbol: str) -> Any:
    return dbn.SymbolMappingMsg(
        publisher_id=0, instrument_id=number, ts_event=NOON, stype_in=dbn.SType.RAW_SYMBOL, stype_in_symbol="",
        stype_out=dbn.SType.INSTRUMENT_ID, stype_out_symbol=symbol, start_ts=0, end_ts=2**64 - 1,
    )  # fmt: skip


@pytest.mark.parametrize("version", [1, 3])
@pytest.mark.parametrize("ts_out", [False, True])
async def test_a_recorded_live_stream(tmp_path: Path, version: int, ts_out: bool) -> None:
    """No schema, symbols by messages, also changed in between, other records among them."""
    more = {"ts_out": NOON} if ts_out else {}
    records = [said(7, "A"), said(9, "B")]
    for n in range(30):
        records += [trade(n, sequence=n // 2 + 1, number=(7, 9)[n % 2], **more)]
        if n % 10 == 9:
            records += [said(7, f"A{n}"), top(dbn.MBP1Msg, n, 10**9, 2 * 10**9, **more)]
    head = metadata(None, [], ts_out=ts_out, version=version, stype_in=None)
    raw = [padded(record, ts_out, version) for record in records]
    path = tmp_path / "live.dbn"
    path.write_bytes(head + b"".join(raw))
    found = await check_resume(Replay(path, batch_items=4))
    symbols = [("A", "A9", "A19")[n // 10] if n % 2 == 0 else "B" for n in range(30)]
    assert [row.symbol for row in rows_of(found)] == symbols
    assert [row.ts_event - NOON for row in rows_of(found)] == list(range(30))
    quotes, _ = await everything(Replay(path, kind="quote"))
    assert [(row.ts_event - NOON, row.symbol) for row in quotes] == [(9, "A9"), (19, "A19"), (29, "A29")]


def padded(record: Any, ts_out: bool, version: int) -> bytes:
    """A record as the version has it: a mapping message of version 1 is shorter; with ``ts_out`` each ends with it."""
    raw = bytes(record)
    if raw[1] == 22:
        if version == 1:
            old = dbn.v1.SymbolMappingMsg(
                publisher_id=0, instrument_id=record.instrument_id, ts_event=NOON, stype_in_symbol="",
                stype_out_symbol=record.stype_out_symbol, start_ts=0, end_ts=2**64 - 1,
            )  # fmt: skip
            raw = bytes(old)
        if ts_out:
            raw = bytes([raw[0] + 2]) + raw[1:] + NOON.to_bytes(8, "little")
    return raw


async def test_exact_prices_and_plain_rows(tmp_path: Path) -> None:
    prices = [1, -1, 10**9, -37_630_000_000, 2**62, 123_456_789_012_345_678, 0]
    records = [trade(n, price, sequence=n + 1) for n, price in enumerate(prices)]
    path = write(tmp_path / "t.dbn", metadata("trades"), records)
    rows, _ = await everything(Replay(path, exact=True))
    assert [row.price for row in rows] == [
        "0.000000001", "-0.000000001", "1", "-37.63", "4611686018.427387904", "123456789.012345678", "0"
    ]  # fmt: skip
    (row, *_), _ = await everything(Replay(path, kind="rows"))
    assert row | {"length": 12} == {
        "symbol": "ESZ4", "length": 12, "rtype": 0, "publisher_id": 1, "instrument_id": 7, "ts_event": NOON, "price": 1e-9,
        "size": 3, "action": "T", "side": "B", "flags": 0, "depth": 0, "ts_recv": NOON + 50, "ts_in_delta": 0, "sequence": 1,
    }  # fmt: skip


async def test_days_are_merged_and_cut(tmp_path: Path) -> None:
    for day in range(3):
        write(tmp_path / f"{day}.dbn.zst", metadata("trades"), [trade(day * 10 + n, sequence=n + 1) for n in range(10)])
    source = Replay(tmp_path, start=NOON + 5, end=NOON + 25, batch_items=3)
    found = await check_resume(source)
    assert [row.ts_event - NOON for row in rows_of(found)] == list(range(5, 25))


@pytest.mark.parametrize(
    ("schema", "kind", "message"),
    [
        ("mbo", "trade", "has the schema mbo, not a trade's; allowed: trades, tbbo, mbp-1"),
        ("trades", "quote", "has the schema trades, not a quote's; allowed: mbp-1, tbbo, bbo-1s, bbo-1m"),
        ("bbo-1m", "bar", "has the schema bbo-1m, not a bar's; allowed: ohlcv-1s"),
        (None, "rows", "has records of no one schema"),
    ],
)
def test_a_file_of_another_schema_is_refused(tmp_path: Path, schema: str | None, kind: str, message: str) -> None:
    path = write(tmp_path / "t.dbn", metadata(schema, stype_in=None if schema is None else dbn.SType.RAW_SYMBOL), [])
    with pytest.raises(SourceError, match=message):
        Replay(path, kind=kind).check()


@pytest.mark.parametrize("name", ["t.dbn", "t.dbn.zst"])
async def test_damaged_files_give_whole_records_and_then_an_error(tmp_path: Path, name: str) -> None:
    records = many(400)
    path = write(tmp_path / name, metadata("trades"), records)
    whole = path.read_bytes()
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(SourceError, match=name):
        Replay(path).check()
    path.write_bytes(whole[:-7])
    source = Replay(path, batch_items=50).fresh()
    found: list[Any] = []

    async def read_all() -> None:
        await source.open(SourceContext("src"), None)
        try:
            while (batch := await source.read()) is not None:
                found.append(batch)
        finally:
            await source.close()

    with pytest.raises(SourceError, match=name):
        await read_all()
    assert rows_of(found) == expected(records)[: len(rows_of(found))]
    if name == "t.dbn":
        assert len(rows_of(found)) == 399


async def test_a_file_that_is_shorter_or_gone_is_refused(tmp_path: Path) -> None:
    for mappings in (None, []):
        records = [said(7, "ESZ4"), said(9, "NQZ4"), *many(100)]
        path = write(tmp_path / "t.dbn", metadata("trades", mappings), records)
        position = (await batches(Replay(path, batch_items=10)))[7].position
        write(path, metadata("trades", mappings), records[:20])
        with pytest.raises(SourceError, match=r"t\.dbn: is shorter than when it was read"):
            await batches(Replay(path), position)
    path.unlink()
    with pytest.raises(SourceError, match=r"t\.dbn: no such file"):
        await batches(Replay(path), position)


async def test_a_record_of_another_length_than_its_type_is_told(tmp_path: Path) -> None:
    """The library panics at it: no ``Exception``, and so the end of the process."""
    path = write(tmp_path / "a.dbn", metadata("trades", [mapping("A", (0, 40_000, "7"))]), many(3))
    raw = bytearray(path.read_bytes())
    raw[-len(bytes(many(3)[-1])) + 1] = 32  # a bar's
    path.write_bytes(raw)
    with pytest.raises(SourceError, match=r"a\.dbn: behind record 0: cannot be read on: Malformed"):
        await everything(Replay(path))


async def test_a_record_that_is_longer_than_its_type_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dbn", metadata("trades", [mapping("A", (0, 40_000, "7"))]), many(4))
    raw = bytearray(path.read_bytes())
    size = len(bytes(many(4)[0]))
    raw[-2 * size] *= 2  # its length: with the record behind it
    path.write_bytes(raw)
    with pytest.raises(SourceError, match=r"a\.dbn: record 3: is of 96 bytes, and its type of 48: damaged"):
        await everything(Replay(path))
