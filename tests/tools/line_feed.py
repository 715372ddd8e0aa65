"""A small real feed over TCP, and a provider for it: JSON lines both ways.

The client asks ``{"subscribe": kind, "symbols": [...]}`` and is answered ``{"subscribed": [...], "refused": [...]}`` or
``{"error": "..."}``. Then come ``{"trade": [...]}`` and ``{"quote": [...]}`` with a record's fields, ``{"beat": true}``,
``{"refuse": [kind, symbol, reason]}`` and, at the very end, ``{"end": true}``. Tests say when.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.records import Quote, Trade
from market_data_pipeline.sources.provider import (
    ConnectionHealth,
    FeedDown,
    FeedRecord,
    Refused,
    SubscriptionRefused,
    VenueLimits,
)


@dataclass
class Client:
    """A connection as the server sees it."""

    writer: asyncio.StreamWriter
    symbols: set[tuple[str, str]] = field(default_factory=set)


class LineFeed:
    """The server. ``refused``: symbols that a call names as refused; ``unknown``: those that make a whole call fail; ``late``:
    those that are taken, and refused by a line behind that; both also by kind, as ``quote:A``. ``history``:
    what a subscription to trades is sent first. ``unwelcome``: how many connections are dropped as soon as they are made.
    ``left``: symbols that are not subscribed to any more, in order."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.refused: set[str] = set()
        self.unknown: set[str] = set()
        self.late: set[str] = set()
        self.history: list[Trade] = []
        self.unwelcome = 0
        self.calls: list[tuple[str, list[str]]] = []
        self.clients: list[Client] = []
        self.subscriptions: Counter[str] = Counter()
        self.left: list[str] = []
        self.made = 0
        self._changed = asyncio.Condition()
        self._serving: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> LineFeed:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self.cut()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        client = Client(writer)
        try:
            await self._change(made=1)
            if self.unwelcome:
                self.unwelcome -= 1
                return
            self.clients.append(client)
            async for line in reader:
                await self._answer(client, json.loads(line))
        except OSError:
            pass
        finally:
            self._serving.discard(task)
            if client in self.clients:
                self.clients.remove(client)
            self.left += sorted(symbol for _, symbol in client.symbols)
            writer.close()
            await self._change()

    async def _answer(self, client: Client, request: dict[str, Any]) -> None:
        kind, symbols = request["subscribe"], request["symbols"]
        self.calls.append((kind, symbols))
        if self.unknown.intersection(symbols):
            await _write(client, {"error": f"unknown: {', '.join(sorted(self.unknown.intersection(symbols)))}"})
            return
        refused = [symbol for symbol in symbols if self.refused.intersection((symbol, f"{kind}:{symbol}"))]
        taken = [symbol for symbol in symbols if symbol not in refused]
        await _write(client, {"subscribed": taken, "refused": refused})
        for symbol in taken:
            if self.late.intersection((symbol, f"{kind}:{symbol}")):
                await _write(client, {"refuse": [kind, symbol, "no permission"]})
                continue
            client.symbols.add((kind, symbol))
            for trade in self.history if kind == "trade" else ():
                if trade.symbol == symbol:
                    await _write(client, {"trade": list(trade._replace(phase="snapshot"))})
        self.subscriptions.update(taken)
        await self._change()

    async def _change(self, made: int = 0) -> None:
        async with self._changed:
            self.made += made
            self._changed.notify_all()

    async def until(self, done: Any) -> None:
        """Wait until ``done()`` of what clients do."""
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(done)

    async def subscribed(self, symbol: str, times: int = 1) -> None:
        """Wait until ``symbol`` was subscribed to that often in all."""
        await self.until(lambda: self.subscriptions[symbol] >= times)

    async def send(self, *records: Trade | Quote, slot: int | None = None) -> None:
        """To all clients that subscribed to it, or to the one that is ``slot`` in the list of those connected."""
        clients = list(self.clients) if slot is None else [self.clients[slot]]
        for client in clients:
            for record in records:
                kind = "trade" if isinstance(record, Trade) else "quote"
                if (kind, record.symbol) in client.symbols:
                    client.writer.write(_line({kind: list(record)}))
            await client.writer.drain()

    async def say(self, line: dict[str, Any]) -> None:
        for client in list(self.clients):
            await _write(client, line)

    async def cut(self, slot: int | None = None) -> None:
        """End connections; what was sent still arrives."""
        gone = list(self.clients) if slot is None else [self.clients[slot]]
        for client in gone:
            client.writer.close()
        if gone:
            await self.until(lambda: not any(client in self.clients for client in gone))


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


async def _write(client: Client, value: Any) -> None:
    client.writer.write(_line(value))
    await client.writer.drain()


_FAST = VenueLimits(per_second=10_000.0)


@dataclass
class LineProvider:
    """A :class:`MarketDataProvider` by its shape alone."""

    port: int
    name: str = "line"
    limits: VenueLimits = _FAST
    splittable: bool = True
    kinds: frozenset[str] = frozenset({"trade", "quote"})
    retry_after: float = 0.0

    def check(self, symbols: Sequence[str], kinds: Sequence[str]) -> None:
        if "" in symbols:
            raise ConfigError("symbols: '' is no symbol")

    async def connect(self) -> LineConnection:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 16)
        except OSError as error:
            raise FeedDown(str(error), self.retry_after) from error
        return LineConnection(reader, writer, self.retry_after)


class LineConnection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, retry_after: float) -> None:
        self._reader, self._writer, self._retry_after = reader, writer, retry_after
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._heard = 0.0
        self._down = False

    async def subscribe(self, kind: str, symbols: Sequence[str]) -> None:
        self._writer.write(_line({"subscribe": kind, "symbols": list(symbols)}))
        answer = await self._answers.get()
        if "error" in answer:
            raise SubscriptionRefused(answer["error"])
        if answer["refused"]:
            raise SubscriptionRefused("not allowed", answer["refused"])

    async def records(self) -> AsyncIterator[Sequence[FeedRecord]]:
        while True:
            try:
                line = await self._reader.readline()
            except OSError as error:
                self._down = True
                raise FeedDown(str(error), self._retry_after) from error
            if not line.endswith(b"\n"):
                self._down = True
                raise FeedDown("the connection was closed", self._retry_after)
            self._heard = time.monotonic()
            message = json.loads(line)
            if "end" in message:
                return
            if "subscribed" in message or "error" in message:
                self._answers.put_nowait(message)
            elif "trade" in message:
                yield [Trade(*message["trade"])]
            elif "quote" in message:
                yield [Quote(*message["quote"])]
            elif "refuse" in message:
                yield [Refused(*message["refuse"])]
            elif "junk" in message:
                yield [message["junk"]]

    def health(self) -> ConnectionHealth:
        return ConnectionHealth(not self._down, self._heard, "closed" if self._down else "")

    async def close(self) -> None:
        self._down = True
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            return
