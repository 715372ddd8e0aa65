"""Connecting to the server: URL, checks at start, errors in one sentence, scripts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import redis
import redis.asyncio
import redis.exceptions
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from market_data_pipeline.clock import SYSTEM_CLOCK, Clock
from market_data_pipeline.errors import ConfigError, StoreUnavailable

log = logging.getLogger(__name__)
T = TypeVar("T")

Client = redis.asyncio.Redis

_AWAY = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError)
_BUSY = ("BUSY ", "LOADING ", "MASTERDOWN ", "MISCONF ", "NOREPLICAS ")
TRANSIENT = (*_AWAY, BusyLoadingError, ReadOnlyError)
_CONNECTIONS = 64
_SOCKET_TIMEOUT = 30.0
_CONNECT_TIMEOUT = 5.0
MIN_REDIS, MIN_VALKEY = (7, 0), (7, 2)


def safe_url(url: str) -> str:
    """``url`` without its password, for people."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user = f"{parts.username}:***@" if parts.username else ":***@"
    return urlunsplit(parts._replace(netloc=user + parts.netloc.rpartition("@")[2]))


def _options() -> dict[str, Any]:
    return {
        "socket_timeout": _SOCKET_TIMEOUT,
        "socket_connect_timeout": _CONNECT_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),  # retries are decided where it is known what a lost reply means
        "protocol": 2,
    }


def connect(url: str) -> redis.asyncio.Redis:
    """A client; nothing is sent yet. Raises ``ConfigError`` for a bad URL."""
    try:
        # a task that finds no free connection waits for one: more tasks than connections is nothing special
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url, max_connections=_CONNECTIONS, timeout=None, **_options()
        )
        return redis.asyncio.Redis.from_pool(pool)
    except ValueError as error:
        raise ConfigError(f"redis url {safe_url(url)!r}: {error}") from None


def connect_blocking(url: str) -> redis.Redis:
    """A client without asyncio, for threads and short commands."""
    try:
        return redis.Redis.from_url(url, **_options())
    except ValueError as error:
        raise ConfigError(f"redis url {safe_url(url)!r}: {error}") from None


def explain(url: str, error: Exception) -> StoreUnavailable:
    """``error`` as a sentence for people."""
    where = safe_url(url)
    if (
        isinstance(error, AuthenticationError | AuthorizationError)
        or "WRONGPASS" in str(error)
        or "NOAUTH" in str(error)
    ):
        return StoreUnavailable(f"server {where}: it refuses the user or password ({error})")
    if isinstance(error, NoPermissionError):
        return StoreUnavailable(f"server {where}: permission denied ({error})")
    if isinstance(error, _AWAY):
        return StoreUnavailable(f"server {where}: cannot be reached ({error})")
    return StoreUnavailable(f"server {where}: {error}")


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Errors of the server inside come out as ``StoreUnavailable`` with a sentence."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise explain(url, error) from error


async def check_server(client: redis.asyncio.Redis, url: str, allow_volatile: bool) -> None:
    """Refuse a server that cannot hold a job safely, with a sentence that says what to change."""
    with explained(url):
        info = await client.info()
    where = f"server {safe_url(url)}"
    _check_version(where, info)
    if info.get("redis_mode") == "cluster":
        raise StoreUnavailable(f"{where}: is a cluster; a commit touches several slots: use a standalone server")
    config = await _read_config(client)
    policy = config.get("maxmemory-policy", info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        raise StoreUnavailable(
            f"{where}: maxmemory-policy is {policy!r}, it would evict data; run: CONFIG SET maxmemory-policy noeviction"
        )
    for name in ("stream-node-max-bytes", "stream-node-max-entries"):
        if config.get(name) == "0":
            raise StoreUnavailable(
                f"{where}: {name} is 0, reads become slow; set its default (4096 bytes, 100 entries)"
            )
    if not info.get("aof_enabled") and not allow_volatile:
        raise StoreUnavailable(
            f"{where}: appendonly is off, a restart would lose commits; run: CONFIG SET appendonly yes,"
            " or accept the loss with --allow-volatile"
        )


async def _read_config(client: redis.asyncio.Redis) -> dict[str, str]:
    """The settings that matter; empty where CONFIG is forbidden (managed servers), INFO then has to do."""
    try:
        found = await client.config_get("maxmemory-policy", "stream-node-max-*")
    except ResponseError:
        return {}
    return {text_of(name): text_of(value) for name, value in found.items()}


def text_of(value: Any) -> str:
    """A reply's bytes as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _check_version(where: str, info: dict[str, Any]) -> None:
    valkey = info.get("valkey_version")
    name, found, needed = (
        ("Valkey", str(valkey), MIN_VALKEY) if valkey else ("Redis", str(info.get("redis_version", "0")), MIN_REDIS)
    )
    if tuple(int(part) for part in found.split(".")[:2] if part.isdigit()) < needed:
        raise StoreUnavailable(f"{where}: {name} {found} is too old; at least {'.'.join(map(str, needed))} is needed")


def is_transient(error: Exception) -> bool:
    """Whether the server is only away for now. uvloop says with a ``RuntimeError`` that a connection was closed."""
    if isinstance(error, RuntimeError):
        return "closed" in str(error)
    return isinstance(error, TRANSIENT) or (isinstance(error, RedisError) and str(error).startswith(_BUSY))


async def until_done(action: Callable[[], Awaitable[T]], what: str, clock: Clock = SYSTEM_CLOCK) -> T:
    """Repeat ``action`` while the server is away, logging once at each transition. ``action`` must be safe to repeat."""
    delay, away = 0.05, False
    current = asyncio.current_task()
    cancels = current.cancelling() if current else 0
    while True:
        try:
            result = await action()
            if current and current.cancelling() > cancels:  # the client lost a cancellation while it connected
                raise asyncio.CancelledError
        except Exception as error:
            if current and current.cancelling() > cancels:
                raise asyncio.CancelledError from None
            if not is_transient(error):
                raise
            if not away:
                log.warning("%s: server away (%s), trying again", what, error)
                away = True
            await clock.sleep(delay)
            delay = min(delay * 2, 1.0)
            continue
        if away:
            log.info("%s: server is back", what)
        return result


class Script:
    """A Lua script, called by its hash; loaded again when the server has forgotten it."""

    def __init__(self, name: str, flags: str = "") -> None:
        self.name = name
        shebang = f"#!lua{f' flags={flags}' if flags else ''}\n"
        self.text = shebang + files("market_data_pipeline.store").joinpath(f"scripts/{name}.lua").read_text()
        self._sha = ""

    async def call(self, client: redis.asyncio.Redis, keys: list[str], args: list[Any]) -> Any:
        """Run it. Errors come out as they are."""
        if not self._sha:
            self._sha = str(await client.script_load(self.text))
        try:
            return await client.evalsha(self._sha, len(keys), *keys, *args)
        except NoScriptError:  # flushed, or another server: the text itself cannot be forgotten in between
            return await client.eval(self.text, len(keys), *keys, *args)


async def cancel_and_wait(job: asyncio.Task[Any]) -> None:
    """Cancel ``job`` and wait until it is over."""
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
