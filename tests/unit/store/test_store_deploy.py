"""The exchange of a plan on a real server, without processes: all or nothing, and against everybody who comes too late."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from market_data_pipeline import Collect, Dedupe, Map, Pipeline, Synthetic, TumblingBars
from market_data_pipeline.codec import pack, seal
from market_data_pipeline.dag.change import Choice
from market_data_pipeline.dag.plan import Plan, TaskId
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import ConfigError, JobChanged
from market_data_pipeline.runtime.contract import CommitRequest, new_commit_id
from market_data_pipeline.runtime.migration import NewRecord
from market_data_pipeline.store.client import Client
from market_data_pipeline.store.commit import Lease, RedisTaskStore
from market_data_pipeline.store.control import Control, Transition, find_job, publish
from market_data_pipeline.store.deploy import Deployment
from market_data_pipeline.store.reader import StreamReader

TTL_MS = 300


def plan(apart: bool = False) -> Plan:
    made = Pipeline("deploy").source(Synthetic(), name="source").key_by("symbol")
    made = made.operator(Dedupe("symbol"), name="dedupe")
    if apart:
        made = made.boundary().operator(Map(str), name="map")
    return compile_dag(made.operator(TumblingBars("1s"), name="bars").sink(Collect(), name="sink").build(), 2)


class Bench:
    """A job whose partitions were given back, with a little state in every task."""

    def __init__(self, client: Client, control: Control) -> None:
        self.client, self.control = client, control
        self.keys = control.keys
        self.said: list[str] = []

    async def commit(self, task: TaskId, commit: str, **state: bytes) -> None:
        fields = {f"{node}\x1fkey": seal(blob) for node, blob in state.items()}
        meta = seal(pack({"counts": {}, "marks": {}, "watermark": 5}))
        await self.client.hset(self.keys.task(task), mapping={"commit": commit, "meta": meta})
        if fields:
            await self.client.hset(self.keys.state(task), mapping=fields)  # type: ignore[arg-type]

    def deployment(self, new: Plan | None = None, kind: type[Deployment] = Deployment) -> Deployment:
        return kind(self.client, self.control.job, new or plan(apart=True), Choice(), {"dedupe", "bars"}, TTL_MS)

    async def run(self, deployment: Deployment, timeout: float = 5.0) -> None:
        await deployment.run(timeout, self.said.append)

    async def dump(self) -> dict[bytes, Any]:
        """Everything but what a deployment writes down of itself."""
        own = {self.keys.leader, self.keys.term, self.keys.record, self.keys.wake}
        found = {key: await self.client.dump(key) async for key in self.client.scan_iter("*")}
        return {key: value for key, value in found.items() if key.decode() not in own}


@pytest.fixture
async def bench(client: Client) -> Bench:
    made = Bench(client, Control(client, await publish(client, "deploy", plan())))
    await made.commit(TaskId("source", 0), "s0")
    for partition in range(2):
        await made.commit(TaskId("dedupe", partition), f"d{partition}", dedupe=b"seen", bars=b"open")
    return made


async def test_records_and_state_are_those_of_the_new_plan(bench: Bench) -> None:
    await bench.run(bench.deployment())
    job = await find_job(bench.client, "deploy")
    assert job is not None
    assert (job.fingerprint, job.plan, job.state) == (plan(True).fingerprint, plan(True).to_json(), "running")
    for partition in range(2):
        dedupe, bars = TaskId("dedupe", partition), TaskId("map", partition)
        assert await bench.client.hgetall(bench.keys.state(dedupe)) == {b"dedupe\x1fkey": seal(b"seen")}
        assert await bench.client.hgetall(bench.keys.state(bars)) == {b"bars\x1fkey": seal(b"open")}
        assert await bench.client.hget(bench.keys.task(dedupe), "commit") not in (None, b"d0", b"d1")
        assert await bench.client.hget(bench.keys.task(bars), "ended") == b"0"
    assert [key async for key in bench.client.scan_iter("mdp:*next*")] == []
    assert await bench.control.leader() == "", "others may lead at once"
    assert bench.said == ["stopping every task at a commit", "exchanging the plan"]


async def test_a_commit_that_comes_in_between_is_part_of_it(bench: Bench) -> None:
    """Read, then somebody commits, then the exchange: it must not take what it read for the truth."""

    class Late(Deployment):
        staged = 0

        async def _stage(self, new: list[NewRecord]) -> None:
            await super()._stage(new)
            self.staged += 1
            if self.staged == 1:
                await bench.commit(TaskId("dedupe", 1), "later", dedupe=b"more")

    late = bench.deployment(kind=Late)
    await bench.run(late)
    assert isinstance(late, Late)
    assert late.staged == 2
    state = await bench.client.hgetall(bench.keys.state(TaskId("dedupe", 1)))
    assert state == {b"dedupe\x1fkey": seal(b"more")}


async def test_frames_that_come_in_between_are_not_thrown_away(bench: Bench) -> None:
    """The stream is written by another task than the one whose record is compared."""
    other = compile_dag(
        Pipeline("deploy").source(Synthetic(), name="source").operator(Map(str), name="new").key_by("symbol")
        .operator(Dedupe("symbol"), name="dedupe").operator(TumblingBars("1s"), name="bars")
        .sink(Collect(), name="sink").build(), 2,
    )  # fmt: skip
    stream = bench.keys.stream(plan().channels[0], 1)

    class Late(Deployment):
        async def _stage(self, new: list[NewRecord]) -> None:
            await super()._stage(new)
            await bench.client.xadd(stream, {"f": "late"})

    before = await bench.dump()
    with pytest.raises(ConfigError, match=r"1 frames wait in mdp:\{deploy:1\}:q:source.dedupe, and no worker is there"):
        await bench.run(bench.deployment(other, Late))
    assert await bench.client.xlen(stream) == 1
    await bench.client.delete(stream)
    assert {k: v for k, v in (await bench.dump()).items() if b"next" not in k} == before
    job = await bench.control.now()
    assert (job.fingerprint, job.phase, job.deploy) == (plan().fingerprint, "", "")


async def test_who_had_a_partition_cannot_commit_or_fail_the_job_afterwards(bench: Bench) -> None:
    """A worker that was frozen before it gave its partition back, and dead for all that was known."""
    term = await bench.control.lead("me", 60_000)
    assert await bench.control.assign(term, "me", [Transition(0, "w", "frozen")])
    await bench.control.resign(term, "me")
    job = bench.control.job
    await bench.run(bench.deployment())
    lease = Lease(0, 1, "frozen")
    async with StreamReader(bench.client) as reader:
        store = RedisTaskStore(bench.client, reader, job.ref, plan(), TaskId("dedupe", 0), lease, _limits())
        with pytest.raises(JobChanged):
            await store.commit(CommitRequest("d0", new_commit_id(), b"meta"))
    assert not await bench.control.fail(lease, "my own troubles")
    assert (await bench.control.now()).state == "running"
    assert (await bench.control.assignment())[0].token == ""


def _limits() -> Any:
    from market_data_pipeline.runtime.contract import Limits  # noqa: PLC0415

    return Limits()


async def test_only_who_leads_exchanges(bench: Bench) -> None:
    class Robbed(Deployment):
        async def _stage(self, new: list[NewRecord]) -> None:
            await super()._stage(new)
            await bench.client.set(bench.keys.leader, "99:another")

    before = await bench.dump()
    with pytest.raises(ConfigError, match="leadership was lost"):
        await bench.run(bench.deployment(kind=Robbed))
    assert {k: v for k, v in (await bench.dump()).items() if b"next" not in k} == before


async def test_another_deployment_that_was_first_wins(bench: Bench) -> None:
    class Overtaken(Deployment):
        async def _stage(self, new: list[NewRecord]) -> None:
            await super()._stage(new)
            await bench.client.hset(bench.keys.record, "fingerprint", "0" * 16)

    with pytest.raises(ConfigError, match="replaced meanwhile"):
        await bench.run(bench.deployment(kind=Overtaken))
    with pytest.raises(ConfigError, match="there is nothing to exchange any more"):
        await bench.run(bench.deployment())


async def test_what_another_deployment_staged_is_not_put_in_place(bench: Bench) -> None:
    class Cleared(Deployment):
        async def _stage(self, new: list[NewRecord]) -> None:
            await super()._stage(new)
            await bench.client.delete(bench.keys.staged_task(new[0].task))

    with pytest.raises(ConfigError, match="leadership was lost"):
        await bench.run(bench.deployment(kind=Cleared))
    assert (await bench.control.now()).fingerprint == plan().fingerprint


async def test_a_coordinator_that_does_not_stand_aside_is_waited_for(bench: Bench) -> None:
    await bench.control.lead("stubborn", 60_000)
    with pytest.raises(ConfigError, match="did not stand aside in time"):
        await bench.run(bench.deployment(), timeout=0.1)
    waiting = asyncio.create_task(bench.run(bench.deployment()))
    while (await bench.control.now()).deploy == "":  # noqa: ASYNC110 - another client's write
        await asyncio.sleep(0.01)
    await bench.control.resign(1, "stubborn")
    await waiting
    assert (await bench.control.now()).fingerprint == plan(True).fingerprint


async def test_phases_need_the_leader_the_job_and_the_plan(bench: Bench) -> None:
    control = bench.control
    term = await control.lead("me", 60_000)
    assert not await control.set_phase(term, "other", "drain", "x")
    assert await control.set_phase(term, "me", "drain", "x")
    assert (await control.now())[-2:] == ("drain", "x")
    await bench.client.hset(bench.keys.record, "fingerprint", "0" * 16)
    assert not await control.set_phase(term, "me", "", "")
    await bench.client.hset(bench.keys.record, mapping={"fingerprint": plan().fingerprint, "uid": "another"})
    assert not await control.set_phase(term, "me", "", "")
    assert not await control.ask_to_deploy("y")
    assert (await control.now())[-2:] == ("drain", "x")


async def test_an_outbox_is_sent_before_its_task_changes(bench: Bench) -> None:
    """Results that found no room are in flight too, and nobody is there to send them."""
    await bench.client.hset(bench.keys.state(TaskId("dedupe", 0)), "\x1eoutbox:0", seal(b"frame"))
    with pytest.raises(ConfigError, match=r"task dedupe/0 has results that it could not send yet; not done in 0\.2 s"):
        await bench.run(bench.deployment(), timeout=0.2)
