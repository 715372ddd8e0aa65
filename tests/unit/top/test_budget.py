"""Budgets: the decision, and those who wait for it, in time that stands still while anybody can run."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools.fake_clock import FakeClock
from tools.stepped_clock import SteppedClock

from market_data_pipeline.budget import LONGEST, Bucket, BudgetRule, Budgets, MemoryBudgets, in_process, patience
from market_data_pipeline.clock import SYSTEM_CLOCK, Clock
from market_data_pipeline.errors import ConfigError

SECOND = 1_000_000


class OneOfMany(Budgets):
    """A process among others: they share the bucket, and nothing else."""

    def __init__(self, where: str, clock: Clock, bucket: Bucket) -> None:
        super().__init__(where, clock)
        self._bucket = bucket

    async def ask(self, name: str, rule: BudgetRule, requests: int, longest: int) -> int:
        return self._bucket.ask(round(self._clock.monotonic() * 1e6), rule, requests, longest)


@pytest.mark.parametrize(
    ("per_second", "burst", "said"),
    [
        (0.0, 1, "per_second: 0.0 is not above 0 and finite"),
        (float("inf"), 1, "is not above 0 and finite"),
        (float("nan"), 1, "is not above 0 and finite"),
        (1.0, 0, "burst: 0 must be at least 1"),
        (1e-9, 1, "takes longer than 1e[+]08 s to come back"),
    ],
)
def test_a_rule_that_cannot_be(per_second: float, burst: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        BudgetRule(per_second, burst)


def test_spacing_is_never_shorter_than_the_rule() -> None:
    assert [BudgetRule(rate).interval for rate in (10, 3, 0.1, 1e9)] == [100_000, 333_334, 10_000_000, 1]


def test_a_burst_then_one_by_one_and_a_pause_fills_it_again() -> None:
    bucket, rule = Bucket(), BudgetRule(10, burst=3)
    assert [bucket.ask(0, rule, 1) for _ in range(5)] == [0, 0, 0, 100_000, 200_000]
    assert bucket.ask(200_000, rule, 1) == 100_000
    assert [bucket.ask(9 * SECOND, rule, 1) for _ in range(4)] == [0, 0, 0, 100_000], "never more than the burst"
    assert bucket.ask(19 * SECOND, rule, 3) == 0
    assert bucket.ask(19 * SECOND, rule, 2) == 200_000, "two at once wait for both"


def test_what_is_refused_takes_nothing() -> None:
    bucket, rule = Bucket(), BudgetRule(2)
    assert [bucket.ask(0, rule, 1) for _ in range(5)] == [0, 500_000, SECOND, -1_500_000, -1_500_000]
    assert bucket.ask(500_000, rule, 1) == SECOND


def test_a_clock_that_goes_back_stood_still() -> None:
    bucket, rule = Bucket(), BudgetRule(1)
    assert bucket.ask(1000 * SECOND, rule, 1) == 0
    assert bucket.ask(10 * SECOND, rule, 1) == SECOND, "as if nothing had passed: not nine hundred seconds more"
    assert bucket.ask(10 * SECOND, rule, 1) == -2 * SECOND
    assert bucket.ask(5 * SECOND, rule, 1) == -2 * SECOND
    assert bucket.ask(6 * SECOND, rule, 1) == SECOND, "a refusal remembers that it went back, too"


def test_each_caller_takes_the_time_of_its_own_rule() -> None:
    bucket, slow, quick = Bucket(), BudgetRule(2), BudgetRule(10)
    assert [bucket.ask(0, rule, 1) for rule in (slow, quick, quick, slow)] == [0, 500_000, 600_000, 700_000]


def test_the_smallest_burst_holds_until_the_budget_is_full_again() -> None:
    bucket, wide, narrow = Bucket(), BudgetRule(10, burst=100), BudgetRule(10)
    assert [bucket.ask(0, wide, 1) for _ in range(30)] == [0] * 30
    assert bucket.ask(0, narrow, 1) == -3 * SECOND
    assert bucket.ask(0, wide, 1) == -3 * SECOND, "the one who was refused is not passed"
    assert bucket.ask(2 * SECOND, narrow, 1) == SECOND
    assert bucket.ask(3 * SECOND, wide, 5) == 500_000, "one at a time"
    assert [bucket.ask(9 * SECOND, wide, 50) for _ in range(2)] == [0, 0]


@given(
    rate=st.floats(0.2, 5000),
    burst=st.integers(1, 20),
    steps=st.lists(st.tuples(st.integers(0, 2 * SECOND), st.integers(1, 20), st.integers(0, LONGEST)), max_size=60),
)
def test_no_window_holds_more_than_the_rule_says(rate: float, burst: int, steps: list[tuple[int, int, int]]) -> None:
    bucket, rule, now = Bucket(), BudgetRule(rate, burst), 0
    made: list[int] = []
    for pause, wanted, longest in steps:
        now += pause
        requests = min(wanted, burst)
        wait = bucket.ask(now, rule, requests, longest)
        assert wait <= longest + (requests - 1) * rule.interval
        if wait >= 0:
            made += [now + wait] * requests
    assert made == sorted(made), "who asks first comes first"
    for first, begin in enumerate(made):
        for last in range(first, len(made)):
            assert (last - first + 1 - burst) * rule.interval <= made[last] - begin


def test_who_was_refused_may_look_further_ahead_but_no_further_than_all() -> None:
    horizons = [patience(refusals) for refusals in range(30)]
    assert horizons[0] == LONGEST // 2
    assert horizons[:11] == sorted(set(horizons[:11]))
    assert set(horizons[10:]) == {LONGEST}


@pytest.mark.parametrize("requests", [0, -1, 4])
async def test_more_at_once_than_the_burst_cannot_be(requests: int) -> None:
    with pytest.raises(ConfigError, match=rf"budget 'x': {requests} requests at once; allowed: 1 to burst=3"):
        await MemoryBudgets().of("x", BudgetRule(1, burst=3)).acquire(requests)


async def test_callers_wait_in_line_also_for_a_place_that_is_far_away() -> None:
    clock = SteppedClock()
    budget = MemoryBudgets(clock).of("x", BudgetRule(0.25))
    served: list[tuple[int, float]] = []

    async def caller(number: int) -> None:
        await budget.acquire()
        served.append((number, round(clock.elapsed, 3)))

    await clock.drive(asyncio.gather(*map(caller, range(4))))
    assert served == [(0, 0.0), (1, 4.0), (2, 8.0), (3, 12.0)]


@pytest.mark.parametrize("rate", [200.0, 20.0, 3.0, 0.5])
async def test_each_process_gets_its_turn_however_many_callers_it_has(rate: float) -> None:
    """One with a hundred callers against nine with one each, all of them always asking. Each has one place or question at a
    time, and who was refused asks earlier than who was not: between two turns of one no other one has more than two."""
    clock, bucket, rule = SteppedClock(), Bucket(), BudgetRule(rate)
    shares: Counter[str] = Counter()
    enough = asyncio.Event()

    async def caller(name: str, budget: object) -> None:
        while True:
            await budget.acquire()  # type: ignore[attr-defined]
            shares[name] += 1
            if sum(shares.values()) >= 300:
                enough.set()

    callers = {"greedy": 100, **{f"modest {number}": 1 for number in range(9)}}
    jobs = [
        asyncio.create_task(caller(name, budget))
        for name, count in callers.items()
        for budget in [OneOfMany(name, clock, bucket).of("x", rule)]
        for _ in range(count)
    ]
    await clock.drive(enough.wait())
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
    assert len(shares) == 10
    assert max(shares.values()) - min(shares.values()) <= 2
    assert 299 / rate <= clock.elapsed + 1e-3
    assert clock.elapsed <= 300 / rate + 1, "and nothing is wasted"


@pytest.mark.parametrize(
    ("many", "one"),
    [((BudgetRule(20, 40), 1), (BudgetRule(20, 40), 40)), ((BudgetRule(20, 100), 1), (BudgetRule(20), 1))],
    ids=["for more at once", "with a smaller burst"],
)
async def test_who_asks_is_not_kept_waiting_for_ever(many: tuple[BudgetRule, int], one: tuple[BudgetRule, int]) -> None:
    """Nine processes that always ask for little, by a large burst; the tenth gets as many turns."""
    clock, bucket = SteppedClock(), Bucket()
    turns: Counter[int] = Counter()
    enough = asyncio.Event()

    async def process(number: int, rule: BudgetRule, requests: int) -> None:
        budget = OneOfMany(f"process {number}", clock, bucket).of("x", rule)
        while True:
            await budget.acquire(requests)
            turns[number] += 1
            if turns.total() >= 300:
                enough.set()

    jobs = [asyncio.create_task(process(number, *(many if number else one))) for number in range(10)]
    await clock.drive(enough.wait())
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
    assert 18 <= turns[0] <= 32


async def test_a_caller_who_gives_up_loses_its_own_place_only() -> None:
    clock = SteppedClock()
    budget = MemoryBudgets(clock).of("x", BudgetRule(4))
    await budget.acquire()
    leaving, staying = asyncio.create_task(budget.acquire()), asyncio.create_task(budget.acquire())
    for _ in range(5):
        await asyncio.sleep(0)
    leaving.cancel()  # it has the place at 0.25 s
    await asyncio.gather(leaving, return_exceptions=True)
    await clock.drive(staying)
    assert round(clock.elapsed, 3) == 0.5


async def test_timers_that_end_early_are_not_believed() -> None:
    class Early(FakeClock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds / 2 if seconds > 0.01 else seconds)

    clock = Early()
    budget = MemoryBudgets(clock).of("x", BudgetRule(10))
    await budget.acquire()
    await budget.acquire()
    assert clock.elapsed == pytest.approx(0.1, abs=1e-5)


def test_an_event_loop_that_is_over_is_let_go() -> None:
    loops = []

    async def both() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        budget = MemoryBudgets(FakeClock()).of("x", BudgetRule(1000))
        await asyncio.gather(*[budget.acquire() for _ in range(5)])

    asyncio.run(both())
    gc.collect()
    assert loops[0]() is None


async def test_full_budgets_are_forgotten_and_others_are_not() -> None:
    clock = FakeClock()
    budgets = MemoryBudgets(clock)
    slow, quick = BudgetRule(1e-3), BudgetRule(1000)
    busy = [f"busy {number}" for number in range(100)]
    for name in busy:
        await budgets.of(name, slow).acquire()
    gc.collect()
    before = sum(isinstance(one, Bucket) for one in gc.get_objects())
    for number in range(2000):
        await budgets.of(f"name {number}", quick).acquire()
        clock.elapsed += 0.01
    assert sum(isinstance(one, Bucket) for one in gc.get_objects()) - before <= 200, "a name of a user's own may be any"
    waits = [await budgets.ask(name, slow, 1, 10**12) for name in busy]
    assert min(waits) > 900 * SECOND, "what they have used up is remembered"


def test_event_loops_in_several_threads_share_the_budgets_of_the_process() -> None:
    assert in_process() is in_process(SYSTEM_CLOCK)
    assert in_process(FakeClock()) is not in_process()
    budgets, counts = MemoryBudgets(FakeClock()), Counter[str]()
    rule = BudgetRule(1000, burst=50)

    async def take() -> None:
        for _ in range(20):
            counts["waits" if await budgets.ask("x", rule, 1, LONGEST) else "at once"] += 1

    threads = [threading.Thread(target=lambda: asyncio.run(take())) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == {"at once": 50, "waits": 50}
