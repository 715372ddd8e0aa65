"""What a store says of itself, so that sources are slowed down before it is full: values and the contract."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple, Protocol, runtime_checkable

from market_data_pipeline.errors import ConfigError

STALE_SECONDS = 5.0
"""A reading that is older says nothing."""


class StoreReading(NamedTuple):
    """A store at one moment. ``queue_depth``: what it has taken and not yet stored; ``high`` and ``low``: the levels of that,
    in the same unit, whichever it is (items, batches, bytes). ``write_seconds``: how long one of its writes takes lately; 0.0
    where it does not say. The levels should be further apart than what comes with one write, and between ``high`` and what the
    store can hold there should be room for what comes in ten seconds, and for a third more than what lies between the levels:
    so much may still come."""

    queue_depth: float
    high: float
    low: float
    write_seconds: float = 0.0

    @property
    def position(self) -> float:
        """Where the queue is between its levels: 0 at ``low`` (below it less), 1 at ``high`` (above it more)."""
        return (self.queue_depth - self.low) / (self.high - self.low)

    def checked(self) -> StoreReading:
        """Itself. Raises ``ConfigError`` unless ``0 <= low < high``, depth and time are not negative, and all are finite."""
        if not 0 <= self.low < self.high < math.inf:
            raise ConfigError(f"feedback: low={self.low} and high={self.high}: needed: 0 <= low < high, finite")
        if not (0 <= self.queue_depth < math.inf and 0 <= self.write_seconds < math.inf):
            raise ConfigError(
                f"feedback: queue_depth={self.queue_depth}, write_seconds={self.write_seconds}: not negative, finite"
            )
        return self


class AnyReading(Protocol):
    """What has the fields of a :class:`StoreReading`; ``write_seconds: float`` may be missing."""

    @property
    def queue_depth(self) -> float: ...

    @property
    def high(self) -> float: ...

    @property
    def low(self) -> float: ...


@runtime_checkable
class StoreFeedback(Protocol):
    """A store, or whoever coordinates the writes of one, that can be asked. Any object with this method will do, and any answer
    that has the fields of a :class:`StoreReading` (``write_seconds`` may be missing)."""

    async def reading(self) -> AnyReading | None:
        """The store now; ``None`` says nothing. It is asked once a second, on the event loop, also while a sink is in the
        midst of a write: it must not block. An error or no answer within a second says nothing. Who asks in a thread gives
        that a timeout of its own: a thread cannot be given up, and those of ``asyncio.to_thread`` are few, and the sinks'."""
        ...


def reading_of(answer: object) -> StoreReading | None:
    """What a store answered. Raises ``ConfigError`` for what is no reading."""
    if answer is None:
        return None
    try:
        depth, high, low = (float(getattr(answer, name)) for name in ("queue_depth", "high", "low"))
        return StoreReading(depth, high, low, float(getattr(answer, "write_seconds", 0.0))).checked()
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"feedback: {answer!r:.100} is no StoreReading: {error}") from error


def worst(readings: Iterable[StoreReading]) -> StoreReading | None:
    """The reading that is highest between its levels: above ``high`` if any is, below ``low`` only if all are. So it does not
    matter whether several tasks have a queue each, or speak of one that they share: a sum would count that one several times,
    and an average would hide one full queue behind empty ones."""
    return max(readings, key=lambda reading: reading.position, default=None)
