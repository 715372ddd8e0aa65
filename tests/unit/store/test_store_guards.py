"""Each half of each check by itself: the same epoch with another token, the same token under another epoch, and so on."""

from __future__ import annotations

import pytest
from tools.fake_clock import FakeClock

from market_data_pipeline import Collect, Pipeline, Synthetic
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import Fenced
from market_data_pipeline.runtime.contract import Limits
from market_data_pipeline.store.client import Client
from market_data_pipeline.store.commit import Lease, RedisTaskStore
from market_data_pipeline.store.control import Control, Heartbeat, Transition, publish
from market_data_pipeline.store.embedded import EmbeddedServer
from market_data_pipeline.store.heartbeat import HeartbeatThread
from market_data_pipeline.store.keys import job_key
from market_data_pipeline.store.reader import StreamReader

PLAN = compile_dag(Pipeline("guards").source(Synthetic()).sink(Collect()).build(), 1)
(TASK,) = PLAN.tasks()
OWNER = Lease(0, 1, "token")
STRANGERS = [Lease(0, 1, "another"), Lease(0, 2, "token"), Lease(0, 0, "token")]
"""``0``: an owner of before, whose partition came back to the same process."""


@pytest.fixture
async def control(client: Client) -> Control:
    control = Control(client, await publish(client, "guards", PLAN))
    term = await control.lead("leader", 60_000)
    assert await control.assign(term, "leader", [Transition(0, "w", "token")])
    return control


def store(client: Client, control: Control, lease: Lease) -> RedisTaskStore:
    return RedisTaskStore(client, StreamReader(client), control.job.ref, PLAN, TASK, lease, Limits())


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_only_the_whole_lease_loads_and_counts(client: Client, control: Control, stranger: Lease) -> None:
    record = await store(client, control, OWNER).load()
    with pytest.raises(Fenced):
        await store(client, control, stranger).load()
    with pytest.raises(Fenced):
        await store(client, control, stranger).attempt(record.commit)
    assert (await store(client, control, OWNER).attempt(record.commit)).starts == 1


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_only_the_whole_lease_fails_a_job(control: Control, stranger: Lease) -> None:
    assert not await control.fail(stranger, "a zombie's trouble")
    assert (await control.now()).state == "running"
    assert await control.fail(OWNER, "a real one")
    assert (await control.now()).state == "failed"


async def test_another_job_under_the_name_is_left_alone(client: Client, control: Control) -> None:
    """The job was removed and published again: who still serves the old one says nothing about the new one."""
    await client.hset(job_key("guards"), "uid", "another")
    assert not await control.conclude("finished")
    assert (await control.now()).state == "running"
    await client.hset(job_key("guards"), "state", "failed")
    await control.resume()
    assert (await control.now()).state == "failed"


async def test_a_finished_job_does_not_run_again(control: Control) -> None:
    assert await control.conclude("finished")
    await control.resume()
    assert (await control.now()).state == "finished"


async def test_a_name_that_the_server_forgot_still_belongs_to_the_later_process(
    server: EmbeddedServer, control: Control, client: Client
) -> None:
    """After a rollback a counter would give the second process the number of the first."""
    first, second = (
        HeartbeatThread(server.url, control.job, Heartbeat("w", token), 60_000, FakeClock()) for token in ("one", "two")
    )
    first.beat()
    await client.delete(control.keys.incarnations)
    second.beat()
    first.beat()
    assert first.superseded
    assert not first.held()
    second.beat()
    assert second.held()


class _Slow(FakeClock):
    """Each look at it takes a while: as if what lies between two looks had."""

    def monotonic(self) -> float:
        self.advance(0.1)
        return super().monotonic()


async def test_the_time_that_a_heartbeat_takes_is_not_held(server: EmbeddedServer, control: Control) -> None:
    """A beat that hangs on its way may arrive when others have given us up: the lease counts from before it was sent."""
    clock = _Slow()
    heart = HeartbeatThread(server.url, control.job, Heartbeat("w", "one"), 1000, clock)
    heart.beat()
    sent = 0.1
    clock.elapsed = sent + 1.0 - 0.11
    assert heart.held()
    clock.elapsed = sent + 1.0 - 0.09
    assert not heart.held()
