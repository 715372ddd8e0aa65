"""The shared reader on a real server: many tasks, one blocking read, nobody starves."""

from __future__ import annotations

import asyncio
import time

from market_data_pipeline.store.client import Client
from market_data_pipeline.store.reader import StreamReader


async def test_entries_behind_the_cursor(client: Client) -> None:
    ids = [await client.xadd("s", {"f": f"{n}"}) for n in range(20)]
    async with StreamReader(client) as reader:
        found = await reader.read({"s": "0-0"}, 5)
        assert [entry.blob for entry in found["s"]] == [b"%d" % n for n in range(16)]
        rest = await reader.read({"s": found["s"][-1].id}, 5)
        assert [entry.id for entry in rest["s"]] == [entry_id.decode() for entry_id in ids[16:]]


async def test_reading_has_no_side_effects(client: Client) -> None:
    await client.xadd("s", {"f": "x"})
    async with StreamReader(client) as reader:
        assert await reader.read({"s": "0-0"}, 5) == await reader.read({"s": "0-0"}, 5)
    assert await client.xlen("s") == 1


async def test_nothing_there_gives_nothing_after_the_timeout(client: Client) -> None:
    async with StreamReader(client) as reader:
        assert await reader.read({"s": "0-0"}, 0.05) == {}


async def test_a_late_reader_joins_a_read_that_is_blocked(client: Client) -> None:
    """Without the interruption the second reader would wait until the first one's block is over."""
    await client.xadd("second", {"f": "there already"})
    async with StreamReader(client) as reader:
        first = asyncio.create_task(reader.read({"first": "0-0"}, 10))
        await asyncio.sleep(0.05)
        started = time.monotonic()
        found = await reader.read({"second": "0-0"}, 10)
        assert [entry.blob for entry in found["second"]] == [b"there already"]
        assert time.monotonic() - started < 0.9, "it waited for the blocked read to end by itself"
        assert not first.done()
        await client.xadd("first", {"f": "at last"})
        assert [entry.blob for entry in (await first)["first"]] == [b"at last"]


async def test_many_readers_each_get_their_own(client: Client) -> None:
    async with StreamReader(client) as reader:
        reads = [asyncio.create_task(reader.read({f"s{n}": "0-0"}, 10)) for n in range(50)]
        await asyncio.sleep(0)
        for n in range(50):
            await client.xadd(f"s{n}", {"f": f"{n}"})
        for n, found in enumerate(await asyncio.gather(*reads)):
            assert {key: [e.blob for e in entries] for key, entries in found.items()} == {f"s{n}": [b"%d" % n]}


async def test_who_waits_for_its_turn_to_interrupt_outlives_a_lost_connection(client: Client) -> None:
    await client.xadd("second", {"f": "there already"})
    async with StreamReader(client) as reader:
        first = asyncio.create_task(reader.read({"first": "0-0"}, 10))
        while not reader._blocked:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.001)
        async with reader._ringing:
            second = asyncio.create_task(reader.read({"second": "0-0"}, 10))
            await asyncio.sleep(0)
            await client.execute_command("CLIENT", "KILL", "ID", reader._client_id)
            while reader._client_id is not None:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0)
        assert [entry.blob for entry in (await second)["second"]] == [b"there already"]
        await client.xadd("first", {"f": "at last"})
        assert [entry.blob for entry in (await first)["first"]] == [b"at last"]


async def test_a_lost_connection_is_made_again(client: Client) -> None:
    async with StreamReader(client) as reader:
        waiting = asyncio.create_task(reader.read({"s": "0-0"}, 10))
        await asyncio.sleep(0.05)
        await client.client_kill_filter(_type="normal", skipme=True)
        await client.xadd("s", {"f": "after"})
        assert [entry.blob for entry in (await waiting)["s"]] == [b"after"]


async def test_a_cancelled_read_leaves_the_others_alone(client: Client) -> None:
    async with StreamReader(client) as reader:
        doomed = asyncio.create_task(reader.read({"a": "0-0"}, 10))
        other = asyncio.create_task(reader.read({"b": "0-0"}, 10))
        await asyncio.sleep(0.02)
        doomed.cancel()
        await asyncio.gather(doomed, return_exceptions=True)
        await client.xadd("b", {"f": "x"})
        assert [entry.blob for entry in (await other)["b"]] == [b"x"]
