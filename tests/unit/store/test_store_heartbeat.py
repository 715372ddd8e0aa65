"""Heartbeats on a real server: how long a lease is held for sure, and who has a worker's name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tools.fake_clock import FakeClock
from tools.jobs import wait_until

from market_data_pipeline import Collect, Pipeline, Synthetic
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.store.client import Client
from market_data_pipeline.store.control import Control, Heartbeat, JobInfo, publish
from market_data_pipeline.store.embedded import EmbeddedServer
from market_data_pipeline.store.heartbeat import HeartbeatThread

TTL_MS = 3_000
"""Longer than a busy machine keeps a thread from its beat."""
PLAN = compile_dag(Pipeline("beats").source(Synthetic()).sink(Collect()).build(), 1)


@contextmanager
def beating(
    server: EmbeddedServer, job: JobInfo, token: str, clock: FakeClock | None = None
) -> Iterator[HeartbeatThread]:
    heart = HeartbeatThread(server.url, job, Heartbeat("w", token), TTL_MS, clock or FakeClock())
    heart.start()
    try:
        yield heart
    finally:
        heart.stop()


@pytest.fixture
async def control(client: Client) -> Control:
    return Control(client, await publish(client, "beats", PLAN))


async def test_a_lease_is_held_for_its_time_after_a_beat_was_sent(server: EmbeddedServer, control: Control) -> None:
    clock = FakeClock()
    heart = HeartbeatThread(server.url, control.job, Heartbeat("w", "one"), TTL_MS, clock)
    assert not heart.held()
    heart.beat()
    clock.advance(TTL_MS / 1000 - 0.001)
    assert heart.held()
    clock.advance(0.002)
    assert not heart.held()
    assert heart.lapses == 0
    heart.beat()
    assert heart.held()
    assert heart.lapses == 1, "for so long others could have had its partitions"
    heart.beat()
    assert heart.lapses == 1


async def test_a_later_process_takes_the_name(server: EmbeddedServer, control: Control) -> None:
    with beating(server, control.job, "one") as first:
        assert first.held()
        with beating(server, control.job, "two") as second:
            await asyncio.to_thread(wait_until, lambda: first.superseded, "the first to notice")
            assert not first.held()
            assert second.held()
            assert (await control.workers())["w"].token == "two"
            await control.leave("w", "one")
            assert (await control.workers())["w"].token == "two", "the first cannot say goodbye for the second"
        await control.leave("w", "two")
        assert await control.workers() == {}


async def test_a_name_that_an_older_process_had_is_kept_after_a_rollback(
    server: EmbeddedServer, control: Control, client: Client
) -> None:
    with beating(server, control.job, "old"):
        before = await client.hget(control.keys.incarnations, "w")
    await client.delete(control.keys.worker("w"))
    await control.forget_silent()
    with beating(server, control.job, "new") as heart:
        await client.hset(control.keys.incarnations, "w", before)  # the server forgot what came after
        heart.beat()
        assert heart.held()
        assert not heart.superseded


async def test_silent_workers_are_forgotten_and_known_again(
    server: EmbeddedServer, control: Control, client: Client
) -> None:
    with beating(server, control.job, "one"):
        await control.forget_silent()
        assert await client.smembers(control.keys.workers) == {b"w"}
    await client.delete(control.keys.worker("w"))
    await control.forget_silent()
    assert await client.smembers(control.keys.workers) == set()
    assert await client.hgetall(control.keys.incarnations) == {}
    with beating(server, control.job, "one") as again:
        assert again.held()
        assert list(await control.workers()) == ["w"]
