"""What becomes of an item whose window has fired.

A window ``[start, end)`` fires when the watermark W reaches ``end``, and is closed when ``W >= end + allowed_lateness``. An
item is late for a window that is closed.

=============== ========================================================================================================
policy          an item that comes behind its window's end
=============== ========================================================================================================
``drop``        late: counted (``late``), gone
``side_output`` late: counted, and sent along the edge from the output ``late``
``revise``      until the window is closed: part of it, and the window is emitted again when the watermark next advances,
                with ``revision`` one higher. Then: late, counted, and sent along the edge from ``late`` if there is one
=============== ========================================================================================================

``is_final`` is true on the one emission of a window behind which no other comes. Under ``revise`` this is the one at the
moment it is closed, so the emission at ``end`` is not final, except when the watermark passes both at once. Because results
come out only when the watermark advances, they do not depend on how items were batched between two watermarks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from market_data_pipeline.durations import Duration, parse_duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import END
from market_data_pipeline.operators.choices import check_choice
from market_data_pipeline.records import MIN_TIME

LatePolicy = Literal["drop", "side_output", "revise"]

LATE: Final = "late"
"""The output of late items."""


@dataclass(frozen=True)
class Lateness:
    """A checked policy, and how long (ns) windows stay open to revision behind their end; 0 unless ``revise``."""

    policy: LatePolicy = "drop"
    allowed: int = 0

    @classmethod
    def of(cls, late: LatePolicy, allowed_lateness: Duration = 0) -> Lateness:
        """Raises ``ConfigError`` for an unknown policy, and unless ``allowed_lateness`` is above 0 just with ``revise``."""
        check_late_policy(late)
        allowed = parse_duration(allowed_lateness, "allowed_lateness")
        if allowed < 0 or (allowed > 0) != (late == "revise"):
            raise ConfigError(
                f"allowed_lateness={allowed_lateness!r} with late={late!r}: late='revise' needs an allowed_lateness above zero,"
                " and the other policies have none"
            )
        return cls(late, allowed)

    def closed_by(self, watermark: int) -> int:
        """A window is closed when its end is at or before this time."""
        return watermark if watermark == END else max(watermark - self.allowed, MIN_TIME)

    @property
    def required_outputs(self) -> tuple[str, ...]:
        """The outputs that must have an edge."""
        return (LATE,) if self.policy == "side_output" else ()

    @property
    def passes_on(self) -> bool:
        """Whether late items go to the output ``late`` (where nobody may listen)."""
        return self.policy != "drop"


def check_late_policy(late: LatePolicy, allowed: tuple[str, ...] = get_args(LatePolicy)) -> LatePolicy:
    """``late`` if it is one of ``allowed``. Raises ``ConfigError``."""
    check_choice("late", late, allowed)
    return late
