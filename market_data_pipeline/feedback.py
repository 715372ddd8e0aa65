"""What a store says of itself, so that sources are slowed down before it is full: values and the contract."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from market_data_pipeline.errors import ConfigError


class StoreReading(NamedTuple):
    """A store at one moment. ``queue_depth``: what it has taken and not yet stored; ``high`` and ``low``: the levels of that,
    in the same unit (items, batches, bytes). ``write_seconds``: how long one of its writes takes lately; 0.0 where it
    does not say."""

    queue_depth: float
    high: float
    low: float
    write_seconds: float = 0.0

    def checked(self) -> StoreReading:
        """Itself. Raises ``ConfigError`` unless ``0 <= low < high``, and depth and time are not negative."""
        if not 0 <= self.low < self.high:
            raise ConfigError(f"feedback: low={self.low} and high={self.high}: needed: 0 <= low < high")
        if not (self.queue_depth >= 0 and self.write_seconds >= 0):
            raise ConfigError(
                f"feedback: queue_depth={self.queue_depth}, write_seconds={self.write_seconds}: not negative"
            )
        return self


@runtime_checkable
class StoreFeedback(Protocol):
    """A store, or whoever coordinates the writes of one, that can be asked. Any object with this method will do."""

    async def reading(self) -> StoreReading:
        """The store now. It is asked once a second; an error or no answer within a second says nothing."""
        ...
