"""How many items a source may bring in a second: a token bucket, pure."""

from __future__ import annotations

_BURST_SECONDS = 0.05
"""What was left unused may be made up for so long."""

_RESOLUTION_SECONDS = 1e-6
"""Shorter waits are none: a clock may not be able to tell them."""


class Pace:
    """Says when a source may be read. Times are monotonic seconds, rates items per second; ``None`` is no limit.

    A source decides how large its batches are, so the bucket goes into debt: a batch may be taken whenever nothing is owed,
    whatever its size, and then as much time must pass as it was worth. Over time that is the rate exactly.
    """

    def __init__(self) -> None:
        self.rate: float | None = None
        self._balance = 0.0
        self._at = 0.0

    def set(self, rate: float | None, now: float) -> None:
        """From ``now`` on ``rate`` holds, more than 0. A debt made at a larger rate is time that is owed: a smaller one does
        not make it longer. At a larger one it is paid sooner."""
        if rate == self.rate:
            return
        self._fill(now)
        if rate is None or self.rate is None:
            self._balance = 0.0
        elif rate < self.rate:
            self._balance *= rate / self.rate
        self.rate, self._at = rate, now

    def wait(self, now: float) -> float:
        """Seconds until something may be brought in; 0 when it may be at once."""
        if self.rate is None:
            return 0.0
        self._fill(now)
        owed = -self._balance / self.rate
        return owed if owed > _RESOLUTION_SECONDS else 0.0

    def took(self, items: int, now: float) -> None:
        """So many were brought in."""
        if self.rate is not None:
            self._fill(now)
            self._balance -= items

    def _fill(self, now: float) -> None:
        if self.rate is not None:
            earned = max(0.0, now - self._at) * self.rate
            self._balance = min(self._balance + earned, self.rate * _BURST_SECONDS)
            self._at = now
