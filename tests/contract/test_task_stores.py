"""One suite for every task store: the pure-Python model and the real script on a real server, side by side.

Seeded schedules of good and bad commits are played on both; every outcome, length, record and entry must be the same.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any, Protocol

import pytest
from tools.memory_store import MemoryServer

from market_data_pipeline import Collect, Dag, Node, Synthetic
from market_data_pipeline.dag.plan import Plan, TaskId
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import CommitRefused
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.operators.stateless import Map
from market_data_pipeline.runtime.contract import (
    CommitRequest,
    Consumed,
    Entry,
    Limits,
    StreamsFull,
    TaskStore,
    new_commit_id,
)
from market_data_pipeline.store.client import Client, connect
from market_data_pipeline.store.commit import Lease, RedisTaskStore
from market_data_pipeline.store.control import Control, JobInfo, Transition, publish
from market_data_pipeline.store.embedded import EmbeddedServer
from market_data_pipeline.store.reader import StreamReader

LIMITS = Limits(commit_frames=3, frame_bytes=100, channel_capacity=9, channel_bytes=700, dead_letter_capacity=4)
STREAM = ("source.double", 0)
PRODUCER, CONSUMER = TaskId("source", 0), TaskId("double", 0)


def plan() -> Plan:
    dag = Dag("schedules")
    dag.add_node(Node("source", Synthetic()))
    dag.add_node(Node("double", Map(str)))
    dag.add_node(Node("sink", Collect()))
    dag.add_edge("source", "double", key="symbol")
    dag.add_edge("double", "sink")
    return compile_dag(dag, 1)


class World(Protocol):
    """A store under test: it hands out task stores under the newest lease, and can change the owner."""

    async def take_over(self) -> None: ...

    def store(self, task: TaskId) -> TaskStore: ...


class MemoryWorld:
    def __init__(self) -> None:
        self.server = MemoryServer(plan(), LIMITS)
        self.server.lease(0)

    async def take_over(self) -> None:
        self.server.lease(0)

    def store(self, task: TaskId) -> TaskStore:
        return self.server.store(task, self.server.leases[0])


class RedisWorld:
    def __init__(self, client: Client, reader: StreamReader, job: JobInfo) -> None:
        self._client, self._reader, self._job = client, reader, job
        self._control = Control(client, job)
        self._owner = 0

    async def take_over(self) -> None:
        self._owner += 1
        term = await self._control.lead("leader", 60_000)
        assert await self._control.assign(term, "leader", [Transition(0, "w", f"token-{self._owner}")])

    def store(self, task: TaskId) -> TaskStore:
        lease = Lease(0, self._owner, f"token-{self._owner}")
        return RedisTaskStore(self._client, self._reader, self._job.ref, plan(), task, lease, LIMITS)


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as running:
        yield running


@pytest.fixture
async def client(server: EmbeddedServer) -> AsyncIterator[Client]:
    connection = connect(server.url)
    yield connection
    await connection.aclose()


class Player:
    """Plays one schedule on one world; ``log`` is what must be the same everywhere."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.rng = random.Random(seed)
        self.stores = {task: world.store(task) for task in (PRODUCER, CONSUMER)}
        self.last: dict[TaskId, CommitRequest] = {}
        self.log: list[Any] = []

    async def play(self, steps: int) -> list[Any]:
        for _ in range(steps):
            action = self.rng.choices(
                [self.produce, self.consume, self.repeat, self.take_over, self.renew], [10, 8, 3, 1, 2]
            )[0]
            await action()
        for task in (PRODUCER, CONSUMER):
            record = await self.world.store(task).load()
            self.log.append((str(task), record.meta, record.ended, sorted(record.state.items())))
        self.log.append([entry.blob for entry in await self.entries()])
        return self.log

    async def take_over(self) -> None:
        """Another owner; the stores in hand are a zombie's from now on."""
        await self.world.take_over()

    async def renew(self) -> None:
        """The new owner begins."""
        self.stores = {task: self.world.store(task) for task in (PRODUCER, CONSUMER)}

    async def entries(self) -> list[Entry]:
        found: list[Entry] = []
        store = self.world.store(CONSUMER)
        length = (await store.lengths([STREAM]))[STREAM]
        while len(found) < length:
            found += (await store.read({STREAM: found[-1].id if found else "0-0"}, 5.0))[STREAM]
        return found

    async def parent(self, task: TaskId) -> str:
        """The right one, or now and then a wrong one."""
        return "0" * 32 if self.rng.random() < 0.1 else (await self.world.store(task).load()).commit

    def fields(self) -> dict[str, Any]:
        keys = [f"k{self.rng.randint(0, 3)}" for _ in range(self.rng.randint(0, 3))]
        letters = [DeadLetter("n", "r", i) for i in range(self.rng.choice([0, 0, 0, 0, 1]))]
        return {
            "meta": self.rng.randbytes(3),
            "state": {key: self.rng.choice([None, self.rng.randbytes(2)]) for key in keys},
            "dead_letters": letters,
            "ended": self.rng.random() < 0.05,
        }

    async def produce(self) -> None:
        frames = [self.rng.randbytes(self.rng.choice([1, 50, 100])) for _ in range(self.rng.randint(0, 3))]
        outputs = {STREAM: frames} if frames else {}
        parent = await self.parent(PRODUCER)
        await self.commit(PRODUCER, CommitRequest(parent, new_commit_id(), outputs=outputs, **self.fields()))

    async def consume(self) -> None:
        """A prefix, or now and then not quite one."""
        entries = await self.entries()
        cut, bad = self.rng.randint(0, 4), self.rng.random()
        taken = entries[:cut] if bad > 0.15 else entries[1 : cut + 1]
        consumed = []
        if taken:
            size = sum(len(entry.blob) for entry in taken)
            consumed = [Consumed(STREAM, taken[0].id, taken[-1].id, len(taken), size)]
            if 0.15 < bad < 0.25:
                consumed = [consumed[0]._replace(last="99999999999999-0")]
            if 0.25 < bad < 0.4 and cut < len(entries):  # the one behind was used in part, and stays
                consumed = [consumed[0]._replace(last=entries[cut].id, partial=True)]
        parent = await self.parent(CONSUMER)
        await self.commit(CONSUMER, CommitRequest(parent, new_commit_id(), consumed=consumed, **self.fields()))

    async def repeat(self) -> None:
        """The reply was lost: the same request once more."""
        task = self.rng.choice([PRODUCER, CONSUMER])
        if task in self.last:
            await self.commit(task, replace(self.last[task]))

    async def commit(self, task: TaskId, request: CommitRequest) -> None:
        try:
            lengths = await self.stores[task].commit(request)
        except (CommitRefused, StreamsFull) as error:
            self.log.append((str(task), type(error).__name__, getattr(error, "streams", None)))
            return
        self.last[task] = request
        self.log.append((str(task), "done", lengths, await self.stores[task].lengths([STREAM])))


@pytest.mark.parametrize("seed", range(60))
async def test_the_script_does_what_the_model_does(client: Client, seed: int) -> None:
    await client.flushall()
    job = await publish(client, "schedules", plan())
    async with StreamReader(client) as reader:
        real = RedisWorld(client, reader, job)
        await real.take_over()
        actual = await Player(real, seed).play(40)
    expected = await Player(MemoryWorld(), seed).play(40)
    assert actual == expected


async def test_the_schedules_reach_every_outcome() -> None:
    """On the model alone, for it is the same: or the suite above could pass by testing nothing."""
    seen: set[str] = set()
    for seed in range(60):
        log = await Player(MemoryWorld(), seed).play(40)
        seen |= {entry[1] for entry in log if isinstance(entry, tuple) and isinstance(entry[1], str)}
    assert seen >= {"done", "Fenced", "StaleTask", "StreamsFull"}
