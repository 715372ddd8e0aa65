"""One connection to the server that is held on to, for what happens many times a second.

redis-py makes the connection (TLS, user, sentinels) and makes it again when it was lost. Commands are packed by hiredis and
go out in one write, and one timeout stands around all answers: that is a third of the time that a pipeline of redis-py
takes, which gets a connection, packs in Python and sets a timer for each answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import hiredis
import redis.asyncio
import redis.exceptions
from redis.exceptions import ResponseError

_ANSWER_SECONDS = 10.0
_BYTES_PER_SECOND = 1024 * 1024
"""What a link is expected to carry at least: large commands get so much more time."""
_LARGE = 64 * 1024
"""Bytes of a command from which on it is sent in pieces rather than copied into one."""

Command = Sequence[Any]


class Line:
    """A connection of ``client``'s pool. One :meth:`ask` at a time."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._pool: Any = client.connection_pool
        self._connection: Any = None
        self._pools_timeout: float | None = None

    async def ask(self, *commands: Command) -> list[Any]:
        """The answers, in order; where a command was refused, its ``ResponseError``. Raises what redis-py raises when the
        server is away, and ``TimeoutError`` after 10 s (later for large commands): nobody knows then what was done."""
        sized = [(command, size_of(command)) for command in commands]
        async with asyncio.timeout(_ANSWER_SECONDS + sum(size for _, size in sized) / _BYTES_PER_SECOND):
            connection = await self._connected()
            parts = [part for command, size in sized for part in _packed(connection, command, size)]
            await connection.send_packed_command(parts)
            return [await _answer(connection) for _ in commands]

    async def ask_again(self, *commands: Command) -> list[Any]:
        """As :meth:`ask`, over the connection of the one before. Raises ``ConnectionError`` when that was lost."""
        if self._connection is None or not self._connection.is_connected or await self._connection.can_read():
            raise redis.exceptions.ConnectionError("the connection was lost")
        return await self.ask(*commands)

    async def _connected(self) -> Any:
        if self._connection is None:
            self._connection = await self._pool.get_connection()
            # one timeout stands around everything; the pool gets its own back
            self._pools_timeout, self._connection.socket_timeout = self._connection.socket_timeout, None
        elif self._connection.is_connected and await self._connection.can_read():
            await self._connection.disconnect(nowait=True)  # it was closed while nobody looked
        return self._connection

    async def aclose(self) -> None:
        """Give the connection back, closed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)
            connection.socket_timeout = self._pools_timeout
            await self._pool.release(connection)


def size_of(command: Command) -> int:
    """Its bytes, but for the numbers and names in it, which are small."""
    return sum(len(part) for part in command if isinstance(part, bytes))


def _packed(connection: Any, command: Command, size: int) -> Iterable[bytes]:
    if size > _LARGE:
        pieces: Iterable[bytes] = connection.pack_command(*command)
        return pieces
    return (hiredis.pack_command(tuple(command)),)


async def _answer(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
