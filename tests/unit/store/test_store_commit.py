"""The commit script on a real server: every check, in its order, and nothing written when one refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from market_data_pipeline import ChannelOptions, Collect, Dag, Node, Synthetic
from market_data_pipeline.dag.plan import Plan, TaskId
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import CorruptState, Fenced, JobChanged, LostTask, StaleTask
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.operators.stateless import Map
from market_data_pipeline.runtime.contract import CommitRequest, Consumed, Limits, StreamsFull, new_commit_id
from market_data_pipeline.store.client import Client
from market_data_pipeline.store.commit import JobRef, Lease, RedisTaskStore
from market_data_pipeline.store.control import Control, Transition, publish
from market_data_pipeline.store.keys import job_key
from market_data_pipeline.store.reader import StreamReader

LIMITS = Limits(commit_frames=2, frame_bytes=1000, channel_capacity=8, channel_bytes=8000, dead_letter_capacity=3)
STREAM = ("source.double", 0)


def plan(own: ChannelOptions | None = None) -> Plan:
    dag = Dag("commit")
    dag.add_node(Node("source", Synthetic()))
    dag.add_node(Node("double", Map(str)))
    dag.add_node(Node("sink", Collect()))
    dag.add_edge("source", "double", key="symbol", channel=own)
    dag.add_edge("double", "sink")
    return compile_dag(dag, 1)


class Bench:
    """A job with a producing and a consuming task, both owned by ``token``."""

    def __init__(self, client: Client, reader: StreamReader, job: JobRef, keys: Any) -> None:
        self.client, self.reader, self.job, self.keys = client, reader, job, keys
        self.lease = Lease(0, 1, "token")

    def store(self, task: str, lease: Lease | None = None, job: JobRef | None = None) -> RedisTaskStore:
        return RedisTaskStore(
            self.client, self.reader, job or self.job, plan(), TaskId(task, 0), lease or self.lease, LIMITS
        )

    async def dump(self) -> dict[bytes, bytes]:
        """Everything on the server, to see that nothing changed."""
        return {key: await self.client.dump(key) async for key in self.client.scan_iter("*")}

    async def produce(self, *frames: bytes) -> None:
        """Append ``frames``, two a commit."""
        for start in range(0, len(frames), 2):
            record = await self.store("source").load()
            await self.store("source").commit(request(record.commit, outputs={STREAM: frames[start : start + 2]}))


def request(parent: str, **fields: Any) -> CommitRequest:
    return CommitRequest(parent, fields.pop("id", new_commit_id()), fields.pop("meta", b"meta"), **fields)


@pytest.fixture
async def bench(client: Client) -> AsyncIterator[Bench]:
    job = await publish(client, "commit", plan())
    control = Control(client, job)
    term = await control.lead("leader", 60_000)
    assert await control.assign(term, "leader", [Transition(0, "w", "token")])
    async with StreamReader(client) as reader:
        yield Bench(client, reader, job.ref, job.keys)


async def test_a_commit_is_durable_as_a_whole(bench: Bench) -> None:
    await bench.produce(b"one", b"two", b"three")
    consumer = bench.store("double")
    entries = (await consumer.read({STREAM: "0-0"}, 1.0))[STREAM]
    assert [entry.blob for entry in entries] == [b"one", b"two", b"three"]
    record = await consumer.load()
    consumed = Consumed(STREAM, entries[0].id, entries[1].id, 2, 6)
    letter = DeadLetter("double", "because", {"bad": 1})
    lengths = await consumer.commit(
        request(record.commit, id="mine", consumed=[consumed], state={"a": b"1", "b": b"2"}, dead_letters=[letter])
    )
    assert lengths == {}
    loaded = await consumer.load()
    assert loaded[:4] == ("mine", b"meta", False, {"a": b"1", "b": b"2"})
    await consumer.commit(request("mine", id="next", state={"a": None, "c": b"3"}, ended=True))
    assert (await consumer.load())[:4] == ("next", b"meta", True, {"b": b"2", "c": b"3"})
    assert await bench.client.smembers(bench.keys.ended) == {b"double/0"}
    assert (await consumer.lengths([STREAM])) == {STREAM: 1}
    assert [entry.blob for entry in (await consumer.read({STREAM: "0-0"}, 1.0))[STREAM]] == [b"three"]
    assert await bench.client.xlen(bench.keys.dead_letters) == 1
    used = await bench.client.hgetall(bench.keys.stream_bytes(0))
    assert list(used.values()) == [b"5"]


async def check_refused(
    bench: Bench, store: RedisTaskStore, wanted: CommitRequest, error: type[Exception]
) -> Exception:
    before = await bench.dump()
    with pytest.raises(error) as caught:
        await store.commit(wanted)
    assert await bench.dump() == before, "a refused commit wrote something"
    return caught.value


async def test_another_job_is_refused(bench: Bench) -> None:
    other = replace(bench.job, uid="other")
    await check_refused(bench, bench.store("source", job=other), request("x"), JobChanged)
    edited = replace(bench.job, fingerprint="0" * 16)
    await check_refused(bench, bench.store("source", job=edited), request("x"), JobChanged)


async def test_a_repeated_commit_succeeds_without_effect(bench: Bench) -> None:
    store = bench.store("source")
    wanted = request((await store.load()).commit, outputs={STREAM: [b"once"]})
    assert await store.commit(wanted) == {STREAM: 1}
    before = await bench.dump()
    assert await store.commit(wanted) == {STREAM: 1}
    assert await bench.dump() == before


async def test_a_repeated_commit_succeeds_even_when_fenced_meanwhile(bench: Bench) -> None:
    """The duplicate check comes before the fence: the reply was lost, the commit was not."""
    store = bench.store("source")
    wanted = request((await store.load()).commit, outputs={STREAM: [b"once"]})
    await store.commit(wanted)
    await bench.client.hset(bench.keys.lease(0), "epoch", "2")
    assert await store.commit(wanted) == {STREAM: 1}


@pytest.mark.parametrize("lease", [Lease(0, 2, "token"), Lease(0, 1, "another"), Lease(0, 1, "")])
async def test_a_fenced_commit_is_refused(bench: Bench, lease: Lease) -> None:
    record = await bench.store("source").load()
    await check_refused(bench, bench.store("source", lease), request(record.commit, outputs={STREAM: [b"x"]}), Fenced)


async def test_the_fence_comes_before_continuity(bench: Bench) -> None:
    await check_refused(bench, bench.store("source", Lease(0, 9, "token")), request("stale"), Fenced)


async def test_a_stale_parent_is_refused(bench: Bench) -> None:
    await check_refused(bench, bench.store("source"), request("0" * 32, outputs={STREAM: [b"x"]}), StaleTask)


async def test_a_missing_record_is_a_loss(bench: Bench) -> None:
    record = await bench.store("source").load()
    await bench.client.delete(bench.keys.task(TaskId("source", 0)))
    await check_refused(bench, bench.store("source"), request(record.commit), LostTask)
    with pytest.raises(LostTask, match="record is missing"):
        await bench.store("source").load()


async def test_a_head_that_was_not_consumed_first_is_refused(bench: Bench) -> None:
    await bench.produce(b"one", b"two")
    consumer = bench.store("double")
    first, second = (await consumer.read({STREAM: "0-0"}, 1.0))[STREAM]
    record = await consumer.load()
    wrong = Consumed(STREAM, second.id, second.id, 1, 3)
    await check_refused(bench, consumer, request(record.commit, consumed=[wrong]), StaleTask)
    too_many = Consumed(STREAM, first.id, second.id, 3, 9)
    await check_refused(bench, consumer, request(record.commit, consumed=[too_many]), StaleTask)


async def test_a_batch_whose_end_a_rolled_back_server_lost_is_refused(bench: Bench) -> None:
    """Read e1 e2 e3; the server comes back with e1 only, the producer appends e2 e3 again under new ids: as many entries as
    were read, the same head, and yet not what was read."""
    await bench.produce(b"one", b"two", b"three")
    consumer = bench.store("double")
    entries = (await consumer.read({STREAM: "0-0"}, 1.0))[STREAM]
    stream = bench.keys.stream(plan().channels[0], 0)
    await bench.client.xdel(stream, entries[1].id, entries[2].id)
    await bench.produce(b"two", b"three")
    record = await consumer.load()
    consumed = Consumed(STREAM, entries[0].id, entries[2].id, 3, 11)
    wanted = request(record.commit, consumed=[consumed], state={"a": b"1"})
    await check_refused(bench, consumer, wanted, StaleTask)


async def test_room_keeps_one_commit_in_reserve(bench: Bench) -> None:
    """Capacity 8, two frames a commit: admission stops at 6, whatever the commit's own size."""
    await bench.produce(*[b"x"] * 7)
    record = await bench.store("source").load()
    full = await check_refused(
        bench, bench.store("source"), request(record.commit, outputs={STREAM: [b"x"]}), StreamsFull
    )
    assert isinstance(full, StreamsFull)
    assert full.streams == [STREAM]


