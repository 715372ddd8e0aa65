"""ProviderSource with clients that mean harm: what they cancel, raise, refuse late and send that is no record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import numpy as np
import pytest

from market_data_pipeline.circuit import CircuitRule
from market_data_pipeline.records import Gap, Quote, Trade
from market_data_pipeline.runtime.progress import SourceWatermark
from market_data_pipeline.sources.base import SourceContext
from market_data_pipeline.sources.provider import ConnectionHealth, FeedDown, Refused, VenueLimits
from market_data_pipeline.sources.provider_source import ProviderSource
from market_data_pipeline.store.embedded import free_port
from tests.tools.feed_reading import PATIENT, QUICK, quote, reading, trade
from tests.tools.line_feed import LineFeed, LineProvider


class Harm:
    """A provider whose connections hand out what ``script`` holds, one step each time that ``go`` is called. A step is raised
    where it is an error, and else handed out. ``at``: where an error comes: ``connect``, ``subscribe``, ``records``,
    ``health``, and only the first time."""

    kinds = frozenset({"trade", "quote"})
    splittable = False
    limits = VenueLimits(per_second=10_000.0)

    def __init__(self, at: str = "", error: BaseException | None = None, name: str = "harm") -> None:
        self.at, self.error, self.name = at, error, name
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.connected = 0
        self.open: set[Any] = set()
        self.closing, self.closed, self.blocked = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.may_subscribe, self.may_close = asyncio.Event(), asyncio.Event()
        self.may_subscribe.set()
        self.may_close.set()

    def check(self, symbols: Sequence[str], kinds: Sequence[str]) -> None:
        pass

    def counted(self, name: str, n: int) -> None:
        if name == "blocked":
            self.blocked.set()

    def meet(self, at: str) -> None:
        if at == self.at and self.error is not None:
            error, self.error = self.error, None
            raise error

    async def connect(self) -> HarmConnection:
        self.connected += 1
        self.meet("connect")
        return HarmConnection(self)


class HarmConnection:
    def __init__(self, provider: Harm) -> None:
        self._provider = provider
        provider.open.add(self)

    async def subscribe(self, kind: str, symbols: Sequence[str]) -> None:
        await self._provider.may_subscribe.wait()
        self._provider.meet("subscribe")

    async def records(self) -> AsyncIterator[Any]:
        self._provider.meet("records")
        while True:
            step = await self._provider.queue.get()
            if step is self:
                return
            if isinstance(step, HarmConnection):
                continue
            if isinstance(step, BaseException):
                raise step
            yield step

    def health(self) -> ConnectionHealth:
        self._provider.meet("health")
        return ConnectionHealth(True, 0.0)

    async def close(self) -> None:
        self._provider.closing.set()
        await self._provider.may_close.wait()
        self._provider.open.discard(self)
        self._provider.closed.set()
        self._provider.queue.put_nowait(self)


@pytest.mark.parametrize("at", ["connect", "subscribe", "records"])
async def test_what_a_client_cancels_within_itself_is_a_break(at: str) -> None:
    """Clients cancel their own futures when a socket goes: that must neither hang the reader nor end the feed."""
    harm = Harm(at, asyncio.CancelledError())
    async with reading(harm) as read:
        await read.event("connected", 1 if at == "connect" else 2)
        harm.queue.put_nowait([trade(1)])
        await read.got(1)
        assert harm.connected == 2


@pytest.mark.parametrize("error", [FeedDown("it is gone"), RuntimeError("a mistake")])
async def test_health_that_raises_is_a_break(error: Exception) -> None:
    harm = Harm("health", error)
    async with reading(harm, quiet_after="40ms") as read:
        await read.event("connected", 2)
        await read.event("quiet")
        assert [name for _, name in read.named()][:3] == ["connected", "disconnected", "connected"]


async def _closed_during(harm: Harm, wait: Callable[[ProviderSource], Any]) -> set[str]:
    """The tasks that are left of a source that is closed while its connection is given up."""
    before = asyncio.all_tasks()
    source = ProviderSource(harm, ["A"], reconnect=QUICK, circuit=PATIENT, queue_items=4)
    await source.open(SourceContext("feed", counted=harm.counted), None)
    async with asyncio.timeout(10):
        await wait(source)
        harm.may_close.set()
        await source.close()
    return {str(task) for task in asyncio.all_tasks() - before}


async def test_close_while_a_broken_connection_is_read_to_its_end() -> None:
    harm = Harm("subscribe", FeedDown("it is gone"))
    harm.may_subscribe.clear()

    async def full_then_broken(source: ProviderSource) -> None:
        harm.queue.put_nowait([trade(number) for number in range(100)])
        await harm.blocked.wait()
        harm.may_subscribe.set()
        await harm.closing.wait()
        await harm.closed.wait()

    assert await _closed_during(harm, full_then_broken) == set()


async def test_close_while_a_connection_is_closed() -> None:
    harm = Harm()
    harm.may_close.clear()

    async def broken(source: ProviderSource) -> None:
        harm.queue.put_nowait(FeedDown("it is gone"))
        await harm.closing.wait()

    assert await _closed_during(harm, broken) == set()
    assert harm.open == set(), "it was closed to its end"


async def test_an_error_of_one_feed_that_nobody_foresaw_leaves_no_other_behind() -> None:
    wrong = Harm("connect", FeedDown("later", None), "wrong")  # type: ignore[arg-type]
    other = Harm(name="other")
    before = asyncio.all_tasks()
    source = ProviderSource([wrong, other], ["A"], reconnect=QUICK, circuit=PATIENT)
    await source.open(SourceContext("feed"), None)
    async with asyncio.timeout(10):
        assert await source.read() is not None, "what is known of it goes first"
        with pytest.raises(TypeError):
            await source.read()
    await source.close()
    assert asyncio.all_tasks() == before
    assert other.open == set()


async def test_a_record_with_times_of_no_kind_costs_itself_only() -> None:
    good = trade(1)
    bad: list[Any] = [
        good._replace(ts_event=None), good._replace(ts_event=2**70), good._replace(ts_recv=2**63), good._replace(ts_recv="x"),
        good._replace(symbol=None), good._replace(symbol=[]), quote(1)._replace(ts_event=1.5), Gap("A", 1, 2, None, 0),
    ]  # fmt: skip
    harm = Harm()
    async with reading(harm) as read:
        harm.queue.put_nowait([good, *bad, trade(2)._replace(ts_event=np.int64(20))])
        harm.queue.put_nowait([trade(3)])
        await read.until(lambda: len(read.items) >= 3 and len(read.letters) >= len(bad))
        assert read.records == [good, trade(2), trade(3)]
        assert [letter.item.symbol for letter in read.letters] == [record.symbol for record in bad]
        assert harm.connected == 1


async def test_garbage_that_nobody_takes_is_not_read_on() -> None:
    harm = Harm()
    for _ in range(300):
        harm.queue.put_nowait([None] * 100)
    async with reading(harm) as read:
        for _ in range(2000):
            await asyncio.sleep(0)
        assert harm.queue.qsize() > 250
        await read.until(lambda: len(read.letters) >= 30_000)
        assert len(read.letters) == 30_000


@pytest.mark.parametrize("moment", ["with the answer", "between data"])
async def test_a_feed_that_refuses_late_does_not_serve(moment: str) -> None:
    """So that a gap is told when the other feed goes."""
    async with LineFeed() as feed:
        harm = Harm()
        async with reading([LineProvider(feed.port), harm]) as read:
            await feed.subscribed("A")
            refusal = Refused("trade", "A", "no permission")
            await feed.send(trade(1), trade(2))
            await read.got(2)
            harm.queue.put_nowait([trade(1), refusal] if moment == "between data" else [refusal])
            await read.event("failed")
            at = len(read.items)
            await feed.cut()
            await feed.subscribed("A", 2)
            await feed.send(trade(5))
            await read.until(lambda: read.items[-1].ts_event == 50)
            assert Gap("A", 3, 4, 2, 50) in read.records[at:]


async def test_conflated_quotes_make_no_trade_late() -> None:
    """A quote that takes the place of an earlier one brings its time there: the trades behind must not be late by it."""
    harm = Harm()
    second = 1_000_000_000
    sent: list[Trade | Quote] = []
    for number in range(6000):
        at = number * second // 100
        sent += [trade(number, ts=at)] if number % 40 == 0 else [quote(number)._replace(ts_event=at)]
    harm.queue.put_nowait(sent)
    async with reading(harm, kinds=("trade", "quote"), on_overload="conflate", queue_items=400, max_delay="1s") as read:
        await read.until(lambda: len(read.items) + read.counts["conflated"] >= len(sent))
    watermark = SourceWatermark(second)
    late = trades = 0
    for record in read.items:
        late += record.ts_event < watermark.mark
        watermark.observe([record])
        trades += isinstance(record, Trade)
    assert (late, trades) == (0, 150)
    assert read.counts["conflated"] > 1000


async def test_a_connection_that_cannot_be_made_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async with reading(LineProvider(free_port()), circuit=CircuitRule(min_calls=3, open_for="1h")) as read:
        await read.event("suspended")
        assert [name for _, name in read.named()] == ["disconnected", "suspended"]
        assert read.counts["connect_failed"] == 3
        assert "Connect call failed" in read.events[0].detail
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [message.split(" (")[0] for message in told if "suspended" in message] == [
        "feed: feed line: suspended: it failed too often"
    ]
