"""What is done with more than is worked off: block, conflate, spill; and that nothing is lost in silence."""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.errors import SourceError
from market_data_pipeline.records import Gap, Quote, Trade
from market_data_pipeline.sources.inbox import Inbox, Overload
from market_data_pipeline.sources.spill import SpillFile


def _trade(number: int, symbol: str = "A") -> Trade:
    return Trade(symbol, number, number, 1.0, 1.0, trade_id=number)


def _quote(number: int, symbol: str = "A", venue: str = "") -> Quote:
    return Quote(symbol, number, number, 1.0, 1.0, 2.0, 1.0, update_id=number, venue=venue)


class Filled:
    """An inbox with its counters."""

    def __init__(self, policy: Overload, capacity: int = 8, spill: SpillFile | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.inbox = Inbox(capacity, policy, self._count, "feed", spill)
        self.out: list[Any] = []
        self.blocked = asyncio.Event()

    def _count(self, name: str, n: int) -> None:
        self.counts[name] += n
        if name == "blocked":
            self.blocked.set()

    async def take(self, limit: int = 1000) -> list[Any]:
        async with asyncio.timeout(10):
            taken = await self.inbox.take(limit)
        assert taken is not None
        self.out += taken
        return taken

    async def drain(self) -> None:
        self.inbox.end()
        async with asyncio.timeout(10):
            while (taken := await self.inbox.take(3)) is not None:
                self.out += taken


@pytest.fixture
def spill(tmp_path: Path) -> Iterator[SpillFile]:
    made = SpillFile(tmp_path, 1 << 30, "feed")
    yield made
    made.close()
    assert list(tmp_path.iterdir()) == []


async def test_a_writer_waits_from_full_until_low() -> None:
    filled = Filled("block")
    writing = asyncio.create_task(filled.inbox.put([_trade(number) for number in range(12)]))
    await asyncio.sleep(0)
    assert len(filled.inbox) == 8
    assert not writing.done()
    await filled.take(5)
    await asyncio.sleep(0)
    assert len(filled.inbox) == 3, "above the low level it still waits"
    await filled.take(1)
    await writing
    assert len(filled.inbox) == 6
    await filled.drain()
    assert [trade.trade_id for trade in filled.out] == list(range(12))
    assert filled.counts == {"blocked": 1}


async def test_only_quotes_are_conflated_and_only_above_the_level() -> None:
    filled = Filled("conflate")
    await filled.inbox.put([_quote(0), _quote(1), _quote(0, "B"), _trade(1)])
    assert filled.counts["conflated"] == 0
    await filled.inbox.put([_trade(2), _quote(2)])
    await filled.inbox.put([_quote(3), _quote(9, "B"), _trade(3), _quote(4), _quote(5, venue="x")])
    assert filled.counts["conflated"] == 3
    await filled.take()
    assert filled.out == [
        _quote(0), _quote(1), _quote(9, "B"), _trade(1), _trade(2), _quote(4), _trade(3), _quote(5, venue="x"),
    ]  # fmt: skip
    await filled.inbox.put([_quote(6), _quote(7)])
    assert await filled.take() == [_quote(6), _quote(7)], "below the low level nothing is conflated"


async def test_a_quote_never_goes_in_front_of_a_gap() -> None:
    filled = Filled("conflate")
    gap = Gap("A", 0, 0, 0, 5)
    await filled.inbox.put([*(_trade(number) for number in range(5)), _quote(1), gap, _quote(2)])
    await filled.drain()
    assert filled.out[5:] == [_quote(1), gap, _quote(2)]


async def test_what_cannot_be_conflated_waits() -> None:
    filled = Filled("conflate")
    writing = asyncio.create_task(filled.inbox.put([_trade(number) for number in range(10)]))
    await asyncio.sleep(0)
    assert not writing.done()
    await filled.take(8)
    await writing
    await filled.drain()
    assert [trade.trade_id for trade in filled.out] == list(range(10))


@given(st.lists(st.lists(st.tuples(st.sampled_from("tq"), st.sampled_from("AB")), max_size=12), max_size=12), st.data())
@settings(deadline=None)
async def test_conflation_keeps_trades_and_last_quotes(
    batches: list[list[tuple[str, str]]], data: st.DataObject
) -> None:
    """Every trade comes out, in order; each symbol's quotes come out in order with the last one; counts add up."""
    filled = Filled("conflate", capacity=1000)
    filled.inbox._levels.levels = type(filled.inbox._levels.levels)(6, 2)
    sent: list[Any] = []
    for batch in batches:
        records = [
            (_trade if kind == "t" else _quote)(len(sent) + at, symbol) for at, (kind, symbol) in enumerate(batch)
        ]
        sent += records
        await filled.inbox.put(records)
        if len(filled.inbox) and data.draw(st.booleans()):
            await filled.take(data.draw(st.integers(1, 5)))
    await filled.drain()
    assert [item for item in filled.out if isinstance(item, Trade)] == [
        item for item in sent if isinstance(item, Trade)
    ]
    assert len(filled.out) + filled.counts["conflated"] == len(sent)
    for symbol in "AB":
        quotes = [item for item in filled.out if isinstance(item, Quote) and item.symbol == symbol]
        all_quotes = [item for item in sent if isinstance(item, Quote) and item.symbol == symbol]
        assert quotes == sorted(quotes, key=lambda quote: quote.ts_event)
        assert quotes[-1:] == all_quotes[-1:]


async def test_spilled_items_come_back_in_order(spill: SpillFile) -> None:
    filled = Filled("spill", spill=spill)
    items = [_trade(number) if number % 3 else _quote(number) for number in range(10_000)]
    for begin in range(0, len(items), 700):
        await filled.inbox.put(items[begin : begin + 700])
        await filled.take(100)
    assert filled.counts["spilled"] > 5000
    assert filled.counts["blocked"] == 0
    await filled.drain()
    assert filled.out == items
    assert not spill.pending
    await filled.inbox.put([_trade(1)])
    assert len(filled.inbox) == 1, "back in memory"


async def test_a_full_spill_file_blocks_until_it_was_read(tmp_path: Path) -> None:
    small = SpillFile(tmp_path, 50_000, "feed")
    filled = Filled("spill", spill=small)
    items = [_trade(number) for number in range(8000)]
    writing = asyncio.create_task(filled.inbox.put(items))
    async with asyncio.timeout(20):
        await filled.blocked.wait()
    assert small.full
    assert not writing.done()
    while not writing.done():
        await filled.take(100)
    await filled.drain()
    assert filled.out == items
    small.close()


async def test_a_disk_that_refuses_blocks_and_loses_nothing(spill: SpillFile) -> None:
    """A real refusal: the process may not make files larger than that."""
    filled = Filled("spill", spill=spill)
    items = [_trade(number) for number in range(3000)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        writing = asyncio.create_task(filled.inbox.put(items))
        async with asyncio.timeout(20):
            await filled.blocked.wait()
        assert spill._written == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    while not writing.done():
        await filled.take(500)
    await filled.drain()
    assert filled.out == items


async def test_what_no_frame_holds_is_rejected_alone(spill: SpillFile) -> None:
    odd = Trade("A", 1, 1, 1.0, 1.0, trade_id=object())  # type: ignore[arg-type]
    assert await spill.write([_trade(0), odd, *(_trade(number) for number in range(1, 1100))]) == 1101
    back: list[Any] = []
    while items := await spill.read():
        back += items
    assert back == [_trade(number) for number in range(1100)]
    assert [letter.item for letter in spill.rejected] == [odd]


async def test_a_spoiled_file_is_a_source_error(spill: SpillFile) -> None:
    await spill.write([_trade(number) for number in range(3000)])
    spill._file.seek(100)
    spill._file.write(b"\xff" * 50)
    spill._file.flush()
    with pytest.raises(SourceError, match="byte 0: cannot be read back"):
        await spill.read()


async def test_the_end_and_an_error_come_behind_the_last_record() -> None:
    filled = Filled("block")
    await filled.inbox.put([_trade(1)])
    filled.inbox.poke()
    filled.inbox.fail(SourceError("gone"))
    assert await filled.take() == [_trade(1)]
    assert await filled.take() == []
    with pytest.raises(SourceError, match="gone"):
        await filled.inbox.take(1)
    ended = Filled("block")
    ended.inbox.end()
    assert await ended.inbox.take(1) is None


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="spill_path"):
        SpillFile(tmp_path / "no", 1, "feed")