async def test_room_is_also_counted_in_bytes(bench: Bench) -> None:
    """8,000 bytes, a commit may have 2,000: admission stops where less than that is left."""
    await bench.produce(*[b"x" * 1300] * 5)  # 6,500 bytes, and only five of eight entries
    record = await bench.store("source").load()
    await check_refused(bench, bench.store("source"), request(record.commit, outputs={STREAM: [b"x"]}), StreamsFull)


@pytest.mark.parametrize(
    ("own", "size", "fits"),
    [
        (ChannelOptions(capacity=4), 1, 3),
        (ChannelOptions(capacity=16), 1, 15),
        (ChannelOptions(bytes=4000), 700, 3),
        (ChannelOptions(bytes=16_000), 1300, 7),
        (ChannelOptions(capacity=16, bytes=16_000), 1300, 11),
    ],
    ids=str,
)
async def test_an_edges_own_capacity_is_the_one_that_counts(
    bench: Bench, own: ChannelOptions, size: int, fits: int
) -> None:
    """Of the settings' 8 frames and 8,000 bytes nothing is left; a commit's reserve of 2 frames and 2,000 bytes is."""
    store = RedisTaskStore(
        bench.client, bench.reader, bench.job, plan(own), TaskId("source", 0), bench.lease, LIMITS
    )  # fmt: skip
    commit = (await store.load()).commit
    for count in range(1, fits + 1):
        wanted = request(commit, outputs={STREAM: [b"x" * size]})
        assert await store.commit(wanted) == {STREAM: count}
        commit = wanted.id
    full = await check_refused(bench, store, request(commit, outputs={STREAM: [b"x" * size]}), StreamsFull)
    assert isinstance(full, StreamsFull)
    assert full.streams == [STREAM]


