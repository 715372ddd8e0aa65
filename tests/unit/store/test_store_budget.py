"""Budgets on a real server: the script does what the class does, by the server's clock, whoever dies and whatever is lost."""

from __future__ import annotations

import asyncio
import time

import pytest
import redis.exceptions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market_data_pipeline.budget import LONGEST, Bucket, BudgetRule
from market_data_pipeline.errors import ConfigError, StoreUnavailable
from market_data_pipeline.store.budget import ServerBudgets
from market_data_pipeline.store.client import Client, Script, connect, connect_blocking
from market_data_pipeline.store.embedded import EmbeddedServer
from market_data_pipeline.store.keys import budget_key

SECOND = 1_000_000
KEY = budget_key("venue")
CLOCK, EXPIRY = "redis.call('TIME')", "redis.call('PEXPIRE', KEYS[1],"
"""What the test takes away from the script: its clock, and that what is full goes away by the real one."""

step = st.tuples(
    st.integers(-3 * SECOND, 3 * SECOND),  # the clock goes on, or back
    st.sampled_from([BudgetRule(10), BudgetRule(0.4), BudgetRule(1000, burst=7), BudgetRule(3, burst=2)]),
    st.integers(1, 9),
    st.sampled_from([0, LONGEST // 2, LONGEST]),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(step, min_size=1, max_size=40))
def test_the_script_decides_as_the_class_does(
    server: EmbeddedServer, steps: list[tuple[int, BudgetRule, int, int]]
) -> None:
    text = Script("budget").text
    assert (text.count(CLOCK), text.count(EXPIRY)) == (1, 1)
    text = text.replace(CLOCK, "{ARGV[5], ARGV[6]}").replace(EXPIRY, "redis.call('ECHO',")
    bucket, now = Bucket(), 1_767_364_200 * SECOND
    with connect_blocking(server.url) as client:
        client.delete(KEY)
        for pause, rule, requests, longest in steps:
            now += pause
            args = [rule.interval, rule.burst, min(requests, rule.burst), longest, *divmod(now, SECOND)]
            found = client.eval(text, 1, KEY, *args)
            assert found == bucket.ask(now, rule, min(requests, rule.burst), longest)


async def ask(client: Client, per_second: float, burst: int = 1, longest: int = LONGEST) -> int:
    return await ServerBudgets(client, "redis://here").ask("venue", BudgetRule(per_second, burst), 1, longest)


async def test_a_crowd_of_the_dead_has_taken_no_more_than_a_second(client: Client) -> None:
    """Nobody waits for the places, nobody uses them."""
    answers = [await ask(client, 20) for _ in range(1000)]
    assert max(answers) <= LONGEST
    refused = [-answer for answer in answers if answer < 0]
    assert refused
    assert max(refused) <= LONGEST + 50_000, "whoever comes next is told to come again in time"


async def test_what_is_full_is_forgotten(client: Client) -> None:
    assert await ask(client, 0.001, burst=3) == 0
    assert 0 < await client.pttl(KEY) <= 1_000_000
    assert await ask(client, 0.001, burst=3) == 0
    assert 1_000_000 < await client.pttl(KEY) <= 2_000_000
    assert await client.keys("*") == [KEY.encode()]


async def test_who_has_less_room_is_not_passed_for_ever(client: Client) -> None:
    assert [min(1, await ask(client, 0.1, burst=10)) for _ in range(5)] == [0] * 5
    assert await ask(client, 0.1) < 0
    assert await ask(client, 0.1, burst=10) < 0, "there would be room for five more"


async def test_a_flushed_server_gives_a_burst_too_many_and_no_more(client: Client) -> None:
    assert [min(1, await ask(client, 0.01, burst=3, longest=0)) for _ in range(3)] == [0, 0, 0]
    assert await ask(client, 0.01, burst=3, longest=0) < 0
    await client.flushall()
    assert [await ask(client, 0.01, burst=3, longest=0) for _ in range(3)] == [0, 0, 0]
    assert await ask(client, 0.01, burst=3, longest=0) < 0


async def test_a_server_whose_clock_went_back_an_hour_makes_nobody_wait_an_hour(client: Client) -> None:
    await ask(client, 0.001)
    at = int(await client.hget(KEY, "at"))
    hour = 3600 * SECOND
    await client.hset(KEY, mapping={"due": at + hour + 1000 * SECOND, "at": at + hour})
    assert await ask(client, 0.001) == -1000 * SECOND, "as if no time had passed"
    assert abs(int(await client.hget(KEY, "at")) - at) < hour // 2, "a refusal remembers it: time goes on from here"
    assert -1000 * SECOND < await ask(client, 0.001) < 0
    assert 0 < await client.pttl(KEY) <= 1_000_000


async def test_two_processes_share_a_budget_and_its_pace(server: EmbeddedServer, client: Client) -> None:
    """Counted by the server's clock: so many places take at least so long."""
    clients = [connect(server.url) for _ in range(2)]
    budgets = [
        ServerBudgets(one, f"redis://{number}").of("venue", BudgetRule(100)) for number, one in enumerate(clients)
    ]
    shares = [0, 0]

    async def caller(number: int) -> None:
        while sum(shares) < 40:
            await budgets[number].acquire()
            shares[number] += 1

    try:
        began = time.monotonic()
        await asyncio.gather(*[caller(number) for number in (0, 0, 0, 1)])
        assert sum(shares) - 1 <= 100 * (time.monotonic() - began) + 1
        assert min(shares) > 0
    finally:
        for one in clients:
            await one.aclose()


async def test_callers_wait_while_the_server_is_away_and_can_be_cancelled(server: EmbeddedServer) -> None:
    with EmbeddedServer() as other:
        url = other.url
        client = connect(url)
        budget = ServerBudgets(client, url).of("venue", BudgetRule(1000))
        await budget.acquire()
    waiting, behind = asyncio.create_task(budget.acquire()), asyncio.create_task(budget.acquire())
    done, _ = await asyncio.wait({waiting, behind}, timeout=0.2)
    assert not done
    for job in (waiting, behind):
        job.cancel()
    assert [type(one) for one in await asyncio.gather(waiting, behind, return_exceptions=True)] == [
        asyncio.CancelledError
    ] * 2
    await client.aclose()


async def test_a_missing_right_is_told_and_not_waited_for(server: EmbeddedServer, client: Client) -> None:
    await client.execute_command("ACL", "SETUSER", "poor", "reset", "on", ">word", "~mdp:job:*", "+@all")
    url = server.url.replace("redis://", "redis://poor:word@")
    poor = connect(url)
    try:
        with pytest.raises(StoreUnavailable, match="permission denied"):
            await ServerBudgets(poor, url).of("venue", BudgetRule(1)).acquire()
    finally:
        await poor.aclose()


async def test_a_name_that_is_no_key_and_a_key_that_is_no_budget(client: Client, server: EmbeddedServer) -> None:
    budgets = ServerBudgets(client, server.url)
    with pytest.raises(ConfigError, match="budget: 'A b' is not allowed"):
        await budgets.of("A b", BudgetRule(1)).acquire()
    await client.set(KEY, "text")
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        await budgets.of("venue", BudgetRule(1)).acquire()


async def test_a_full_server_still_keeps_budgets(server: EmbeddedServer, client: Client) -> None:
    await client.config_set("maxmemory", "1")
    try:
        with pytest.raises(redis.exceptions.ResponseError, match="maxmemory"):
            await client.set("other", "x")
        assert [await ask(client, 10), (await ask(client, 10)) > 0] == [0, True]
    finally:
        await client.config_set("maxmemory", "0")
