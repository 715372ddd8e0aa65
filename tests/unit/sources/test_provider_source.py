"""ProviderSource on a real TCP feed that is cut, quiet, slow, and refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from market_data_pipeline.circuit import CircuitRule
from market_data_pipeline.component import describe
from market_data_pipeline.dag.partition import partition_of
from market_data_pipeline.errors import ConfigError, SourceError
from market_data_pipeline.records import Gap, Quote, Trade
from market_data_pipeline.sources.base import SourceContext
from market_data_pipeline.sources.provider import FeedConnection, FeedDown, VenueLimits
from market_data_pipeline.sources.provider_source import ProviderSource
from tests.tools.fake_clock import FakeClock
from tests.tools.feed_reading import PATIENT, QUICK, quote, reading, trade
from tests.tools.line_feed import LineFeed, LineProvider


async def test_records_have_a_venue_and_times_of_arrival_that_grow() -> None:
    async with LineFeed() as feed, reading(LineProvider(feed.port), kinds=("trade", "quote")) as read:
        await feed.until(lambda: len(feed.calls) == 2)
        await feed.until(lambda: feed.subscriptions["A"] == 2)
        await feed.send(trade(1), quote(1), trade(2), trade(2))
        await read.got(4)
        assert read.records == [trade(1), quote(1), trade(2), trade(2)]
        assert {item.venue for item in read.items} == {"line"}
        times = [item.ts_recv for item in read.items]
        assert times == sorted(set(times))
        assert read.position == {"opened": 1}
        assert read.named() == [("line", "connected")]


async def test_after_a_cut_the_gap_stands_before_the_first_record() -> None:
    async with LineFeed() as feed, reading(LineProvider(feed.port), ["A", "B", "C"]) as read:
        await feed.subscribed("C")
        await feed.send(trade(1), trade(1, "B"), trade(2), trade(2, "B"))
        await feed.cut()
        await feed.subscribed("C", 2)
        await feed.send(trade(5), trade(3, "B"), trade(9, "C"))
        await read.got(8)
        assert read.records[4:] == [Gap("A", 3, 4, 2, 50), trade(5), trade(3, "B"), trade(9, "C")]
        assert [name for _, name in read.named()] == ["connected", "disconnected", "connected"]
        assert (read.counts["gap"], read.counts["missing"], read.counts["disconnected"]) == (1, 2, 1)


async def test_a_snapshot_that_fills_the_hole_has_come() -> None:
    async with LineFeed() as feed, reading(LineProvider(feed.port)) as read:
        feed.history = [trade(1)]
        await feed.subscribed("A")
        await feed.send(trade(2))
        feed.history = [trade(number) for number in (1, 2, 3, 4)]
        await feed.cut()
        await feed.subscribed("A", 2)
        await feed.send(trade(5))
        await read.got(7)
        assert [(item.trade_id, item.phase) for item in read.items] == [
            (1, "snapshot"), (2, "live"), (1, "snapshot"), (2, "snapshot"), (3, "live"), (4, "live"), (5, "live"),
        ]  # fmt: skip
        assert read.counts["recovered"] == 2
        assert read.counts["gap"] == 0


class TupleVenue(NamedTuple):
    """A provider that is a sequence, too."""

    port: int
    name: str = "tuple"
    kinds: frozenset[str] = frozenset({"trade"})
    splittable: bool = True
    limits: VenueLimits = VenueLimits()

    def check(self, symbols: Sequence[str], kinds: Sequence[str]) -> None: ...

    async def connect(self) -> FeedConnection:
        return await LineProvider(self.port).connect()


def test_a_provider_may_be_a_named_tuple() -> None:
    venue = TupleVenue(1)
    assert ProviderSource(venue, ["A"]).providers == (venue,)
    assert ProviderSource((venue, venue._replace(name="other")), ["A"]).labels == ("tuple", "other")


async def test_quiet_is_not_disconnected() -> None:
    async with LineFeed() as feed, reading(LineProvider(feed.port), quiet_after="40ms") as read:
        await feed.subscribed("A")
        await feed.send(trade(1))
        await read.event("quiet")
        await feed.send(trade(9))
        await read.event("resumed")
        await read.got(2)
        assert read.records == [trade(1), trade(9)], "what is missing within a connection is GapDetector's business"
        assert [name for _, name in read.named()][:3] == ["connected", "quiet", "resumed"]
        assert feed.made == 1


async def test_a_heartbeat_ends_quiet_too() -> None:
    async with LineFeed() as feed, reading(LineProvider(feed.port), quiet_after="40ms") as read:
        await feed.subscribed("A")
        await read.event("quiet")
        await feed.say({"beat": True})
        await read.event("resumed")
        assert read.items == []


async def test_a_connection_that_is_quiet_for_too_long_is_made_anew() -> None:
    async with LineFeed() as feed, reading(LineProvider(feed.port), quiet_after="20ms", give_up_after="60ms") as read:
        await feed.subscribed("A")
        await read.event("connected", 2)
        names = [name for _, name in read.named()]
        assert names[1] == "quiet"
        assert [name for name in names if name.endswith("connected")] == ["connected", "disconnected", "connected"]


async def test_while_nothing_is_there_the_source_lives_and_then_says_so() -> None:
    """Empty batches for ``gap_after``: its silence is not idleness. Then a gap of unknown size at the last record."""
    async with LineFeed() as feed, reading(LineProvider(feed.port), gap_after="400ms", idle_after="60ms") as read:
        await feed.subscribed("A")
        await feed.send(trade(1), trade(2))
        await read.got(2)
        feed.unwelcome = 1_000_000
        await feed.cut()
        await read.event("disconnected")
        before = read.batches
        await read.got(3)
        assert read.batches - before > 1
        assert read.records[2] == Gap("A", 0, 0, 0, 20)
        feed.unwelcome = 0
        await feed.subscribed("A", 2)
        await feed.send(trade(4))
        await read.got(5)
        assert read.records[3:] == [Gap("A", 3, 3, 1, 40), trade(4)]


@pytest.mark.parametrize("how", ["refused", "unknown", "late"])
async def test_a_refused_symbol_does_not_stop_the_others(how: str) -> None:
    async with LineFeed() as feed, reading(LineProvider(feed.port), ["A", "B", "C"]) as read:
        getattr(feed, how).add("B")
        await feed.subscribed("C")
        await feed.send(trade(1), trade(1, "C"))
        await read.until(lambda: len(read.items) == 2 and bool(read.letters))
        assert [(letter.node, letter.item, letter.where) for letter in read.letters] == [
            ("feed", {"kind": "trade", "symbol": "B"}, "line")
        ]
        assert [(event.event, event.symbol) for event in read.events] == [("connected", ""), ("failed", "B")]
        assert read.counts["refused"] == 1
        await feed.cut()
        await feed.subscribed("C", 2)
        await feed.send(trade(2))
        await read.got(3)
        if how != "late":
            assert feed.calls[-1] == ("trade", ["A", "C"]), "what was refused is not asked for again"


async def test_when_all_is_refused_the_source_cannot_work() -> None:
    async with LineFeed() as feed, reading(LineProvider(feed.port), ["A", "B"]) as read:
        feed.refused |= {"A", "B"}
        with pytest.raises(SourceError, match="feed line: every subscription was refused"):
            await read.got(1)
        assert len(read.letters) == 2
        assert read.events[-1].event == "failed"


async def test_subscriptions_go_in_calls_and_connections_of_the_venues_size() -> None:
    limits = VenueLimits(per_second=10_000.0, symbols_per_call=2, symbols=3)
    symbols = [f"S{number}" for number in range(7)]
    async with LineFeed() as feed, reading(LineProvider(feed.port, limits=limits), symbols) as read:
        for symbol in symbols:
            await feed.subscribed(symbol)
        assert sorted(call for _, call in feed.calls) == [["S0", "S1"], ["S2"], ["S3", "S4"], ["S5"], ["S6"]]
        await read.event("connected", 3)
        assert sorted(name for name, _ in read.named()) == ["line/1", "line/2", "line/3"]


async def test_one_of_several_connections_is_away() -> None:
    """Bars of its symbols go on closing with the others' time: what is unknown is told at once."""
    limits = VenueLimits(per_second=10_000.0, symbols=1)
    async with LineFeed() as feed, reading(LineProvider(feed.port, limits=limits), ["A", "B"]) as read:
        await feed.subscribed("A")
        await feed.subscribed("B")
        await feed.send(trade(1), trade(1, "B"))
        await read.got(2)
        slot = next(at for at, client in enumerate(feed.clients) if ("trade", "A") in client.symbols)
        await feed.cut(slot)
        await feed.subscribed("A", 2)
        await feed.send(trade(2))
        await read.got(4)
        assert read.records[2:] == [Gap("A", 0, 0, 0, 10), trade(2)]


