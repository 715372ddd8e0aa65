"""A worker whose own answer to an error goes wrong: the job fails, and no task is left standing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from mdp_worker.pins import Pins
from mdp_worker.service import Worker
from pydantic import SecretStr
from tools.memory_job import ListSource

from market_data_pipeline import Dag, Discard, Frame, Node, Retries
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import JobFailed, SinkError
from market_data_pipeline.settings import Settings
from market_data_pipeline.store.client import connect
from market_data_pipeline.store.control import Control, Heartbeat, Transition, publish
from market_data_pipeline.store.embedded import EmbeddedServer
from market_data_pipeline.store.url import parse_address


@dataclass(frozen=True)
class Broken(Retries):
    def delay(self, failures: int) -> float | None:
        raise AttributeError("no such delay")


class Away(Discard):
    async def write(self, frames: Sequence[Frame]) -> None:
        raise SinkError("away")


async def test_an_error_in_the_retries_fails_the_job() -> None:
    dag = Dag("standing")
    dag.add_node(Node("source", ListSource([{"symbol": "A"}])))
    dag.add_node(Node("out", Away(), retries=Broken()))
    dag.add_edge("source", "out")
    with EmbeddedServer() as server:
        client = connect(server.url)
        try:
            job = await publish(client, "standing", compile_dag(dag, 1))
            control = Control(client, job)
            term = await control.lead("me", 600_000)
            settings = Settings(redis_url=SecretStr(server.url), allow_volatile=True, http_port=0)
            worker = Worker(dag, "standing", settings, parse_address(server.url), Heartbeat("w", "token"), Pins())
            running = asyncio.create_task(worker.run())
            assert await control.assign(term, "me", [Transition(0, "w", "token")])
            async with asyncio.timeout(20):
                with pytest.raises(JobFailed, match=r"task source/0: AttributeError: no such delay"):
                    await running
            now = await control.now()
            assert (now.state, "no such delay" in now.error) == ("failed", True)
        finally:
            await client.aclose()
