"""Open bars as stored: what changed is written, the newest row counts, and what is stored stays bounded."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from market_data_pipeline.operators.bar_segments import BarSegments
from market_data_pipeline.operators.bar_table import CLOSE, CODE_BITS, FLOATS, INTS, VOLUME, BarTable, Groups
from market_data_pipeline.packing import unpack


def groups(bars: dict[int, float]) -> Groups:
    """One trade of the given volume for each key."""
    keys = sorted(bars)
    ints, floats = np.zeros((len(keys), INTS), np.int64), np.zeros((len(keys), FLOATS))
    floats[:, VOLUME] = [bars[key] for key in keys]
    return Groups(np.array(keys, np.int64), ints, floats)


class Store:
    """A table with a store behind it."""

    def __init__(self) -> None:
        self.state: dict[str, bytes] = {}
        self.written = 0
        self.start()

    def start(self) -> None:
        self.table = BarTable()
        self.segments = BarSegments(self.table)
        self.segments.restore(self.state)

    def commit(self) -> None:
        for key, blob in self.segments.snapshot().items():
            if blob is None:
                del self.state[key]
            else:
                assert key not in self.state, "a segment is written once"
                self.state[key] = blob
                self.written += len(unpack(blob)[0]) // 8

    @property
    def volumes(self) -> dict[int, float]:
        return dict(zip(self.table.key.tolist(), self.table.floats[:, VOLUME].tolist(), strict=True))

    @property
    def stored_rows(self) -> int:
        return sum(len(unpack(blob)[0]) // 8 for blob in self.state.values())


STEP = st.one_of(
    st.tuples(st.just("merge"), st.dictionaries(st.integers(0, 40), st.integers(1, 9), min_size=1, max_size=8)),
    st.tuples(st.just("drop"), st.integers(0, 5)),
    st.tuples(st.sampled_from(["commit", "restart"]), st.none()),
)


@given(st.lists(STEP, max_size=40))
def test_what_comes_back_is_what_was_there(steps: list[tuple[str, Any]]) -> None:
    store, expected, lowest = Store(), dict[int, float](), -1
    for what, given_ in steps:
        if what == "merge":
            new = {key: float(volume) for key, volume in given_.items() if key > lowest}
            if new:
                store.table.merge(groups(new))
            for key, volume in new.items():
                expected[key] = expected.get(key, 0.0) + volume
        elif what == "drop":
            gone = sorted(expected)[:given_]
            store.table.drop(len(gone))
            lowest = max([lowest, *gone])
            expected = {key: volume for key, volume in expected.items() if key not in gone}
        else:
            store.commit()
            if what == "restart":
                store.start()
                store.table.drop(int(np.searchsorted(store.table.key, lowest, "right")))  # as the watermark says
        assert store.volumes == expected


def test_a_commit_writes_what_changed_however_much_is_open() -> None:
    store = Store()
    store.table.merge(groups(dict.fromkeys(range(10_000), 1.0)))
    store.commit()
    store.written = 0
    store.table.merge(groups({7: 1.0, 9_999: 1.0}))
    store.commit()
    assert store.written == 2
    store.commit()
    assert store.written == 2


def test_what_is_stored_stays_near_what_is_open_and_writing_it_again_costs_little() -> None:
    store, rng = Store(), random.Random(1)
    store.table.merge(groups(dict.fromkeys(range(5_000), 1.0)))
    store.commit()
    changed = 0
    for _ in range(400):
        keys = rng.sample(range(5_000), 100)
        store.table.merge(groups(dict.fromkeys(keys, 1.0)))
        changed += len(keys)
        store.commit()
        assert store.stored_rows <= 3 * 5_000 + 1024
    assert store.written - 5_000 < 3 * changed
    before = store.volumes
    store.start()
    assert store.volumes == before


def test_a_store_without_open_bars_is_empty() -> None:
    store = Store()
    for bucket in range(5):
        store.table.merge(groups({bucket << CODE_BITS | code: 1.0 for code in range(3)}))
        store.commit()
    assert store.stored_rows == 15
    store.table.drop(14)
    store.commit()
    assert len(store.state) == 1
    store.table.drop(1)
    store.commit()
    assert store.state == {}


def test_a_row_that_is_marked_is_written_again() -> None:
    store = Store()
    store.table.merge(groups({1: 1.0, 2: 2.0}))
    store.commit()
    store.table.floats[1, CLOSE] = 5.0
    store.table.segment[1] = -1
    store.commit()
    assert store.written == 3
    store.start()
    assert store.table.floats[:, CLOSE].tolist() == [0.0, 5.0]
