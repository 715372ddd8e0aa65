"""One primary under Sentinel: every client finds the new one after a failover, and the output stays exact."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis.exceptions
from test_main_job import APP, RATE, end, until_told
from tools.jobs import job, wait_until
from tools.sentinel import SENTINEL_PASSWORD, Replicated, replicated

from market_data_pipeline.errors import StoreUnavailable
from market_data_pipeline.store.client import connect, connect_blocking, explained, is_transient, until_done
from market_data_pipeline.store.reader import StreamReader
from market_data_pipeline.store.url import parse_address

_NEVER_DOWN_MS = 600_000
"""For tests in which no primary dies: a busy machine makes one silent for a while."""


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicated]:
    """For tests that leave it as it was."""
    with replicated(tmp_path_factory.mktemp("trio"), _NEVER_DOWN_MS) as running:
        yield running


def patient(ask: Callable[[], bool]) -> Callable[[], bool]:
    """``ask``, where a server that is away means no."""

    def asked() -> bool:
        try:
            return ask()
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, redis.exceptions.BusyLoadingError):
            return False

    return asked


def test_a_job_finishes_exactly_after_a_failover(tmp_path: Path, logs: Path) -> None:
    env = {"MDP_SENTINEL_PASSWORD": SENTINEL_PASSWORD}
    given = until_told(tmp_path, RATE)
    with replicated(tmp_path) as trio, job(trio.address, APP, logs, *given, env=env) as running:
        running.start("coordinator", "--min-workers", "2")
        running.start("w0")
        running.start("w1")
        running.wait_for_items("source", 20_000)
        trio.primary.kill()
        wait_until(lambda: trio.role(trio.replica) == "master", "the replica to take over")
        replaced = "the server was restarted or replaced; every task loads again"
        wait_until(lambda: replaced in running.log("w0"), "the first worker to find the new primary")
        wait_until(patient(lambda: running.state() == "running"), "us to find it")
        end(running, tmp_path, RATE)
        assert {running.wait_for_exit(name) for name in running.processes} == {0}
        for name in running.processes:
            assert "Traceback" not in running.log(name)
            assert SENTINEL_PASSWORD not in running.log(name)


async def test_a_demoted_primary_is_left_at_once(tmp_path: Path) -> None:
    """The old primary lives on as a replica: whoever writes to it must go and find the new one."""
    with replicated(tmp_path, _NEVER_DOWN_MS) as trio:
        client, blocking = connect(trio.address), connect_blocking(trio.address)
        try:
            async with StreamReader(client) as reader:
                await client.set("mdp:before", 1)
                assert await client.wait(1, 60_000) == 1
                blocking.set("mdp:before", 2)
                waiting = asyncio.create_task(reader.read({"mdp:s": "0-0"}, 60))
                with trio.sentinel() as sentinel:
                    await asyncio.to_thread(sentinel.execute_command, "SENTINEL", "FAILOVER", "main")
                await asyncio.to_thread(wait_until, lambda: trio.role(trio.replica) == "master", "the promotion")
                with redis.Redis(port=trio.primary.port, password="server-pw") as old:
                    old.replicaof("127.0.0.1", trio.replica.port)  # the sentinel does that after 10 s
                await until_done(lambda: client.xadd("mdp:s", {"f": "after"}), "append")
                wait_until(patient(lambda: bool(blocking.set("mdp:after", 1))), "the blocking client to write")
                assert [entry.blob for entry in (await waiting)["mdp:s"]] == [b"after"]
            with redis.Redis(port=trio.replica.port, password="server-pw") as new:
                assert new.get("mdp:after") == b"1"
                assert new.xlen("mdp:s") == 1
        finally:
            await client.aclose()
            blocking.close()


async def test_a_connection_that_hears_readonly_is_dropped(trio: Replicated) -> None:
    """Without sentinels too: the name in the address may lead to another server by then."""
    where = f"redis://:server-pw@localhost:{trio.replica.port}"
    client, blocking = connect(where), connect_blocking(where)
    try:
        first = await client.client_id(), blocking.client_id()
        with pytest.raises(redis.exceptions.ReadOnlyError) as caught:
            await client.set("k", "v")
        assert is_transient(caught.value)
        with pytest.raises(redis.exceptions.ReadOnlyError):
            blocking.set("k", "v")
        second = await client.client_id(), blocking.client_id()
        assert first[0] != second[0]
        assert first[1] != second[1]
    finally:
        await client.aclose()
        blocking.close()


@pytest.mark.parametrize(
    ("master", "password", "reason"),
    [
        ("other", SENTINEL_PASSWORD, "no living master 'other': sentinel 127.0.0.1:{port} does not know it"),
        ("main", "wrong-canary", "sentinel 127.0.0.1:{port} failed (invalid username-password pair"),
        ("main", None, "sentinel 127.0.0.1:{port} failed (Authentication required"),
    ],
)
async def test_why_no_master_is_found(trio: Replicated, master: str, password: str | None, reason: str) -> None:
    address = parse_address(f"redis+sentinel://:canary@127.0.0.1:{trio.sentinel_port}/{master}", None, password)
    client = connect(address)
    try:
        with pytest.raises(StoreUnavailable) as caught, explained(address):
            await client.ping()
        assert reason.format(port=trio.sentinel_port).lower() in str(caught.value).lower()
        assert "canary" not in str(caught.value)
    finally:
        await client.aclose()


async def test_a_dead_sentinel_is_passed_over(trio: Replicated) -> None:
    url = f"redis+sentinel://:server-pw@127.0.0.1:1,127.0.0.1:{trio.sentinel_port}/main"
    address = parse_address(url, None, SENTINEL_PASSWORD)
    client, blocking = connect(address), connect_blocking(address)
    try:
        assert (await client.info("server"))["tcp_port"] == trio.primary.port
        assert blocking.info("server")["tcp_port"] == trio.primary.port
    finally:
        await client.aclose()
        blocking.close()
