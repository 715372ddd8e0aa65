"""The real ccxt client against a server that replays a feed of Coinbase Exchange: the recorded one, and a made up one."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import pytest
from pydantic import SecretStr
from tools.captures import Capture, coinbase, needs_coinbase, synthetic
from tools.exchange_server import ExchangeServer
from tools.fake_clock import FakeClock

from market_data_pipeline.errors import SourceError
from market_data_pipeline.records import Quote, Trade
from market_data_pipeline.sources import ccxt_connection
from market_data_pipeline.sources.ccxt import CcxtProvider
from market_data_pipeline.sources.provider import (
    FeedConnection,
    FeedDown,
    Refused,
    SubscriptionRefused,
)

FEEDS = [
    pytest.param(synthetic, id="made up"),
    pytest.param(coinbase, id="recorded", marks=needs_coinbase),
]
KEYS = {name: SecretStr("c2VjcmV0") for name in ("api_key", "secret", "password")}


@pytest.fixture(autouse=True)
def quiet_logs(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Neither asyncio nor ccxt has anything to complain about, also when all is collected."""
    yield
    gc.collect()
    assert [r.getMessage() for r in caplog.records if r.name.startswith(("asyncio", "ccxt", "aiohttp"))] == []


def provider(server: ExchangeServer, options: dict[str, Any] | None = None, **other: Any) -> CcxtProvider:
    urls = {"api": {"public": server.http, "ws": server.ws}}
    return CcxtProvider(
        "coinbaseexchange", options={"rateLimit": 1, "timeout_on_exit": 1, "urls": urls, **(options or {})}, **other
    )


def pairs(capture: Capture, *channels: str) -> set[tuple[str, str]]:
    return {(channel, product) for channel in channels for product in capture.products}


class Reader:
    """Reads a connection's records in a task; ``error`` is what ended them."""

    def __init__(self, connection: FeedConnection) -> None:
        self.got: list[Any] = []
        self._news = asyncio.Event()
        self.error: Exception | None = None
        self._task = asyncio.create_task(self._read(connection))

    async def _read(self, connection: FeedConnection) -> None:
        try:
            async for records in connection.records():
                self.got += records
                self._news.set()
        except Exception as error:
            self.error = error
        finally:
            self._news.set()

    async def until(self, enough: Callable[[list[Any]], bool]) -> list[Any]:
        while not enough(self.got) and not self._task.done():
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 20)
        return self.got

    async def end(self) -> Exception | None:
        await asyncio.wait_for(self._task, 20)
        return self.error


@asynccontextmanager
async def reading(source: CcxtProvider) -> AsyncIterator[tuple[FeedConnection, Reader]]:
    connection = await source.connect()
    reader = Reader(connection)
    try:
        yield connection, reader
    finally:
        await connection.close()
        assert await reader.end() is reader.error


def keys(records: Sequence[Any]) -> set[tuple[str, Any]]:
    return {(r.symbol, r.trade_id) for r in records if isinstance(r, Trade)}


@pytest.mark.parametrize("make", FEEDS)
async def test_each_trade_comes_once(make: Callable[[], Capture]) -> None:
    capture = make()
    async with (
        ExchangeServer(capture, expected=pairs(capture, "matches")) as server,
        reading(provider(server)) as (feed, read),
    ):
        await feed.subscribe("trade", capture.symbols)
        got = await read.until(lambda got: len(got) >= len(capture.trades()))
        assert feed.health().connected
        assert feed.health().last_message > 0.0
    assert sorted((t.symbol, t.trade_id) for t in got) == sorted(capture.trades())
    sent = {(b["product_id"].replace("-", "/"), b["trade_id"]): b for b in capture.of("match", "last_match")}
    for trade in got:
        body = sent[trade.symbol, trade.trade_id]
        assert trade.phase == ("snapshot" if body["type"] == "last_match" else "live")
        assert trade.side == {"buy": "sell", "sell": "buy"}[body["side"]], "Coinbase tells the maker's side"
        assert (trade.price, trade.size) == (float(body["price"]), float(body["size"]))
        assert str(trade.ts_event).endswith(body["time"][-7:-1] + "000")
        assert trade.ts_event // 10**9 == int(datetime.fromisoformat(body["time"]).timestamp())
        assert trade.venue == "coinbaseexchange"
    tickers = {(b["product_id"].replace("-", "/"), b["trade_id"]): b["side"] for b in capture.of("ticker")}
    assert all(tickers[t.symbol, t.trade_id] == t.side for t in got), "a ticker tells the taker's"


