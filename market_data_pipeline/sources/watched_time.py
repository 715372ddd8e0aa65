"""Time as far as somebody looked. A process that stood still sees all at once what came meanwhile, and in any order; so what is
decided by time must not be decided before that was read."""

from __future__ import annotations

from market_data_pipeline.clock import Clock


class WatchedTime:
    """Monotonic seconds of ``clock``, of which at most ``most`` pass from one look to the next. Those behind a late look catch
    up."""

    def __init__(self, clock: Clock, most: float) -> None:
        self._clock, self._most = clock, most
        self._seen = self._looked_at = clock.monotonic()

    def now(self) -> float:
        """What has passed; it never goes back."""
        return self._seen + min(self._clock.monotonic() - self._looked_at, self._most)

    def read_until(self) -> float:
        """Up to when all that came has been read, as the clock has it: the last look. Since then the process may have stood
        still."""
        return self._looked_at

    def looked(self) -> None:
        """Somebody looks: what has come can be read until the next time."""
        self._looked_at = self._clock.monotonic()
        self._seen = min(self._looked_at, self._seen + self._most)
