"""Leadership, assignment, leases and the job's record on a real server; reading them on fakeredis."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import Any

import fakeredis
import pytest

from market_data_pipeline import ChannelOptions, Collect, NodeOptions, Pipeline, Synthetic
from market_data_pipeline.channels.redis_stream import StreamChannel
from market_data_pipeline.dag.plan import Plan, plan_from_dict
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import ConfigError, PlanMismatch
from market_data_pipeline.packing import pack, seal
from market_data_pipeline.store.client import Client, Script
from market_data_pipeline.store.commit import Lease
from market_data_pipeline.store.control import Control, Heartbeat, JobInfo, Transition, find_job, publish, remove_job
from market_data_pipeline.store.embedded import EmbeddedServer
from market_data_pipeline.store.heartbeat import HeartbeatThread
from market_data_pipeline.store.keys import Keys, channel_keys, check_name, job_key
from market_data_pipeline.store.status import read_status


def plan(interval: str = "1s", partitions: int = 4) -> Plan:
    return compile_dag(
        Pipeline("control").source(Synthetic()).key_by("symbol").bars(interval).sink(Collect()).build(), partitions
    )


async def leader(client: Client) -> tuple[Control, int]:
    control = Control(client, await publish(client, "control", plan()))
    return control, await control.lead("me", 60_000)


async def test_publish_creates_every_task_record(client: Client) -> None:
    job = await publish(client, "control", plan())
    assert job.state == "running"
    assert job.partitions == 4
    for task in plan().tasks():
        assert await client.hexists(job.keys.task(task), "commit")
    assert await find_job(client, "control") == job
    assert await find_job(client, "other") is None


async def test_another_plan_under_the_same_name_is_refused(client: Client) -> None:
    await publish(client, "control", plan())
    with pytest.raises(
        PlanMismatch, match=r"first difference: plan.nodes.tumblingbars.config.interval: ours 5000000000"
    ):
        await publish(client, "control", plan("5s"))
    with pytest.raises(PlanMismatch, match=r"plan.partitions: ours 8, theirs 4"):
        await publish(client, "control", plan(partitions=8))


async def test_one_leads_and_terms_grow(client: Client) -> None:
    control, term = await leader(client)
    assert term == 1
    assert await control.lead("other", 1000) == 0
    assert await control.lead("me", 1000) == 1
    await control.resign(1, "other")
    assert await control.lead("other", 1000) == 0
    await control.resign(1, "me")
    assert await control.lead("other", 1000) == 2


async def test_leadership_runs_out(client: Client) -> None:
    control, _ = await leader(client)
    await control.lead("me", 20)
    await asyncio.sleep(0.04)
    assert await control.lead("other", 1000) == 2
    assert not await control.assign(1, "me", [Transition(0, "w", "t")]), "an old leader's write must be refused"
    assert await control.assignment() == {}


async def test_every_assignment_has_a_new_epoch(client: Client) -> None:
    control, term = await leader(client)
    before = (await control.now()).version
    assert await control.assign(term, "me", [Transition(0, "a", "ta"), Transition(2, "b", "tb")])
    assert await control.assign(term, "me", [Transition(0, "b", "tb")])
    assert {p: tuple(owner) for p, owner in (await control.assignment()).items()} == {
        0: (2, "tb", "b"),
        2: (1, "tb", "b"),
    }
    assert await client.hgetall(control.keys.lease(0)) == {b"epoch": b"2", b"token": b"tb", b"worker": b"b"}
    assert (await control.now()).version == before + 2


async def test_release_needs_the_lease(client: Client) -> None:
    control, term = await leader(client)
    await control.assign(term, "me", [Transition(0, "a", "ta")])
    assert not await control.release(Lease(0, 1, "zombie"))
    assert not await control.release(Lease(0, 7, "ta"))
    assert await control.release(Lease(0, 1, "ta"))
    assert (await control.assignment())[0] == (1, "", "")
    await asyncio.wait_for(control.wait_for_wake(5), 1)


async def test_a_job_is_concluded_once(client: Client) -> None:
    control, _ = await leader(client)
    assert await control.conclude("failed", "task x: boom")
    assert not await control.conclude("finished")
    assert (await control.now())[2:4] == ("failed", "task x: boom")
    await control.resume()
    assert (await control.now())[2:4] == ("running", "")


async def test_a_zombie_cannot_fail_the_job(client: Client) -> None:
    control, term = await leader(client)
    await control.assign(term, "me", [Transition(0, "a", "ta")])
    await control.assign(term, "me", [Transition(0, "b", "tb")])
    assert not await control.fail(Lease(0, 1, "ta"), "a zombie's trouble")
    assert (await control.now()).state == "running"
    assert await control.fail(Lease(0, 2, "tb"), "a real one")
    assert (await control.now())[2:4] == ("failed", "a real one")


async def test_a_job_is_finished_only_when_its_tasks_have_ended(client: Client) -> None:
    control, _ = await leader(client)
    await client.sadd(control.keys.ended, "a", "b")
    assert not await control.conclude("finished", ended=3)
    assert await control.conclude("finished", ended=2)


async def test_heartbeats_run_out(client: Client, server: EmbeddedServer) -> None:
    control, _ = await leader(client)
    lease = 2_000
    heart = HeartbeatThread(server.url, control.job, Heartbeat("w1", "t", (1, 2)), lease)
    heart.start()
    assert heart.run_id == (await client.info("server"))["run_id"]
    key = control.keys.worker("w1")
    await client.persist(key)
    while not 0 < await client.pttl(key) <= lease:  # noqa: ASYNC110 - the heart's thread writes it
        await asyncio.sleep(0.01)
    assert (await control.workers())["w1"].pins == (1, 2)
    await asyncio.to_thread(heart.stop)
    await client.pexpire(key, 1)
    while await control.workers() != {}:  # noqa: ASYNC110 - the server lets it run out
        await asyncio.sleep(0.01)


async def test_what_is_left_of_a_removed_job_cannot_touch_the_next_one(client: Client, server: EmbeddedServer) -> None:
    former, _ = await leader(client)
    heart = HeartbeatThread(server.url, former.job, Heartbeat("w1", "t"), 60_000)
    heart.start()
    await remove_job(client, "control")
    control = Control(client, await publish(client, "control", plan()))
    assert await former.lead("me", 60_000) == 0
    assert await control.lead("other", 60_000) == 1
    assert await former.lead("other", 60_000) == 0, "not even with the leader's own token"
    heart.beat()
    assert heart.job_gone
    assert not heart.held()
    assert await control.workers() == {}
    heart.stop()


async def test_a_removal_that_was_cut_short_is_seen_and_goes_on(client: Client) -> None:
    control, _ = await leader(client)
    stream = control.keys.stream(plan().channels[0], 0)
    await client.xadd(stream, {"f": "old"})

    def cut(**_: Any) -> Any:
        raise ConnectionError("cut")

    scan, client.scan_iter = client.scan_iter, cut  # type: ignore[assignment]
    with pytest.raises(ConnectionError):
        await remove_job(client, "control")
    client.scan_iter = scan  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="run 'mdp remove control' again"):
        await publish(client, "control", plan())
    assert await client.exists(stream), "the old frame is still there, and must not become the next job's"
    assert await remove_job(client, "control")
    await publish(client, "control", plan())
    assert not await client.exists(stream)


async def test_a_removal_of_a_job_that_was_replaced_meanwhile_does_not_mark_it(client: Client) -> None:
    control, _ = await leader(client)
    await remove_job(client, "control")
    again = await publish(client, "control", plan())
    await Script("retire").call(client, [control.keys.record], [control.job.uid])
    assert await find_job(client, "control") == again


async def test_the_slower_of_two_removals_leaves_the_next_job_alone(client: Client) -> None:
    """It has found the old job's keys, then the other one is done, and a coordinator has made the job again."""
    control, _ = await leader(client)
    scan, made = client.scan_iter, list[JobInfo]()

    async def slowly(**arguments: Any) -> Any:
        async for key in scan(**arguments):
            if not made:
                client.scan_iter = scan  # type: ignore[method-assign]
                await remove_job(client, "control")
                made.append(await publish(client, "control", plan()))
            yield key

    client.scan_iter = slowly  # type: ignore[method-assign, assignment]
    await remove_job(client, "control")
    client.scan_iter = scan  # type: ignore[method-assign]
    assert await find_job(client, "control") == made[0]
    for task in plan().tasks():
        assert await client.hget(control.keys.task(task), "commit")


