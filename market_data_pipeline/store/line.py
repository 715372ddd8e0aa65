"""One connection to the server that is held on to, for what happens many times a second.

redis-py makes the connection (TLS, user, sentinels) and makes it again when it was lost. Commands are packed by hiredis and
go out in one write, and one timeout stands around all answers: that is a third of the time that a pipeline of redis-py
takes, which gets a connection, packs in Python and sets a timer for each answer.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence
from typing import Any

import hiredis
import redis.asyncio
from redis.exceptions import ResponseError

_ANSWER_SECONDS = 10.0
_LARGE = 64 * 1024
"""Bytes of a command from which on it is sent in pieces rather than copied into one."""

Command = Sequence[Any]


class Line:
    """A connection of ``client``'s pool. One :meth:`ask` at a time."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._pool: Any = client.connection_pool
        self._connection: Any = None

    async def ask(self, *commands: Command) -> list[Any]:
        """The answers, in order; where a command was refused, its ``ResponseError``. Raises what redis-py raises when the
        server is away, and ``TimeoutError`` after 10 s: nobody knows then what was done."""
        async with asyncio.timeout(_ANSWER_SECONDS):
            connection = await self._connected()
            await connection.send_packed_command(
                [part for command in commands for part in _packed(connection, command)]
            )
            return [await _answer(connection) for _ in commands]

    async def _connected(self) -> Any:
        if self._connection is None:
            self._connection = await self._pool.get_connection()
            self._connection.socket_timeout = None  # ours stands around everything
        return self._connection

    async def aclose(self) -> None:
        """Give the connection back, closed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)
            await self._pool.release(connection)


def _packed(connection: Any, command: Command) -> Iterable[bytes]:
    size = sum(len(part) for part in command if isinstance(part, bytes))
    packed: Iterable[bytes] = (
        connection.pack_command(*command) if size > _LARGE else (hiredis.pack_command(tuple(command)),)
    )
    return packed


async def _answer(connection: Any) -> Any:
    try:
        return await connection.read_response(timeout=math.inf)
    except ResponseError as error:
        return error
