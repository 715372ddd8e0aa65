"""The HTTP side over real sockets: what is answered, what is refused, and that no client can hold it up."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from prometheus_client import CollectorRegistry, Counter

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.http import HttpLimits, HttpServer, NotAnswered
from market_data_pipeline.settings import allowed_hosts, load_settings

Reply = tuple[int, dict[str, str], bytes]
WAIT = 20.0


async def ready() -> tuple[bool, str]:
    return True, "ready"


async def document(query: Mapping[str, str]) -> object:
    return {"a": 1}


@asynccontextmanager
async def serving(
    host: str = "127.0.0.1", names: tuple[str, ...] = (), limits: HttpLimits | None = None, **documents: Any
) -> AsyncIterator[HttpServer]:
    registry = CollectorRegistry()
    Counter("things", "Things.", registry=registry).inc(3)
    paths = {"/api/status": document, **{f"/{name}": fn for name, fn in documents.items()}}
    server = HttpServer(registry, ready, paths, names, limits or HttpLimits())
    await server.start(host, 0)
    try:
        yield server
    finally:
        await server.close()


async def exchange(port: int, data: bytes, host: str = "127.0.0.1") -> bytes:
    """Everything the server says to ``data``, until it closes."""
    async with asyncio.timeout(WAIT):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(data)
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


def parsed(raw: bytes) -> Reply:
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(status.split(" ")[1]), headers, body


async def ask(port: int, line: str = "GET /healthz HTTP/1.1", host: str | None = "localhost", *more: str) -> Reply:
    lines = [line, *([f"Host: {host}"] if host is not None else []), *more, "", ""]
    return parsed(await exchange(port, "\r\n".join(lines).encode()))


async def test_what_is_served() -> None:
    async with serving() as server:
        assert (await ask(server.port))[::2] == (200, b"ok\n")
        assert (await ask(server.port, "GET /readyz HTTP/1.1"))[::2] == (200, b"ready\n")
        assert b"things_total 3.0" in (await ask(server.port, "GET /metrics HTTP/1.1"))[2]
        status, headers, body = await ask(server.port, "GET /api/status HTTP/1.1")
        assert (status, body, headers["content-type"]) == (200, b'{"a":1}', "application/json")
        status, headers, body = await ask(server.port, "HEAD /api/status HTTP/1.1")
        assert (status, body, headers["content-length"]) == (200, b"", "7")
        assert (await ask(server.port, "GET /nothing HTTP/1.1"))[0] == 404


async def test_every_answer_has_the_headers_and_ends_the_connection() -> None:
    async with serving() as server:
        for line in ("GET /metrics HTTP/1.1", "GET /nothing HTTP/1.1", "POST /metrics HTTP/1.1"):
            _, headers, _ = await ask(server.port, line)
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
            assert headers["content-security-policy"].startswith("default-src 'none'")
            assert headers["connection"] == "close"
            assert headers["server"] == "market-data-pipeline"
        both = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2
        assert (await exchange(server.port, both)).count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_it_is_read_only(method: str) -> None:
    async with serving() as server:
        for path in ("/metrics", "/nothing"):
            status, headers, _ = await ask(server.port, f"{method} {path} HTTP/1.1")
            assert (status, headers["allow"]) == (405, "GET, HEAD")


async def test_a_body_is_refused_and_not_read() -> None:
    async with serving() as server:
        for more in ("Content-Length: 1000000000", "Transfer-Encoding: chunked"):
            assert (await ask(server.port, "GET /metrics HTTP/1.1", "localhost", more))[0] == 413


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 1000 + b"\r\n",
        b"BREW /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ],
    ids=["line", "header", "headers", "method", "not http", "two lengths"],
)
async def test_what_is_too_large_or_wrong_is_refused(data: bytes) -> None:
    async with serving() as server:
        raw = await exchange(server.port, data)
        assert raw == b"" or parsed(raw)[0] in (400, 431)
        assert (await ask(server.port))[0] == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LocalHost.:80", 200),
        ("127.0.0.1:8080", 200),
        ("10.1.2.3", 200),
        ("[::1]:99", 200),
        ("[fe80::1]", 200),
        ("worker-1.mdp.svc", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("[evil]", 400),
        ("a b", 400),
        ("localhost:port", 400),
        ("user@localhost", 400),
        ("", 400),
        (None, 400),
    ],
)
async def test_host_is_checked(host: str | None, status: int) -> None:
    """An IP address cannot be rebound; a name is served only if it is ours."""
    async with serving(names=("Worker-1.mdp.svc",)) as server:
        assert (await ask(server.port, host=host))[0] == status


async def test_two_hosts_are_refused_and_http_1_0_needs_none() -> None:
    async with serving() as server:
        assert (await ask(server.port, "GET /healthz HTTP/1.1", "localhost", "Host: evil.example"))[0] == 400
        assert (await ask(server.port, "GET /healthz HTTP/1.0", None))[0] == 200
        assert (await ask(server.port, "GET /healthz HTTP/1.0", "evil.example"))[0] == 421


async def test_the_address_it_listens_at_may_be_its_host() -> None:
    async with serving(host="localhost") as server:
        assert (await ask(server.port, host=f"localhost:{server.port}"))[0] == 200


async def trickle(port: int, start: bytes) -> None:
    """Sends ``start``, then a byte now and then, until it is cut off."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(start)
    cut = asyncio.create_task(reader.read())
    while not cut.done():
        writer.write(b"a")
        await asyncio.wait([cut], timeout=0.02)
    writer.close()


