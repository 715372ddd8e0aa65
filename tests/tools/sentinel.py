"""A primary, a replica and a sentinel on loopback."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from market_data_pipeline.store.embedded import EmbeddedServer, find_server, free_port
from market_data_pipeline.store.url import Address, parse_address
from tools.jobs import wait_until

SERVER_PASSWORD, SENTINEL_PASSWORD = "server-pw", "sentinel-pw"


@dataclass(frozen=True)
class Replicated:
    """``address`` is the one through the sentinel."""

    primary: EmbeddedServer
    replica: EmbeddedServer
    sentinel_port: int
    address: Address

    def role(self, server: EmbeddedServer) -> str:
        with redis.Redis(port=server.port, password=SERVER_PASSWORD) as client:
            return str(client.info("replication")["role"])

    def sentinel(self) -> redis.Redis:
        return redis.Redis(port=self.sentinel_port, password=SENTINEL_PASSWORD)


@contextmanager
def replicated(folder: Path, down_after_ms: int = 500) -> Iterator[Replicated]:
    """All three with passwords, in step. A primary silent for ``down_after_ms`` is replaced."""
    auth = ["--requirepass", SERVER_PASSWORD, "--masterauth", SERVER_PASSWORD, "--repl-diskless-sync-delay", "0"]
    with ExitStack() as stack:
        primary = stack.enter_context(EmbeddedServer(folder / "one", None, *auth))
        follow = ["--replicaof", f"127.0.0.1 {primary.port}"]
        replica = stack.enter_context(EmbeddedServer(folder / "two", None, *auth, *follow))
        with redis.Redis(port=replica.port, password=SERVER_PASSWORD) as client:
            wait_until(lambda: client.info("replication")["master_link_status"] == "up", "the replica to follow")
        port = stack.enter_context(_sentinel(folder, primary, down_after_ms))
        url = f"redis+sentinel://:{SERVER_PASSWORD}@127.0.0.1:{port}/main/0"
        trio = Replicated(primary, replica, port, parse_address(url, None, SENTINEL_PASSWORD))
        with trio.sentinel() as client:

            def knows_replica() -> bool:
                found = client.sentinel_slaves("main")
                return bool(found) and found[0]["master-link-status"] == "ok" and found[0]["flags"] == "slave"

            wait_until(knows_replica, "the sentinel to know the replica")
        yield trio


@contextmanager
def _sentinel(folder: Path, primary: EmbeddedServer, down_after_ms: int) -> Iterator[int]:
    port = free_port()
    (folder / "sentinel").mkdir()
    config = folder / "sentinel" / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder / 'sentinel'}\nrequirepass {SENTINEL_PASSWORD}\n"
        f"sentinel monitor main 127.0.0.1 {primary.port} 1\nsentinel auth-pass main {SERVER_PASSWORD}\n"
        f"sentinel down-after-milliseconds main {down_after_ms}\nsentinel failover-timeout main 5000\n"
    )
    with (folder / "sentinel.log").open("w") as log:
        process = subprocess.Popen([find_server(), str(config), "--sentinel"], stdout=log, stderr=log)
    try:
        with redis.Redis(port=port, password=SENTINEL_PASSWORD) as client:

            def answers() -> bool:
                try:
                    return bool(client.ping())
                except redis.exceptions.ConnectionError:
                    return False

            wait_until(answers, "the sentinel to answer")
        yield port
    finally:
        process.terminate()
        process.wait()
