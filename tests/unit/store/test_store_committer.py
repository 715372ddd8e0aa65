"""Group commit: what comes together goes together, and everyone hears what became of his own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from market_data_pipeline.store.client import Script, connect
from market_data_pipeline.store.committer import Committer
from market_data_pipeline.store.embedded import EmbeddedServer


class Echo(Script):
    """A script that appends to a list and answers with its length, or fails where it is told to."""

    def __init__(self) -> None:
        self.name = "echo"
        self.text = """#!lua
if ARGV[1] == 'fail' then return redis.error_reply('told to') end
return {'OK', redis.call('RPUSH', KEYS[1], ARGV[1])}
"""
        self._sha = ""


@pytest.fixture
async def client() -> AsyncIterator[redis.asyncio.Redis]:
    with EmbeddedServer() as server:
        async with connect(server.url) as connected:
            yield connected


async def test_commits_that_come_together_are_all_made_in_their_order(client: redis.asyncio.Redis) -> None:
    committer, script = Committer(client), Echo()
    answers = await asyncio.gather(*(committer.commit(script, ["list"], [str(i)]) for i in range(40)))
    assert answers == [[b"OK", i + 1] for i in range(40)]
    assert await client.lrange("list", 0, -1) == [str(i).encode() for i in range(40)]
    await committer.aclose()


async def test_each_hears_of_its_own_failure_only(client: redis.asyncio.Redis) -> None:
    committer, script = Committer(client), Echo()
    calls = [committer.commit(script, ["list"], [word]) for word in ("a", "fail", "b")]
    first, second, third = await asyncio.gather(*calls, return_exceptions=True)
    assert first == [b"OK", 1]
    assert third == [b"OK", 2]
    assert isinstance(second, ResponseError)
    await committer.aclose()


async def test_scripts_that_the_server_forgot_are_sent_as_text(client: redis.asyncio.Redis) -> None:
    committer, script = Committer(client), Echo()
    assert await committer.commit(script, ["list"], ["a"]) == [b"OK", 1]
    await client.script_flush()
    both = await asyncio.gather(committer.commit(script, ["list"], ["b"]), committer.commit(script, ["list"], ["c"]))
    assert both == [[b"OK", 2], [b"OK", 3]]
    await client.script_flush()
    with pytest.raises(ResponseError, match="told to"):
        await committer.commit(script, ["list"], ["fail"])
    await committer.aclose()


async def test_one_who_gives_up_costs_the_others_nothing(client: redis.asyncio.Redis) -> None:
    committer, script = Committer(client), Echo()
    calls = [asyncio.create_task(committer.commit(script, ["list"], [str(i)])) for i in range(3)]
    await asyncio.sleep(0)
    calls[1].cancel()
    first, second, third = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(second, asyncio.CancelledError)
    assert first == [b"OK", 1]
    assert third in ([b"OK", 2], [b"OK", 3])
    assert await committer.commit(script, ["list"], ["later"]) == [b"OK", 4]
    await committer.aclose()


async def test_a_server_that_goes_away_is_told_to_all() -> None:
    with EmbeddedServer() as server:
        client = connect(server.url)
        committer, script = Committer(client), Echo()
        assert await committer.commit(script, ["list"], ["a"]) == [b"OK", 1]
        server.kill()
        calls = [committer.commit(script, ["list"], ["b"]), committer.commit(script, ["list"], ["c"])]
        lost = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(error, (redis.exceptions.ConnectionError, OSError)) for error in lost)
        await committer.aclose()
        await client.aclose()


async def test_closing_cancels_those_who_wait(client: redis.asyncio.Redis) -> None:
    committer, script = Committer(client), Echo()
    calls = [asyncio.create_task(committer.commit(script, ["list"], [str(i)])) for i in range(40)]
    await asyncio.sleep(0)
    await committer.aclose()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, (list, asyncio.CancelledError)) for result in results)
    assert any(isinstance(result, asyncio.CancelledError) for result in results)


async def test_a_commit_waits_for_those_who_are_about_to_come_and_not_for_ever(client: redis.asyncio.Redis) -> None:
    about_to_come = True
    committer, script = Committer(client, more=lambda: about_to_come), Echo()
    await script.sha(client)
    calls = [asyncio.create_task(committer.commit(script, ["list"], ["a"]))]
    await asyncio.sleep(0)
    calls.append(asyncio.create_task(committer.commit(script, ["list"], ["b"])))
    assert await asyncio.gather(*calls) == [[b"OK", 1], [b"OK", 2]], "they come too late: it goes without them"
    hurried = committer.commit(script, ["list"], ["c"], hurry=True)
    assert await hurried == [b"OK", 3]
    about_to_come = False
    assert await committer.commit(script, ["list"], ["d"]) == [b"OK", 4]
    await committer.aclose()