SLOW = {"nothing": b"", "head": b"GET / HTTP/1.1\r\nX: ", "body": b"GET / HTTP/1.1\r\nContent-Length: 999999\r\n\r\n"}


@pytest.mark.parametrize("start", SLOW.values(), ids=SLOW)
async def test_a_client_that_trickles_is_cut(start: bytes) -> None:
    async with serving(limits=HttpLimits(connection_seconds=0.3)) as server:
        async with asyncio.timeout(WAIT):
            await asyncio.gather(*(trickle(server.port, start) for _ in range(5)), return_exceptions=True)
        assert (await ask(server.port))[0] == 200


async def test_a_client_that_does_not_read_is_cut() -> None:
    async def large(query: Mapping[str, str]) -> object:
        return "x" * 50_000_000

    async with serving(limits=HttpLimits(connection_seconds=0.5), large=large) as server, asyncio.timeout(WAIT):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
        writer.write(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: len(server._server().connections) == 1)
        await until(lambda: len(server._server().connections) == 0)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(50_000_000)
        writer.close()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the server has no event for it
        await asyncio.sleep(0.01)


async def test_one_connection_too_many_is_told_so() -> None:
    async with serving(limits=HttpLimits(connections=3)) as server:
        idle = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(3)]
        async with asyncio.timeout(WAIT):
            await until(lambda: len(server._server().connections) == 3)
        assert (await ask(server.port))[0] == 503
        for _, writer in idle:
            writer.close()
        async with asyncio.timeout(WAIT):
            await until(lambda: len(server._server().connections) == 0)
        assert (await ask(server.port))[0] == 200


async def test_a_document_that_hangs_or_fails_is_503_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def hangs(query: Mapping[str, str]) -> Awaitable[object]:
        return await asyncio.Event().wait()  # type: ignore[return-value]

    async def fails(query: Mapping[str, str]) -> object:
        raise RuntimeError("the server is away")

    async with serving(limits=HttpLimits(answer_seconds=0.1), hangs=hangs, fails=fails) as server:
        for path in ("hangs", "fails", "fails"):
            status, _, body = await ask(server.port, f"GET /{path} HTTP/1.1")
            assert (status, body) == (503, b"cannot be answered now\n")
    assert len(caplog.records) == 2
    assert "Traceback" not in caplog.text


async def test_a_document_gets_the_query_and_may_refuse_it() -> None:
    async def echo(query: Mapping[str, str]) -> object:
        if "no" in query:
            raise NotAnswered(404, f"not {query['no']!r}")
        return dict(query)

    async with serving(echo=echo) as server:
        assert (await ask(server.port, "GET /echo?a=1&b=x%20y HTTP/1.1"))[::2] == (200, b'{"a":"1","b":"x y"}')
        assert (await ask(server.port, "GET /echo HTTP/1.1"))[::2] == (200, b"{}")
        assert (await ask(server.port, "GET /echo?no=%0a HTTP/1.1"))[::2] == (404, b"not '\\n'\n")
        status, headers, body = await ask(server.port, "GET /echo?a=1&a=2 HTTP/1.1")
        assert (status, body) == (400, b"a parameter is given more than once\n")
        assert headers["content-type"].startswith("text/plain")


async def test_a_port_in_use_is_one_sentence() -> None:
    async with serving() as server:
        second = HttpServer(CollectorRegistry(), ready)
        with pytest.raises(ConfigError, match=rf"^--http-host 127.0.0.1 --http-port {server.port}: .*in use"):
            await second.start("127.0.0.1", server.port)


@pytest.mark.parametrize(
    "test",
    [
        test_what_is_served,
        test_a_client_that_does_not_read_is_cut,
        test_one_connection_too_many_is_told_so,
        *(functools.partial(test_a_client_that_trickles_is_cut, start) for start in SLOW.values()),
    ],
)
def test_the_loop_of_the_worker(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Transports of uvloop are other classes with other manners."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())


def test_the_default_is_loopback_and_names_come_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MDP_HTTP_HOST", raising=False)
    settings = load_settings(http_allowed_hosts=" a.example , b.example,")
    assert settings.http_host == "127.0.0.1"
    assert allowed_hosts(settings) == {"a.example", "b.example"}
