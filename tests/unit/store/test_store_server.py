"""What a server must be like, asked of real ones: each refusal is one sentence that says what to change."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from market_data_pipeline.errors import StoreUnavailable
from market_data_pipeline.store import embedded
from market_data_pipeline.store.client import Client, check_server, connect
from market_data_pipeline.store.embedded import EmbeddedServer, free_port

SERVERS = [None, *(["redis-server"] if shutil.which("redis-server") else [])]


async def check(url: str, allow_volatile: bool = True) -> None:
    client = connect(url)
    try:
        await check_server(client, url, allow_volatile)
    finally:
        await client.aclose()


async def refusal(url: str, allow_volatile: bool = True) -> str:
    with pytest.raises(StoreUnavailable) as caught:
        await check(url, allow_volatile)
    assert caught.value.exit_code == 3
    message = str(caught.value)
    assert message.startswith(f"server {url}")
    assert "\n" not in message
    return message.removeprefix(f"server {url}: ")


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "allkeys-random"])
async def test_a_server_that_evicts(client: Client, server: EmbeddedServer, policy: str) -> None:
    await client.config_set("maxmemory-policy", policy)
    try:
        assert await refusal(server.url) == (
            f"maxmemory-policy is '{policy}', it would evict data; run: CONFIG SET maxmemory-policy noeviction"
        )
    finally:
        await client.config_set("maxmemory-policy", "noeviction")
    await check(server.url)


@pytest.mark.parametrize(("name", "default"), [("stream-node-max-bytes", 4096), ("stream-node-max-entries", 100)])
async def test_streams_of_one_node(client: Client, server: EmbeddedServer, name: str, default: int) -> None:
    await client.config_set(name, 0)
    try:
        assert await refusal(server.url) == f"{name} is 0, reads become slow; set its default (4096 bytes, 100 entries)"
    finally:
        await client.config_set(name, default)
    await check(server.url)


@pytest.mark.parametrize("binary", SERVERS)
async def test_a_server_without_append_only_file(tmp_path: Path, binary: str | None) -> None:
    with EmbeddedServer(None, binary, "--save", "60 1") as server:
        assert await refusal(server.url, allow_volatile=False) == (
            "appendonly is off, a restart would lose commits; run: CONFIG SET appendonly yes, or accept the loss with"
            " --allow-volatile"
        )
        await check(server.url)
    with EmbeddedServer(tmp_path / "data", binary) as server:
        await check(server.url, allow_volatile=False)


@pytest.mark.parametrize("binary", SERVERS)
async def test_a_cluster(tmp_path: Path, binary: str | None) -> None:
    with EmbeddedServer(tmp_path, binary, "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as server:
        assert await refusal(server.url) == "is a cluster; a commit touches several slots: use a standalone server"


async def test_where_config_is_forbidden_info_has_to_do(client: Client, server: EmbeddedServer) -> None:
    """As on managed servers."""
    await client.acl_setuser("managed", enabled=True, passwords=["+pw"], commands=["+@all", "-config"], keys=["*"])
    managed = server.url.replace("redis://", "redis://managed:pw@")
    await check(managed)
    await client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(StoreUnavailable, match="maxmemory-policy is 'allkeys-lru'"):
            await check(managed)
    finally:
        await client.config_set("maxmemory-policy", "noeviction")


@contextmanager
def speaks(info: str) -> Iterator[str]:
    """A socket that answers INFO like a server of another version, and everything else with OK. Its URL."""
    reply = f"${len(info)}\r\n{info}\r\n".encode()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                while data := connection.recv(65536):
                    for command in data.split(b"*")[1:]:
                        connection.sendall(
                            reply if b"INFO\r\n" in command and b"SETINFO" not in command else b"+OK\r\n"
                        )

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        thread.join()


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ("redis_version:6.2.14", "Redis 6.2.14 is too old; at least 7.0 is needed"),
        ("redis_version:5.0", "Redis 5.0 is too old; at least 7.0 is needed"),
        ("redis_version:7.2.4\r\nvalkey_version:7.0.0", "Valkey 7.0.0 is too old; at least 7.2 is needed"),
    ],
)
async def test_an_old_version(info: str, message: str) -> None:
    with speaks(f"# Server\r\n{info}\r\nredis_mode:standalone\r\n") as url:
        assert await refusal(url) == message


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch, server: EmbeddedServer) -> list[int]:
    """The ports that are chosen next; the first has another run's server by then."""
    chosen = [server.port, free_port()]
    monkeypatch.setattr(embedded, "free_port", lambda: chosen.pop(0))
    return chosen


@pytest.mark.parametrize("binary", SERVERS)
def test_a_server_whose_port_was_taken_meanwhile_starts_at_another_one(
    server: EmbeddedServer, ports: list[int], binary: str | None
) -> None:
    """What answers at the port is another run's: its job must not become ours."""
    (free,) = ports[1:]
    with EmbeddedServer(None, binary) as ours:
        assert (ours.port, ports) == (free, [])
        assert ours.pid != server.pid
        assert ours.exit_code() is None


async def test_nor_is_it_taken_for_ours_where_a_loop_waits(server: EmbeddedServer, ports: list[int]) -> None:
    (free,) = ports[1:]
    ours = EmbeddedServer()
    try:
        ours.launch()
        while not await ours.answers():  # noqa: ASYNC110 - what is waited for is no event of ours
            await asyncio.sleep(0)
        assert ours.port == free
    finally:
        await ours.leave()


def test_ports_that_are_all_taken_end_the_search(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    monkeypatch.setattr(embedded, "free_port", lambda: tried.append(server.port) or server.port)
    with pytest.raises(StoreUnavailable, match=r"did not start: .*Address already in use"):
        EmbeddedServer().start()
    assert len(tried) == 6


def stop_process(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)


async def test_a_server_that_was_stopped_ends_in_order_where_its_data_is_kept(tmp_path: Path) -> None:
    for leaves in (True, False):
        ours = EmbeddedServer(tmp_path)
        ours.start()
        stop_process(ours.pid)
        await ours.leave() if leaves else ours.stop()
        assert "bye bye" in ours.last_words(), "it was not killed"
        (tmp_path / "server.log").unlink()


async def test_a_server_that_keeps_nothing_is_waited_for_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "ask_to_end", lambda process: None)  # one that hangs for good
    ours = EmbeddedServer()
    ours.start()
    async with asyncio.timeout(15):  # else twenty seconds
        await ours.leave()
    assert ours.exit_code() == 0


def test_a_folder_is_free_again_though_a_forked_process_still_has_its_lock_open(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path):
        (held,) = [
            entry.name for entry in Path("/proc/self/fd").iterdir() if os.path.realpath(entry) == f"{tmp_path}/lock"
        ]
        copy = os.dup(int(held))
    try:
        with EmbeddedServer(tmp_path) as again:
            assert again.exit_code() is None
    finally:
        os.close(copy)


@pytest.mark.parametrize("cut_at", [1, 2])
async def test_a_connection_that_ends_under_way_is_a_sentence_whatever_was_asked(
    server: EmbeddedServer, cut_at: int
) -> None:
    asked = 0

    class Cut(redis.asyncio.Redis):
        async def execute_command(self, *args: Any, **options: Any) -> Any:
            nonlocal asked
            asked += 1
            if asked == cut_at:
                raise redis.exceptions.ConnectionError("Connection closed by server.")
            return await super().execute_command(*args, **options)

    async with Cut.from_url(server.url) as client:
        with pytest.raises(StoreUnavailable, match=r"cannot be reached \(Connection closed by server\)"):
            await check_server(client, server.url, allow_volatile=True)
    assert asked == cut_at
