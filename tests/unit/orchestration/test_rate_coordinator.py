"""The rate of a user's own code: the same budget by server, by worker, by process; in closures, copies and pickles."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from market_data_pipeline import AsyncMap, RateCoordinator
from market_data_pipeline.budget import HOST, BudgetRule, MemoryBudgets
from market_data_pipeline.component import describe
from market_data_pipeline.errors import ConfigError, StoreUnavailable
from market_data_pipeline.settings import Settings, load_settings
from market_data_pipeline.store.budget import ServerBudgets
from market_data_pipeline.store.client import connect, connect_blocking
from market_data_pipeline.store.embedded import EmbeddedServer
from market_data_pipeline.store.keys import budget_key

SLOW = 0.001
"""Of a budget of this rate the second request is not answered while a test runs."""


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as running:
        yield running


@pytest.fixture
def settings(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("MDP_REDIS_URL", raising=False)
    with connect_blocking(server.url) as client:
        client.flushall()
    return load_settings(redis_url=server.url)


async def waits(rate: RateCoordinator, n: int = 1) -> bool:
    """Whether the next request has to wait; it is given up then."""
    asked = asyncio.create_task(rate.acquire(n))
    await asyncio.wait({asked}, timeout=0.1)
    asked.cancel()
    return isinstance((await asyncio.gather(asked, return_exceptions=True))[0], asyncio.CancelledError)


async def test_all_who_name_it_at_a_server_share_it(settings: Settings, server: EmbeddedServer) -> None:
    async with RateCoordinator("x", SLOW, 3, settings) as one, RateCoordinator("x", SLOW, 3, settings) as other:
        await one.acquire(2)
        await other.acquire()
        assert await waits(one)
        async with RateCoordinator("y", SLOW, 3, settings) as another:
            await another.acquire(3)
    with connect_blocking(server.url) as client:
        assert sorted(client.keys("*")) == [budget_key("x").encode(), budget_key("y").encode()]


async def test_the_environment_names_the_server(
    settings: Settings, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MDP_REDIS_URL", server.url)
    async with RateCoordinator("x", SLOW) as rate:
        await rate.acquire()
    with connect_blocking(server.url) as client:
        assert client.exists(budget_key("x")) == 1


async def test_in_a_worker_it_is_the_workers_server(settings: Settings, server: EmbeddedServer) -> None:
    client = connect(server.url)
    budgets = ServerBudgets(client, server.url)
    token = HOST.set(budgets)
    try:
        await asyncio.create_task(RateCoordinator("x", SLOW).acquire())
        async with RateCoordinator("x", SLOW, settings=settings) as given:
            assert await waits(given), "it is the same budget"
        assert await client.exists(budget_key("x")) == 1
    finally:
        HOST.reset(token)
        await client.aclose()


async def test_without_a_server_the_process_keeps_to_it_and_says_so_once(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    rate = RateCoordinator("alone", SLOW, 2)
    with caplog.at_level(logging.WARNING):
        await rate.acquire()
        await rate.close()
        await rate.acquire()
        assert await waits(RateCoordinator("alone", SLOW, 2)), "another of this name in this process shares it"
    said = [record.getMessage() for record in caplog.records]
    text = "rate 'alone': no server is named (MDP_REDIS_URL), this process keeps to it by itself"
    assert said == [text, text], "once each"


def test_one_object_may_serve_one_event_loop_after_another(settings: Settings) -> None:
    rate = RateCoordinator("x", SLOW, 2, settings)

    async def use() -> bool:
        waited = await waits(rate)
        await rate.close()
        return waited

    assert [asyncio.run(use()) for _ in range(3)] == [False, False, True]


def test_copies_are_the_same_one_and_a_pickle_finds_its_server_anew(settings: Settings) -> None:
    rate = RateCoordinator("x", 5.0, 2, settings)
    assert copy.deepcopy({"rate": rate})["rate"] is rate
    assert copy.copy(rate) is rate
    found = pickle.loads(pickle.dumps(rate))
    assert (found.name, found.per_second, found.burst) == ("x", 5.0, 2)
    assert found._settings == settings


def test_two_processes_describe_it_alike_and_no_address_with_it(settings: Settings) -> None:
    def operator(rate: RateCoordinator) -> AsyncMap:
        async def ask(item: object) -> object:
            await rate.acquire()
            return item

        return AsyncMap(ask)

    bare, with_settings = RateCoordinator("x", 5.0), RateCoordinator("x", 5.0, settings=settings)
    assert describe(operator(bare)) == describe(operator(with_settings))
    assert describe(bare) == {
        "type": "market_data_pipeline.orchestration.rate_coordinator.RateCoordinator",
        "name": "x", "per_second": 5.0, "burst": 1,
    }  # fmt: skip
    assert describe(operator(RateCoordinator("x", 6.0))) != describe(operator(bare))
    assert str(settings.redis_url.get_secret_value() if settings.redis_url else "") not in repr(with_settings)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("A", 1.0), "name: 'A' is not allowed"),
        (("a", 0.0), "per_second: 0.0 is not above 0"),
        (("a", 1.0, 0), "burst: 0 must be at least 1"),
    ],
)
def test_what_it_cannot_be_made_with(arguments: tuple[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RateCoordinator(*arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((b"v", 5), "name: b'v' is no text"),
        (("v", "5"), "per_second: '5' is no number"),
        (("v", 5, 1.5), "burst: 1.5 is no whole number"),
        (("v", 5, 1, "redis://:pw@x"), "settings: a str is no Settings; make them with load_settings(redis_url=...)"),
    ],
)
def test_wrong_types_are_told_at_once_and_no_address_with_them(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RateCoordinator(*arguments)
    assert str(caught.value) == said


async def test_a_server_that_refuses_is_told(settings: Settings, server: EmbeddedServer) -> None:
    with connect_blocking(server.url) as client:
        client.set(budget_key("x"), "no budget")
    async with RateCoordinator("x", 1.0, settings=settings) as rate:
        with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
            await rate.acquire()


async def test_a_worker_s_memory_budgets_will_do_too() -> None:
    token = HOST.set(budgets := MemoryBudgets())
    try:
        await RateCoordinator("x", SLOW).acquire()
        assert await budgets.ask("x", BudgetRule(SLOW), 1, 0) < 0
    finally:
        HOST.reset(token)


def test_the_example_of_the_docs() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "connectors.md").read_text()
    block = (
        text[text.index("tests/unit/orchestration/test_rate_coordinator.py") :].split("```python\n")[1].split("```")[0]
    )
    made: dict[str, Any] = {}
    exec(block, made)
    assert isinstance(made["operator"], AsyncMap)
    assert (made["venue"].name, made["venue"].per_second, made["venue"].burst) == ("kraken", 15, 5)


async def test_code_in_a_thread_with_a_loop_of_its_own_shares_the_workers_budget(
    settings: Settings, server: EmbeddedServer
) -> None:
    """A client's connections are of one event loop; the worker's go on as they were."""
    rate, client = RateCoordinator("x", SLOW, 4), connect(server.url)
    kept = HOST.set(ServerBudgets(client, server.url))

    async def twice() -> None:
        async with rate:
            await rate.acquire()
            await rate.acquire()

    try:
        await rate.acquire()
        await asyncio.to_thread(asyncio.run, twice())
        await rate.acquire()
        assert await waits(rate), "four in all"
    finally:
        HOST.reset(kept)
        await client.aclose()
