"""SourceRouter on real TCP feeds that break, come back, refuse and fall silent."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from market_data_pipeline.catalog.registry import registry
from market_data_pipeline.component import describe
from market_data_pipeline.dag.partition import partition_of
from market_data_pipeline.dag.pipeline import Pipeline
from market_data_pipeline.errors import ConfigError, SourceError
from market_data_pipeline.operators.dedupe import Dedupe
from market_data_pipeline.records import FEED_EVENTS, FeedEvent, Gap, Quote, Trade
from market_data_pipeline.runtime.local import DagRuntime
from market_data_pipeline.sinks.collect import Collect
from market_data_pipeline.sources.provider import VenueLimits
from market_data_pipeline.sources.provider_source import ProviderSource
from market_data_pipeline.sources.router import SourceRouter
from market_data_pipeline.sources.routes import BySymbol, Failover, Priority, RoundRobin
from market_data_pipeline.sources.routing import Routing
from tests.tools.feed_reading import PATIENT, QUICK, Reading, quote, reading_of, trade
from tests.tools.hand_clock import HandClock
from tests.tools.line_feed import LineFeed, LineProvider

SOON = Failover(fail_after="20ms", recover_after="60ms")
LATE = Failover(fail_after="20ms", recover_after="1h")


def router(*feeds: LineFeed, symbols: Any = ("A",), **options: Any) -> SourceRouter:
    """Providers ``a``, ``b`` ... of the feeds; they try again at once."""
    providers = [LineProvider(feed.port, name) for feed, name in zip(feeds, "abc", strict=False)]
    quick = {"reconnect": QUICK, "circuit": PATIENT, "overlap": "40ms", "route": LATE}
    return SourceRouter(providers, symbols, **{**quick, **options})


class Stage(Reading):
    """Time stands until the test says otherwise."""

    clock: HandClock

    async def served(self) -> None:
        """Until each provider has served or refused what it was asked for."""
        source: Any = self.source
        routing: Routing = source._routing
        pairs = [(item, name) for item in routing.items for name in source.labels if routing.has(item, name)]
        async with asyncio.timeout(20):
            while any(routing.reason(*pair) not in ("", "refused") for pair in pairs):  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.001)


@asynccontextmanager
async def staged(source: SourceRouter, **place: int) -> AsyncIterator[Stage]:
    async with reading_of(source, clock=HandClock(), reading=Stage, **place) as read:
        yield read


@asynccontextmanager
async def two(*symbols: str, **options: Any) -> AsyncIterator[tuple[LineFeed, LineFeed, Stage]]:
    """Feeds ``a`` and ``b``, both subscribed to; of each symbol the first trade has come from both."""
    names = symbols or ("A",)
    async with LineFeed() as a, LineFeed() as b, staged(router(a, b, symbols=names, **options)) as read:
        await read.served()
        for feed in (a, b):
            await feed.send(*(trade(1, symbol) for symbol in names))
        await read.got(len(names))
        await kept(read, len(names))
        yield a, b, read


@asynccontextmanager
async def cold(**options: Any) -> AsyncIterator[tuple[LineFeed, LineFeed, Stage]]:
    """Feeds ``a``, whose first trade has come, and ``b``, which nobody has needed."""
    async with LineFeed() as a, LineFeed() as b, staged(router(a, b, **options)) as read:
        await a.subscribed("A")
        await a.send(trade(1))
        await read.got(1)
        assert b.made == 0
        yield a, b, read


async def kept(read: Reading, count: int) -> None:
    """Until so many records of backups wait."""

    def waiting() -> int:
        voices = read.source._standby._voices.values()  # type: ignore[attr-defined]
        return sum(len(memory.waiting) for voice in voices for memory in voice.memories.values())

    async with asyncio.timeout(20):
        while waiting() < count:  # noqa: ASYNC110 - a record that waits tells nobody
            await asyncio.sleep(0.001)


def switches(read: Reading) -> list[tuple[str, str, str]]:
    return [(event.feed, event.symbol, event.detail) for event in read.events if event.event == "switched"]


async def break_for_good(feed: LineFeed) -> None:
    feed.unwelcome = 1_000_000
    await feed.cut()


async def test_only_the_primary_is_heard_while_it_is_fit() -> None:
    async with two() as (a, b, read):
        await b.send(trade(2))
        await kept(read, 2)
        await a.send(trade(2), trade(3))
        await read.got(3)
        assert [(item.trade_id, item.venue) for item in read.items] == [(1, "a"), (2, "a"), (3, "a")]
        assert read.routes == {"a": 1, "b": 0}


async def test_a_broken_primary_is_replaced_and_taken_back() -> None:
    async with two("A", "B", route=SOON) as (a, b, read):
        await b.send(trade(2), trade(2, "B"))
        await kept(read, 4)
        await break_for_good(a)
        await read.got(4)
        assert switches(read) == []
        read.clock.advance(0.1)
        await read.event("switched")
        assert read.items[2:] == [
            trade(2)._replace(venue="b", ts_recv=read.items[2].ts_recv),
            trade(2, "B")._replace(venue="b", ts_recv=read.items[3].ts_recv),
        ]
        assert switches(read) == [("b", "", "a -> b: disconnected")]
        assert read.routes == {"a": 0, "b": 2}
        a.unwelcome = 0
        await read.served()
        read.clock.advance(0.1)
        await read.event("switched", 2)
        assert switches(read)[1:] == [("a", "", "b -> a: recovered")]
        await a.send(trade(4))
        await read.got(5)
        assert read.items[4].venue == "a"
        assert (read.counts["switched"], read.counts["gap"]) == (2, 0)
        assert (read.counts["switched_disconnected"], read.counts["switched_recovered"]) == (1, 1)
        assert (b.subscriptions["A"], b.left) == (1, []), "nothing was subscribed to anew"
        assert {event.event for event in read.events} <= set(FEED_EVENTS)


async def test_a_break_that_is_short_is_no_switch_and_no_hole() -> None:
    async with two(route=Failover(fail_after="1h")) as (a, b, read):
        await b.send(trade(2))
        await kept(read, 2)
        await a.cut()
        await asyncio.gather(a.subscribed("A", 2), read.got(2))
        await read.served()
        await a.send(trade(3), trade(4))
        await kept(read, 2)
        read.clock.advance(0.1)
        await read.got(4)
        assert read.records == [trade(number) for number in (1, 2, 3, 4)]
        assert [item.venue for item in read.items] == ["a", "b", "a", "a"]
        assert switches(read) == []
        assert b.left == []


@pytest.mark.parametrize("how", ["refused", "late"])
async def test_a_refused_symbol_moves_alone(how: str) -> None:
    async with LineFeed() as a, LineFeed() as b:
        getattr(a, how).add("B")
        async with staged(router(a, b, symbols=["A", "B"])) as read:
            await read.served()
            read.clock.advance(0.1)
            await read.event("switched")
            assert switches(read) == [("b", "B", "a -> b: refused")]
            await a.send(trade(1))
            await b.send(trade(1), trade(2, "B"))
            await read.got(2)
            assert {(item.symbol, item.venue) for item in read.items} == {("A", "a"), ("B", "b")}
            assert read.counts["refused"] == 1


@pytest.mark.parametrize("how", ["refused", "late"])
@pytest.mark.parametrize(("kind", "moved"), [("quote", 0), ("trade", 1)])
async def test_a_refused_kind_comes_from_the_other_one_and_the_rest_stays(how: str, kind: str, moved: int) -> None:
    async with LineFeed() as a, LineFeed() as b:
        getattr(a, how).add(f"{kind}:A")
        async with staged(router(a, b, kinds=("quote", "trade"))) as read:
            await read.served()
            await a.until(lambda: len(a.calls) == 2)
            read.clock.advance(0.1)
            await read.until(lambda: read.counts["refused"] == 1 and read.counts["switched"] == moved)
            for number in range(1, 6):
                for feed in (a, b):
                    await feed.send(trade(number), quote(number))
            await read.got(10)
            by_kind = {type(item): {one.venue for one in read.items if type(one) is type(item)} for item in read.items}
            assert by_kind == {Trade: {"ab"[kind == "trade"]}, Quote: {"ab"[kind == "quote"]}}
            assert [item for item in read.records if isinstance(item, Quote)] == [quote(n) for n in range(1, 6)]
            assert read.routes == {"a": 1 - moved, "b": moved}
            assert ("a", "failed", "A") in [(event.feed, event.event, event.symbol) for event in read.events]


async def test_a_quiet_primary_is_left_while_the_backup_is_not_quiet() -> None:
    route = Failover(fail_after="0s", recover_after="1h", stale_after="60ms")
    async with two(route=route) as (a, b, read):
        for number in range(2, 6):
            await b.send(trade(number))
            await kept(read, number)
            await a.say({"beat": True})
            assert read.routes == {"a": 1, "b": 0}
            read.clock.advance(0.019)
        await read.event("switched")
        assert switches(read) == [("b", "", "a -> b: quiet")]
        await read.got(5)
        assert [item.trade_id for item in read.items] == [1, 2, 3, 4, 5], "from behind the last of a"
        assert a.left == []


async def test_what_nobody_had_is_a_gap() -> None:
    async with two(gap_after="1h") as (a, b, read):
        await break_for_good(b)
        await read.event("disconnected")
        await break_for_good(a)
        await read.event("disconnected", 2)
        b.unwelcome = 0
        await b.subscribed("A", 2)
        await b.send(trade(4))
        await read.got(3)
        read.clock.advance(0.1)
        await read.event("switched")
        assert read.records == [trade(1), Gap("A", 2, 3, 2, 40), trade(4)]
        assert switches(read) == [("b", "", "a -> b: disconnected")]


async def test_while_none_is_there_it_is_told_as_with_one() -> None:
    async with two(gap_after="50ms") as (a, b, read):
        await break_for_good(a)
        await break_for_good(b)
        await read.event("disconnected", 2)
        read.clock.advance(0.1)
        await read.got(2)
        assert read.records == [trade(1), Gap("A", 0, 0, 0, 10)]
        assert len(switches(read)) <= 1, "from one that is away to one that is not known to be"


async def test_a_cold_backup_is_connected_when_it_is_needed_and_let_go_after_the_return() -> None:
    route = Failover(fail_after="50ms", recover_after="50ms", standby="cold")
    async with cold(route=route) as (a, b, read):
        await break_for_good(a)
        await asyncio.gather(b.subscribed("A"), read.event("connected", 2))
        await b.send(trade(3))
        await read.got(3)
        assert read.records[1:] == [Gap("A", 0, 0, 0, 30), trade(3)], "that b counts as a does is not known"
        read.clock.advance(0.1)
        await read.event("switched")
        assert b.left == []
        a.unwelcome = 0
        await read.served()
        read.clock.advance(0.1)
        await read.event("switched", 2)
        await read.until(lambda: ("b", "not needed now") in {(event.feed, event.detail) for event in read.events})
        await b.until(lambda: b.left == ["A"])
        assert a.left == ["A"], "its first connection; it is served again before b is let go"
        await a.cut()
        a.unwelcome = 1_000_000
        await b.subscribed("A", 2)


async def test_a_cold_backup_that_is_still_heard_is_not_let_go() -> None:
    route = Failover(fail_after="20ms", recover_after="20ms", standby="cold")
    async with cold(route=route, overlap="1h") as (a, b, read):
        await break_for_good(a)
        await b.subscribed("A")
        read.clock.advance(0.1)
        await read.event("switched")
        a.unwelcome = 0
        await read.served()
        read.clock.advance(0.1)
        await read.event("switched", 2)
        await a.send(trade(2))
        await kept(read, 1)
        await b.send(trade(3))
        await read.got(3)
        assert (read.records[-1], b.left) == (trade(3), [])


async def test_providers_are_asked_for_their_own_symbols_only() -> None:
    route = BySymbol({"BTC*": "b", "ETH*": ["a", "b"]}, default="a")
    async with LineFeed() as a, LineFeed() as b:
        async with staged(router(a, b, symbols=["BTC/USD", "ETH/USD", "SOL/USD"], route=route)) as read:
            await read.served()
            assert (a.calls, b.calls) == ([("trade", ["ETH/USD", "SOL/USD"])], [("trade", ["BTC/USD", "ETH/USD"])])
            assert read.routes == {"a": 2, "b": 1}
        async with staged(router(a, b, symbols=["BTC/USD"], route=route)) as read:
            await read.served()
            assert a.made == 1


async def test_symbols_are_shared_and_several_connections_of_one_provider_are_one() -> None:
    limits = VenueLimits(per_second=10_000.0, symbols=1)
    async with LineFeed() as a, LineFeed() as b:
        providers = [LineProvider(a.port, limits=limits), LineProvider(b.port, limits=limits)]
        route = RoundRobin(fail_after="20ms", recover_after="1h")
        source = SourceRouter(providers, list("ABCD"), reconnect=QUICK, circuit=PATIENT, route=route, overlap="40ms")
        async with staged(source) as read:
            await read.served()
            assert read.routes == {"line#1": 2, "line#2": 2}
            slot = next(at for at, client in enumerate(a.clients) if ("trade", "A") in client.symbols)
            a.unwelcome = 1_000_000
            await a.cut(slot)
            await read.event("disconnected")
            read.clock.advance(0.1)
            await read.event("switched")
            assert switches(read) == [("line#2", "A", "line#1 -> line#2: disconnected")]
            assert read.routes == {"line#1": 1, "line#2": 3}


async def test_partitions_begin_with_another_one_and_say_so() -> None:
    symbols = [f"S{number}" for number in range(8)]
    own = [symbol for symbol in symbols if partition_of(symbol, 4) == 1]
    async with LineFeed() as a, LineFeed() as b:
        source = router(a, b, symbols=symbols, route=RoundRobin(fail_after="20ms"))
        assert source.splittable
        async with staged(source, partition=1, partitions=4) as read:
            await read.served()
            assert a.calls == [("trade", own)]
            assert read.routes["b"] == (len(own) + 1) // 2, "the first of an odd partition is b's"
            await break_for_good(b)
            await read.event("disconnected")
            read.clock.advance(0.1)
            await read.event("switched")
            assert switches(read) == [("a@1", "", "b -> a: disconnected")]


async def test_when_the_job_stands_still_nobody_is_quiet_and_order_is_kept() -> None:
    """The primary has to wait for room; the backup reads on. What had room or waits goes in front of what the backup has."""
    route = Failover(fail_after="0s", recover_after="1h", stale_after="30ms")
    sent = [trade(number) for number in range(2, 400)]
    async with two(route=route, queue_items=8, overlap="1h") as (a, b, read):
        read.clock.go()
        await a.send(*sent[:100])
        async with asyncio.timeout(20):
            await read.overloaded.wait()
        await b.send(*sent)
        closing = asyncio.create_task(break_for_good(a))
        await read.event("disconnected")
        await b.send(trade(400))  # while a was read on, b may have been taken to be quiet
        await read.until(lambda: read.items[-1].trade_id == 400)
        await closing
        numbers = [item.trade_id for item in read.items if isinstance(item, Trade)]
        assert sorted(set(numbers)) == list(range(1, 401))
        assert numbers == sorted(numbers)
        assert "quiet" not in " ".join(event.detail for event in read.events)


async def test_feeds_that_are_over_end_the_source_with_all_they_had() -> None:
    async with two() as (a, b, read):
        await b.send(trade(2), trade(3))
        await b.say({"end": True})
        await b.until(lambda: b.clients == [])
        await a.say({"end": True})
        await read.until(lambda: False)
        assert read.ended
        assert read.records == [trade(1), trade(2), trade(3)]


async def test_a_primary_with_a_wrong_key_is_replaced_for_good() -> None:
    class Forbidden(LineProvider):
        async def connect(self) -> Any:
            raise SourceError("wrong key")

    async with LineFeed() as b:
        providers = [Forbidden(b.port, "bad"), LineProvider(b.port, "good")]
        async with reading_of(SourceRouter(providers, ["A"], route=SOON, overlap="0s")) as read:
            await b.subscribed("A")
            await read.event("switched")
            assert switches(read) == [("good", "", "bad -> good: failed")]


async def test_a_job_gets_each_trade_once_through_many_breaks() -> None:
    """Each feed is cut while the other one is there, again and again; trades come on, to whoever is connected."""
    async with LineFeed() as a, LineFeed() as b:
        out = Collect()
        source = router(a, b, route=Failover(fail_after="5ms", recover_after="30ms"), idle_after=None, live=False)
        unlike = Dedupe("symbol", "trade_id", content=("price", "size"))
        steps = Pipeline("both").source(source).key_by("symbol").operator(unlike, name="dedupe").sink(out)
        runtime = DagRuntime(steps)
        running = asyncio.create_task(runtime.start())
        number = 0
        for turn in range(1, 7):
            await asyncio.gather(a.subscribed("A", 1 + turn // 2), b.subscribed("A", 1 + (turn - 1) // 2))
            for _ in range(40):
                number += 1
                for feed in (a, b):
                    await feed.send(trade(number))
                await asyncio.sleep(0.001)
            await (a, b)[turn % 2 == 0].cut()
        await asyncio.gather(a.subscribed("A", 4), b.subscribed("A", 4))
        for feed in (b, a):
            await feed.send(trade(number + 1))
            await feed.say({"end": True})
        async with asyncio.timeout(20):
            await running
    assert [item.trade_id for item in out.items if isinstance(item, Trade)] == list(range(1, number + 2))
    assert [item for item in out.items if isinstance(item, Gap)] == []
    assert runtime.counts["dedupe"]["conflict"] == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"providers": LineProvider(1)}, "providers: a sequence of them"),
        ({"providers": []}, "at least one of each is needed"),
        ({"route": "failover"}, "route: 'failover' is no rule"),
        ({"route": Priority(["a", "bb"])}, "no provider 'bb'; did you mean 'b'?"),
        ({"overlap": "-1s"}, "overlap: '-1s' is not a duration"),
        ({"overlap_items": 0}, "overlap_items=0"),
        ({"kinds": ("book",)}, "'book' is not allowed; a has: quote, trade"),
        ({"symbols": "AB"}, "symbols and kinds are sequences"),
    ],
)
def test_what_the_arguments_may_be(options: dict[str, Any], text: str) -> None:
    given = {"providers": [LineProvider(1, "a"), LineProvider(2, "b")], "symbols": ["A"], **options}
    with pytest.raises(ConfigError, match=re.escape(text)):
        SourceRouter(**given)


class Kindless:
    name, splittable, limits = "kindless", True, VenueLimits()

    def __repr__(self) -> str:
        return "Kindless()"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda any_: SourceRouter(any_(["alpha"]), ["A"]), "'alpha' is no provider: it has no name, kinds, splittable,"),
        (lambda any_: ProviderSource(any_(Kindless()), ["A"]), "Kindless() is no provider: it has no kinds, check, connect"),
        (lambda any_: ProviderSource(any_(LineProvider), ["A"]), f"{LineProvider} is no provider; give an instance"),
        (lambda any_: ProviderSource(LineProvider(1, "a"), ["A"], circuit=any_({})), "circuit: {} is no CircuitRule(...)"),
        (lambda any_: ProviderSource(LineProvider(1, "a"), ["A"], reconnect=any_(5)), "reconnect: 5 is no Reconnect(...)"),
    ],
)  # fmt: skip
def test_what_is_no_provider_and_no_rule(make: Callable[[Any], Any], text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}"):
        make(lambda anything: anything)


def test_a_router_is_known_by_name_and_described_by_its_arguments() -> None:
    made = registry().get("source", "router")([LineProvider(1, "a")], ["A"], route=BySymbol({"A": "a"}))
    assert registry().name_of("source", made) == "router"
    assert registry().get("value", "by_symbol") is BySymbol
    described = describe(made)
    assert described["providers"][0]["name"] == "a"
    assert described["route"]["patterns"] == {"A": "a"}
    assert described["overlap"] == 2_000_000_000
    assert described != describe(SourceRouter([LineProvider(1, "a")], ["A"]))
    assert FeedEvent("b", "switched", "", 1, "a -> b: even").event in FEED_EVENTS


async def test_a_cold_backup_is_not_connected_anew_for_each_short_absence() -> None:
    route = Failover(fail_after="1h", recover_after="1h", standby="cold")
    async with cold(route=route) as (a, b, read):
        for times in range(2, 6):
            await a.cut()
            await a.subscribed("A", times)
            await b.subscribed("A")
            await read.served()
            await a.send(trade(times))
            read.clock.advance(0.1)  # longer than the overlap, behind which nobody needs the backup
            await read.until(lambda times=times: trade(times) in read.records)  # type: ignore[misc]
            await asyncio.sleep(0.02)
        assert (a.made, b.made, len(b.clients)) == (5, 1, 1)