@needs_coinbase
async def test_the_recorded_feed_has_107_trades() -> None:
    capture = coinbase()
    assert (len(capture.of("match")), len(capture.of("last_match")), len(capture.trades())) == (97, 10, 107)


@pytest.mark.parametrize("polite", [False, True])
@pytest.mark.parametrize("make", FEEDS)
async def test_a_cut_in_the_middle_loses_nothing(make: Callable[[], Capture], polite: bool) -> None:
    capture = make()
    middle = len(capture.messages) // 2
    server = ExchangeServer(
        capture, cuts=[middle], overlap=middle // 3, expected=pairs(capture, "matches"), polite=polite
    )
    async with server:
        source = provider(server)
        async with reading(source) as (feed, read):
            await feed.subscribe("trade", capture.symbols)
            assert isinstance(await read.end(), FeedDown)
            assert not feed.health().connected
            with pytest.raises(FeedDown):
                await feed.subscribe("trade", capture.symbols)
            first = read.got
        before = {
            (m.product.replace("-", "/"), m.body["trade_id"])
            for m in capture.messages[:middle]
            if m.channel == "matches"
        }
        assert keys(first) == before, "what came before the break comes before its error"
        assert server.connections == 1, "ccxt reconnected by itself"
        async with reading(source) as (feed, read):
            await feed.subscribe("trade", capture.symbols)
            second = await read.until(lambda got: keys([*first, *got]) == capture.trades())
    assert keys(second) & before, "the replay overlaps"
    assert keys([*first, *second]) == capture.trades()
    assert server.requests.count("/products") == 1


@pytest.mark.parametrize("make", FEEDS)
async def test_quotes_from_tickers(make: Callable[[], Capture]) -> None:
    capture = make()
    tickers = capture.of("ticker")
    async with (
        ExchangeServer(capture, expected=pairs(capture, "ticker")) as server,
        reading(provider(server)) as (feed, read),
    ):
        await feed.subscribe("quote", capture.symbols)
        got = await read.until(lambda got: len(got) >= len(tickers))
    assert [(q.symbol.replace("/", "-"), q.update_id, q.bid, q.ask) for q in got] == [
        (b["product_id"], b["sequence"], float(b["best_bid"]), float(b["best_ask"])) for b in tickers
    ]
    assert {(q.bid_size, q.ask_size) for q in got} == {(0.0, 0.0)}, "the recording has no sizes"


def tops(capture: Capture) -> list[tuple[Any, ...]]:
    """Each change of the best level, by a plain loop over the recording."""
    books: dict[str, dict[str, dict[float, float]]] = {}
    last: dict[str, Any] = {}
    found = []
    for message in capture.messages:
        if message.type == "snapshot":
            sides = {side: {float(p): float(s) for p, s in message.body[side]} for side in ("bids", "asks")}
            books[message.product] = sides
        elif message.type == "l2update":
            for side, price, size in message.body["changes"]:
                level = books[message.product]["bids" if side == "buy" else "asks"]
                level[float(price)] = float(size)
                if float(size) == 0.0:
                    del level[float(price)]
        else:
            continue
        bids, asks = books[message.product]["bids"], books[message.product]["asks"]
        top = (max(bids), bids[max(bids)], min(asks), asks[min(asks)])
        if last.get(message.product) != top:
            last[message.product] = top
            found.append((message.product.replace("-", "/"), *top))
    return found


@pytest.mark.parametrize("make", FEEDS)
async def test_quotes_from_order_books_come_when_the_top_changes(make: Callable[[], Capture]) -> None:
    capture = make()
    expected = tops(capture)
    async with (
        ExchangeServer(capture, expected=pairs(capture, "level2")) as server,
        reading(provider(server, quotes="order_book", **KEYS)) as (feed, read),
    ):
        await feed.subscribe("quote", capture.symbols)
        got = await read.until(lambda got: len(got) >= len(expected))
    assert [(q.symbol, q.bid, q.bid_size, q.ask, q.ask_size) for q in got if isinstance(q, Quote)] == expected


