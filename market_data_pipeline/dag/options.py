"""What a user may choose for one node or one edge: small typed values, part of the plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from market_data_pipeline.channels.base import Watermark
from market_data_pipeline.durations import Duration, wall_duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.feedback import StoreFeedback
from market_data_pipeline.operators.base import ON_ERROR, OnError


def checked_type(what: str, value: Any, wanted: type, example: str) -> None:
    """Raises ``ConfigError`` for a ``value`` that is neither ``None`` nor a ``wanted``. A bool is no number."""
    if value is not None and (not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool)):
        raise ConfigError(f"{what}: {value!r:.100} is no {wanted.__name__}; write {example}")


@dataclass(frozen=True)
class ChannelOptions:
    """The channel of one edge; what is ``None`` is as the settings say. ``capacity`` and ``levels``: in frames where the edge
    is a stream or joins operators, in items where it leads to or from a coroutine node within one process. ``bytes``: of a
    stream. Raises ``ConfigError``."""

    capacity: int | None = None
    levels: Watermark | None = None
    bytes: int | None = None

    def __post_init__(self) -> None:
        checked_type("capacity", self.capacity, int, "capacity=256")
        checked_type("bytes", self.bytes, int, "bytes=1048576")
        checked_type("levels", self.levels, Watermark, "levels=Watermark(high=200, low=50)")
        if self.capacity is not None and self.capacity < 1:
            raise ConfigError(f"capacity: {self.capacity} must be at least 1")
        if self.bytes is not None and self.bytes < 1024:
            raise ConfigError(f"bytes: {self.bytes} must be at least 1024")
        if self.levels is not None and self.capacity is not None and self.levels.high > self.capacity:
            raise ConfigError(f"levels: high={self.levels.high} is above the capacity of {self.capacity}")

    def __str__(self) -> str:
        """For people: ``capacity 32, levels 24/8``; empty where nothing is given."""
        levels = None if self.levels is None else f"{self.levels.high}/{self.levels.low}"
        given = {"capacity": self.capacity, "bytes": self.bytes, "levels": levels}
        return ", ".join(f"{name} {value}" for name, value in given.items() if value is not None)


@dataclass(frozen=True)
class Retries:
    """What happens when the outside of a node (a sink's store, a source's feed) fails: the task loads again and does its step
    once more, after ``first``, then twice as long each time, at most ``most``. After ``attempts`` failures in a row without a
    step that succeeded the job fails; ``None``: never. Raises ``ConfigError``."""

    attempts: int | None = None
    first: Duration = "1s"
    most: Duration = "30s"

    def __post_init__(self) -> None:
        checked_type("attempts", self.attempts, int, "attempts=5")
        if self.attempts is not None and self.attempts < 1:
            raise ConfigError(f"attempts: {self.attempts} must be at least 1")
        if wall_duration(self.most, "most") < wall_duration(self.first, "first"):
            raise ConfigError(f"most: {self.most!r} must not be below first ({self.first!r})")

    def delay(self, failures: int) -> float | None:
        """Seconds to wait behind so many failures in a row (1: the first); None: not again."""
        if self.attempts is not None and failures >= self.attempts:
            return None
        first, most = wall_duration(self.first, "first") / 1e9, wall_duration(self.most, "most") / 1e9
        return min(most, first * 2.0 ** min(failures - 1, 60))


@dataclass(frozen=True)
class NodeOptions:
    """What a step of a :class:`~market_data_pipeline.dag.pipeline.Pipeline` is given beside its arguments. ``channel``: of the
    edge that leads to it. ``on_error``: what happens to an item that it cannot use. ``retries``: of its outside.
    ``feedback``: whom to ask how its store is. ``singleton``: see :class:`~market_data_pipeline.dag.graph.Node`. What is
    ``None`` is as it would be without. Raises ``ConfigError``."""

    channel: ChannelOptions | None = None
    on_error: OnError | None = None
    retries: Retries | None = None
    feedback: StoreFeedback | None = None
    singleton: bool | None = None

    def __post_init__(self) -> None:
        checked_type("channel", self.channel, ChannelOptions, "channel=ChannelOptions(capacity=256)")
        checked_type("retries", self.retries, Retries, "retries=Retries(attempts=5)")
        checked_type("singleton", self.singleton, bool, "singleton=True")
        if self.on_error is not None and self.on_error not in ON_ERROR:
            raise ConfigError(f"on_error: {self.on_error!r} is not allowed; one of: {', '.join(ON_ERROR)}")
        if self.feedback is not None and not callable(getattr(self.feedback, "reading", None)):
            raise ConfigError(f"feedback: {self.feedback!r:.100} has no method reading, as a StoreFeedback has")