async def test_redundant_feeds_are_merged_and_one_may_be_away() -> None:
    async with LineFeed() as first, LineFeed() as second:
        providers = [LineProvider(first.port), LineProvider(second.port)]
        async with reading(providers) as read:
            await first.subscribed("A")
            await second.subscribed("A")
            await first.send(trade(1))
            await second.send(trade(1))
            await read.got(2)
            first.unwelcome = 1_000_000
            await first.cut()
            await read.event("disconnected")
            await second.send(trade(2), trade(3))
            await read.got(4)
            first.unwelcome = 0
            await first.subscribed("A", 2)
            await first.send(trade(4))
            await read.got(5)
            assert read.records == [trade(number) for number in (1, 1, 2, 3, 4)]
            assert ("line#1", "disconnected") in read.named()
            await first.cut()
            await second.cut()
            await first.subscribed("A", 3)
            await first.send(trade(6))
            await read.got(7)
            assert read.records[5:] == [Gap("A", 5, 5, 1, 60), trade(6)]


async def test_a_feed_that_can_never_work_does_not_end_the_others() -> None:
    class Forbidden(LineProvider):
        async def connect(self) -> Any:
            raise SourceError("wrong key")

    async with LineFeed() as feed:
        async with reading([Forbidden(feed.port, name="bad"), LineProvider(feed.port, name="good")]) as read:
            await feed.subscribed("A")
            await feed.send(trade(1))
            await read.got(1)
            await read.event("failed")
            assert ("bad", "failed") in read.named()
            await feed.say({"end": True})
            await read.until(lambda: False)
            assert read.ended
        async with reading(Forbidden(feed.port)) as read:
            with pytest.raises(SourceError, match="wrong key"):
                await read.got(1)


