"""Connection pools for every kind of address: TCP, TLS, Unix socket, and the master that sentinels name.

A connection that hears READONLY leads to a server that is no primary any more. It is dropped, so that the next use looks
the primary up again: by name, or at the sentinels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ReadOnlyError, RedisError
from redis.retry import Retry

from market_data_pipeline.store.url import Address, is_loopback

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 64
_SOCKET_TIMEOUT = 10.0
_CONNECT_TIMEOUT = 5.0
_SENTINEL_TIMEOUT = 1.0
"""A sentinel that is silent for so long is passed over for the next one."""
_warned: set[str] = set()


def _warn_of_plaintext(hosts: Iterable[str]) -> None:
    """Once per process."""
    hosts = [host for host in hosts if not is_loopback(host)]
    if hosts and not _warned:
        _warned.update(hosts)
        log.warning(
            "the connection to %s is in plain text: passwords and data can be read and changed on the way;"
            " use rediss:// (MDP_REDIS_CA), or a Unix socket",
            ", ".join(hosts),
        )


class _DropsReplica(redis.asyncio.Connection):
    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().read_response(*args, **kwargs)
        except ReadOnlyError:
            await self.disconnect()
            raise


class _DropsReplicaTls(_DropsReplica, redis.asyncio.SSLConnection):
    pass


class _DropsReplicaBlocking(redis.Connection):
    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().read_response(*args, **kwargs)
        except ReadOnlyError:
            self.disconnect()  # type: ignore[no-untyped-call]
            raise


class _DropsReplicaBlockingTls(_DropsReplicaBlocking, redis.SSLConnection):
    pass


def _master(address: Address, masters: Any) -> tuple[str, int] | str:
    """Where a sentinel that answered ``masters`` says the master is, or why it is nowhere."""
    state = masters.get(address.master)
    if state is None:
        return "does not know it"
    if not state["is_master"] or state["is_sdown"] or state["is_odown"]:
        return "says that it is down"
    if address.tls is None:
        _warn_of_plaintext([state["ip"]])
    return str(state["ip"]), int(state["port"])


def _lost(address: Address, answers: Iterable[str]) -> redis.exceptions.ConnectionError:
    said = "; ".join(
        f"sentinel {host}:{port} {answer}" for (host, port), answer in zip(address.hosts, answers, strict=True)
    )
    return redis.exceptions.ConnectionError(f"no living master {address.master!r}: {said}")


# Both look the master up themselves: redis-py's lookup puts the ``repr`` of its clients into the error, which in some
# versions holds the password.
class _AsyncSentinels(redis.asyncio.sentinel.Sentinel):
    def __init__(self, address: Address) -> None:
        super().__init__(address.hosts, sentinel_kwargs=_sentinel_options(address))  # type: ignore[no-untyped-call]
        self._address = address

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        answers: list[str] = []
        for sentinel in self.sentinels:
            try:
                answer = _master(self._address, await sentinel.sentinel_masters())
            except (RedisError, OSError) as error:
                answer = f"failed ({error})"
            if not isinstance(answer, str):
                return answer
            answers.append(answer)
        raise _lost(self._address, answers)


class _BlockingSentinels(redis.sentinel.Sentinel):
    def __init__(self, address: Address) -> None:
        super().__init__(address.hosts, sentinel_kwargs=_sentinel_options(address))  # type: ignore[no-untyped-call]
        self._address = address

    def discover_master(self, service_name: str) -> tuple[str, int]:
        answers: list[str] = []
        for sentinel in self.sentinels:
            try:
                answer = _master(self._address, sentinel.sentinel_masters())
            except (RedisError, OSError) as error:
                answer = f"failed ({error})"
            if not isinstance(answer, str):
                return answer
            answers.append(answer)
        raise _lost(self._address, answers)


# A connection that was lost while somebody held on to it is made again by ``send_packed_command``, which in redis-py goes
# to the last address without asking the sentinels.
class _MasterConnection(redis.asyncio.sentinel.SentinelManagedConnection):
    async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        if not self.is_connected:
            await self.connect()  # type: ignore[no-untyped-call]
        await super().send_packed_command(*args, **kwargs)


class _MasterConnectionTls(_MasterConnection, redis.asyncio.sentinel.SentinelManagedSSLConnection):
    pass


class _BlockingMasterConnection(redis.sentinel.SentinelManagedConnection):
    def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        if not self.is_connected:
            self.connect()  # type: ignore[no-untyped-call]
        super().send_packed_command(*args, **kwargs)  # type: ignore[no-untyped-call]


class _BlockingMasterConnectionTls(_BlockingMasterConnection, redis.sentinel.SentinelManagedSSLConnection):
    pass


class _SentinelPool(redis.asyncio.sentinel.SentinelConnectionPool, redis.asyncio.BlockingConnectionPool):
    """Connections to the master; whoever finds none free waits, as in the pool without sentinels."""

    async def aclose(self) -> None:
        await super().aclose()
        for sentinel in self.sentinel_manager.sentinels:
            await sentinel.aclose()


class _BlockingSentinelPool(redis.sentinel.SentinelConnectionPool):
    def close(self) -> None:
        super().close()
        for sentinel in self.sentinel_manager.sentinels:
            sentinel.close()


def async_pool(address: Address) -> redis.asyncio.ConnectionPool:
    """A pool for asyncio. A task that finds no free connection waits for one: more tasks than connections is nothing
    special."""
    _warn_of_plaintext(address.plaintext_hosts())
    bounds: dict[str, Any] = {"max_connections": MAX_CONNECTIONS, "timeout": None}
    options = _options(address) | bounds
    make: Any = redis.asyncio.BlockingConnectionPool
    if address.master:
        make, sentinels = _SentinelPool, _AsyncSentinels(address)
        kind: Any = _MasterConnectionTls if address.tls else _MasterConnection
        options |= {"service_name": address.master, "sentinel_manager": sentinels, "connection_class": kind}
    elif address.path:
        options |= {"connection_class": redis.asyncio.UnixDomainSocketConnection, "path": address.path}
    else:
        host, port = address.hosts[0]
        kind = _DropsReplicaTls if address.tls else _DropsReplica
        options |= {"connection_class": kind, "host": host, "port": port}
    pool: redis.asyncio.ConnectionPool = make(**options)
    return pool


def blocking_pool(address: Address, timeout: float | None = None) -> redis.ConnectionPool:
    """A pool without asyncio. ``timeout``: seconds to wait for an answer."""
    _warn_of_plaintext(address.plaintext_hosts())
    options = _options(address) | ({} if timeout is None else {"socket_timeout": timeout})
    make: Any = redis.ConnectionPool
    if address.master:
        make, sentinels = _BlockingSentinelPool, _BlockingSentinels(address)
        kind: Any = _BlockingMasterConnectionTls if address.tls else _BlockingMasterConnection
        options |= {"service_name": address.master, "sentinel_manager": sentinels, "connection_class": kind}
    elif address.path:
        options |= {"connection_class": redis.UnixDomainSocketConnection, "path": address.path}
    else:
        host, port = address.hosts[0]
        kind = _DropsReplicaBlockingTls if address.tls else _DropsReplicaBlocking
        options |= {"connection_class": kind, "host": host, "port": port}
    pool: redis.ConnectionPool = make(**options)
    return pool


def _options(address: Address) -> dict[str, Any]:
    return {
        "db": address.db,
        "username": address.username,
        "password": address.password,
        "socket_timeout": _SOCKET_TIMEOUT,
        "socket_connect_timeout": _CONNECT_TIMEOUT,
        **_every_connection(address),
    }


def _sentinel_options(address: Address) -> dict[str, Any]:
    return {
        "password": address.sentinel_password,
        "socket_timeout": _SENTINEL_TIMEOUT,
        "socket_connect_timeout": _SENTINEL_TIMEOUT,
        "ssl": address.tls is not None,
        **_every_connection(address),
    }


def _every_connection(address: Address) -> dict[str, Any]:
    options: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),  # retries are decided where it is known what a lost reply means
        "protocol": 2,
    }
    if address.tls is not None:  # verification of certificate and host name is redis-py's default, said here once more
        options |= {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
        files = {"ssl_ca_certs": address.tls.ca, "ssl_certfile": address.tls.cert, "ssl_keyfile": address.tls.key}
        options |= {name: str(path) for name, path in files.items() if path is not None}
    return options
