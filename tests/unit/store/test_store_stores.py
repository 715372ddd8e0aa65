"""How stores are, from a worker's heartbeat and the leader's word to the status, and what sources then obey."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import fakeredis
import pytest
from mdp_worker.pins import Pins
from mdp_worker.service import Worker
from pydantic import SecretStr
from tools.fake_clock import FakeClock

from market_data_pipeline import Dag, Discard, Node, Pipeline, Source, SourceContext, Synthetic
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.feedback import StoreReading
from market_data_pipeline.settings import Settings
from market_data_pipeline.sources.base import Batch
from market_data_pipeline.store.client import Client, address_of
from market_data_pipeline.store.control import Control, Heartbeat, JobInfo, Transition, publish
from market_data_pipeline.store.embedded import EmbeddedServer
from market_data_pipeline.store.heartbeat import HeartbeatThread
from market_data_pipeline.store.keys import job_key
from market_data_pipeline.store.rates import presses_in, published, rates_in, stores_in
from market_data_pipeline.store.status import read_status
from market_data_pipeline.store.stores import MOST, HeardStores, StoreWord

FULL, HALF, EMPTY = StoreReading(90, 80, 20, 0.5), StoreReading(50, 80, 20), StoreReading(0, 80, 20)


def test_a_heartbeat_says_how_stores_are_and_nothing_where_nobody_said() -> None:
    silent = Heartbeat("w", "token")
    assert "stores" not in json.loads(silent.to_json())
    speaking = Heartbeat("w", "token", stores=StoreWord.of(7, {"db": FULL, "log": EMPTY}))
    assert Heartbeat.from_json(speaking.to_json()) == speaking


def test_a_heartbeat_stays_small_and_keeps_what_matters() -> None:
    readings = {f"n{n}": StoreReading(n, 1000, 1) for n in range(500)}
    word = StoreWord.of(1, readings)
    assert set(word.readings) == {f"n{n}" for n in range(500 - MOST, 500)}
    assert len(Heartbeat("w", "t", stores=word).to_json()) < 2000


@pytest.mark.parametrize(
    ("said", "readings"),
    [
        ([3, {"db": [90, 80, 20, 0.5, "of a later version"]}], {"db": FULL}),
        ([3, {"db": [90, 80], "log": [0, 80, 20]}], {"log": EMPTY}),
        ([3, {"db": "full", "log": [0, 20, 80], "other": None}], {}),
        ([3, {"db": [10**400, 80, 20], "log": {}}], {}), ([math.inf, {"db": [90, 80, 20, 0.5]}], {}),
        ({"db": [0, 80, 20]}, {}), ("x", {}), (None, {}), ([3, 5, 7], {}),
    ],
)  # fmt: skip
def test_what_another_version_says_is_read_as_far_as_it_is_known(said: Any, readings: dict[str, StoreReading]) -> None:
    document = {**json.loads(Heartbeat("w", "token").to_json()), "stores": said}
    assert Heartbeat.from_json(json.dumps(document)).stores.readings == readings


def test_a_word_that_is_not_said_anew_for_five_seconds_is_nothing() -> None:
    heard = HeardStores()
    words = {"a": StoreWord(1, {"db": FULL}), "b": StoreWord(1, {"db": EMPTY})}
    assert heard.hear(words, 0.0) == {"db": FULL}
    assert heard.hear(words, 5.0) == {"db": FULL}
    words["b"] = StoreWord(2, {"db": HALF})
    assert heard.hear(words, 5.1) == {"db": HALF}, "the one whose loop stands still says nothing"
    words["a"] = StoreWord(2, {"db": FULL})
    assert heard.hear(words, 6.0) == {"db": FULL}
    del words["a"]
    assert heard.hear(words, 6.1) == {"db": HALF}


def test_the_record_says_rates_as_ever_and_more_to_who_knows() -> None:
    text = published(4, {"source": 10.0}, {"source": ["db"]}, {"db": FULL})
    assert rates_in(text) == {"source": 10.0}
    assert presses_in(text) == {"source": ["db"]}
    assert stores_in(text) == {"db": FULL}
    assert published(4, {}, {}, {}) == ""
    assert rates_in(published(4, {}, {}, {"db": EMPTY})) == {}
    as_before = published(4, {"source": 10.0})
    assert json.loads(as_before) == {"number": 4, "rates": {"source": 10.0}}
    for damaged in ("", "x", "[]", '{"presses": 3, "stores": 3}', '{"presses": {"a": 3}, "stores": {"db": [1]}}'):
        assert (presses_in(damaged), stores_in(damaged)) == ({}, {})


async def test_the_status_is_the_worst_of_workers_and_leader() -> None:
    plan = compile_dag(Pipeline("queues").source(Synthetic()).sink(Discard(), name="db").build(), 1)
    fake: Any = fakeredis.FakeAsyncRedis()
    job = JobInfo("queues", "uid", plan.fingerprint, 1, plan.to_json(), "running", "", 0)
    said = published(1, {"source": 5.0}, {"source": ["db"]}, {"db": FULL, "far": EMPTY})
    await fake.hset(job_key("queues"), mapping={"uid": "uid", "state": "running", "version": 3, "rates": said})
    await fake.sadd(job.keys.workers, "w")
    beat = Heartbeat("w", "token", stores=StoreWord(1, {"db": HALF}))
    await fake.set(job.keys.worker("w"), beat.to_json())
    without_leader = await read_status(fake, Control(fake, job), job, plan, 64)
    assert (without_leader.stores, without_leader.presses) == ({"db": HALF}, {})
    await fake.set(job.keys.leader, "1:token")
    status = await read_status(fake, Control(fake, job), job, plan, 64)
    document = json.loads(json.dumps(status.to_dict()))
    assert document["stores"]["db"] == {"queue_depth": 90, "high": 80, "low": 20, "write_seconds": 0.5}
    assert document["stores"]["far"]["queue_depth"] == 0
    assert document["presses"] == {"source": ["db"]}
    assert "words" not in document
    await fake.aclose()


async def test_a_worker_with_a_long_lease_still_says_within_a_second_how_its_stores_are(
    server: EmbeddedServer, client: Client
) -> None:
    plan = compile_dag(Pipeline("beats").source(Synthetic()).sink(Discard()).build(), 1)
    job = await publish(client, "beats", plan)
    heart = HeartbeatThread(server.url, job, Heartbeat("w", "one"), 60_000, FakeClock())
    assert heart.pause == 20.0
    heart.stores = StoreWord(1, {"db": FULL})
    assert heart.pause == 1.0
    heart.beat()
    assert (await Control(client, job).workers())["w"].stores == StoreWord(1, {"db": FULL})
    heart.start()
    heart.stop()


class Endless(Source):
    """Ten rows a time; ``turned`` is set at each read."""

    splittable = False

    def __init__(self) -> None:
        self.reads, self.turned = 0, asyncio.Event()

    def fresh(self) -> Endless:
        return self

    def config(self) -> dict[str, Any]:
        return {}

    async def open(self, ctx: SourceContext, position: Any | None) -> None:
        pass

    async def read(self) -> Batch | None:
        await asyncio.sleep(0)
        self.reads += 1
        self.turned.set()
        return Batch([{"symbol": "A"}] * 10, self.reads)


async def looks(client: Client, record: str) -> AsyncIterator[None]:
    """Each time a worker looks into the job's record: every 50 ms."""
    async with client.monitor() as monitor:
        yield
        async for command in monitor.listen():
            if command["command"].startswith(f"HMGET {record} version uid"):
                yield