async def test_a_mistake_of_a_provider_is_a_broken_connection() -> None:
    class Mistaken(LineProvider):
        tries = 0

        async def connect(self) -> Any:
            type(self).tries += 1
            if self.tries < 3:
                raise ZeroDivisionError("oh")
            return await super().connect()

    async with LineFeed() as feed, reading(Mistaken(feed.port)) as read:
        await feed.subscribed("A")
        await feed.say({"junk": {"price": 1}})
        await feed.send(trade(1))
        await read.until(lambda: bool(read.items) and bool(read.letters))
        assert read.letters[0].reason == "a feed hands out Trade, Quote, Gap and Refused, not dict"
        assert read.records == [trade(1)]


async def test_after_too_many_failures_it_is_left_alone_for_a_while() -> None:
    rule = CircuitRule(min_calls=3, open_for="150ms")
    async with LineFeed() as feed:
        feed.unwelcome = 3
        async with reading(LineProvider(feed.port), circuit=rule) as read:
            await read.event("suspended")
            assert feed.made == 3
            assert read.counts["suspended"] == 1
            await feed.subscribed("A")
            await feed.send(trade(1))
            await read.got(1)


async def test_why_a_feed_is_away_is_told_until_it_is_there() -> None:
    async with LineFeed() as feed:
        told: list[str] = []
        source = ProviderSource(LineProvider(feed.port), ["A"], reconnect=QUICK, circuit=PATIENT).fresh()
        await source.open(SourceContext("feed", trouble=told.append), None)
        try:
            await feed.subscribed("A")
            feed.unwelcome = 3
            await feed.cut()
            await feed.subscribed("A", 2)
        finally:
            await source.close()
    assert told[0] == told[-1] == ""
    assert any(text.startswith("feed line: ") for text in told)


async def test_a_feed_that_cannot_be_reached_says_so() -> None:
    async with LineFeed() as feed:
        port = feed.port
    told: asyncio.Queue[str] = asyncio.Queue()
    providers = [LineProvider(port, "one"), LineProvider(port, "two")]
    source = ProviderSource(providers, ["A"], reconnect=QUICK, circuit=CircuitRule(min_calls=2)).fresh()
    await source.open(SourceContext("feed", trouble=told.put_nowait), None)
    try:
        async with asyncio.timeout(20):
            while (text := await told.get()).count("left alone") < 2:
                assert "Connect call failed" in text
        assert text.startswith("feed one: ")
        assert "; feed two: " in text
    finally:
        await source.close()


async def test_the_venues_own_waiting_time_is_kept() -> None:
    clock = FakeClock()

    class Closed(LineProvider):
        async def connect(self) -> Any:
            if clock.elapsed > 300:
                return await super().connect()
            raise FeedDown("not now", retry_after=100.0)

    async with LineFeed() as feed:
        source = ProviderSource(Closed(feed.port), ["A"], reconnect=QUICK, circuit=PATIENT, quiet_after="1000h").fresh()
        await source.open(SourceContext("feed", clock=clock), None)
        try:
            await feed.subscribed("A")
        finally:
            await source.close()
    assert [seconds for seconds in clock.slept if seconds >= 100.0][:3] == [100.0] * 3


async def test_partitions_take_their_own_symbols_and_an_empty_one_ends() -> None:
    symbols = ["A", "B", "C", "D"]
    of = [[symbol for symbol in symbols if partition_of(symbol, 16) == p] for p in range(16)]
    busy, empty = next(p for p in range(16) if of[p]), next(p for p in range(16) if not of[p])
    async with LineFeed() as feed:
        assert ProviderSource(LineProvider(feed.port), symbols).splittable
        assert not ProviderSource(LineProvider(feed.port, splittable=False), symbols).splittable
        async with reading(LineProvider(feed.port), symbols, partition=busy, partitions=16) as read:
            await feed.subscribed(of[busy][-1])
            await read.event("connected")
            assert read.events[0].feed == f"line@{busy}"
            assert feed.calls == [("trade", of[busy])]
        async with reading(LineProvider(feed.port), symbols, partition=empty, partitions=16) as read:
            await read.got(1)
            assert read.ended


