"""The exchange of a plan on a real server, without processes: all or nothing, and against everybody who comes too late."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import Any

import pytest

from market_data_pipeline import Collect, Dedupe, JsonLines, Map, Pipeline, Synthetic, TumblingBars
from market_data_pipeline.dag.change import Choice
from market_data_pipeline.dag.plan import Plan, TaskId
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import ConfigError, JobChanged
from market_data_pipeline.packing import pack, seal
from market_data_pipeline.runtime.contract import CommitRequest, new_commit_id
from market_data_pipeline.runtime.migration import NewRecord
from market_data_pipeline.store import deploy as deploy_module
from market_data_pipeline.store.client import Client
from market_data_pipeline.store.commit import Lease, RedisTaskStore
from market_data_pipeline.store.control import Control, Heartbeat, Transition, find_job, publish
from market_data_pipeline.store.deploy import Deployment
from market_data_pipeline.store.rates import published, rates_in
from market_data_pipeline.store.reader import StreamReader

TTL_MS = 1_500


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

    async def run(self, deployment: Deployment, timeout: float = 60.0) -> None:
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
    with pytest.raises(ConfigError, match="given another plan"):
        await bench.run(bench.deployment())


@pytest.mark.parametrize("which", [0, 1], ids=["record", "state"])
async def test_what_another_deployment_staged_is_not_put_in_place(bench: Bench, which: int) -> None:
    class Cleared(Deployment):
        async def _stage(self, new: list[NewRecord]) -> None:
            await super()._stage(new)
            await bench.client.delete(self._staged_keys(TaskId("map", 0))[which])

    with pytest.raises(ConfigError, match="leadership was lost"):
        await bench.run(bench.deployment(kind=Cleared))
    assert (await bench.control.now()).fingerprint == plan().fingerprint
    assert [key async for key in bench.client.scan_iter("mdp:*next*")] == [], "what was staged in vain is gone"


async def test_what_is_put_in_place_stays(bench: Bench) -> None:
    """What a deployment that died has staged goes away by itself, and only that."""

    class Dying(Deployment):
        async def _swap(self, new: list[NewRecord], commits: dict[TaskId, str]) -> None:
            found = [key async for key in bench.client.scan_iter("mdp:*next*")]
            assert found
            assert all([await bench.client.pttl(key) > 0 for key in found])
            await super()._swap(new, commits)

    await bench.run(bench.deployment(kind=Dying))
    for task in plan(apart=True).tasks():
        assert await bench.client.pttl(bench.keys.task(task)) == -1
        assert await bench.client.pttl(bench.keys.state(task)) in (-1, -2)


async def test_two_deployments_do_not_mix_what_they_make(bench: Bench) -> None:
    """One loses its leadership while it stages (it was frozen), and goes on with it while the other exchanges the plan."""
    zombie = bench.deployment()

    class Second(Deployment):
        async def _swap(self, new: list[NewRecord], commits: dict[TaskId, str]) -> None:
            records, _ = await zombie._records()
            await zombie._stage(zombie._migrated(records)[:3])
            await super()._swap(new, commits)

    await bench.run(bench.deployment(kind=Second))
    for partition in range(2):
        state = await bench.client.hgetall(bench.keys.state(TaskId("map", partition)))
        assert state == {b"bars\x1fkey": seal(b"open")}


async def test_an_exchange_whose_answer_was_lost_was_done(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    call, calls = deploy_module._SWAP.call, list[Any]()

    async def lost(*args: Any) -> Any:
        calls.append(await call(*args))
        if len(calls) == 1:
            raise ConnectionError("the answer is lost")
        return calls[-1]

    monkeypatch.setattr(deploy_module._SWAP, "call", lost)
    await bench.run(bench.deployment())
    assert calls == [[b"OK"], [b"JOB"]]
    assert (await bench.control.now()).fingerprint == plan(True).fingerprint


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


async def test_rates_need_the_leader_the_job_and_the_plan(bench: Bench) -> None:
    control = bench.control
    before = (await control.now()).version
    term = await control.lead("me", 60_000)
    assert not await control.set_rates(term, "other", "x")
    assert not await control.set_rates(term + 1, "me", "x")
    assert await control.set_rates(term, "me", published(1, {"source": 5.5}))
    assert rates_in((await control.now()).rates) == {"source": 5.5}
    assert (await control.now()).version == before, "no worker looks at its assignment because of a rate"
    await bench.client.hset(bench.keys.record, "fingerprint", "0" * 16)
    assert not await control.set_rates(term, "me", "")
    await bench.client.hset(bench.keys.record, mapping={"fingerprint": plan().fingerprint, "uid": "another"})
    assert not await control.set_rates(term, "me", "")
    assert rates_in((await control.now()).rates) == {"source": 5.5}


async def test_a_deployment_that_asks_after_another_was_done_asks_nobody_to_stand_aside(bench: Bench) -> None:
    """The job has another plan than the one that was compared: its new coordinators must not wait for somebody."""
    late = bench.deployment()
    await bench.run(bench.deployment())
    with pytest.raises(ConfigError, match="removed, replaced, or given another plan"):
        await bench.run(late)
    assert (await bench.control.now()).deploy == ""


async def test_what_nobody_has_is_given_to_who_lives_while_streams_are_drained(bench: Bench) -> None:
    """A worker died or left, and the coordinators stand aside: its streams are to be drained all the same."""
    stream = bench.keys.stream(plan().channels[0], 1)
    await bench.client.xadd(stream, {"f": "waits"})
    beat = Heartbeat("other", "lives")
    await bench.client.sadd(bench.keys.workers, "other")  # type: ignore[misc]
    await bench.client.set(bench.keys.worker("other"), json.dumps(asdict(beat)))
    term = await bench.control.lead("me", 60_000)
    await bench.control.assign(term, "me", [Transition(0, "other", "lives"), Transition(1, "dead", "dead")])
    await bench.control.resign(term, "me")

    async def drain() -> None:
        while (await bench.control.assignment())[1].token != "lives":  # noqa: ASYNC110 - another client's write
            await asyncio.sleep(0.01)
        await bench.client.xtrim(stream, maxlen=0)
        while (await bench.control.now()).phase != "stop":  # noqa: ASYNC110 - another client's write
            await asyncio.sleep(0.01)
        for partition, owner in (await bench.control.assignment()).items():
            assert await bench.control.release(Lease(partition, owner.epoch, owner.token))

    draining = asyncio.create_task(drain())
    await bench.run(bench.deployment(filtered()))
    await draining
    assert bench.said == ["draining: sources rest", "stopping every task at a commit", "exchanging the plan"]


def filtered() -> Plan:
    made = Pipeline("deploy").source(Synthetic(), name="source").operator(Map(str), name="new").key_by("symbol")
    made = made.operator(Dedupe("symbol"), name="dedupe").operator(TumblingBars("1s"), name="bars")
    return compile_dag(made.sink(Collect(), name="sink").build(), 2)


async def test_a_sink_that_was_not_left_politely_must_not_become_another(bench: Bench) -> None:
    """Its next owner would have published what the dead one wrote; a sink with other arguments knows nothing of it."""
    for partition in range(2):
        meta = {"counts": {}, "marks": {}, "watermark": 5, "sinks": {"sink": "manifest"}}
        meta |= {"unsealed": ["sink"]} if partition else {}
        await bench.client.hset(bench.keys.task(TaskId("dedupe", partition)), "meta", seal(pack(meta)))
    made = (
        Pipeline("deploy").source(Synthetic(), name="source").key_by("symbol").operator(Dedupe("symbol"), name="dedupe")
    )
    new = compile_dag(made.operator(TumblingBars("1s"), name="bars").sink(JsonLines("/x"), name="sink").build(), 2)
    reset = Deployment(bench.client, bench.control.job, new, Choice(reset=frozenset({"sink"})), {"bars"}, TTL_MS)
    await bench.client.sadd(bench.keys.workers, "w")  # type: ignore[misc]
    await bench.client.set(bench.keys.worker("w"), json.dumps(asdict(Heartbeat("w", "lives"))))
    with pytest.raises(ConfigError, match="sink 'sink', partition 1: its worker could not stop politely"):
        await bench.run(reset)
    await bench.client.delete(bench.keys.worker("w"))
    again = Deployment(bench.client, bench.control.job, new, Choice(reset=frozenset({"sink"})), {"bars"}, TTL_MS)
    await bench.run(again)
    assert "nobody gave it back: sink 'sink', partition 1" in bench.said[-2] + bench.said[-1]


async def test_what_waits_for_a_channel_that_goes_is_sent_first(bench: Bench) -> None:
    """The task stays, and with it its outbox: the new plan has no such channel."""
    outbox = seal(pack(["source.dedupe", 0, b"frame"]))
    await bench.client.hset(bench.keys.state(TaskId("source", 0)), "\x1eoutbox:0", outbox)
    with pytest.raises(ConfigError, match="task source/0 has results that it could not send yet"):
        await bench.run(bench.deployment(filtered()), timeout=0.2)
    await bench.run(bench.deployment())
    assert await bench.client.hgetall(bench.keys.state(TaskId("source", 0))) == {b"\x1eoutbox:0": outbox}


async def test_an_outbox_is_sent_before_its_task_changes(bench: Bench) -> None:
    """Results that found no room are in flight too, and nobody is there to send them."""
    await bench.client.hset(bench.keys.state(TaskId("dedupe", 0)), "\x1eoutbox:0", seal(b"frame"))
    with pytest.raises(ConfigError, match=r"task dedupe/0 has results that it could not send yet, and no worker"):
        await bench.run(bench.deployment())


async def test_whether_anybody_will_work_off_what_is_in_flight(bench: Bench) -> None:
    """Workers that are replaced all at once are away for a moment; those of a failed job do not come back by themselves."""
    stream = bench.keys.stream(plan().channels[0], 1)
    await bench.client.xadd(stream, {"f": "waits"})

    async def empty_soon() -> None:
        while "draining: sources rest" not in bench.said:  # noqa: ASYNC110 - another task's word
            await asyncio.sleep(0.01)
        await bench.client.delete(stream)

    emptying = asyncio.create_task(empty_soon())
    await bench.run(bench.deployment(filtered()))
    await emptying
    assert bench.said[-1] == "exchanging the plan", (
        "nobody was there for less than a lease's time: no reason to give up"
    )


async def test_a_failed_job_is_not_waited_for(bench: Bench) -> None:
    await bench.client.xadd(bench.keys.stream(plan().channels[0], 1), {"f": "waits"})
    await bench.client.hset(bench.keys.record, mapping={"state": "failed", "error": "boom"})
    made = (
        Pipeline("deploy").source(Synthetic(), name="other").key_by("symbol").operator(Dedupe("symbol"), name="dedupe")
    )
    new = compile_dag(made.operator(TumblingBars("1s"), name="bars").sink(Collect(), name="sink").build(), 2)
    deployment = Deployment(bench.client, bench.control.job, new, Choice(), set(), 60_000)
    with pytest.raises(ConfigError, match="no worker is there to work it off"):
        await bench.run(deployment)
