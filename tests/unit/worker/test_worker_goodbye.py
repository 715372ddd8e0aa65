"""A worker that leaves is gone at once: nobody is given its partitions' work, or told that it is still there, meanwhile."""

from __future__ import annotations

import asyncio
import threading

import pytest
from mdp_worker.pins import Pins
from mdp_worker.service import Worker
from pydantic import SecretStr

from market_data_pipeline import Discard, Pipeline, Synthetic
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.settings import Settings
from market_data_pipeline.store.client import connect
from market_data_pipeline.store.control import Control, Heartbeat, publish
from market_data_pipeline.store.embedded import EmbeddedServer
from market_data_pipeline.store.url import parse_address


async def test_nothing_of_it_beats_any_more_when_it_says_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, list[str]]] = []
    leave = Control.leave

    async def heard(control: Control, worker: str, token: str) -> None:
        said.append((worker, [thread.name for thread in threading.enumerate() if thread.name == "heartbeat"]))
        await leave(control, worker, token)

    monkeypatch.setattr(Control, "leave", heard)
    dag = Pipeline("goodbye").source(Synthetic(symbols=1, items=1)).sink(Discard()).build()
    with EmbeddedServer() as server:
        settings = Settings(redis_url=SecretStr(server.url), allow_volatile=True, http_port=0)
        client = connect(server.url)
        try:
            control = Control(client, await publish(client, "goodbye", compile_dag(dag, 1)))
            worker = Worker(dag, "goodbye", settings, parse_address(server.url), Heartbeat("w", "token"), Pins())
            running = asyncio.create_task(worker.run())
            async with asyncio.timeout(60):
                while not await control.workers():
                    await control.wait_for_wake(1)
                worker.leave()
                await running
            assert said == [("w", [])]
            assert await control.workers() == {}
        finally:
            await client.aclose()
