"""Which frames of a step are joined: small neighbours of an edge, where nothing but the number of calls changes by it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from market_data_pipeline.dag.plan import PlanEdge
from market_data_pipeline.frame import END, IDLE, NO_MARK, Columns, Frame
from market_data_pipeline.runtime.incoming import Incoming, together

EDGE, OTHER = PlanEdge("a", "b", "keyed", "symbol"), PlanEdge("c", "b", "keyed", "symbol")


def columns(*times: int) -> Columns:
    return Columns("", {"ts_event": np.array(times, np.int64)})


def incoming(items: Any, mark: int = NO_MARK, edge: PlanEdge = EDGE) -> Incoming:
    return Incoming(edge, "unit", "origin", Frame(items, mark))


def sizes(*frames: Incoming, enough: int = 10) -> list[list[int]]:
    return [[len(one.frame.items) for one in group] for group in together(iter(frames), enough)]


def test_neighbours_are_joined_up_to_a_size() -> None:
    assert sizes(*(incoming([0] * n) for n in (4, 4, 4, 12, 1))) == [[4, 4], [4], [12], [1]]
    assert sizes() == []


def test_frames_of_another_edge_are_not_joined() -> None:
    assert sizes(incoming([1]), incoming([2], edge=OTHER), incoming([3])) == [[1], [1], [1]]


@pytest.mark.parametrize("mark", [IDLE, END])
def test_the_end_and_idleness_stay_by_themselves(mark: int) -> None:
    assert sizes(incoming([1]), incoming([], mark), incoming([], 5), incoming(columns(5))) == [[1], [0], [0, 1]]


def test_items_that_may_be_late_for_a_mark_before_them_are_not_joined_with_it() -> None:
    assert sizes(incoming(columns(1, 5), 5), incoming(columns(5, 7), 7), incoming(columns(6), 7)) == [[2, 2], [1]]
    assert sizes(incoming(columns(1), 5), incoming(columns(3))) == [[1], [1]]


def test_rows_are_joined_as_long_as_there_is_no_mark() -> None:
    assert sizes(incoming([1]), incoming([2], 5), incoming([3]), incoming([], 7)) == [[1, 1], [1, 0]]
