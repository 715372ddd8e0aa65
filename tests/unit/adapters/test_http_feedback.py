"""A store that says over HTTP how it is: a real server, real connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from market_data_pipeline import HttpFeedback, StoreFeedback, StoreReading
from market_data_pipeline.catalog.registry import registry
from market_data_pipeline.errors import ConfigError, SinkError

TOKEN = "very-secret"


@asynccontextmanager
async def serving(answer: Any, status: int = 200, headers: dict[str, str] | None = None) -> AsyncIterator[str]:
    """A server that answers so, or calls ``answer`` with the request."""

    async def answered(request: web.Request) -> web.StreamResponse:
        if callable(answer):
            return await answer(request)  # type: ignore[no-any-return]
        if isinstance(answer, bytes):
            return web.Response(body=answer, status=status, headers=headers)
        return web.json_response(answer, status=status, headers=headers)

    app = web.Application()
    app.router.add_get("/{path:.*}", answered)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/queue"
    finally:
        await runner.cleanup()


async def test_what_it_says() -> None:
    async with serving({"queue_depth": 7, "high": 80, "low": 20, "write_seconds": 0.25}) as url:
        feedback = HttpFeedback(url)
        assert isinstance(feedback, StoreFeedback)
        assert await feedback.reading() == StoreReading(7, 80, 20, 0.25)
    nested = {"stats": {"queue": {"size": 7.5}, "took": 2}, "limits": {"top": 80}}
    async with serving(nested) as url:
        feedback = HttpFeedback(url, "stats.queue.size", "limits.top", 20, "stats.took")
        assert await feedback.reading() == StoreReading(7.5, 80, 20, 2.0)


async def test_a_token_is_sent_and_never_shown() -> None:
    async def guarded(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.Response(status=401)
        return web.json_response({"queue_depth": 1, "high": 2, "low": 1})

    async with serving(guarded) as url:
        feedback = HttpFeedback(f"{url}?key={TOKEN}", token=TOKEN)
        assert await feedback.reading() == StoreReading(1, 2, 1)
        with pytest.raises(SinkError, match=r"/queue: status 401$"):
            await HttpFeedback(f"{url}?key={TOKEN}").reading()
    with pytest.raises(SinkError) as refused:
        await feedback.reading()
    assert TOKEN not in f"{refused.value} {vars(feedback)['token']!r}"


@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [
        ({"high": 80, "low": 20}, 200, "'queue_depth' in the answer is None, a number is needed"),
        ({"queue_depth": "7", "high": 80, "low": 20}, 200, "'queue_depth' in the answer is '7'"),
        ({"queue_depth": True, "high": 80, "low": 20}, 200, "'queue_depth' in the answer is True"),
        ({"queue_depth": 7, "high": 80, "low": 20, "write_seconds": "x"}, 200, "'write_seconds' in the answer is 'x'"),
        ([1, 2], 200, "'queue_depth' in the answer is None"),
        (b"{", 200, "no JSON"),
        (b" " * 70_000, 200, "an answer of more than 65536 bytes"),
        ({"queue_depth": 7, "high": 80, "low": 20}, 302, "status 302"),
        ({"queue_depth": 7, "high": 80, "low": 20}, 503, "status 503"),
    ],
)
async def test_a_bad_answer_is_refused(answer: Any, status: int, says: str) -> None:
    async with serving(answer, status, {"Location": "/elsewhere"} if status == 302 else None) as url:
        with pytest.raises(SinkError) as refused:
            await HttpFeedback(url).reading()
    assert f"{url}: {says}" in str(refused.value)


async def test_levels_that_make_no_sense_are_refused() -> None:
    async with serving({"queue_depth": 7, "high": 20, "low": 80}) as url:
        with pytest.raises(ConfigError, match="0 <= low < high"):
            await HttpFeedback(url).reading()


async def test_one_that_does_not_answer_is_given_up() -> None:
    never = asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        await never.wait()
        return web.Response()

    async with serving(hang) as url:
        with pytest.raises(SinkError, match="no answer within 1 s"):
            await HttpFeedback(url).reading()
        never.set()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("ftp://host/x",), "must be http://HOST"),
        (("http:///x",), "must be http://HOST"),
        (("http://host:99999/",), "malformed"),
        ((f"http://me:{TOKEN}@host/",), "no user or password in the url"),
        (("http://host/", "depth", 10, 20), "0 <= low < high"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments: tuple[Any, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        HttpFeedback(*arguments)
    assert TOKEN not in str(refused.value)


def test_a_file_can_name_it() -> None:
    assert registry().get("value", "http_feedback") is HttpFeedback
