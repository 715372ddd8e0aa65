"""Commits that must be on a replica, and a replica that does not follow."""

from __future__ import annotations

import asyncio
import os
import signal

from tools.jobs import wait_until

from market_data_pipeline import Collect, Pipeline, Synthetic
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.runtime.contract import CommitRequest, Limits
from market_data_pipeline.store.client import connect, connect_blocking
from market_data_pipeline.store.commit import Lease, RedisTaskStore
from market_data_pipeline.store.control import Control, Transition, publish
from market_data_pipeline.store.embedded import EmbeddedServer
from market_data_pipeline.store.reader import StreamReader

PLAN = compile_dag(Pipeline("replicas").source(Synthetic()).sink(Collect()).build(), 1)
(TASK,) = PLAN.tasks()


def follows(server: EmbeddedServer) -> bool:
    with connect_blocking(server.url) as client:
        return client.info("replication").get("slave0", {}).get("state") == "online"


async def test_a_commit_that_is_sent_again_waits_for_replicas_too() -> None:
    """The reply was lost, the connection is another one: WAIT looks at the writes of its own connection only."""
    with EmbeddedServer() as server, EmbeddedServer(None, None, "--replicaof", f"127.0.0.1 {server.port}") as replica:
        await asyncio.to_thread(wait_until, lambda: follows(server), "the replica to follow")
        client = connect(server.url)
        control = Control(client, await publish(client, "replicas", PLAN))
        term = await control.lead("leader", 60_000)
        assert await control.assign(term, "leader", [Transition(0, "w", "token")])
        reader, lease = StreamReader(client, replicas=1), Lease(0, 1, "token")
        store = RedisTaskStore(client, reader, control.job.ref, PLAN, TASK, lease, Limits())
        request = CommitRequest((await store.load()).commit, "once", b"")
        os.kill(replica.pid, signal.SIGSTOP)
        try:
            committing = asyncio.create_task(store.commit(request))
            while await client.hget(control.keys.task(TASK), "commit") != b"once":  # noqa: ASYNC110 - no event of ours
                await asyncio.sleep(0.01)
            await client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            done, _ = await asyncio.wait({committing}, timeout=1.5)
            assert not done
        finally:
            os.kill(replica.pid, signal.SIGCONT)
        await asyncio.wait_for(committing, 20)
        await client.aclose()