async def test_both_kinds_on_one_connection() -> None:
    capture = synthetic(rounds=5)
    async with (
        ExchangeServer(capture, expected=pairs(capture, "matches", "ticker")) as server,
        reading(provider(server)) as (feed, read),
    ):
        await feed.subscribe("trade", capture.symbols)
        await feed.subscribe("quote", capture.symbols)
        got = await read.until(lambda got: len(got) >= 2 * len(capture.trades()))
    assert server.connections == 1
    order = [(type(r).__name__, r.symbol) for r in got]
    assert order[:4] == [("Trade", "AAA/USD"), ("Quote", "AAA/USD"), ("Trade", "BBB/EUR"), ("Quote", "BBB/EUR")]


async def test_nothing_is_lost_in_a_burst_that_is_larger_than_ccxts_cache() -> None:
    capture = synthetic(rounds=400)
    options = {"options": {"tradesLimit": 10}}
    async with (
        ExchangeServer(capture, expected=pairs(capture, "matches")) as server,
        reading(provider(server, options)) as (feed, read),
    ):
        await feed.subscribe("trade", capture.symbols)
        got = await read.until(lambda got: len(got) >= len(capture.trades()))
    assert sorted((t.symbol, t.trade_id) for t in got) == sorted(capture.trades())


async def test_a_slow_reader_stops_the_reading_of_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ccxt_connection, "_MOST_WAITING", 50)
    capture = synthetic(rounds=2500)
    async with ExchangeServer(capture, expected=pairs(capture, "matches")) as server:
        connection = await provider(server).connect()
        records = connection.records()
        await connection.subscribe("trade", capture.symbols)
        for _ in range(5000):  # turns of the loop, in which all could be read
            await asyncio.sleep(0)
        assert connection.full()
        sizes, got = [], 0
        while got < len(capture.trades()):
            sizes.append(len(await asyncio.wait_for(anext(records), 20)))
            got += sizes[-1]
        await connection.close()
    assert max(sizes) < len(capture.trades()) // 3
    assert got == len(capture.trades())


async def test_an_unknown_symbol_never_stops_the_others() -> None:
    capture = synthetic()
    async with ExchangeServer(capture) as server, reading(provider(server)) as (feed, read):
        with pytest.raises(SubscriptionRefused, match="NO/PE") as refused:
            await feed.subscribe("trade", ["NO/PE", "AAA/USD"])
        assert refused.value.symbols == ("NO/PE",)
        got = await read.until(lambda got: len(got) >= 21)
    assert {t.symbol for t in got} == {"AAA/USD"}


async def test_what_the_venue_refuses_can_be_asked_for_again_without_it() -> None:
    capture = synthetic()
    async with ExchangeServer(capture) as server, reading(provider(server)) as (feed, read):
        with pytest.raises(SubscriptionRefused, match="OLD-USD is not a valid product") as refused:
            await feed.subscribe("trade", ["AAA/USD", "OLD/USD"])
        assert refused.value.symbols == (), "who of them is not said"
        asked = len(server.frames)
        with pytest.raises(SubscriptionRefused):
            await feed.subscribe("trade", ["AAA/USD", "OLD/USD"])
        assert len(server.frames) == asked + 1, "ccxt believed that it had this one"
        with pytest.raises(SubscriptionRefused):
            await feed.subscribe("trade", ["OLD/USD"])
        await feed.subscribe("trade", ["AAA/USD"])
        got = await read.until(lambda got: len(got) >= 21)
    assert {t.symbol for t in got} == {"AAA/USD"}


async def test_a_late_refusal_is_handed_out_where_it_names_its_symbol(caplog: pytest.LogCaptureFixture) -> None:
    capture = synthetic()
    async with ExchangeServer(capture) as server, reading(provider(server)) as (feed, read):
        await feed.subscribe("trade", ["BBB/EUR"])
        await read.until(lambda got: len(got) >= 21)
        await server.say({"type": "error", "message": "m", "reason": "BBB-EUR is delisted"})
        got = await read.until(lambda got: isinstance(got[-1], Refused))
        assert got[-1][:2] == ("trade", "BBB/EUR")
        await server.say({"type": "error", "message": "m", "reason": "bad day"})
        await server.say('{"type": "match"')
        await server.say({"type": "l2update", "product_id": "BBB-EUR"})
        await server.say({**capture.of("match")[0], "trade_id": 1, "product_id": "BBB-EUR"})
        got = await read.until(lambda got: getattr(got[-1], "trade_id", 0) == 1)
        assert feed.health().connected
        assert "l2update" in feed.health().detail
    assert [r.getMessage() for r in caplog.records if "bad day" in r.getMessage()]


