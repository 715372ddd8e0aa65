"""A venue is asked at the pace of one budget, by all who name it; and the circuits of feeds show where they stand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from market_data_pipeline.budget import Budget, BudgetRule, in_process
from market_data_pipeline.circuit import CircuitRule
from market_data_pipeline.dag.pipeline import Pipeline
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.gauges import GaugeName
from market_data_pipeline.runtime.local import DagRuntime
from market_data_pipeline.sinks.collect import Collect
from market_data_pipeline.sources.base import Batch, Source, SourceContext
from market_data_pipeline.sources.provider import VenueLimits
from market_data_pipeline.sources.provider_source import ProviderSource
from market_data_pipeline.sources.venue_budget import budget_name
from tests.tools.fake_clock import FakeClock
from tests.tools.feed_reading import PATIENT, QUICK
from tests.tools.line_feed import LineFeed, LineProvider
from tests.tools.memory_job import until


@dataclass
class Named(LineProvider):
    budget: object = None


class Tickets:
    """Budgets whose requests are let through one by one, by the test."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, BudgetRule]] = []
        self.waited = 0
        self._free = asyncio.Semaphore(0)

    def of(self, name: str, rule: BudgetRule) -> Budget:
        self.asked.append((name, rule))
        return self

    async def acquire(self, requests: int = 1) -> None:
        self.waited += 1
        await self._free.acquire()

    def allow(self, requests: int) -> None:
        for _ in range(requests):
            self._free.release()


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("kraken", None, "kraken"),
        ("Interactive Brokers/2", None, "interactive-brokers-2"),
        ("", None, "-"),
        ("é" * 50, None, "-" * 40),
        ("kraken", "one-account", "one-account"),
    ],
)
def test_the_name_of_a_venues_budget(name: str, given: str | None, wanted: str) -> None:
    assert budget_name(Named(1, name, budget=given)) == wanted


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("A b", r"line: budget: 'A b' is not allowed; it must match \[a-z0-9-\]{1,40}"),
        (7, "line: budget: 7 is not the"),
    ],
)
def test_a_budget_that_is_no_name(given: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ProviderSource(Named(1, budget=given), ["A"])


@pytest.mark.parametrize("rate", [0.0, float("inf"), float("nan")])
def test_a_rate_that_is_none(rate: float) -> None:
    with pytest.raises(ConfigError, match="must be greater than 0 and finite"):
        ProviderSource(LineProvider(1, limits=VenueLimits(rate)), ["A"])


async def test_every_connect_and_subscribe_call_of_all_partitions_asks_the_one_budget() -> None:
    symbols = [f"S{number}" for number in range(16)]
    tickets, limits = Tickets(), VenueLimits(10.0, symbols_per_call=1)
    async with LineFeed() as feed, AsyncExitStack() as stack:
        template = ProviderSource(Named(feed.port, "Venue", limits), symbols, reconnect=QUICK, circuit=PATIENT)
        for partition in range(4):
            source = template.fresh()
            await source.open(SourceContext("feed", partition, 4, budget=tickets.of), None)
            stack.push_async_callback(source.close)
        calls: Callable[[], int] = lambda: feed.made + len(feed.calls)  # noqa: E731
        for total in (1, 2, 7, 20):
            tickets.allow(total - calls())
            await feed.until(lambda total=total: calls() == total)
            for _ in range(100):
                await asyncio.sleep(0)
            assert calls() == total, "of four connections and sixteen subscriptions; with no ticket nothing is asked"
        await feed.cut(0)
        tickets.allow(1)
        await feed.until(lambda: feed.made == 5)
    assert set(tickets.asked) == {("venue", BudgetRule(10.0))}


async def test_who_waits_for_the_budget_is_not_given_up_for_being_quiet() -> None:
    """It would connect again and again, with the very requests that others wait for."""
    tickets, clock = Tickets(), FakeClock()
    async with LineFeed() as feed:
        template = ProviderSource(LineProvider(feed.port), ["A"], reconnect=QUICK, circuit=PATIENT, give_up_after="30s")
        source = template.fresh()
        await source.open(SourceContext("feed", clock=clock, budget=tickets.of), None)
        try:
            tickets.allow(1)
            await feed.until(lambda: feed.made == 1)
            begun = clock.elapsed
            await until(lambda: clock.elapsed >= begun + 300)
            assert tickets.waited == 2, "for the connection, and for the subscription"
            tickets.allow(3)
            await feed.subscribed("A")
            await feed.until(lambda: feed.made == 2)
        finally:
            await source.close()


async def test_the_circuit_of_a_feed_shows_where_it_stands() -> None:
    seen: list[tuple[str, str, float]] = []

    def gauge(name: GaugeName, of: str, value: float) -> None:
        if not seen or seen[-1] != (name, of, value):
            seen.append((name, of, value))

    async with LineFeed() as feed:
        feed.unwelcome = 3
        rule = CircuitRule(min_calls=3, open_for="50ms")
        source = ProviderSource(LineProvider(feed.port), ["A"], reconnect=QUICK, circuit=rule).fresh()
        await source.open(SourceContext("feed", partition=1, partitions=2, gauge=gauge), None)
        await source.close()
        source = source.fresh()
        await source.open(SourceContext("feed", gauge=gauge), None)
        await feed.subscribed("A")
        await source.close()
    assert {(name, of) for name, of, _ in seen} == {("circuit_state", "line")}
    assert [value for *_, value in seen] == [0.0, 2.0, 1.0], (
        "half open until the connection has been a good one for a while"
    )


async def test_what_runs_in_one_process_shares_the_budgets_of_the_process() -> None:
    given: list[Callable[[str, BudgetRule], Budget] | None] = []

    class Asks(Source):
        async def open(self, ctx: SourceContext, position: object) -> None:
            given.append(ctx.budget)

        async def read(self) -> Batch | None:
            return None

    for _ in range(2):
        await DagRuntime(Pipeline("asks").source(Asks()).sink(Collect())).start()
    assert given == [in_process().of] * 2