async def test_after_a_restart_every_symbol_has_a_gap() -> None:
    async with LineFeed() as feed, reading(LineProvider(feed.port), ["A", "B"], position={"opened": 1}) as read:
        await feed.subscribed("B")
        await feed.send(trade(7), trade(8), trade(1, "B"))
        await read.got(5)
        assert read.records == [Gap("A", 0, 0, 0, 70), trade(7), trade(8), Gap("B", 0, 0, 0, 10), trade(1, "B")]
        assert read.position == {"opened": 2}


async def test_a_feed_that_is_over_ends_the_source() -> None:
    async with LineFeed() as feed, reading(LineProvider(feed.port)) as read:
        await feed.subscribed("A")
        await feed.send(trade(1))
        await feed.say({"end": True})
        await read.until(lambda: False)
        assert read.ended
        assert read.records == [trade(1)]
        assert feed.made == 1


async def test_closing_does_not_wait_for_a_feed_that_waits() -> None:
    async with LineFeed() as feed, reading(LineProvider(feed.port), queue_items=4):
        await feed.subscribed("A")
        await feed.send(*(trade(number) for number in range(100)))
        await asyncio.sleep(0)


@pytest.mark.parametrize("policy", ["block", "conflate", "spill"])
async def test_more_than_is_worked_off(policy: str, tmp_path: Path) -> None:
    """Nobody reads while 5,000 trades and quotes come: memory is bounded, every trade comes out once and in order, and of the
    quotes only conflation leaves out some, and counts them."""
    sent = [record for number in range(2500) for record in (trade(number), quote(number))]
    options = {"spill_path": tmp_path} if policy == "spill" else {}
    async with LineFeed() as feed:
        source = LineProvider(feed.port)
        async with reading(source, ["A"], ("trade", "quote"), on_overload=policy, queue_items=400, **options) as read:
            await feed.until(lambda: feed.subscriptions["A"] == 2)
            sending = asyncio.create_task(feed.send(*sent))
            async with asyncio.timeout(20):
                await read.overloaded.wait()
            assert len(read.source._inbox) <= 400
            await read.until(lambda: len(read.items) + read.counts["conflated"] >= len(sent))
            await sending
    assert [item for item in read.records if isinstance(item, Trade)] == sent[::2]
    quotes = [item for item in read.records if isinstance(item, Quote)]
    assert quotes[-1] == sent[-1]
    assert (quotes == sent[1::2]) == (policy != "conflate")
    assert (read.counts["spilled"] > 0) == (policy == "spill")
    assert (read.counts["conflated"] > 0) == (policy == "conflate")
    times = [item.ts_recv for item in read.items]
    assert times == sorted(set(times))
    assert list(tmp_path.iterdir()) == []


def test_what_the_arguments_may_be() -> None:
    provider = LineProvider(1)
    for wrong, text in [
        ({"symbols": "A"}, "sequences"),
        ({"symbols": []}, "at least one"),
        ({"symbols": ["A", "A"]}, "'A' stands there twice"),
        ({"symbols": [""]}, "no symbol"),
        ({"kinds": ["book"]}, "'book' is not allowed; line has: quote, trade"),
        ({"on_overload": "drop"}, "one of: block, conflate, spill"),
        ({"on_overload": "spill"}, "spill_path"),
        ({"spill_path": "/x"}, "spill_path"),
        ({"queue_items": 1}, "queue_items=1"),
        ({"idle_after": None}, "live"),
        ({"provider": []}, "at least one"),
        ({"provider": LineProvider(1, limits=VenueLimits(per_second=0))}, "per_second"),
    ]:
        with pytest.raises(ConfigError, match=text):
            ProviderSource(**{"provider": provider, "symbols": ["A"], **wrong})


def test_the_fingerprint_has_what_the_feed_is() -> None:
    def described(**options: Any) -> Any:
        return describe(ProviderSource(LineProvider(1), ["A"], **options))

    assert described() == described()
    assert described() != described(quiet_after="1s")
    assert described() != described(reconnect=QUICK)
    assert described()["provider"]["name"] == "line"


def test_a_missing_folder_is_said_before_anything_starts(tmp_path: Any) -> None:
    source = ProviderSource(LineProvider(1), ["A"], on_overload="spill", spill_path=tmp_path / "no")
    with pytest.raises(SourceError, match="spill_path"):
        source.check()
