"""Policies for late items."""

from typing import Any

import pytest

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import END
from market_data_pipeline.operators.lateness import Lateness
from market_data_pipeline.records import MIN_TIME


@pytest.mark.parametrize(
    ("late", "allowed", "required", "passes_on"),
    [("drop", 0, (), False), ("side_output", 0, ("late",), True), ("revise", "5s", (), True)],
)
def test_policies(late: Any, allowed: Any, required: tuple[str, ...], passes_on: bool) -> None:
    made = Lateness.of(late, allowed)
    assert (made.policy, made.required_outputs, made.passes_on) == (late, required, passes_on)


def test_windows_are_closed_when_the_lateness_is_over() -> None:
    revise, drop = Lateness.of("revise", "5s"), Lateness.of("drop")
    assert revise.closed_by(7_000_000_000) == 2_000_000_000
    assert revise.closed_by(MIN_TIME + 1) == MIN_TIME
    assert revise.closed_by(END) == END
    assert drop.closed_by(7) == 7


@pytest.mark.parametrize(
    ("late", "allowed", "says"),
    [
        ("keep", 0, "late: 'keep' is not allowed; one of: drop, side_output, revise"),
        ("drop", "1s", "allowed_lateness='1s' with late='drop'"),
        ("side_output", 1, "allowed_lateness=1 with late='side_output'"),
        ("revise", 0, "allowed_lateness=0 with late='revise': late='revise' needs an allowed_lateness above zero"),
        ("revise", -5, "allowed_lateness=-5"),
        ("revise", "soon", "allowed_lateness: 'soon' is not a duration"),
    ],
)
def test_wrong_ones_are_refused(late: Any, allowed: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Lateness.of(late, allowed)
