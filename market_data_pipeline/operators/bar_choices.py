"""The choices one has with bars, and their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from market_data_pipeline.durations import Duration, positive_duration, signed_duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.operators.buckets import LONGEST, Buckets, Tumbling
from market_data_pipeline.operators.choices import check_choice

Side = Literal["left", "right"]
Empty = Literal["skip", "null", "carry"]
TimeField = Literal["ts_event", "ts_recv"]

_SHORTEST = 1_000_000


@dataclass(frozen=True)
class BarConvention:
    """How a bar is cut and named. The defaults are those of the field: pandas, polars, most vendors.

    ``closed``: which end of its interval belongs to a bar: ``left`` is ``[start, end)``, ``right`` is ``(start, end]``.
    ``label``: which end is the bar's ``ts_event``. ``ts``: the time that decides to which bar a trade belongs; with ``ts_recv``
    bars still fire by event time, so each trade must have ``ts_recv >= ts_event``, or may come late. ``max_empty``: how many
    bars in a row a silent symbol has with ``empty="null"`` or ``"carry"``; all that are due at once, some 360 bytes each, are
    in memory together, also when one trade is dated years ahead.
    """

    closed: Side = "left"
    label: Side = "left"
    ts: TimeField = "ts_event"
    max_empty: int = 3_600

    def __post_init__(self) -> None:
        for name, allowed in (("closed", Side), ("label", Side), ("ts", TimeField)):
            check_choice(name, getattr(self, name), get_args(allowed))
        if type(self.max_empty) is not int or self.max_empty < 1:
            raise ConfigError(f"max_empty: {self.max_empty!r} is not allowed; an int of at least 1")


LEFT = BarConvention()
"""The convention of the field: closed left, labelled left, by ``ts_event``."""


def make_buckets(interval: Duration | Buckets, align_to: Duration) -> Buckets:
    """Tumbling buckets of a checked ``interval``, or ``interval`` itself where it is buckets already."""
    if isinstance(interval, Buckets):
        if align_to:
            raise ConfigError(f"align_to: {align_to!r} has no meaning with {type(interval).__name__}")
        return interval
    size = positive_duration(interval, "interval")
    if size < _SHORTEST:
        raise ConfigError(f"interval: {interval!r} is too short; at least 1ms")
    if size > LONGEST:
        raise ConfigError(f"interval: {interval!r} is too long; at most 3660d")
    offset = signed_duration(align_to, "align_to")
    if abs(offset) > LONGEST:
        raise ConfigError(f"align_to: {align_to!r} is too far; at most 3660d")
    return Tumbling(size, offset)
