"""A small IB Gateway: speaks the TWS protocol over a real socket, as far as market data needs it.

Version exchange, startApi, nextValidId and managedAccounts; contract details; tick-by-tick subscriptions and ticks; errors.
Each message is its length (4 bytes, big endian) and fields that end with a NUL."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

_VERSION = 176
_CONTRACT_DETAILS, _START, _TICK_BY_TICK = "9", "71", "97"


@dataclass
class Session:
    """A client that is connected. ``requests``: by symbol and tick type the number of the request."""

    writer: asyncio.StreamWriter
    client_id: int = -1
    requests: dict[tuple[str, str], str] = field(default_factory=dict)


class IbGateway:
    """The server. ``contracts``: how many contracts each symbol stands for (0: error 200); ``errors``: by symbol the error
    that a tick-by-tick request for it gets; ``silent``: the handshake is never answered; ``ignored``: symbols whose
    lookup is not."""

    def __init__(self) -> None:
        self.contracts: dict[str, int] = {}
        self.errors: dict[str, int] = {}
        self.silent = False
        self.ignored: set[str] = set()
        self.sessions: list[Session] = []
        self.lookups: list[str] = []
        self._changed = asyncio.Condition()
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> IbGateway:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        session = Session(writer)
        try:
            await self._serve(session, reader)
        except (OSError, EOFError):
            pass
        finally:
            self._serving.discard(task)
            if session in self.sessions:
                self.sessions.remove(session)
            writer.close()
            await self._change()

    async def _serve(self, session: Session, reader: asyncio.StreamReader) -> None:
        assert await reader.readexactly(4) == b"API\0"
        assert (await _message(reader)).startswith("v")
        if self.silent:
            await reader.read()
            return
        self.send(session, str(_VERSION), "20261122 00:00:00 UTC")
        while True:
            fields = (await _message(reader)).split("\0")[:-1]
            if fields[0] == _START:
                await self._started(session, int(fields[2]))
            elif fields[0] == _CONTRACT_DETAILS:
                self._tell_contracts(session, fields[2], fields[4])
            elif fields[0] == _TICK_BY_TICK:
                await self._subscribe(session, fields)

    async def _started(self, session: Session, client_id: int) -> None:
        if any(other.client_id == client_id for other in self.sessions):
            self.error(session, -1, 326)
            session.writer.close()
            return
        session.client_id = client_id
        self.sessions.append(session)
        self.send(session, "9", "1", "1")
        self.send(session, "15", "1", "DU1")
        await self._change()

    def _tell_contracts(self, session: Session, request: str, symbol: str) -> None:
        self.lookups.append(symbol)
        if symbol in self.ignored:
            return
        found = self.contracts.get(symbol, 1)
        if not found:
            self.error(session, int(request), 200)
            return
        for number in range(found):
            names = [symbol, "STK", "", "0", "", "SMART", "USD", symbol, symbol, symbol]
            rest = ["", "", "SMART", "1", "0", "A company", "NASDAQ", "", "", "", "", "UTC", "", "", "", "0"]
            tail = ["0", "1", "", "", "26", "", "COMMON", "0.0001", "0.0001", "100"]
            self.send(session, "10", request, *names, str(1000 + number), "0.01", *rest, *tail)
        self.send(session, "52", "1", request)

    async def _subscribe(self, session: Session, fields: list[str]) -> None:
        request, con_id, symbol, kind = fields[1], fields[2], fields[3], fields[14]
        assert con_id == "1000", "the contract was looked up"
        if symbol in self.errors:
            self.error(session, int(request), self.errors[symbol])
        else:
            session.requests[symbol, kind] = request
        await self._change()

    async def _change(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait until ``done()`` of what clients do."""
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(done)

    async def subscribed(self, symbol: str, kind: str) -> Session:
        """Wait until somebody has asked for ``kind`` (``AllLast``, ``BidAsk``) of ``symbol``."""
        await self.until(lambda: any((symbol, kind) in session.requests for session in self.sessions))
        return next(session for session in self.sessions if (symbol, kind) in session.requests)

    def send(self, session: Session, *fields: str) -> None:
        body = "".join(f"{one}\0" for one in fields).encode()
        session.writer.write(struct.pack(">I", len(body)) + body)

    def error(self, session: Session, request: int, code: int) -> None:
        self.send(session, "4", "2", str(request), str(code), "as the gateway says", "")

    def trade(self, session: Session, symbol: str, time: int, price: float, size: float, mask: int = 0) -> None:
        request = session.requests[symbol, "AllLast"]
        self.send(session, "99", request, "2", str(time), str(price), str(size), str(mask), "NASDAQ", "@")

    def quote(self, session: Session, symbol: str, time: int, *sides: float) -> None:
        """``sides``: bid, ask, size of the bid, size of the ask."""
        self.send(session, "99", session.requests[symbol, "BidAsk"], "3", str(time), *map(str, sides), "0")


async def _message(reader: asyncio.StreamReader) -> str:
    (length,) = struct.unpack(">I", await reader.readexactly(4))
    return (await reader.readexactly(length)).decode()