async def test_a_wrong_key_is_for_good() -> None:
    async with ExchangeServer(synthetic()) as server, reading(provider(server)) as (feed, read):
        await feed.subscribe("trade", ["AAA/USD"])
        await server.say({"type": "error", "message": "Authentication Failed", "reason": "invalid key"})
        assert isinstance(await read.end(), SourceError)


async def test_a_stream_that_needs_a_key() -> None:
    async with ExchangeServer(synthetic()) as server, reading(provider(server, quotes="order_book")) as (feed, _):
        with pytest.raises(SourceError, match="apiKey"):
            await feed.subscribe("quote", ["AAA/USD"])


@pytest.mark.parametrize(("status", "wait"), [(429, 7.0), (503, 7.0), (500, 7.0)])
async def test_no_markets(status: int, wait: float) -> None:
    async with ExchangeServer(synthetic(), http_status=status) as server:
        source = provider(server)
        with pytest.raises(FeedDown) as down:
            await source.connect()
        assert down.value.retry_after == wait
        server.http_status = 0
        async with reading(source) as (feed, _):
            assert feed.health().connected


async def test_no_socket() -> None:
    async with ExchangeServer(synthetic(), ws_status=503) as server:
        source = provider(server)
        async with reading(source) as (feed, read):
            with pytest.raises(FeedDown) as down:
                await feed.subscribe("trade", ["AAA/USD"])
            assert down.value.retry_after == 7.0
            assert read.error is None or isinstance(read.error, FeedDown)
    async with reading(source) as (feed, _):  # the server is gone, the markets are known
        with pytest.raises(FeedDown):
            await feed.subscribe("trade", ["AAA/USD"])
    with pytest.raises(FeedDown):
        await provider(server).connect()


async def test_markets_are_loaded_once_an_hour() -> None:
    clock = FakeClock()
    async with ExchangeServer(synthetic()) as server:
        source = provider(server, clock=clock)
        for connection in await asyncio.gather(*(source.connect() for _ in range(4))):
            await connection.close()
        assert server.requests.count("/products") == 1
        clock.advance(3601)
        await (await source.connect()).close()
    assert server.requests.count("/products") == 2


async def test_cancelled_anywhere_it_leaves_nothing() -> None:
    capture = synthetic()
    async with ExchangeServer(capture, expected={("matches", "never")}) as server:
        source = provider(server)
        connecting = asyncio.create_task(source.connect())
        await asyncio.sleep(0)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        async with reading(source) as (feed, read):
            asking = asyncio.create_task(feed.subscribe("trade", capture.symbols))
            await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await feed.subscribe("quote", capture.symbols)
        assert read.error is None, "closed by us: the records end"


async def test_what_came_is_handed_out_after_a_close_too() -> None:
    capture = synthetic()
    async with ExchangeServer(capture, expected=pairs(capture, "matches")) as server:
        connection = await provider(server).connect()
        records = connection.records()
        await connection.subscribe("trade", capture.symbols)
        await asyncio.wait_for(server.finished.wait(), 20)
        await server.say({"type": "error", "message": "m", "reason": "the last word"})
        while "last word" not in connection.health().detail:  # noqa: ASYNC110 - turns of the loop, until ccxt has read it
            await asyncio.sleep(0)
        await connection.close()
        got = [record async for batch in records for record in batch]
        assert keys(got) == capture.trades()
        with pytest.raises(FeedDown, match="closed"):
            await connection.subscribe("trade", capture.symbols)


async def test_paced_replay_and_unsubscribed_products() -> None:
    capture = synthetic(rounds=3)
    async with ExchangeServer(capture, pace=1000.0) as server, reading(provider(server)) as (feed, read):
        await feed.subscribe("trade", ["CCC/BTC"])
        await asyncio.wait_for(server.finished.wait(), 20)
        got = await read.until(lambda got: len(got) >= 4)
    assert {t.symbol for t in got} == {"CCC/BTC"}
    assert server.sent == 4
