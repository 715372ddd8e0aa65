"""Talking to the server: clients, checks at start, errors in one sentence, scripts."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, TypeVar

import redis
import redis.asyncio
import redis.exceptions
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

from market_data_pipeline.clock import SYSTEM_CLOCK, Clock
from market_data_pipeline.errors import StoreUnavailable
from market_data_pipeline.store.connections import async_pool, blocking_pool
from market_data_pipeline.store.url import Address, parse_address

log = logging.getLogger(__name__)
T = TypeVar("T")

Client = redis.asyncio.Redis

_AWAY = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError)
_CANCEL_AGAIN_SECONDS = 1.0
_BUSY = ("BUSY ", "LOADING ", "MASTERDOWN ", "MISCONF ", "NOREPLICAS ", "UNBLOCKED ")
"""Refusals that pass: a long script, a start, a full disk, too few replicas, a primary that became a replica."""
TRANSIENT = (*_AWAY, BusyLoadingError, ReadOnlyError)
MIN_REDIS, MIN_VALKEY = (7, 0), (7, 2)


def address_of(where: str | Address) -> Address:
    """``where`` itself, or the address that a URL names. Raises ``ConfigError``."""
    return parse_address(where) if isinstance(where, str) else where


def connect(where: str | Address) -> redis.asyncio.Redis:
    """A client; nothing is sent yet. Raises ``ConfigError`` for a bad URL."""
    return redis.asyncio.Redis.from_pool(async_pool(address_of(where)))


def connect_blocking(where: str | Address, timeout: float | None = None) -> redis.Redis:
    """A client without asyncio, for threads and short commands. ``timeout``: seconds to wait for an answer, where that is to be
    less than usual. Raises ``ConfigError`` for a bad URL."""
    return redis.Redis.from_pool(blocking_pool(address_of(where), timeout))


def explain(where: str | Address, error: Exception) -> StoreUnavailable:
    """``error`` as a sentence for people."""
    return StoreUnavailable(f"server {address_of(where)}: {_reason(address_of(where), error)}")


def _reason(address: Address, error: Exception) -> str:
    text = str(error).rstrip(".")
    if (
        isinstance(error, AuthenticationError | AuthorizationError) or "WRONGPASS" in text or "NOAUTH" in text
    ) and "sentinel" not in text:
        return f"it refuses the user or password ({text})"
    if lacks_rights(error):
        return f"permission denied ({text})"
    tls = _tls_error(error)
    if tls is not None:
        return _tls_reason(tls)
    if isinstance(error, (*_AWAY, RuntimeError)):
        return f"cannot be reached ({text}){_hint(address, text.lower())}"
    return text


def _hint(address: Address, text: str) -> str:
    """What a server that is there, but ends or ignores the conversation, may want."""
    ended = any(word in text for word in ("closed", "reset", "lost", "broken pipe"))
    if address.tls is None:
        return "; does it want TLS (rediss://)?" if ended and not address.path else ""
    if ended and address.tls.cert is None:
        return "; does it want a client certificate (MDP_REDIS_CERT)?"
    if ended:
        return "; does it accept our certificate (MDP_REDIS_CERT)?"
    return "; does it speak TLS at this port?" if "timeout" in text else ""


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """The TLS error behind ``error``: the client wraps it, more than once."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


def _tls_reason(error: ssl.SSLError) -> str:
    text = " ".join(map(str, error.args)).upper()
    if isinstance(error, ssl.SSLCertVerificationError):
        if "MISMATCH" in text:
            return f"its certificate is for another name ({error.verify_message.rstrip('.')})"
        return f"its certificate is not trusted ({error.verify_message}); name its authority with MDP_REDIS_CA"
    if "CERTIFICATE_REQUIRED" in text or "HANDSHAKE_FAILURE" in text or "EOF" in text:
        return "it wants a client certificate: MDP_REDIS_CERT and MDP_REDIS_KEY"
    if "UNKNOWN_CA" in text or "BAD_CERTIFICATE" in text:
        return "it refuses our certificate (MDP_REDIS_CERT)"
    if "WRONG_VERSION_NUMBER" in text or "RECORD" in text:
        return "it does not speak TLS at this port; is its address redis://?"
    return f"TLS failed ({error.reason or error})"


@contextmanager
def explained(where: str | Address) -> Iterator[None]:
    """Errors of the server inside come out as ``StoreUnavailable`` with a sentence."""
    with refusals_explained(where):
        try:
            yield
        except OSError as error:
            raise explain(where, error) from error


@contextmanager
def refusals_explained(where: str | Address) -> Iterator[None]:
    """As :func:`explained`, for what lasts: leaves system errors that may be others' (a file, a port) alone."""
    try:
        yield
    except RedisError as error:
        raise explain(where, error) from error
    except RuntimeError as error:
        if not is_transient(error):
            raise
        raise explain(where, error) from error


async def check_server(client: redis.asyncio.Redis, address: str | Address, allow_volatile: bool) -> None:
    """Refuse a server that cannot hold a job safely, with a sentence that says what to change."""
    with explained(address):
        info = await client.info()
    where = f"server {address_of(address)}"
    _check_version(where, info)
    _refuse_cluster(where, info, "a commit")
    with explained(address):
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


def check_output_server(address: str | Address, timeout: float = 5.0) -> str:
    """Look, before anything starts, whether output can go to this server; its ``maxmemory-policy``, as far as it tells. Raises
    ``StoreUnavailable``."""
    with explained(address), connect_blocking(address, timeout) as client:
        info: dict[str, Any] = client.info()
    where = f"server {address_of(address)}"
    _check_version(where, info)
    _refuse_cluster(where, info, "a step")
    return str(info.get("maxmemory_policy", "noeviction"))


def _refuse_cluster(where: str, info: dict[str, Any], what: str) -> None:
    if info.get("cluster_enabled"):  # the mode has another name in Valkey
        raise StoreUnavailable(f"{where}: is a cluster; {what} touches several slots: use a standalone server")


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


def lacks_rights(error: Exception) -> bool:
    """Whether the server refused what its user may not do, by itself or in a script."""
    in_script = ("The user executing the script can't", "ACL failure in script")
    return (isinstance(error, ResponseError) and str(error).startswith(in_script)) or isinstance(
        error, NoPermissionError
    )


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

    async def sha(self, client: redis.asyncio.Redis) -> str:
        """Its hash; the first time it is loaded."""
        if not self._sha:
            self._sha = str(await client.script_load(self.text))
        return self._sha

    async def call(self, client: redis.asyncio.Redis, keys: list[str], args: list[Any]) -> Any:
        """Run it. Errors come out as they are."""
        try:
            return await client.evalsha(await self.sha(client), len(keys), *keys, *args)
        except NoScriptError:  # flushed, or another server: the text itself cannot be forgotten in between
            return await client.eval(self.text, len(keys), *keys, *args)


async def cancel_and_wait(job: asyncio.Task[Any]) -> None:
    """Cancel ``job`` and wait until it is over; where redis-py loses the cancellation (see :func:`until_done`), once more."""
    while not job.done():
        job.cancel()
        await asyncio.wait({job}, timeout=_CANCEL_AGAIN_SECONDS)
    if not job.cancelled():
        job.exception()  # it has been looked at: asyncio need not tell of it
