"""Schedules come from the seed alone, and hold what was asked for."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from chaos.command import LONG_FAULTS, long_rounds, parse, plans, short_rounds
from chaos.faults import ACTIONS
from chaos.schedule import EXCLUSIVE, KINDS, ONCE, TOPOLOGIES, Options, plan_from_dict, plan_round

from market_data_pipeline.faults import POINTS

SEEDS = range(60)


def test_a_seed_always_gives_the_same_round() -> None:
    first = [plan_round(seed, Options()) for seed in SEEDS]
    assert first == [plan_round(seed, Options()) for seed in SEEDS]
    assert len({plan.digest for plan in first}) == len(SEEDS)


def test_a_plan_survives_json() -> None:
    plan = plan_round(7, Options())
    assert plan_from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_every_kind_can_be_done() -> None:
    assert set(ACTIONS) == set(KINDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_faults_are_in_order_and_within_the_round(seed: int) -> None:
    plan = plan_round(seed, Options(40.0, 2.0))
    times = [fault.at for fault in plan.faults]
    assert times == sorted(times)
    assert 0 < times[0] < 2.0
    assert all(fault.at + fault.seconds <= plan.seconds + 0.01 for fault in plan.faults)
    assert 12 <= len(times) <= 30


@pytest.mark.parametrize("seed", SEEDS)
def test_the_server_recovers_from_one_fault_before_the_next(seed: int) -> None:
    free_at = 0.0
    for fault in plan_round(seed, Options(120.0, 1.0)).faults:
        if fault.kind in EXCLUSIVE:
            assert fault.at > free_at - 0.001
            free_at = fault.at + fault.seconds + 3.0


@pytest.mark.parametrize("seed", SEEDS)
def test_what_may_happen_once_happens_once(seed: int) -> None:
    kinds = Counter(fault.kind for fault in plan_round(seed, Options(120.0, 1.0)).faults)
    assert all(kinds[kind] <= 1 for kind in ONCE)


def test_failovers_only_where_there_is_a_replica() -> None:
    for seed in SEEDS:
        plan = plan_round(seed, Options())
        kinds = {fault.kind for fault in plan.faults}
        assert plan.mode == "lag" or "failover-lag" not in kinds
        assert plan.mode == "wait" or "failover-wait" not in kinds


def test_only_the_kinds_asked_for() -> None:
    plan = plan_round(3, Options(kinds=("failover-wait", "stop")))
    assert plan.mode == "wait"
    assert {fault.kind for fault in plan.faults} == {"failover-wait", "stop"}


def test_what_rolls_the_server_back() -> None:
    by_fsync = {plan.fsync: plan for plan in (plan_round(seed, Options()) for seed in SEEDS)}
    assert not by_fsync["always"].rolls_back("server-kill")
    assert by_fsync["everysec"].rolls_back("server-kill")
    assert by_fsync["always"].rolls_back("aof-cut")
    assert not by_fsync["everysec"].rolls_back("failover-wait")


def test_the_short_rounds_hold_all_kinds_and_topologies() -> None:
    chosen = short_rounds()
    faults = [fault for plan in chosen for fault in plan.faults]
    assert len(faults) >= 66, "some may be skipped, 60 must be done"
    assert {fault.kind for fault in faults} == set(KINDS)
    assert {fault.detail for fault in faults if fault.kind == "point"} == set(POINTS)
    assert {plan.topology for plan in chosen} == set(TOPOLOGIES)
    assert {plan.partitions for plan in chosen} == {1, 8, 64}
    assert {plan.workers for plan in chosen} == {1, 4}
    assert {plan.server for plan in chosen} == {"valkey", "redis"}
    assert sum(plan.seconds for plan in chosen) <= 150


def test_the_long_rounds_hold_enough_of_everything() -> None:
    faults = [fault for plan in long_rounds() for fault in plan.faults]
    kinds = Counter(fault.kind for fault in faults)
    points = Counter(fault.detail for fault in faults if fault.kind == "point")
    assert len(faults) >= LONG_FAULTS
    assert all(kinds[kind] >= 5 for kind in KINDS)
    assert set(points) == set(POINTS)
    assert min(points.values()) >= 25, "20 must be hit, and one that is armed is not always reached"


def test_one_round_of_a_series_can_be_chosen() -> None:
    assert plans(parse(["--short", "--round", "2"])) == [short_rounds()[2]]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(SystemExit, match="unknown: earthquake"):
        plans(parse(["--faults", "stop,earthquake"]))
