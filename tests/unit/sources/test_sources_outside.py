"""Providers and sources of other packages in front of a job."""

from __future__ import annotations

from typing import Any

import pytest
from tools.fake_clock import FakeClock
from tools.feed_reading import reading
from tools.foreign import (
    MADE,
    Feed,
    Instrument,
    InvalidInstrument,
    LoudPermissionsMissing,
    Numbers,
    PacingViolation,
    SlowStart,
    TheirQuote,
    trade,
)

from market_data_pipeline import (
    ConfigError,
    FeedDown,
    OutsideProvider,
    OutsideSource,
    ProviderSource,
    SourceContext,
    SourceError,
    SubscriptionRefused,
    VenueLimits,
    trade_of,
)
from market_data_pipeline.budget import HOST, Budget, BudgetRule, MemoryBudgets
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.records import Gap


def trades(items: list[Any]) -> list[int]:
    return [item.trade_id for item in items if not isinstance(item, Gap)]


async def test_streams_of_generators_are_read_and_begun_again_when_they_end_or_raise() -> None:
    feed = Feed([trade(1), trade(2), None], [trade(3), ValueError("broken")], [trade(4)])
    async with reading(OutsideProvider(feed, "theirs"), ["AAPL"]) as read:
        await read.until(lambda: trades(read.items)[-1:] == [4])
    assert trades(read.items) == [1, 2, 3, 4]
    assert read.items[0]._replace(ts_recv=0) == trade_of(trade(1))._replace(venue="theirs")
    told = [event.detail for event in read.events if event.event == "disconnected"]
    assert told == ["the stream of trade of AAPL ended", "trade of AAPL: ValueError: broken"]
    assert (feed.asked, feed.open, feed.closed) == ([["AAPL"]] * 3, 0, 0), "an object that was given is not closed"


async def test_a_coroutine_that_gives_its_stream_and_refuses_a_symbol_at_once() -> None:
    quotes = [TheirQuote("MSFT", 1_767_364_200.5, "1.1", "1.2", 3.0)]
    provider = OutsideProvider(SlowStart(Feed(quotes)), "theirs")
    assert provider.kinds == {"quote"}
    async with reading(provider, ["BAD", "MSFT"], ["quote"]) as read:
        await read.until(lambda: bool(read.items and read.letters))
    assert [letter.item for letter in read.letters] == [{"kind": "quote", "symbol": "BAD"}]
    assert "InvalidInstrument: no such thing" in read.letters[0].reason
    assert [(item.symbol, item.bid, item.ask_size) for item in read.items if not isinstance(item, Gap)] == [
        ("MSFT", 1.1, 0.0)
    ]


async def test_a_stream_that_refuses_when_it_is_read_is_asked_for_by_each_symbol() -> None:
    """Errors are known by a base's name too; the connection goes on."""
    feed = Feed([InvalidInstrument("one of them")], [LoudPermissionsMissing("not yours")], [trade(5, "MSFT")])
    async with reading(OutsideProvider(feed, clock=FakeClock()), ["AAPL", "MSFT"]) as read:
        await read.until(lambda: bool(trades(read.items) and read.letters))
    assert feed.asked == [["AAPL", "MSFT"], ["AAPL"], ["MSFT"]]
    assert [letter.item["symbol"] for letter in read.letters] == ["AAPL"]
    assert "LoudPermissionsMissing: not yours" in read.letters[0].reason
    assert read.counts["disconnected"] == 0


async def test_what_is_asked_again_by_each_symbol_comes_out_of_the_venues_budget() -> None:
    """All workers may find out at once that a symbol of their calls is refused."""

    class Counted(MemoryBudgets):
        def of(self, name: str, rule: BudgetRule) -> Budget:
            asked.append((name, rule))
            return super().of(name, rule)

        async def ask(self, name: str, rule: BudgetRule, requests: int, longest: int) -> int:
            asked.append(name)
            return await super().ask(name, rule, requests, longest)

    asked: list[Any] = []
    feed, clock = Feed([InvalidInstrument("one of them")], [InvalidInstrument("no")], [trade(5, "MSFT")]), FakeClock()
    kept = HOST.set(Counted(clock))
    try:
        connection = await OutsideProvider(feed, "Venue", limits=VenueLimits(3.0), clock=clock).connect()
        await connection.subscribe("trade", ["AAPL", "MSFT"])
        records: list[Any] = []
        async for found in connection.records():
            records += found
            if len(records) == 2:
                break
        await connection.close()
    finally:
        HOST.reset(kept)
    assert feed.asked == [["AAPL", "MSFT"], ["AAPL"], ["MSFT"]]
    assert asked == [("venue", BudgetRule(3.0)), "venue", "venue"]


async def test_pacing_says_how_long_to_leave_it_alone() -> None:
    connection = await OutsideProvider(Feed([PacingViolation("slow down", 7)])).connect()
    await connection.subscribe("trade", ["AAPL"])
    with pytest.raises(FeedDown, match=r"trade of AAPL: PacingViolation: slow down") as raised:
        await anext(aiter(connection.records()))
    assert raised.value.retry_after == 7.0
    assert not connection.health().connected
    await connection.close()


