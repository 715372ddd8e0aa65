"""The small HTTP side of worker and coordinator: ``/metrics``, ``/healthz``, ``/readyz`` and JSON documents.

Read-only, and bounded in every direction, for it may stand in a network: one request per connection, a connection lives
only so long, only so many live at once, heads are small and bodies are refused. ``Host`` must be an IP address, a loopback
name or a listed one: a page in somebody's browser that rebinds its own name to this address (DNS rebinding) sends that name.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

import orjson
from aiohttp import HttpVersion11, web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from market_data_pipeline.errors import ConfigError

log = logging.getLogger(__name__)

Document = Callable[[Mapping[str, str]], Awaitable[Any]]
"""Gives what is served as JSON, from the parameters of the query. Raises :class:`NotAnswered`."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_LOOPBACK = frozenset({"localhost", "ip6-localhost", "ip6-loopback"})
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Server": "market-data-pipeline",
    "X-Content-Type-Options": "nosniff",
}
_TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class NotAnswered(Exception):
    """A document that cannot be given for this query: the HTTP status, and one sentence for the one who asked."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


@dataclass(frozen=True)
class HttpLimits:
    """Bounds of the server. ``connection_seconds``: from accept to the last byte, whatever the client does."""

    connections: int = 64
    connection_seconds: float = 10.0
    answer_seconds: float = 5.0
    line_bytes: int = 1024
    header_bytes: int = 4096
    headers: int = 50


class HttpServer:
    """Serves until closed. ``ready`` answers whether the process does its job (text says why not).

    ``allowed_hosts``: names that may stand in ``Host``, besides loopback names, IP addresses and the one listened at.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        ready: Callable[[], Awaitable[tuple[bool, str]]],
        documents: Mapping[str, Document] | None = None,
        allowed_hosts: Collection[str] = (),
        limits: HttpLimits = HttpLimits(),
    ) -> None:
        self._registry = registry
        self._ready = ready
        self._documents = dict(documents or {})
        self._allowed = {_plain(name) for name in allowed_hosts} | _LOOPBACK
        self._limits = limits
        self._failing: set[str] = set()
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen; ``port`` 0 takes a free one, found in ``port`` afterwards. Raises ``ConfigError`` where it cannot."""
        self._allowed.add(_plain(host))
        limits = self._limits
        self._runner = web.AppRunner(
            self._application(), access_log=None, handle_signals=False, lingering_time=0,
            shutdown_timeout=limits.answer_seconds,
            keepalive_timeout=limits.connection_seconds, max_line_size=limits.line_bytes,
            max_field_size=limits.header_bytes, max_headers=limits.headers,
        )  # fmt: skip
        await self._runner.setup()
        try:
            self._listener = await asyncio.get_running_loop().create_server(self._accept, host, port)
        except OSError as error:
            await self.close()
            raise ConfigError(f"--http-host {host} --http-port {port}: {error.strerror or error}") from error
        self._sweeper = asyncio.create_task(self._sweep(), name="http-sweeper")
        self.port = int(self._listener.sockets[0].getsockname()[1])
        shown = f"[{host}]" if ":" in host else host
        log.info("http: listening on http://%s:%d (/metrics, /healthz, /readyz)", shown, self.port)

    async def close(self) -> None:
        """Stop listening and end every connection."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=1, middlewares=[self._guard])
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        for path in self._documents:
            app.router.add_get(path, self._document)
        return app

    def _server(self) -> web.Server:
        assert self._runner is not None
        assert self._runner.server is not None
        return self._runner.server

    def _accept(self) -> asyncio.Protocol:
        server = self._server()
        return server() if len(server.connections) < self._limits.connections else _Full()

    async def _sweep(self) -> None:
        """Cut connections that are too old: a client that sends, or reads, a byte a second would stay for ever."""
        loop, seen = asyncio.get_running_loop(), dict[Any, float]()
        while True:
            await asyncio.sleep(self._limits.connection_seconds / 10)
            now = loop.time()
            seen = {connection: seen.get(connection, now) for connection in self._server().connections}
            for connection, since in seen.items():
                if now - since >= self._limits.connection_seconds and connection.transport is not None:
                    connection.transport.abort()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await self._answer(request, handler)
        response.headers.update(_HEADERS)
        response.force_close()
        return response

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        problem = self._host_problem(request)
        if problem is not None:
            return problem
        if request.method not in ("GET", "HEAD"):
            return web.Response(text="only GET and HEAD\n", status=405, headers={"Allow": "GET, HEAD"})
        if request.body_exists:
            return web.Response(text="a body is not wanted\n", status=413)
        try:
            async with asyncio.timeout(self._limits.answer_seconds):
                response = await handler(request)
        except NotAnswered as error:
            return web.Response(text=f"{error.sentence}\n", status=error.status)
        except web.HTTPException as error:
            return web.Response(text=f"{error.reason}\n", status=error.status)
        except Exception as error:
            if request.path not in self._failing:
                log.warning("http: %s cannot be answered now (%s: %s)", request.path, type(error).__name__, error)
            self._failing.add(request.path)
            return web.Response(text="cannot be answered now\n", status=503)
        self._failing.discard(request.path)
        return response

    def _host_problem(self, request: web.Request) -> web.Response | None:
        given = request.headers.getall("Host", [])
        if not given and request.version < HttpVersion11:
            return None  # simple probes; no browser leaves it out
        parts = _HOST.fullmatch(given[0]) if len(given) == 1 else None
        if parts is None:
            return web.Response(text="one valid Host is needed\n", status=400)
        name = _plain(parts[1])
        if name in self._allowed or _is_ip(name.strip("[]")):
            return None
        return web.Response(text="this Host is not served here; list it in MDP_HTTP_ALLOWED_HOSTS\n", status=421)

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")  # it answers, so the event loop runs

    async def _readyz(self, request: web.Request) -> web.Response:
        ready, why = await self._ready()
        return web.Response(text=f"{why}\n", status=200 if ready else 503)

    async def _document(self, request: web.Request) -> web.Response:
        query = dict(request.query)
        if len(query) < len(request.query):
            raise NotAnswered(400, "a parameter is given more than once")
        body = orjson.dumps(await self._documents[request.path](query))
        return web.Response(body=body, content_type="application/json")


class _Full(asyncio.Protocol):
    """One connection too many: says so and goes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.Transport", transport)
        stream.write(_TOO_MANY)
        stream.close()


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


def _is_ip(text: str) -> bool:
    """An address cannot be rebound, so it is always fine."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
