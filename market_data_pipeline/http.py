"""The small HTTP side of worker and coordinator: ``/metrics``, ``/healthz``, ``/readyz`` and JSON documents. Read-only."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

log = logging.getLogger(__name__)

Document = Callable[[], Awaitable[Any]]


class HttpServer:
    """Serves until closed. ``ready`` answers whether the process does its job (text says why not)."""

    def __init__(
        self,
        registry: CollectorRegistry,
        ready: Callable[[], Awaitable[tuple[bool, str]]],
        documents: Mapping[str, Document] | None = None,
    ) -> None:
        self._registry = registry
        self._ready = ready
        self._documents = dict(documents or {})
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen; ``port`` 0 takes a free one, found in ``port`` afterwards."""
        app = web.Application(client_max_size=1024)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        for path in self._documents:
            app.router.add_get(path, self._document)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        self.port = int(self._runner.addresses[0][1])
        log.info("http: listening on http://%s:%d (/metrics, /healthz, /readyz)", host, self.port)

    async def close(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")  # it answers, so the event loop runs

    async def _readyz(self, request: web.Request) -> web.Response:
        ready, why = await self._ready()
        return web.Response(text=f"{why}\n", status=200 if ready else 503)

    async def _document(self, request: web.Request) -> web.Response:
        body = orjson.dumps(await self._documents[request.path]())
        return web.Response(body=body, content_type="application/json")
