"""What becomes of an item whose windows have all fired."""

from __future__ import annotations

from typing import Final, Literal, get_args

from market_data_pipeline.errors import ConfigError

LatePolicy = Literal["drop", "side_output"]
"""``drop``: counted and gone. ``side_output``: counted, and sent along the edge from the output ``late``."""

LATE: Final = "late"
"""The output of late items."""


def check_late_policy(late: LatePolicy) -> LatePolicy:
    """``late`` if it is one. Raises ``ConfigError``."""
    if late not in get_args(LatePolicy):
        raise ConfigError(f"late: {late!r} is not allowed; one of: {', '.join(get_args(LatePolicy))}")
    return late


def required_outputs(late: LatePolicy) -> tuple[str, ...]:
    """The outputs that must have an edge."""
    return (LATE,) if late == "side_output" else ()