async def test_a_source_obeys_at_the_workers_next_look(server: EmbeddedServer, client: Client) -> None:
    """A look is each 50 ms: far within a second."""
    source = Endless()
    dag = Dag("obeying")
    dag.add_node(Node("source", source))
    dag.add_node(Node("sink", Discard()))
    dag.add_edge("source", "sink")
    job = await publish(client, "obeying", compile_dag(dag, 1))
    control = Control(client, job)
    term = await control.lead("me", 600_000)
    settings = Settings(redis_url=SecretStr(server.url), allow_volatile=True, http_port=0)
    beat = Heartbeat("w", "token")
    worker = Worker(dag, "obeying", settings, address_of(server.url), beat, Pins())
    running = asyncio.create_task(worker.run())
    try:
        assert await control.assign(term, "me", [Transition(0, "w", "token")])
        await source.turned.wait()
        look = looks(client, job.keys.record)
        await anext(look)
        assert await control.set_rates(term, "me", published(1, {"source": 0.001}))
        await anext(look)  # may have been under way
        await anext(look)
        await anext(look)  # what was seen by the one before is obeyed
        before = source.reads
        for _ in range(5):
            await anext(look)
        assert source.reads <= before + 1, "the batch that was being read"
        source.turned.clear()
        assert await control.set_rates(term, "me", "")
        await source.turned.wait()
        await look.aclose()
    finally:
        worker.leave()
        await running
