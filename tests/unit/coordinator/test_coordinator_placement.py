"""Placement: pins honoured, balanced within one, as few moves as possible. The oracle is arithmetic, or trying all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st
from mdp_coordinator.placement import place

NAMES = ["a", "b", "c", "d", "e"]
few = st.sets(st.sampled_from(NAMES), min_size=1)
quick = settings(derandomize=True, max_examples=300, deadline=None)


def no_pins(workers: set[str]) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(sorted(workers), ())


def spread(placed: Mapping[int, str], workers: Mapping[str, Sequence[int]]) -> int:
    load = Counter(placed.values())
    return max(load[name] for name in workers) - min(load[name] for name in workers)


def moves(before: Mapping[int, str], after: Mapping[int, str]) -> int:
    return sum(before.get(partition) != worker for partition, worker in after.items())


def test_without_workers_nothing_is_placed() -> None:
    assert place(4, {0: "a"}, {}) == {}


@given(st.integers(1, 40), few)
@quick
def test_fresh_placement_is_complete_and_balanced(partitions: int, workers: set[str]) -> None:
    placed = place(partitions, {}, no_pins(workers))
    assert sorted(placed) == list(range(partitions))
    assert set(placed.values()) <= workers
    assert spread(placed, no_pins(workers)) <= 1


@given(st.integers(1, 40), few)
@quick
def test_a_second_look_moves_nothing(partitions: int, workers: set[str]) -> None:
    placed = place(partitions, {}, no_pins(workers))
    assert place(partitions, placed, no_pins(workers)) == placed


@given(st.integers(1, 40), few, st.sampled_from(NAMES))
@quick
def test_a_worker_that_joins_takes_its_share_and_nothing_else_moves(
    partitions: int, workers: set[str], new: str
) -> None:
    workers = workers - {new}
    if not workers:
        return
    before = place(partitions, {}, no_pins(workers))
    after = place(partitions, before, no_pins(workers | {new}))
    assert spread(after, no_pins(workers | {new})) <= 1
    moved = {partition for partition in before if before[partition] != after[partition]}
    assert all(after[partition] == new for partition in moved)
    assert len(moved) == partitions // (len(workers) + 1), "no more than it must"


@given(st.integers(1, 40), st.sets(st.sampled_from(NAMES), min_size=2), st.data())
@quick
def test_a_worker_that_leaves_moves_only_its_own(partitions: int, workers: set[str], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(sorted(workers)))
    before = place(partitions, {}, no_pins(workers))
    after = place(partitions, before, no_pins(workers - {gone}))
    assert spread(after, no_pins(workers - {gone})) <= 1
    assert {p for p in before if before[p] != after[p]} == {p for p in before if before[p] == gone}


@given(
    st.integers(1, 12),
    st.dictionaries(st.sampled_from(NAMES), st.sets(st.integers(0, 11), max_size=5), min_size=1),
    st.dictionaries(st.integers(0, 11), st.sampled_from([*NAMES, "gone"])),
)
@quick
def test_pins_are_honoured_and_a_pinning_owner_stays(
    partitions: int, pins: dict[str, set[int]], current: dict[int, str]
) -> None:
    workers = {name: tuple(sorted(wanted)) for name, wanted in pins.items()}
    placed = place(partitions, current, workers)
    assert sorted(placed) == list(range(partitions))
    for partition, worker in placed.items():
        pinning = {name for name, wanted in workers.items() if partition in wanted}
        if pinning:
            assert worker in pinning
            if current.get(partition) in pinning:
                assert worker == current[partition]


@given(st.integers(1, 12), st.dictionaries(st.sampled_from(NAMES), st.just(()), min_size=1), st.data())
@quick
def test_each_pinned_partition_leaves_the_others_balanced(
    partitions: int, workers: dict[str, tuple[int, ...]], data: st.DataObject
) -> None:
    pinner = data.draw(st.sampled_from(sorted(workers)))
    pinned = data.draw(st.sets(st.integers(0, partitions - 1)))
    placed = place(partitions, {}, {**workers, pinner: tuple(pinned)})
    load = Counter(placed.values())
    others = [load[name] for name in workers if name != pinner]
    if others:
        assert max(others) - min(others) <= 1
        # the pinning one has at most one more than the others, unless its pins alone are more
        assert load[pinner] <= max(max(others) + 1, len(pinned))
        assert load[pinner] >= min(others) - 1


@given(
    st.integers(1, 6),
    st.sets(st.sampled_from(NAMES[:3]), min_size=1),
    st.dictionaries(st.integers(0, 5), st.sampled_from(NAMES[:4])),
)
@quick
def test_no_balanced_placement_moves_less(partitions: int, workers: set[str], current: dict[int, str]) -> None:
    """Against every possible placement."""
    chosen = place(partitions, current, no_pins(workers))
    best = min(
        moves(current, candidate)
        for owners in product(sorted(workers), repeat=partitions)
        if spread(candidate := dict(enumerate(owners)), no_pins(workers)) <= 1
    )
    assert spread(chosen, no_pins(workers)) <= 1
    assert moves(current, chosen) == best
