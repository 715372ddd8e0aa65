"""The proxy that chaos rounds disturb connections with: over it, an echo server is cut, delayed, held and replaced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from tools.proxy import Door, Proxy

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """Answers every line with its name and the line."""

    def __init__(self, name: str) -> None:
        self._name = name.encode()
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            while line := await reader.readline():
                writer.write(self._name + b":" + line)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as running:
        yield running


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    server = Echo("one")
    yield await server.start()
    await server.stop()


async def dial(door: Door) -> Streams:
    return await asyncio.open_connection("127.0.0.1", door.port, limit=1 << 20)


async def ask(streams: Streams, line: bytes = b"hello\n") -> bytes:
    reader, writer = streams
    writer.write(line)
    return await asyncio.wait_for(reader.readline(), 10)


async def broken(streams: Streams) -> bytes:
    """What still came before the connection broke."""
    try:
        return await asyncio.wait_for(streams[0].read(), 10)
    except ConnectionError:
        return b""
    finally:
        streams[1].close()


async def hang_up(*open_streams: Streams) -> None:
    for _, writer in open_streams:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_passes_both_ways(proxy: Proxy, echo: int) -> None:
    streams = await dial(proxy.door(echo))
    assert await ask(streams) == b"one:hello\n"
    assert await ask(streams, b"x" * 50_000 + b"\n") == b"one:" + b"x" * 50_000 + b"\n"
    await hang_up(streams)


async def test_an_end_is_passed_on(proxy: Proxy, echo: int) -> None:
    reader, writer = await dial(proxy.door(echo))
    writer.write(b"last\n")
    writer.write_eof()
    assert await asyncio.wait_for(reader.readline(), 10) == b"one:last\n"
    assert await broken((reader, writer)) == b""


async def test_cut_breaks_what_is_open_and_nothing_else(proxy: Proxy, echo: int) -> None:
    door, other = proxy.door(echo), proxy.door(echo)
    first, second, untouched = await dial(door), await dial(door), await dial(other)
    for streams in (first, second, untouched):
        await ask(streams)
    assert door.cut() == 2
    assert (await broken(first), await broken(second)) == (b"", b"")
    assert await ask(untouched) == b"one:hello\n"
    again = await dial(door)
    assert await ask(again) == b"one:hello\n"
    await hang_up(untouched, again)


async def test_delay_is_of_one_door_and_ends(proxy: Proxy, echo: int) -> None:
    door = proxy.door(echo)
    slow, fast = await dial(door), await dial(proxy.door(echo))
    door.delay(0.3)
    waiting = asyncio.create_task(ask(slow))
    assert await ask(fast) == b"one:hello\n"
    assert not waiting.done(), "another door is not delayed"
    assert await waiting == b"one:hello\n"
    door.delay(0)
    assert await ask(slow, b"again\n") == b"one:again\n"
    await hang_up(slow, fast)


async def test_hold_lets_nothing_through_until_it_is_over(proxy: Proxy, echo: int) -> None:
    door = proxy.door(echo)
    streams, other = await dial(door), await dial(proxy.door(echo))
    await ask(streams)
    door.hold()
    waiting = asyncio.create_task(ask(streams, b"held\n"))
    for _ in range(20):
        await ask(other)
    assert not waiting.done()
    door.hold(False)
    assert await waiting == b"one:held\n"
    await hang_up(streams, other)


@pytest.mark.parametrize("after", [0, 1, 8])
async def test_close_in_mid_reply(proxy: Proxy, echo: int, after: int) -> None:
    door = proxy.door(echo)
    first, second = await dial(door), await dial(door)
    door.close_in_reply(after)
    first[1].write(b"hello\n")
    assert await broken(first) in (b"one:hello\n"[:after], b""), "a reset may overtake what was sent"
    assert door.closed_in_reply == 1
    assert await ask(second) == b"one:hello\n", "only one connection is closed"
    await hang_up(second)


async def test_a_reply_that_is_too_short_is_not_cut(proxy: Proxy, echo: int) -> None:
    door = proxy.door(echo)
    streams = await dial(door)
    door.close_in_reply(100)
    assert await ask(streams) == b"one:hello\n"
    streams[1].write(b"y" * 200 + b"\n")
    assert len(await broken(streams)) <= 100
    assert door.closed_in_reply == 1


async def test_refuse_closes_the_port_and_opens_the_same_again(proxy: Proxy, echo: int) -> None:
    door = proxy.door(echo)
    port, streams = door.port, await dial(door)
    await ask(streams)
    door.refuse()
    assert await broken(streams) == b""
    with pytest.raises(ConnectionRefusedError):
        await dial(door)
    door.refuse(False)
    assert door.port == port
    again = await dial(door)
    assert await ask(again) == b"one:hello\n"
    await hang_up(again)


async def test_leads_to_another_upstream(proxy: Proxy, echo: int) -> None:
    two = Echo("two")
    door = proxy.door(echo)
    streams = await dial(door)
    await ask(streams)
    door.lead_to(await two.start())
    assert await broken(streams) == b""
    again = await dial(door)
    assert await ask(again) == b"two:hello\n"
    await hang_up(again)
    await two.stop()


async def test_an_upstream_that_is_gone_breaks_the_connection(proxy: Proxy) -> None:
    gone = Echo("gone")
    port = await gone.start()
    await gone.stop()
    assert await broken(await dial(proxy.door(port))) == b""


async def test_heal_undoes_everything(proxy: Proxy, echo: int) -> None:
    door = proxy.door(echo)
    door.delay(60)
    door.hold()
    door.close_in_reply(0)
    door.refuse()
    door.heal()
    streams = await dial(door)
    assert await ask(streams) == b"one:hello\n"
    assert door.open_connections == 1
    await hang_up(streams)
