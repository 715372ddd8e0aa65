"""A server that speaks a recorded feed of Coinbase Exchange: HTTP, and a real websocket that replays the recording.

What a client subscribes to it gets, as recorded and in the recorded order; each subscription is answered with what the
connection is subscribed to now, an unknown product with Coinbase's error. A connection begins where the one before was cut,
less ``overlap`` messages; as a venue does, it then first gets the state at that place: books, last tickers, last matches.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import WSMsgType, web

from tools.captures import Capture, Message

Wanted = set[tuple[str, str]]
"""Subscriptions: (channel, product)."""


@dataclass
class ExchangeServer:
    """``async with ExchangeServer(capture) as server``: listens on a free port of loopback, at ``http`` and ``ws``.

    ``cuts``: for the first connection, the second, ...: after how many messages of the recording it is cut (without a farewell;
    ``polite``: with a close frame); those behind stay. ``overlap``: how many messages the next connection begins earlier.
    ``expected``: (channel, product) pairs that must be subscribed to before a connection begins to replay; by default it begins
    with the first subscription. ``pace``: None for as fast as the client reads, else how many times as fast as it was recorded.
    ``http_status``, ``ws_status``: not 0: requests and handshakes are answered so, with ``Retry-After: 7``.
    """

    capture: Capture
    cuts: Sequence[int] = ()
    overlap: int = 0
    expected: Collection[tuple[str, str]] = ()
    pace: float | None = None
    polite: bool = False
    http_status: int = 0
    ws_status: int = 0
    connections: int = 0
    requests: list[str] = field(default_factory=list)
    frames: list[Any] = field(default_factory=list)
    """What clients sent."""
    sent: int = 0
    """Messages of the recording sent, in all."""
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    """Some connection has replayed all."""

    async def __aenter__(self) -> Self:
        self._begin = 0
        self._sockets: set[web.WebSocketResponse] = set()
        app = web.Application()
        app.router.add_get("/", self._socket)
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port: int = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        for socket in list(self._sockets):
            await socket.close()
        await self._runner.cleanup()

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def say(self, body: dict[str, Any] | str) -> None:
        """Send this to every client, besides the recording."""
        for socket in list(self._sockets):
            await socket.send_str(body if isinstance(body, str) else json.dumps(body))

    async def _answer(self, request: web.Request) -> web.Response:
        self.requests.append(request.path)
        if self.http_status:
            return web.json_response({"message": "no"}, status=self.http_status, headers={"Retry-After": "7"})
        body = self.capture.http.get(request.path, "[]")  # what was not recorded is empty
        return web.Response(text=body, content_type="application/json")

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        if self.ws_status:
            return web.Response(status=self.ws_status, headers={"Retry-After": "7"})
        number, self.connections = self.connections, self.connections + 1
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._sockets.add(socket)
        replay = asyncio.create_task(_Connection(self, request, socket, number, self._begin).run())
        try:
            await replay
        finally:
            replay.cancel()
            self._sockets.discard(socket)
        return socket

    def cut_at(self, position: int) -> None:
        self._begin = max(0, position - self.overlap)


class _Connection:
    def __init__(
        self, server: ExchangeServer, request: web.Request, socket: web.WebSocketResponse, number: int, begin: int
    ) -> None:
        self._server, self._request, self._socket = server, request, socket
        self._cut = server.cuts[number] if number < len(server.cuts) else None
        self._begin = begin
        self._wanted: Wanted = set()
        self._ready = asyncio.Event()

    async def run(self) -> None:
        replay = asyncio.create_task(self._replay())
        try:
            async for frame in self._socket:
                if frame.type is WSMsgType.TEXT:
                    await self._asked(json.loads(frame.data))
        except ConnectionError:
            pass
        finally:
            replay.cancel()
            await asyncio.gather(replay, return_exceptions=True)

    async def _asked(self, frame: Any) -> None:
        server = self._server
        server.frames.append(frame)
        known = set(server.capture.products)
        for product in frame["product_ids"]:
            if product not in known:
                reason = f"{product} is not a valid product"
                await self._socket.send_json({"type": "error", "message": "Failed to subscribe", "reason": reason})
                return
        asked = {(channel, product) for channel in frame["channels"] for product in frame["product_ids"]}
        if frame["type"] == "subscribe":
            self._wanted |= asked
        else:
            self._wanted -= asked
        by_channel: dict[str, list[str]] = {}
        for channel, product in sorted(self._wanted):
            by_channel.setdefault(channel, []).append(product)
        channels = [{"name": name, "product_ids": products} for name, products in by_channel.items()]
        await self._socket.send_json({"type": "subscriptions", "channels": channels})
        if self._wanted and self._wanted >= set(server.expected):
            self._ready.set()

    async def _replay(self) -> None:
        await self._ready.wait()
        messages = self._server.capture.messages
        for text in state_before(messages[: self._begin], self._wanted):
            await self._socket.send_str(text)
        loop = asyncio.get_running_loop()
        since = loop.time()
        for position in range(self._begin, len(messages)):
            if position == self._cut:
                await self._end(position)
                return
            message = messages[position]
            if self._server.pace is not None:
                due = since + (message.time - messages[self._begin].time) / self._server.pace
                await asyncio.sleep(max(0.0, due - loop.time()))
            if (message.channel, message.product) in self._wanted:
                await self._socket.send_str(message.text)
                self._server.sent += 1
        self._server.finished.set()

    async def _end(self, position: int) -> None:
        self._server.cut_at(position)
        if self._server.polite:
            await self._socket.close(code=1012, message=b"restarting")
        elif self._request.transport is not None:
            self._request.transport.close()


def state_before(messages: Sequence[Message], wanted: Wanted) -> list[str]:
    """What a venue sends first to who subscribes behind ``messages``: books, last tickers, last matches."""
    books: dict[str, dict[str, dict[str, str]]] = {}
    last: dict[tuple[str, str], Any] = {}
    for message in messages:
        body = message.body
        if message.type == "snapshot":
            books[message.product] = {side: dict(body[side]) for side in ("bids", "asks")}
        elif message.type == "l2update":
            for side, price, size in body["changes"]:
                level = books[message.product]["bids" if side == "buy" else "asks"]
                level[price] = size
                if float(size) == 0.0:
                    del level[price]
        elif message.type in ("match", "last_match"):
            last[message.channel, message.product] = {**body, "type": "last_match"}
        elif message.type == "ticker":
            last[message.channel, message.product] = body
    found = [{"type": "snapshot", "product_id": product, **_levels(book)}
             for product, book in books.items() if ("level2", product) in wanted]  # fmt: skip
    found += [body for key, body in last.items() if key in wanted]
    return [json.dumps(body) for body in found]


def _levels(book: dict[str, dict[str, str]]) -> dict[str, list[list[str]]]:
    return {side: [[price, size] for price, size in levels.items()] for side, levels in book.items()}
