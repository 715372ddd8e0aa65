"""Live feeds that break, in processes that stand still, die and come back: what is missing is told, the rest comes once."""

from __future__ import annotations

import logging

import pytest

from tests.tools.feed_oracle import wrongs
from tests.tools.feed_plan import WAYS, plan_of
from tests.tools.feed_world import played

TELLING = (
    3001, 3003, 3023, 3028, 3029, 3045, 3062, 3070, 3080, 3100, 3106, 3177, 3203, 3208, 3412, 4071, 4087, 4382, 4402,
    5006, 5029, 5426,
)  # fmt: skip
"""Each without one of the guards of ``tests/tools/mutations/guards_router.py`` goes wrong."""
SEEDS = (*range(40), *TELLING)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_missing_is_told_and_the_rest_comes_in_order(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    assert wrongs(played(plan_of(seed, short=True))) == []


def test_the_seeds_meet_every_way() -> None:
    plans = [plan_of(seed, short=True) for seed in SEEDS]
    assert {plan.way for plan in plans} == set(WAYS)
    assert {plan.partitions for plan in plans} == {1, 2, 3}
    assert sum(bool(plan.restarts) for plan in plans) > 10
    assert sum(bool(plan.standstills) for plan in plans) > 10


def test_a_seed_is_one_course_of_things() -> None:
    plan = plan_of(SEEDS[0], short=True)
    first, second = ([life.items for seat in played(plan).seats for life in seat.lives] for _ in range(2))
    assert first == second
