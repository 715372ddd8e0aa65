"""What a leading coordinator decides."""

from __future__ import annotations

from mdp_coordinator.state import Assign, CoordinatorState, Finish, View

from market_data_pipeline.store.control import Heartbeat, Owner, Transition


def beats(*names: str, pins: tuple[int, ...] = ()) -> dict[str, Heartbeat]:
    return {name: Heartbeat(name, f"token-{name}", pins) for name in names}


def owners(**partitions_of: list[int]) -> dict[int, Owner]:
    return {p: Owner(1, f"token-{name}", name) for name, partitions in partitions_of.items() for p in partitions}


def test_nothing_to_do_without_workers() -> None:
    assert CoordinatorState(4, 8).decide(View(0.0, {}, {}, 0)) == []


def test_the_first_worker_gets_everything() -> None:
    decided = CoordinatorState(3, 6).decide(View(0.0, beats("a"), {}, 0))
    assert decided == [Assign(tuple(Transition(p, "a", "token-a") for p in range(3)))]


def test_the_first_assignment_waits_for_min_workers_ten_seconds_at_most() -> None:
    state = CoordinatorState(4, 8, min_workers=2)
    assert state.decide(View(100.0, beats("a"), {}, 0)) == []
    assert state.decide(View(109.9, beats("a"), {}, 0)) == []
    decided = state.decide(View(110.0, beats("a"), {}, 0))
    assert decided == [Assign(tuple(Transition(p, "a", "token-a") for p in range(4)))]


def test_enough_workers_end_the_wait_at_once() -> None:
    (assign,) = CoordinatorState(4, 8, min_workers=2).decide(View(0.0, beats("a", "b"), {}, 0))
    assert isinstance(assign, Assign)
    assert sorted(t.partition for t in assign.transitions) == [0, 1, 2, 3]
    assert sorted(t.worker for t in assign.transitions) == ["a", "a", "b", "b"]


def test_after_the_first_assignment_nobody_waits_for_min_workers() -> None:
    state = CoordinatorState(2, 4, min_workers=5)
    decided = state.decide(View(0.0, beats("b"), owners(a=[0, 1]), 0))
    assert decided == [Assign((Transition(0, "b", "token-b"), Transition(1, "b", "token-b")))]


def test_a_good_assignment_is_left_alone() -> None:
    assert CoordinatorState(4, 8).decide(View(0.0, beats("a", "b"), owners(a=[0, 1], b=[2, 3]), 3)) == []


def test_a_dead_workers_partitions_go_to_the_living() -> None:
    (assign,) = CoordinatorState(4, 8).decide(View(0.0, beats("b"), owners(a=[0, 1], b=[2, 3]), 0))
    assert assign == Assign((Transition(0, "b", "token-b"), Transition(1, "b", "token-b")))


def test_a_worker_that_came_back_under_its_name_is_another_one() -> None:
    """The token says who somebody is: the restarted process has lost its tasks and needs a new epoch."""
    restarted = {"a": Heartbeat("a", "token-new")}
    (assign,) = CoordinatorState(2, 4).decide(View(0.0, restarted, owners(a=[0, 1]), 0))
    assert assign == Assign((Transition(0, "a", "token-new"), Transition(1, "a", "token-new")))


def test_pins_of_the_heartbeat_count() -> None:
    workers = {"a": Heartbeat("a", "token-a", (3,)), "b": Heartbeat("b", "token-b", (0, 1))}
    (assign,) = CoordinatorState(4, 8).decide(View(0.0, workers, {}, 0))
    assert isinstance(assign, Assign)
    assert {t.partition: t.worker for t in assign.transitions} == {0: "b", 1: "b", 2: "a", 3: "a"}


def test_it_finishes_when_every_task_has_ended() -> None:
    state = CoordinatorState(2, 3)
    assert state.decide(View(0.0, beats("a"), owners(a=[0, 1]), 2)) == []
    assert state.decide(View(0.0, beats("a"), owners(a=[0, 1]), 3)) == [Finish()]
    assert state.decide(View(0.0, {}, {}, 3)) == [Finish()], "also when the workers have left"


def test_unassigned_counts_partitions_without_a_living_owner() -> None:
    state = CoordinatorState(5, 10)
    assert state.unassigned(View(0.0, beats("a"), owners(a=[0, 1], b=[2]), 0)) == 3
    assert state.unassigned(View(0.0, {}, owners(a=[0, 1]), 0)) == 5
    assert state.unassigned(View(0.0, beats("a"), owners(a=[0, 1, 2, 3, 4]), 0)) == 0
