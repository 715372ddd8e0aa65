"""Sums over runs, bit for bit those of a plain loop."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.operators.runs import run_totals


@given(
    st.lists(st.sampled_from([1, 1, 2, 3, 7, 63, 64, 65, 200]), min_size=1, max_size=30),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
)
@settings(derandomize=True, max_examples=200, deadline=None)
def test_every_run_is_added_from_left_to_right(lengths: list[int], columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(sum(lengths), columns)) * 10.0 ** rng.integers(-9, 9, (sum(lengths), columns))
    initial = rng.normal(size=(len(lengths), columns))
    first = np.cumsum([0, *lengths[:-1]])
    before = initial.copy()
    totals = run_totals(values, first, initial)
    for k in range(columns):
        for run, (start, length) in enumerate(zip(first.tolist(), lengths, strict=True)):
            total = float(before[run, k])
            for value in values[start : start + length, k].tolist():
                total += value
            assert totals[run, k] == total
    assert (initial == before).all()