async def test_what_was_concluded_of_another_plan_counts_no_more(client: Client) -> None:
    """A coordinator that saw all tasks ended, and slept while a deployment gave the job more of them."""
    control, _ = await leader(client)
    await client.hset(control.keys.record, "fingerprint", "0" * 16)
    assert not await control.conclude("finished")
    assert (await control.now()).state == "running"


async def test_a_job_named_channel_does_not_hold_the_stream_channels(client: Client) -> None:
    job = await publish(client, "channel", plan())
    channel = StreamChannel(client, "0")
    await channel.put("item")
    assert await remove_job(client, "channel")
    assert job.name == "channel"
    assert await channel.length() == 1


async def test_remove_leaves_nothing_of_the_job_and_all_of_others(client: Client) -> None:
    control, term = await leader(client)
    await control.assign(term, "me", [Transition(0, "a", "ta")])
    other = await publish(client, "other", plan())
    assert await remove_job(client, "control")
    assert not await remove_job(client, "control")
    left = {key.decode() async for key in client.scan_iter("*")}
    assert left == {job_key("other"), *(other.keys.task(task) for task in plan().tasks())}


async def test_status_of_a_new_job_on_fakeredis() -> None:
    """What only reads needs no scripts: fakeredis is enough."""
    fake: Any = fakeredis.FakeAsyncRedis()
    job = JobInfo("control", "uid", plan().fingerprint, 4, plan().to_json(), "running", "", 0)
    await fake.hset(job_key("control"), mapping={"uid": "uid", "state": "running", "version": 3, "error": ""})
    await fake.sadd(job.keys.workers, "w1", "gone")
    await fake.set(job.keys.worker("w1"), json.dumps(asdict(Heartbeat("w1", "tok"))))
    await fake.hset(job.keys.assignment, mapping={"0": "1:tok:w1", "1": "4:old:gone"})
    await fake.xadd(job.keys.stream(plan().channels[0], 2), {"f": "x"})
    status = await read_status(fake, Control(fake, job), job, plan(), 64)
    assert status.tasks == 5
    assert status.owners == {0: "w1", 1: ""}
    assert status.channels[0].lengths == {0: 0, 1: 0, 2: 1, 3: 0}
    assert status.channels[0].backlog == 1
    assert status.workers[0]["partitions"] == [0]
    assert (status.items_in, status.items_out, status.latency["p50"], status.has_leader) == (0, 0, None, False)
    await fake.set(job.keys.leader, "1:token")
    assert (await read_status(fake, Control(fake, job), job, plan(), 64)).has_leader
    assert json.loads(json.dumps(status.to_dict()))["owners"] == {"0": "w1", "1": ""}
    await fake.aclose()


