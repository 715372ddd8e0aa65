"""What a coordinator that leads at once makes of what its predecessor has said; on a real server."""

from __future__ import annotations

import asyncio

from mdp_coordinator.service import Coordinator
from tools.memory_job import CommittedRows, ListSource

from market_data_pipeline import Dag, Node
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.settings import load_settings, server_address
from market_data_pipeline.store.client import connect
from market_data_pipeline.store.control import Control, publish
from market_data_pipeline.store.embedded import EmbeddedServer
from market_data_pipeline.store.rates import published, rates_in


async def said_after(control: Control, text: str) -> str:
    """The rates in the job's record, once they are another text than ``text``."""
    async with asyncio.timeout(30):
        while (said := (await control.now()).rates) == text:
            pass
    return said


async def test_who_leads_without_having_stood_by_goes_on_with_the_rates_of_the_last_leader() -> None:
    """A lone coordinator that is restarted: its predecessor resigned, so nothing was followed before the first look."""
    dag = Dag("job")
    dag.add_node(Node("source", ListSource([])))
    dag.add_node(Node("sink", CommittedRows()))
    dag.add_edge("source", "sink", key="symbol")
    plan, rates = compile_dag(dag, 1), {"source": 100.0}
    with EmbeddedServer() as server:
        async with connect(server.url) as client:
            control = Control(client, await publish(client, "job", plan))
            term, text = await control.lead("predecessor", 60_000), published(7, rates)
            assert await control.set_rates(term, "predecessor", text)
            await control.resign(term, "predecessor")
            settings = load_settings(redis_url=server.url, allow_volatile=True, http_port=0)
            successor = Coordinator(plan, "job", settings, server_address(settings))
            running = asyncio.create_task(successor.run())
            said = await said_after(control, text)
            successor.leave()
            await running
    assert rates_in(said) == rates
