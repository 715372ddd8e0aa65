"""What windows emit, as columns and as dicts."""

from typing import Any

import numpy as np

from market_data_pipeline.codec import decode, encode
from market_data_pipeline.frame import Columns, Frame, to_rows
from market_data_pipeline.operators.window_results import Emission, FlatItems, frames, joined


def emission(keys: list[Any], values: list[Any], retracted: Any = None) -> Emission:
    n = np.arange(len(keys))
    return Emission(keys, n, n + 5, n * 0, n > 0, values, retracted)


def test_values_of_one_kind_are_columns_and_travel_as_such() -> None:
    made = FlatItems(("k", "n"), True, ["f", "i", "t"])(
        emission([("a", 1), ("b", 2)], [np.array([0.5, 1.5]), [7, 8], ["x", "y"]])
    )
    assert isinstance(made, Columns)
    expected = [
        {"k": "a", "n": 1, "ts_open": 0, "ts_close": 5, "revision": 0, "is_final": False, "f": 0.5, "i": 7, "t": "x"},
        {"k": "b", "n": 2, "ts_open": 1, "ts_close": 6, "revision": 0, "is_final": True, "f": 1.5, "i": 8, "t": "y"},
    ]
    assert made.rows() == expected
    back = decode(encode("task", Frame(made))).frame.items
    assert isinstance(back, Columns)
    assert back.rows() == expected
    assert [type(row["is_final"]) for row in back.rows()] == [bool, bool]


def test_anything_else_makes_dicts_of_plain_values() -> None:
    for values in ([1, "a"], [None, None], [[1], [2]], [2**70, 1], [True, 1]):
        made = FlatItems(("k",), False, ["v"])(emission(["a", "b"], [values]))
        assert isinstance(made, list)
        assert [row["v"] for row in made] == values
        assert type(made[0]["ts_open"]) is int


def test_truth_values_and_retractions() -> None:
    made = FlatItems((), False, ["v"])(emission([None, None], [[True, False]], np.array([True, False])))
    assert isinstance(made, Columns)
    assert [(row["v"], row["retracted"]) for row in made.rows()] == [(True, True), (False, False)]
    assert "key" not in made.rows()[0]


def test_joined_and_ordered() -> None:
    both = joined([emission(["a"], [np.array([1]), [1]]), emission(["b", "c"], [np.array([2, 3]), ["x", None]])])
    back = both.ordered(np.array([2, 0, 1]))
    assert back.keys == ["c", "a", "b"]
    assert [list(part) for part in back.values] == [[3, 1, 2], [None, 1, "x"]]
    assert back.opens.tolist() == [1, 0, 0]


def test_nothing_makes_no_frame() -> None:
    shape = FlatItems(("k",), False, ["v"])
    assert frames([emission([], [[]])], shape) == []
    (frame,) = frames([emission([], [[]]), emission(["a"], [[1]])], shape)
    assert [row["k"] for row in to_rows(frame.items)] == ["a"]
