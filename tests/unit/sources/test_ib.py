"""Interactive Brokers: the real ib_async client against a small gateway on a real socket."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import ib_async
import pytest

from market_data_pipeline.circuit import CircuitRule
from market_data_pipeline.component import describe
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.records import Gap, Quote, Trade
from market_data_pipeline.sources import ib
from market_data_pipeline.sources.base import SourceContext
from market_data_pipeline.sources.ib import InteractiveBrokers
from market_data_pipeline.sources.provider import FeedDown, MarketDataProvider, Refused, SubscriptionRefused
from market_data_pipeline.sources.provider_source import ProviderSource
from market_data_pipeline.sources.reconnect import Reconnect
from tests.tools.fake_clock import FakeClock
from tests.tools.ib_gateway import IbGateway

SECOND = 1_000_000_000


@pytest.fixture(autouse=True)
def _quiet_client() -> Iterator[None]:
    logger = logging.getLogger("ib_async")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


async def _next(stream: Any) -> Any:
    async with asyncio.timeout(60):
        return await anext(stream)


async def test_ticks_become_trades_and_quotes() -> None:
    async with IbGateway() as gateway:
        provider = InteractiveBrokers({"ES": ib_async.Future("ES", "202612", "CME")}, port=gateway.port)
        assert isinstance(provider, MarketDataProvider)
        connection = await provider.connect()
        stream = connection.records()
        try:
            await connection.subscribe("trade", ["AAPL"])
            await connection.subscribe("quote", ["AAPL"])
            await connection.subscribe("trade", ["ES"])
            session = await gateway.subscribed("ES", "AllLast")
            assert gateway.lookups == ["AAPL", "ES"], "each contract is looked up once"
            assert connection.health().connected
            gateway.trade(session, "AAPL", 1_790_000_000, 191.25, 100)
            gateway.quote(session, "AAPL", 1_790_000_000, 191.2, 191.3, 300, 200)
            gateway.trade(session, "ES", 1_790_000_001, -0.25, 2, mask=2)
            gateway.quote(session, "AAPL", 1_790_000_002, -1, 191.3, 0, 200)
            found: list[Any] = []
            while len(found) < 4:
                found += await _next(stream)
            assert all(record.ts_recv > 0 for record in found)
            at = 1_790_000_000 * SECOND
            assert [record._replace(ts_recv=0) for record in found[:3]] == [
                Trade("AAPL", at, 0, 191.25, 100.0, conditions="@", venue="NASDAQ"),
                Quote("AAPL", at, 0, 191.2, 300.0, 191.3, 200.0, venue="ib"),
                Trade("ES", at + SECOND, 0, -0.25, 2.0, conditions="@ unreported", venue="NASDAQ"),
            ]
            assert math.isnan(found[3].bid)
            assert connection.health().last_message > 0
        finally:
            await stream.aclose()
            await connection.close()


async def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(FeedDown, match=f"127.0.0.1:{unused.getsockname()[1]}"):
            await InteractiveBrokers(port=unused.getsockname()[1]).connect()


async def test_a_client_id_that_is_in_use() -> None:
    async with IbGateway() as gateway:
        provider = InteractiveBrokers(port=gateway.port)
        first = await provider.connect()
        with pytest.raises(FeedDown, match="326") as caught:
            await provider.connect()
        assert caught.value.retry_after > 0
        await first.close()


async def test_a_gateway_that_never_answers_is_given_up() -> None:
    async with IbGateway() as gateway:
        gateway.silent = True
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await InteractiveBrokers(port=gateway.port).connect()


@pytest.mark.parametrize(("contracts", "text"), [(0, "IB error 200"), (2, "stands for 2 contracts")])
async def test_a_contract_that_is_not_there_or_ambiguous_is_refused(contracts: int, text: str) -> None:
    async with IbGateway() as gateway:
        gateway.contracts["XX"] = contracts
        connection = await InteractiveBrokers(port=gateway.port).connect()
        with pytest.raises(SubscriptionRefused, match=text) as caught:
            await connection.subscribe("trade", ["XX"])
        assert caught.value.symbols == ("XX",)
        await connection.subscribe("trade", ["AAPL"])
        await gateway.subscribed("AAPL", "AllLast")
        await connection.close()


@pytest.mark.parametrize("code", [354, 10167, 10189, 10190])
async def test_no_permission_is_said_behind_the_request(code: int) -> None:
    async with IbGateway() as gateway:
        gateway.errors["AAPL"] = code
        connection = await InteractiveBrokers(port=gateway.port).connect()
        stream = connection.records()
        await connection.subscribe("trade", ["AAPL"])
        assert await _next(stream) == [Refused("trade", "AAPL", f"IB error {code}: as the gateway says")]
        await stream.aclose()
        await connection.close()


@pytest.mark.parametrize("code", [504, 1100, 1101, 1300])
async def test_lost_connectivity_is_a_broken_connection(code: int) -> None:
    async with IbGateway() as gateway:
        connection = await InteractiveBrokers(port=gateway.port).connect()
        stream = connection.records()
        await connection.subscribe("trade", ["AAPL"])
        session = await gateway.subscribed("AAPL", "AllLast")
        gateway.error(session, -1, 2104)
        gateway.error(session, -1, 1102)
        gateway.trade(session, "AAPL", 1, 1.0, 1)
        gateway.error(session, -1, code)
        assert len(await _next(stream)) == 1, "what came before is not lost, and what is only news changes nothing"
        with pytest.raises(FeedDown, match=str(code)):
            await _next(stream)
        assert not connection.health().connected
        await connection.close()


async def test_a_connection_that_breaks_in_the_middle_of_a_question() -> None:
    async with IbGateway() as gateway:
        gateway.contracts["XX"] = 1
        connection = await InteractiveBrokers(port=gateway.port).connect()
        asking = asyncio.create_task(connection.subscribe("trade", ["XX"]))
        await asyncio.sleep(0)
        gateway.sessions[0].writer.transport.abort()
        with pytest.raises(FeedDown):
            await asking
        with pytest.raises(FeedDown):
            await connection.subscribe("trade", ["YY"])
        await connection.close()


async def test_a_slow_reader_slows_the_gateway_down() -> None:
    async with IbGateway() as gateway:
        connection = await InteractiveBrokers(port=gateway.port).connect()
        stream = connection.records()
        await connection.subscribe("trade", ["AAPL"])
        session = await gateway.subscribed("AAPL", "AllLast")
        for number in range(30_000):
            gateway.trade(session, "AAPL", number, 1.0, 1)
        sizes: list[int] = []
        while sum(sizes) < 30_000:
            sizes.append(len(await _next(stream)))
        assert max(sizes) < 20_000
        await stream.aclose()
        await connection.close()


async def test_as_a_source_it_comes_back_with_a_gap() -> None:
    counts: Counter[str] = Counter()
    async with IbGateway() as gateway:
        provider = InteractiveBrokers(port=gateway.port, again_after="1ms")
        source = ProviderSource(
            provider, ["AAPL"], reconnect=Reconnect(first="1ms", most="5ms"), circuit=CircuitRule(min_calls=1000)
        ).fresh()
        assert not source.splittable
        await source.open(SourceContext("ib", counted=lambda name, n: counts.update({name: n})), None)
        try:
            session = await gateway.subscribed("AAPL", "AllLast")
            gateway.trade(session, "AAPL", 5, 1.0, 1)
            gateway.trade(session, "AAPL", 5, 1.0, 1)
            gateway.error(session, -1, 1101)
            await gateway.until(lambda: session not in gateway.sessions)
            gateway.trade(await gateway.subscribed("AAPL", "AllLast"), "AAPL", 9, 2.0, 1)
            items: list[Any] = []
            async with asyncio.timeout(60):
                while len(items) < 4:
                    batch = await source.read()
                    assert batch is not None
                    items += batch.items
        finally:
            await source.close()
    assert [item.ts_event // SECOND for item in items] == [5, 5, 9, 9]
    assert items[2] == Gap("AAPL", 0, 0, 0, 9 * SECOND)
    assert items[0].ts_recv < items[1].ts_recv < items[3].ts_recv
    assert counts["connected"] == 2


async def test_the_same_instrument_is_not_asked_for_too_soon() -> None:
    clock = FakeClock()
    provider = InteractiveBrokers(clock=clock)
    for kind in ("trade", "quote", "trade"):
        await provider.turn("AAPL", kind)
    assert clock.slept == [15.0]
    clock.advance(15.0)
    await provider.turn("AAPL", "trade")
    assert clock.slept == [15.0]


def test_more_than_the_account_has_is_said_before_anything_starts() -> None:
    provider = InteractiveBrokers()
    provider.check(["A", "B", "C"], ["trade"])
    with pytest.raises(ConfigError, match=r"need 4 tick-by-tick subscriptions; allowed: 3.*subscriptions=4"):
        ProviderSource(provider, ["A", "B"], ["trade", "quote"])
    with pytest.raises(ConfigError, match="'A': str is not an ib_async contract"):
        InteractiveBrokers({"A": "AAPL"})


def test_the_fingerprint_has_the_contracts() -> None:
    def described(**options: Any) -> Any:
        return describe(InteractiveBrokers({"ES": ib_async.Future("ES", "202612", "CME", **options)}))

    assert described() == described()
    assert described() != described(multiplier="50")
    same = ib_async.Contract(secType="FUT", symbol="ES", lastTradeDateOrContractMonth="202612", exchange="CME")
    assert describe(InteractiveBrokers({"ES": same})) == described()  # a document has the fields, and no class


def test_a_contract_may_be_a_mapping_of_its_fields() -> None:
    fields = {"secType": "FUT", "symbol": "ES", "lastTradeDateOrContractMonth": "202612", "exchange": "CME"}
    given = InteractiveBrokers({"ES": fields})
    assert given.contracts == {"ES": ib_async.Future("ES", "202612", "CME")}
    assert given.made_with() == {"contracts": {"ES": fields}}
    with pytest.raises(ConfigError, match=r"contracts: 'ES': .*unexpected keyword argument 'expiry'"):
        InteractiveBrokers({"ES": {**fields, "expiry": "202612"}})


async def test_a_lookup_that_is_never_answered_is_a_break(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the symbols behind it would never be subscribed to, while the others keep the feed alive."""
    monkeypatch.setattr(ib, "_LOOKUP_SECONDS", 0.05)
    async with IbGateway() as gateway:
        gateway.ignored.add("AAPL")
        connection = await InteractiveBrokers(port=gateway.port).connect()
        try:
            async with asyncio.timeout(60):
                with pytest.raises(FeedDown, match=r"AAPL: its contract was not told within 0\.05 s"):
                    await connection.subscribe("trade", ["AAPL"])
            gateway.ignored.clear()
            await connection.subscribe("trade", ["AAPL"])
        finally:
            await connection.close()
