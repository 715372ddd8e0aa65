"""Folds: states of the user's own."""

from typing import Any

import pytest

from market_data_pipeline.errors import ConfigError, OperatorFailed
from market_data_pipeline.frame import END, Frame, to_rows
from market_data_pipeline.operators.aggregations import Count
from market_data_pipeline.operators.base import OnError, OperatorContext
from market_data_pipeline.operators.fold import Fold
from market_data_pipeline.operators.window import WindowAggregate
from market_data_pipeline.operators.windows import Hop, Tumble


def started(on_error: OnError = "dead_letter", windows: Any = None, **folds: Any) -> WindowAggregate:
    operator = WindowAggregate(windows or Tumble(10), {"n": Count(), **folds}, key=None)
    operator.open(OperatorContext("w", 0, on_error))
    return operator


def items(*values: Any) -> Frame:
    return Frame([{"ts_event": 0, "x": value} for value in values])


def rows(frames: Any) -> list[Any]:
    return [row for frame in frames for row in to_rows(frame.items)]


def sum_of_halves(total: float, item: Any) -> float:
    return float(total + 1 / item["x"])


def test_an_item_on_which_it_raises_is_in_no_value_of_the_window() -> None:
    operator = started(total=Fold(0.0, sum_of_halves), seen=Fold(list, lambda seen, item: [*seen, item["x"]]))
    list(operator.process(items(2, 0, 4)))
    assert rows(operator.advance(END)) == [
        {"ts_open": 0, "ts_close": 10, "revision": 0, "is_final": True, "n": 2, "total": 0.75, "seen": [2, 4]}
    ]
    assert [(letter.item["x"], letter.reason) for letter in operator.ctx.dead_letters] == [
        (0, "ZeroDivisionError: division by zero")
    ]


def test_a_window_of_which_nothing_is_left_is_not_emitted() -> None:
    operator = started(windows=Hop(10, 5), total=Fold(0.0, sum_of_halves))
    list(operator.process(items(0)))
    assert len(operator.ctx.dead_letters) == 1  # though it would be in two windows
    assert rows(operator.advance(END)) == []
    assert operator.snapshot() == {}


def test_policy_fail() -> None:
    operator = started("fail", total=Fold(0.0, sum_of_halves))
    with pytest.raises(OperatorFailed, match="ZeroDivisionError"):
        list(operator.process(items(0)))


def test_states_come_back_as_they_were() -> None:
    def step(state: Any, item: Any) -> Any:
        assert type(state) is tuple
        assert type(state[1]["inner"]) is tuple
        return (state[0] + 1, {"inner": (item["x"], [item["x"], (1,)])})

    initial = (0, {"inner": ()})
    operator = started(state=Fold(initial, step))
    list(operator.process(items(5)))
    successor = started(state=Fold(initial, step))
    successor.restore({name: blob for name, blob in operator.snapshot().items() if blob is not None})
    list(successor.process(items(6)))
    assert [row["state"] for row in rows(successor.advance(END))] == [(2, {"inner": (6, [6, (1,)])})]
    assert initial == (0, {"inner": ()})


def test_a_state_that_is_changed_in_place_does_not_change_what_was_emitted() -> None:
    def step(seen: list[Any], item: Any) -> list[Any]:
        seen.append(item["x"])
        return seen

    operator = WindowAggregate(Tumble(10), {"seen": Fold([], step)}, key=None, early_items=2)
    operator.open(OperatorContext("w"))
    early = rows(operator.process(items(1, 2, 3, 4)))
    assert [row["seen"] for row in early] == [[1, 2], [1, 2, 3, 4]]
    list(operator.process(items(5)))
    assert [row["seen"] for row in rows(operator.advance(END))] == [[1, 2, 3, 4, 5]]
    list(operator.process(items()))
    assert operator.aggregations["seen"].fresh() == []


def test_a_state_that_cannot_be_written_is_rejected_and_the_window_begins_anew() -> None:
    operator = started(state=Fold(None, lambda state, item: object() if item["x"] else 7))
    list(operator.process(items(1)))
    operator.snapshot()
    assert operator.ctx.dead_letters[0].reason.startswith("cannot be kept as state: object cannot travel")
    list(operator.process(items(0)))
    assert [row["state"] for row in rows(operator.advance(END))] == [7]


@pytest.mark.parametrize(
    ("step", "merge", "says"), [(3, None, "step: 3 is not a function"), (max, 3, "merge: 3 is not")]
)
def test_functions_are_checked(step: Any, merge: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Fold(0, step, merge)
