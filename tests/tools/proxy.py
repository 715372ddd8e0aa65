"""A TCP proxy with doors, for tests that disturb the connection between a process and its server.

Each door is a port of its own on loopback in front of one upstream. What a door does to its connections can be changed at
any time from any thread: cut them, delay every chunk, hold everything back, close one in the middle of a reply, refuse new
ones, or lead to another upstream. All doors of a proxy share one event loop in a thread.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

T = TypeVar("T")

_CHUNK = 65536
_RESET = struct.pack("ii", 1, 0)
"""``SO_LINGER`` with zero seconds: closing sends a reset instead of an orderly end."""


class _Connection:
    """One client with its connection to the upstream."""

    def __init__(self, client: asyncio.StreamWriter, upstream: asyncio.StreamWriter) -> None:
        self.writers = (client, upstream)

    def abort(self) -> None:
        """End both sides at once, as a broken network would."""
        for writer in self.writers:
            raw = writer.get_extra_info("socket")
            if raw is not None and not writer.transport.is_closing():
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


class Door:
    """A port that leads to ``upstream`` (a port on loopback). Made by :meth:`Proxy.door`; methods are thread-safe."""

    def __init__(self, proxy: Proxy, upstream: int) -> None:
        self._proxy = proxy
        self._upstream = upstream
        self._connections: set[_Connection] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._delay = 0.0
        self._reply_bytes: int | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.port = 0
        self.closed_in_reply = 0
        """How many connections were closed in the middle of a reply."""

    def cut(self) -> int:
        """Break all connections; how many there were."""
        return self._proxy.run(self._cut())

    def delay(self, seconds: float) -> None:
        """From now on every chunk, either way, comes ``seconds`` late; 0 ends that."""
        self._proxy.run(self._set_delay(seconds))

    def hold(self, on: bool = True) -> None:
        """Keep connections open and let nothing through, either way, until ``hold(False)``."""
        self._proxy.run(self._set_hold(on))

    def close_in_reply(self, after: int | None) -> None:
        """Break the connection that first gets more than ``after`` bytes of reply at once, behind ``after`` of them;
        ``None`` disarms."""
        self._proxy.run(self._set_reply_bytes(after))

    def refuse(self, on: bool = True) -> None:
        """Close the port (and break what runs through it), or open it again."""
        self._proxy.run(self._close() if on else self._listen())

    def lead_to(self, upstream: int) -> None:
        """Lead new connections to another port, and break those to the old one."""
        self._proxy.run(self._switch(upstream))

    def heal(self) -> None:
        """Back to normal."""
        self._proxy.run(self._heal())

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    async def _set_delay(self, seconds: float) -> None:
        self._delay = seconds

    async def _set_hold(self, on: bool) -> None:
        if on:
            self._flowing.clear()
        else:
            self._flowing.set()

    async def _set_reply_bytes(self, after: int | None) -> None:
        self._reply_bytes = after

    async def _switch(self, upstream: int) -> None:
        self._upstream = upstream
        await self._cut()

    async def _heal(self) -> None:
        self._delay, self._reply_bytes = 0.0, None
        self._flowing.set()
        await self._listen()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._cut()

    async def _cut(self) -> int:
        broken = list(self._connections)
        for connection in broken:
            connection.abort()
        self._connections.clear()
        return len(broken)

    async def _end(self) -> None:
        await self._close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pump = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._pumps.add(pump)
        pump.add_done_callback(self._pumps.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(writer, up_writer)
        self._connections.add(connection)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, up_writer))
                both.create_task(self._pump_replies(up_reader, writer, connection))
        except* (OSError, _Broken):
            pass
        finally:
            self._connections.discard(connection)
            connection.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(_CHUNK):
            await self._pass(chunk, writer)
        writer.write_eof()

    async def _pump_replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: _Connection
    ) -> None:
        while chunk := await reader.read(_CHUNK):
            if self._reply_bytes is not None and self._reply_bytes < len(chunk):
                kept, self._reply_bytes = self._reply_bytes, None
                await self._pass(chunk[:kept], writer)
                self.closed_in_reply += 1
                connection.abort()
                raise _Broken
            await self._pass(chunk, writer)
        raise _Broken  # the upstream is gone: so is the connection, also for what the client still sends

    async def _pass(self, chunk: bytes, writer: asyncio.StreamWriter) -> None:
        if self._delay:
            await asyncio.sleep(self._delay)
        await self._flowing.wait()
        writer.write(chunk)
        await writer.drain()


class _Broken(Exception):
    """One side of a connection is over; its other side ends too."""


class Proxy:
    """The doors and the thread that serves them. Use as a context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._doors: list[Door] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        for door in self._doors:
            self.run(door._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def door(self, upstream: int) -> Door:
        """A new door, open, to ``upstream``."""
        door = Door(self, upstream)
        self.run(door._listen())
        self._doors.append(door)
        return door

    def run(self, action: Coroutine[Any, Any, T]) -> T:
        """``action`` in the proxy's thread; its result."""
        return asyncio.run_coroutine_threadsafe(action, self._loop).result(timeout=10)
