"""Loading under a lease, counting starts, and waiting for replicas, on real servers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from tools.jobs import wait_until

from market_data_pipeline import Collect, Pipeline, Synthetic
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import Fenced, LostTask, StaleTask
from market_data_pipeline.runtime.contract import Attempts, CommitRequest, Limits, new_commit_id
from market_data_pipeline.store.client import Client, connect
from market_data_pipeline.store.commit import Lease, RedisTaskStore
from market_data_pipeline.store.control import Control, Transition, publish
from market_data_pipeline.store.embedded import EmbeddedServer
from market_data_pipeline.store.reader import StreamReader

PLAN = compile_dag(Pipeline("attempts").source(Synthetic()).sink(Collect()).build(), 1)
(TASK,) = PLAN.tasks()


class Bench:
    def __init__(self, client: Client, reader: StreamReader, control: Control) -> None:
        self.client, self.reader, self.control = client, reader, control
        self.held = True

    async def own(self, token: str) -> Lease:
        term = await self.control.lead("leader", 60_000)
        assert await self.control.assign(term, "leader", [Transition(0, "w", token)])
        owner = (await self.control.assignment())[0]
        return Lease(0, owner.epoch, owner.token)

    def store(self, lease: Lease, limits: Limits | None = None) -> RedisTaskStore:
        job = self.control.job.ref
        return RedisTaskStore(self.client, self.reader, job, PLAN, TASK, lease, limits or Limits(), lambda: self.held)


@pytest.fixture
async def bench(client: Client) -> AsyncIterator[Bench]:
    control = Control(client, await publish(client, "attempts", PLAN))
    async with StreamReader(client) as reader:
        yield Bench(client, reader, control)


async def test_only_the_owner_can_load(bench: Bench) -> None:
    first = bench.store(await bench.own("one"))
    early = await first.load()
    second = bench.store(await bench.own("two"))
    late = await second.load()
    assert late.loaded_at > early.loaded_at
    with pytest.raises(Fenced, match="epoch 1 is over, now 2"):
        await first.load()
    forged = bench.store(replace(Lease(0, 2, "two"), token="guessed"))
    with pytest.raises(Fenced):
        await forged.load()


async def test_loading_waits_while_the_lease_may_have_run_out(bench: Bench) -> None:
    store = bench.store(await bench.own("one"))
    bench.held = False
    loading = asyncio.create_task(store.load())
    done, _ = await asyncio.wait({loading}, timeout=0.2)
    assert not done
    bench.held = True
    assert (await loading).commit


async def test_starts_and_deaths_are_counted_at_an_unchanged_commit(bench: Bench) -> None:
    store = bench.store(await bench.own("one"))
    commit = (await store.load()).commit
    assert await store.attempt(commit) == Attempts(1, "", 0)
    await store.mark(commit, "u 0-9")
    assert await store.attempt(commit) == Attempts(2, "u 0-9", 1)
    await store.mark(commit, "u 3-4")
    assert await store.attempt(commit) == Attempts(3, "u 3-4", 1)
    await store.mark(commit, "u 3-4")
    assert await store.attempt(commit) == Attempts(4, "u 3-4", 2)
    await store.mark(commit, "u 3-4")
    await store.mark(commit, "")
    assert await store.attempt(commit) == Attempts(5, "u 3-4", 2), "whoever is past the danger did not die of it"
    await store.commit(CommitRequest(commit, "idle", b"", idle=True))
    assert await store.attempt("idle") == Attempts(6, "u 3-4", 2), "a commit that used no input changes nothing"
    await store.commit(CommitRequest("idle", "next", b""))
    assert await store.attempt("next") == Attempts(1, "", 0)


async def test_a_zombie_counts_nothing(bench: Bench) -> None:
    zombie = bench.store(await bench.own("one"))
    commit = (await zombie.load()).commit
    owner = bench.store(await bench.own("two"))
    with pytest.raises(Fenced):
        await zombie.mark(commit, "u 0-1")
    with pytest.raises(Fenced):
        await zombie.attempt(commit)
    assert await owner.attempt(commit) == Attempts(1, "", 0)
    with pytest.raises(StaleTask):
        await owner.attempt("another")
    await bench.client.delete(bench.control.keys.task(TASK))
    with pytest.raises(LostTask):
        await owner.mark(commit, "u 0-1")


async def commit_with(store: RedisTaskStore, parent: str) -> str:
    request = CommitRequest(parent, new_commit_id(), b"")
    await store.commit(request)
    return request.id


async def test_a_commit_waits_for_replicas(caplog: Any) -> None:
    with EmbeddedServer() as server, EmbeddedServer(None, None, "--replicaof", f"127.0.0.1 {server.port}") as replica:
        client, other = connect(server.url), connect(replica.url)

        def caught_up() -> bool:
            return any(s["state"] == "online" for k, s in replicas(server).items() if k.startswith("slave"))

        await asyncio.to_thread(wait_until, caught_up, "the replica to follow")
        control = Control(client, await publish(client, "attempts", PLAN))
        async with StreamReader(client, replicas=1) as reader:
            bench = Bench(client, reader, control)
            store = bench.store(await bench.own("one"))
            commit = await commit_with(store, (await store.load()).commit)
            assert (await other.hget(control.keys.task(TASK), "commit")).decode() == commit
            await other.replicaof("no", "one")
            with caplog.at_level(logging.WARNING):
                waiting = asyncio.create_task(commit_with(store, commit))
                done, _ = await asyncio.wait({waiting}, timeout=1.5)
            assert not done
            assert "waiting for 1 replicas to have the commit" in caplog.text
            await other.replicaof("127.0.0.1", server.port)
            newest = await waiting
            assert (await other.hget(control.keys.task(TASK), "commit")).decode() == newest
        await client.aclose()
        await other.aclose()


def replicas(server: EmbeddedServer) -> dict[str, Any]:
    import redis  # noqa: PLC0415

    with redis.Redis(port=server.port) as client:
        return dict(client.info("replication"))
