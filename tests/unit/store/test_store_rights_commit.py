"""A commit whose user has lost a right since the start, on real servers: refused as a whole, done when the right is back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from test_store_commit import STREAM, Bench, request
from test_store_commit import plan as plan_of_bench
from test_store_rights import either, grant, rule

from market_data_pipeline.errors import StoreUnavailable
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.runtime.contract import CommitRequest, Consumed
from market_data_pipeline.store.client import connect, connect_blocking
from market_data_pipeline.store.commit import RedisTaskStore
from market_data_pipeline.store.control import Control, Transition, publish
from market_data_pipeline.store.embedded import EmbeddedServer
from market_data_pipeline.store.keys import Shape
from market_data_pipeline.store.reader import StreamReader
from market_data_pipeline.store.rights import WORKER

__all__ = ["either"]


@pytest.fixture
async def bench(either: EmbeddedServer) -> AsyncIterator[Bench]:
    """A job with two tasks and an item between them, its worker a user of the job's rules."""
    admin = connect(either.url)
    await admin.flushall()
    job = await publish(admin, "commit", plan_of_bench())
    await Control(admin, job).lead("leader", 60_000)
    assert await Control(admin, job).assign(1, "leader", [Transition(0, "w", "token")])
    client = connect(grant(either, *rule(WORKER, "commit")))
    async with StreamReader(client) as reader:
        made = Bench(client, reader, job.ref, job.keys)
        await made.produce(b"one")
        yield made
    await client.aclose()
    await admin.aclose()


async def step_of(store: RedisTaskStore) -> CommitRequest:
    """A commit that sends every command there is for one."""
    record = await store.load()
    [entry] = (await store.read({STREAM: "0-0"}, 1.0))[STREAM]
    used = [Consumed(STREAM, entry.id, entry.id, 1, len(entry.blob))]
    letters = [DeadLetter("double", "why", {})]
    state = {"a": b"x", "gone": None}
    return request(record.commit, consumed=used, state=state, dead_letters=letters, ended=True)


@pytest.mark.parametrize("command", ["xadd", "hincrby", "hset", "hdel", "sadd", "xtrim"])
async def test_a_commit_that_lacks_a_right_leaves_nothing_behind(
    either: EmbeddedServer, bench: Bench, command: str
) -> None:
    """The right was there at the start and is taken away under way; with it, the same commit goes through."""
    store = bench.store("double")
    step = await step_of(store)
    words = rule(WORKER, "commit")
    with connect_blocking(either.url) as admin:

        def everything() -> dict[bytes, Any]:
            return {key: admin.dump(key) for key in admin.scan_iter()}

        grant(either, *(word for word in words if word != f"+{command}"))
        before = everything()
        with pytest.raises(StoreUnavailable, match="task double/0: the server refuses the commit"):
            await store.commit(step)
        assert everything() == before
        grant(either, *words)
        await store.commit(step)
        assert everything() != before


@pytest.mark.parametrize("shape", ["task:*", "state:*", "q:*", "ended", "dlq", "bytes", "record", "lease"])
async def test_a_commit_that_lacks_a_key_leaves_nothing_behind(
    either: EmbeddedServer, bench: Bench, shape: Shape
) -> None:
    store = bench.store("double")
    step = await step_of(store)
    opened = f"~{bench.keys.pattern(shape)}"
    with connect_blocking(either.url) as admin:
        before = {key: admin.dump(key) for key in admin.scan_iter()}
        grant(either, *(word for word in rule(WORKER, "commit") if word != opened))
        with pytest.raises(StoreUnavailable, match="the server refuses the commit"):
            await store.commit(step)
        assert {key: admin.dump(key) for key in admin.scan_iter()} == before
