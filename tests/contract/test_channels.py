"""One suite for every channel: in memory, and on a stream of a real server."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from market_data_pipeline.channels.base import BaseChannel, ChannelClosed, Watermark
from market_data_pipeline.channels.memory import Channel
from market_data_pipeline.channels.redis_stream import StreamChannel
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.records import Trade
from market_data_pipeline.store.client import connect
from market_data_pipeline.store.embedded import EmbeddedServer

MakeChannel = Callable[..., BaseChannel[Any]]


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as running:
        yield running


@pytest.fixture(params=["memory", "stream"])
async def make(request: pytest.FixtureRequest, server: EmbeddedServer) -> AsyncIterator[MakeChannel]:
    if request.param == "memory":
        yield Channel
        return
    client = connect(server.url)
    name = f"test-{secrets.token_hex(4)}"
    made: list[StreamChannel[Any]] = []

    def build(**arguments: Any) -> StreamChannel[Any]:
        made.append(StreamChannel(client, name, **arguments))
        return made[-1]

    yield build
    for channel in made:
        await channel.close()
    await client.aclose()


async def test_items_come_out_in_order_each_once(make: MakeChannel) -> None:
    channel = make(capacity=100)
    for n in range(50):
        await channel.put({"n": n})
    await channel.close()
    assert [item async for item in channel] == [{"n": n} for n in range(50)]


async def test_records_travel(make: MakeChannel) -> None:
    channel = make(capacity=10)
    trade = Trade("BRK/B", -5, 0, 1.5, 2.0, "buy", "x-1")
    await channel.put(trade)
    assert await channel.get() == trade


async def test_get_many_takes_what_is_there_up_to_the_limit(make: MakeChannel) -> None:
    channel = make(capacity=10)
    for n in range(5):
        await channel.put(n)
    assert await channel.get_many(3) == [0, 1, 2]
    assert await channel.get_many(3) == [3, 4]


async def test_length(make: MakeChannel) -> None:
    channel = make(capacity=10)
    assert await channel.length() == 0
    await channel.put("a")
    await channel.put("b")
    assert await channel.length() == 2


async def test_a_full_channel_makes_put_wait(make: MakeChannel) -> None:
    channel = make(capacity=2)
    await channel.put(1)
    await channel.put(2)
    third = asyncio.create_task(channel.put(3))
    await asyncio.sleep(0.02)
    assert not third.done()
    assert await channel.length() == 2
    assert await channel.get() == 1
    await asyncio.wait_for(third, 5)
    assert [await channel.get(), await channel.get()] == [2, 3]


async def test_an_empty_channel_makes_get_wait(make: MakeChannel) -> None:
    channel = make(capacity=2)
    waiting = asyncio.create_task(channel.get())
    await asyncio.sleep(0.02)
    assert not waiting.done()
    await channel.put("now")
    assert await asyncio.wait_for(waiting, 5) == "now"


async def test_put_after_close_is_refused(make: MakeChannel) -> None:
    channel = make(capacity=2)
    await channel.close()
    with pytest.raises(ChannelClosed):
        await channel.put(1)


async def test_a_closed_channel_is_drained_and_then_says_so(make: MakeChannel) -> None:
    channel = make(capacity=2)
    await channel.put(1)
    await channel.close()
    await channel.close()
    assert await channel.get() == 1
    with pytest.raises(ChannelClosed):
        await channel.get()


async def test_close_wakes_a_waiting_get(make: MakeChannel) -> None:
    channel = make(capacity=2)
    waiting = asyncio.create_task(channel.get())
    await asyncio.sleep(0.01)
    await channel.close()
    with pytest.raises(ChannelClosed):
        await asyncio.wait_for(waiting, 5)


async def test_close_wakes_a_waiting_put(make: MakeChannel) -> None:
    channel = make(capacity=1)
    await channel.put(1)
    waiting = asyncio.create_task(channel.put(2))
    await asyncio.sleep(0.01)
    await channel.close()
    with pytest.raises(ChannelClosed):
        await asyncio.wait_for(waiting, 5)
    assert await channel.get() == 1


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_levels_fire_once_per_crossing(make: MakeChannel, asynchronous: bool) -> None:
    fired: list[str] = []

    def callback(name: str) -> Callable[[], Any]:
        async def later() -> None:
            await asyncio.sleep(0)
            fired.append(name)

        return later if asynchronous else lambda: fired.append(name)

    channel = make(capacity=8, watermark=Watermark(high=6, low=2), on_high=callback("high"), on_low=callback("low"))
    for n in range(8):
        await channel.put(n)
    assert fired == ["high"]
    for _ in range(3):
        await channel.get()  # 5 left: between the levels
    await channel.put(8)  # 6 again, but it never was low
    assert fired == ["high"]
    for _ in range(4):
        await channel.get()
    assert fired == ["high", "low"]
    for _ in range(2):
        await channel.get()
    assert fired == ["high", "low"]
    for n in range(6):
        await channel.put(n)
    assert fired == ["high", "low", "high"]


async def test_cancelling_a_waiting_get_loses_nothing(make: MakeChannel) -> None:
    channel = make(capacity=4)
    for _ in range(10):
        waiting = asyncio.create_task(channel.get())
        await asyncio.sleep(0.001)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    await channel.put("kept")
    assert await asyncio.wait_for(channel.get(), 5) == "kept"


async def test_capacity_is_never_exceeded_under_load(make: MakeChannel) -> None:
    channel = make(capacity=5)
    lengths: list[int] = []
    taken: list[int] = []

    async def produce() -> None:
        for n in range(200):
            await channel.put(n)
        await channel.close()

    async def consume() -> None:
        async for item in channel:
            taken.append(item)
            lengths.append(await channel.length())

    await asyncio.gather(produce(), consume())
    assert taken == list(range(200))
    assert max(lengths) <= 5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"capacity": 0}, "capacity: 0 must be at least 1"),
        ({"capacity": 4, "watermark": Watermark(high=5, low=1)}, "high=5 is over the capacity of 4"),
    ],
)
def test_bad_levels_are_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Channel(**arguments)


def test_low_must_be_below_high() -> None:
    with pytest.raises(ConfigError, match="0 <= low < high"):
        Watermark(high=2, low=2)


async def test_a_producer_in_another_place_sees_the_low_level(server: EmbeddedServer) -> None:
    """Two ends, as in two processes: the consumer's takes bring the producer's ``on_low``."""
    producer_client, consumer_client = connect(server.url), connect(server.url)
    name = f"test-{secrets.token_hex(4)}"
    fired: list[str] = []
    low = asyncio.Event()

    def on_low() -> None:
        fired.append("low")
        low.set()

    levels = Watermark(high=3, low=1)
    producer: StreamChannel[int] = StreamChannel(
        producer_client, name, 4, levels, on_high=lambda: fired.append("high"), on_low=on_low
    )
    consumer: StreamChannel[int] = StreamChannel(consumer_client, name, 4, levels)
    for n in range(4):
        await producer.put(n)
    assert fired == ["high"]
    assert await consumer.get_many(4) == [0, 1, 2, 3]
    await asyncio.wait_for(low.wait(), 5)
    assert fired == ["high", "low"]
    await producer.close()
    await producer_client.aclose()
    await consumer_client.aclose()