async def test_what_cannot_be_read_or_was_not_asked_for_is_a_dead_letter() -> None:
    feed = Feed([{"symbol": "AAPL", "ts": "noon", "price": 1.0, "size": 1.0}, trade(1, "TSLA"), object(), trade(2)])
    async with reading(OutsideProvider(feed), ["AAPL"]) as read:
        await read.until(lambda: trades(read.items) == [2])
    reasons = [letter.reason for letter in read.letters]
    assert ["ts: 'noon' is no time" in reasons[0], "'TSLA' was not asked for; AAPL were" in reasons[1]] == [True, True]
    assert reasons[2].startswith("symbol: missing")
    assert type(read.letters[1].item) is str, "an object of theirs cannot travel"


async def test_instruments_are_made_and_their_records_have_the_symbols_asked_for() -> None:
    feed = Feed([trade(1, "ES")], [trade(2, "ES")])
    names = {"ESH6": Instrument(symbol="ES", exchange="H6"), "ESM6": Instrument(symbol="ES", exchange="M6")}
    async with reading(OutsideProvider(feed, instrument=names.__getitem__), ["ESH6", "ESM6"]) as read:
        await read.until(lambda: len(trades(read.items)) == 2)
    assert feed.asked == [[names["ESH6"]], [names["ESM6"]]], "of one name they could not be told apart in one stream"
    assert [(item.symbol, item.trade_id) for item in read.items] == [("ESH6", 1), ("ESM6", 2)]


async def test_a_factory_makes_an_object_for_each_connection_and_it_is_closed_with_it() -> None:
    MADE.clear()
    async with reading(OutsideProvider(factory="tools.foreign:made_feed"), ["AAPL"]) as read:
        await read.until(lambda: trades(read.items) == [1, 2])
    assert (MADE["feed"].closed, MADE["feed"].open) == (2, 0)


async def test_a_factory_that_makes_no_provider_ends_the_source_and_one_that_fails_does_not() -> None:
    with pytest.raises(SourceError, match=r"a builtins\.object has no method stream_trades or stream_quotes"):
        await OutsideProvider(factory="tools.foreign:unlike").connect()
    with pytest.raises(FeedDown, match="bad_feed: ValidationError"):
        await OutsideProvider(factory="tools.foreign:bad_feed").connect()


async def test_while_nobody_reads_the_stream_is_not_read_on() -> None:
    one = trade_of(trade(0))
    feed = Feed([one._replace(trade_id=number) for number in range(20_000)])
    connection = await OutsideProvider(feed).connect()
    await connection.subscribe("trade", ["AAPL"])
    records = aiter(connection.records())
    found = list(await anext(records))
    assert len(found) == 16384
    while len(found) < 20_000:
        found += await anext(records)
    assert [record.trade_id for record in found] == list(range(20_000))  # type: ignore[union-attr]
    await connection.close()
    assert feed.open == 0


async def test_kinds_are_those_there_are_methods_for() -> None:
    provider = OutsideProvider(Feed())
    with pytest.raises(ConfigError, match="'quote' is not allowed; outside has: trade"):
        ProviderSource(provider, ["AAPL"], ["quote"])
    with pytest.raises(ConfigError, match="needs the method stream_quotes"):
        OutsideProvider(Feed(), kinds=["quote"])
    connection = await provider.connect()
    with pytest.raises(SubscriptionRefused, match="a Feed has no stream_quotes"):
        await connection.subscribe("quote", ["AAPL"])


async def drained(source: OutsideSource, position: Any) -> tuple[list[Any], list[DeadLetter], Any]:
    mine = source.fresh()
    await mine.open(SourceContext("theirs"), position)
    items: list[Any] = []
    letters: list[DeadLetter] = []
    while (batch := await mine.read()) is not None:
        items += batch.items
        letters += batch.rejected
        position = batch.position
    await mine.close()
    return items, letters, position


async def test_a_source_is_read_to_its_end_and_bad_items_are_rejected_alone() -> None:
    numbers = Numbers(6)
    items, letters, position = await drained(OutsideSource(numbers), None)
    assert ([item.trade_id for item in items], position, numbers.closed) == ([0, 1, 2, 4, 5], 6, 1)
    assert [(letter.where, letter.reason[:13]) for letter in letters] == [("item 4", "ts: 'noon' is")]


async def test_a_repeatable_source_goes_on_behind_its_position() -> None:
    again, _, position = await drained(OutsideSource(Numbers(6), repeatable=True), 4)
    assert ([item.trade_id for item in again], position) == ([4, 5], 6)
    anew, _, counted = await drained(OutsideSource(Numbers(2)), 4)
    assert ([item.trade_id for item in anew], counted) == ([0, 1], 6), "another stream: all of it is new"


async def test_an_error_of_a_source_comes_behind_what_came_before_it() -> None:
    class Breaks:
        async def stream(self) -> Any:
            async def items() -> Any:
                yield 1
                raise OSError("away")

            return items()

    source = OutsideSource(Breaks(), convert=lambda item: item).fresh()
    await source.open(SourceContext("theirs"), None)
    first = await source.read()
    assert first is not None
    assert first.items == [1]
    with pytest.raises(SourceError, match="Breaks: OSError: away"):
        await source.read()
    await source.close()
