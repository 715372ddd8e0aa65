"""What a store says of itself."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from market_data_pipeline import Collect, Dag, Node, StoreFeedback, StoreReading, Synthetic
from market_data_pipeline.errors import ConfigError, DagValidationError
from market_data_pipeline.feedback import reading_of, worst


def test_the_worst_is_above_high_if_any_is_and_below_low_only_if_all_are() -> None:
    """Whatever their units, and whether they speak of one queue or of several."""
    full_of_batches, half_of_bytes, empty = (
        StoreReading(8, 8, 2), StoreReading(5e6, 9e6, 1e6), StoreReading(0, 100, 50),
    )  # fmt: skip
    assert worst([empty, half_of_bytes, full_of_batches, empty]) == full_of_batches
    assert worst([empty, half_of_bytes]) == half_of_bytes
    assert worst([empty, empty]) == empty
    assert empty.position < 0 < half_of_bytes.position < 1 == full_of_batches.position
    assert worst([]) is None


def test_any_answer_with_the_fields_will_do() -> None:
    assert reading_of(None) is None
    assert reading_of(SimpleNamespace(queue_depth=5, high=80, low=20)) == StoreReading(5, 80, 20)
    assert reading_of(StoreReading(5, 80, 20, 0.25)) == (5, 80, 20, 0.25)


@pytest.mark.parametrize(
    "answer",
    [
        StoreReading(1, 20, 20), StoreReading(1, 20, -1), StoreReading(-1, 80, 20), StoreReading(math.nan, 80, 20),
        StoreReading(1, math.inf, 20), StoreReading(math.inf, 80, 20), StoreReading(1, 80, 20, -1.0),
        SimpleNamespace(queue_depth=1, high=2), SimpleNamespace(queue_depth="much", high=2, low=1), 17,
        SimpleNamespace(queue_depth=10**400, high=2, low=1),
    ],
)  # fmt: skip
def test_what_is_no_reading_is_refused(answer: Any) -> None:
    with pytest.raises(ConfigError, match="feedback: "):
        reading_of(answer)


def test_a_node_that_is_given_what_cannot_be_asked_is_refused() -> None:
    class Store:
        async def reading(self) -> StoreReading:
            return StoreReading(0, 2, 1)

    assert isinstance(Store(), StoreFeedback)
    for feedback, good in ((Store(), True), (object(), False)):
        dag = Dag("job")
        dag.add_node(Node("source", Synthetic(items=1)))
        dag.add_node(Node("sink", Collect(), feedback=feedback))  # type: ignore[arg-type]
        dag.add_edge("source", "sink")
        if good:
            dag.validate()
        else:
            with pytest.raises(DagValidationError, match=r"node 'sink': feedback <object .* has no method reading"):
                dag.validate()