async def test_nodes_are_told_in_the_order_in_which_items_pass_them() -> None:
    """A plan that the server gave has its nodes by name; one that a program gave has them as they were declared."""
    fake: Any = fakeredis.FakeAsyncRedis()
    job = JobInfo("control", "uid", plan().fingerprint, 4, plan().to_json(), "running", "", 0)
    kept = plan_from_dict(json.loads(job.plan))
    for task in plan().tasks():
        counts = {name: {"in": 1} for name, subgraph in kept.subgraph_of.items() if subgraph.name == task.subgraph}
        await fake.hset(job.keys.task(task), "meta", seal(pack({"counts": counts | {"gone": {"in": 1}}})))
    status = await read_status(fake, Control(fake, job), job, kept, 64)
    assert list(status.nodes) == ["source", "tumblingbars", "collect", "gone"], (
        "one that a deployment took out comes last"
    )
    await fake.aclose()


async def test_the_status_knows_an_edges_own_capacity() -> None:
    fake: Any = fakeredis.FakeAsyncRedis()
    made = Pipeline("control").source(Synthetic()).key_by("symbol").map(str).options(
        NodeOptions(channel=ChannelOptions(capacity=256))
    ).key_by("symbol").sink(Collect())  # fmt: skip
    own = compile_dag(made.build(), 2)
    job = JobInfo("control", "uid", own.fingerprint, 2, own.to_json(), "running", "", 0)
    status = await read_status(fake, Control(fake, job), job, own, 64)
    assert {channel.name: channel.capacity for channel in status.channels} == {"source.map": 256, "map.collect": 64}
    await fake.aclose()


@pytest.mark.parametrize("name", ["a*", "A", "", "a:b", "{x}", "a" * 41, "a b", "a\n"])
def test_names_that_would_open_other_keys_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is not allowed; it must match"):
        check_name("job name", name)
    with pytest.raises(ConfigError):
        channel_keys(name)


def test_keys_of_one_partition_share_a_hash_tag() -> None:
    keys = Keys("u1")
    task = next(plan().tasks())
    names = [keys.lease(0), keys.task(task), keys.state(task), keys.stream(plan().channels[0], 0), keys.stream_bytes(0)]
    assert {name[name.index("{") : name.index("}") + 1] for name in names} == {"{u1:0}"}
    assert keys.stream(plan().channels[0], 3) == "mdp:{u1:3}:q:source.tumblingbars"
