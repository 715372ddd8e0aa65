"""The set of hashes against a dict, with keys that crowd together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.operators.keyset import KeySet

CROWDED = st.one_of(
    st.integers(0, 15).map(lambda n: n << 60),
    st.integers(0, 40),
    st.integers(0, 40).map(lambda n: 2**64 - 1 - n),
    st.integers(0, 40).map(lambda n: (n << 20) + 2**63),
)
MARKED = 1 << 31
CONTENTS = st.sampled_from([0, 1, 2, 3, MARKED, MARKED | 1])
STEPS = st.lists(
    st.one_of(
        st.lists(st.tuples(CROWDED, CONTENTS), min_size=1, max_size=60),
        st.integers(0, 150),
    ),
    max_size=12,
)


@given(STEPS)
@settings(derandomize=True, max_examples=300, deadline=None)
def test_it_is_a_dict_that_forgets_its_oldest(steps: list[list[tuple[int, int]] | int]) -> None:
    made, model, total = KeySet(), dict[int, int](), 0
    for step in steps:
        if isinstance(step, int):
            before = min(total, made.numbers.start + step)
            for key in list(model)[: before - made.numbers.start]:
                del model[key]
            made.forget(before)
            continue
        fresh, other, unmarked = [], [], []
        for at, (key, content) in enumerate(step):
            fresh.append(key not in model)
            stored = model.setdefault(key, content)
            other.append((stored ^ content) % MARKED != 0)
            if stored >= MARKED > content:
                model[key] = stored - MARKED
                unmarked.append(at)
        total += sum(fresh)
        keys = np.array([key for key, _ in step], np.uint64)
        got = made.add(keys, np.array([content for _, content in step], np.uint32))
        assert [got.fresh.tolist(), got.other.tolist(), sorted(got.unmarked.tolist())] == [fresh, other, unmarked]
        changed = {made.numbers.start + list(model).index(step[at][0]) for at in unmarked}
        assert set(got.changed.tolist()) == changed
        assert made.numbers == range(total - len(model), total)
        assert made.take(made.numbers.start, total)[0].tolist() == list(model)
        assert made.take(made.numbers.start, total)[1].tolist() == list(model.values())


@pytest.mark.parametrize("top", [0, 2**64 - 100_000, 2**63])
def test_many_neighbours_over_many_rebuilds(top: int) -> None:
    made = KeySet()
    mixed = np.arange(top, top + 100_000, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for begin in range(0, 100_000, 777):
        part = mixed[begin : begin + 777]
        assert made.add(part, np.zeros(len(part), np.uint32))[0].all()
        made.forget(begin - 5000)
        assert not made.add(part, np.zeros(len(part), np.uint32))[0].any()
    assert len(made) <= 5000 + 2 * 777
    kept = mixed[made.numbers.start :]
    assert not made.add(kept, np.ones(len(kept), np.uint32))[0].any()
    gone = mixed[: made.numbers.start]
    assert made.add(gone, np.ones(len(gone), np.uint32))[0].all()


def test_a_run_at_the_end_of_the_table_goes_on_at_its_beginning() -> None:
    made = KeySet()
    last = np.arange(2**64 - 3000, 2**64 - 1, dtype=np.uint64)
    for part in (last[:1000], last[1000:1900], last[1900:]):
        assert made.add(part, np.zeros(len(part), np.uint32))[0].all()
    assert not made.add(last, np.zeros(len(last), np.uint32))[0].any()
