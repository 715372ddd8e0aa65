"""A held connection: answers in order, found again when it was lost, and given back as it was."""

from __future__ import annotations

import asyncio

import pytest
import redis.exceptions
from redis.exceptions import ResponseError

from market_data_pipeline.store.client import Client
from market_data_pipeline.store.line import Line


async def kill_all_but_mine(client: Client) -> None:
    """Close every other connection, and let their owners' loop hear of it."""
    mine = await client.client_id()
    for other in await client.client_list():
        if int(other["id"]) != mine:
            await client.client_kill_filter(_id=other["id"])
    await asyncio.sleep(0.05)


async def test_answers_come_in_order_and_refusals_as_values(client: Client) -> None:
    line = Line(client)
    first, refused, last = await line.ask(("SET", "k", b"v"), ("INCR", "k"), ("GET", "k"))
    assert (first, last) == (b"OK", b"v")
    assert isinstance(refused, ResponseError)
    await line.aclose()


async def test_large_commands_travel_whole(client: Client) -> None:
    line = Line(client)
    large = bytes(range(256)) * 4096
    assert await line.ask(("SET", "k", large), ("STRLEN", "k"), ("GET", "k")) == [b"OK", len(large), large]
    await line.aclose()


async def test_a_connection_that_was_closed_while_nobody_looked_is_made_again(client: Client) -> None:
    line = Line(client)
    assert await line.ask(("PING",)) == [b"PONG"]
    await kill_all_but_mine(client)
    assert await line.ask(("PING",)) == [b"PONG"]
    await line.aclose()


async def test_who_needs_the_same_connection_hears_that_it_was_lost(client: Client) -> None:
    line = Line(client)
    with pytest.raises(redis.exceptions.ConnectionError, match="lost"):
        await line.ask_again(("PING",))
    await line.ask(("SET", "k", "v"))
    assert await line.ask_again(("WAIT", 0, 10)) == [0]
    await kill_all_but_mine(client)
    with pytest.raises(redis.exceptions.ConnectionError, match="lost"):
        await line.ask_again(("WAIT", 0, 10))
    await line.aclose()


async def test_the_pool_gets_the_connection_back_as_it_was(client: Client) -> None:
    line, pool = Line(client), client.connection_pool
    connection = await pool.get_connection()
    usual = connection.socket_timeout
    await pool.release(connection)
    assert usual
    await line.ask(("PING",))
    await line.aclose()
    connection = await pool.get_connection()
    assert connection.socket_timeout == usual
    await pool.release(connection)
    await line.aclose()


async def test_one_who_gives_up_leaves_no_answer_behind(client: Client) -> None:
    line = Line(client)
    await line.ask(("PING",))
    waiting = asyncio.create_task(line.ask(("BLPOP", "nothing", 5)))
    await asyncio.sleep(0.05)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await line.ask(("ECHO", "mine")) == [b"mine"]
    await line.aclose()