async def test_full_dead_letters_refuse_too(bench: Bench) -> None:
    store = bench.store("source")
    letters = [DeadLetter("source", "r", n) for n in range(4)]
    record = await store.load()
    full = await check_refused(bench, store, request(record.commit, dead_letters=letters), StreamsFull)
    assert isinstance(full, StreamsFull)
    assert full.streams == [None]
    await store.commit(request(record.commit, dead_letters=letters[:3]))
    assert await bench.client.xlen(bench.keys.dead_letters) == 3


async def test_a_key_of_a_wrong_type_is_met_before_the_first_write(bench: Bench) -> None:
    record = await bench.store("source").load()
    await bench.client.set(bench.keys.state(TaskId("source", 0)), "not a hash")
    wanted = request(record.commit, outputs={STREAM: [b"x"]}, state={"a": b"1"})
    await check_refused(bench, bench.store("source"), wanted, Exception)


async def test_a_thousand_state_fields_and_more(bench: Bench) -> None:
    store = bench.store("source")
    record = await store.load()
    state: dict[str, bytes | None] = {f"k{n}": b"v" for n in range(5000)}
    await store.commit(request(record.commit, id="one", state=state))
    assert len((await store.load()).state) == 5000
    await store.commit(request("one", state=dict.fromkeys(state)))
    assert (await store.load()).state == {}


async def test_damaged_state_stops_the_task(bench: Bench) -> None:
    store = bench.store("source")
    await store.commit(request((await store.load()).commit, state={"a": b"precious"}))
    key = bench.keys.state(TaskId("source", 0))
    blob = bytearray(await bench.client.hget(key, "a"))
    blob[-1] ^= 1
    await bench.client.hset(key, "a", bytes(blob))
    with pytest.raises(CorruptState, match="checksum does not match"):
        await store.load()


async def test_a_missing_entry_inside_the_batch_is_reported(bench: Bench) -> None:
    await bench.produce(b"one", b"two", b"three", b"four")
    consumer = bench.store("double")
    entries = (await consumer.read({STREAM: "0-0"}, 1.0))[STREAM]
    await bench.client.xdel(bench.keys.stream(plan().channels[0], 0), entries[1].id)
    record = await consumer.load()
    consumed = Consumed(STREAM, entries[0].id, entries[2].id, 3, 11)
    with pytest.raises(CorruptState, match="missing inside stream"):
        await consumer.commit(request(record.commit, consumed=[consumed]))


async def test_a_forgotten_script_is_loaded_again(bench: Bench) -> None:
    store = bench.store("source")
    await store.commit(request((await store.load()).commit, id="one"))
    await bench.client.script_flush()
    await store.commit(request("one", id="two"))
    assert (await store.load()).commit == "two"


async def test_ingest_stops_where_memory_is_full_and_internal_commits_do_not(bench: Bench) -> None:
    store = bench.store("source")
    record = await store.load()
    await bench.client.config_set("maxmemory", "1")
    try:
        with pytest.raises(StreamsFull):
            await store.commit(request(record.commit, outputs={STREAM: [b"new"]}, ingest=True))
        await store.commit(request(record.commit, id="one", outputs={STREAM: [b"internal"]}))
        assert (await store.load()).commit == "one", "a new owner must be able to load, or nothing drains"
    finally:
        await bench.client.config_set("maxmemory", "0")
    assert (await store.lengths([STREAM])) == {STREAM: 1}


async def test_one_job_per_name(bench: Bench) -> None:
    again = await publish(bench.client, "commit", plan())
    assert again.ref == bench.job
    assert await bench.client.exists(job_key("commit"))
