"""How long to wait before a connection is tried again: full jitter, as a pure decision.

The n-th try in a row (from 0) waits a random time between 0 and ``first * 2^n``, at most ``most``: so clients that lost a venue
at the same moment do not come back at the same moment.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from market_data_pipeline.durations import Duration, wall_duration
from market_data_pipeline.errors import ConfigError

_MOST_DOUBLINGS = 60


@dataclass(frozen=True)
class Reconnect:
    """``first``, ``most``: bounds of the waiting time. A connection that lived for ``stable_after`` was a good one: the waiting
    times begin anew behind it, and a circuit breaker takes it for a success. ``seed``: for the same waiting times in every run;
    ``None`` for others each time. Raises ``ConfigError``."""

    first: Duration = "500ms"
    most: Duration = "30s"
    stable_after: Duration = "30s"
    seed: int | None = None

    def __post_init__(self) -> None:
        first, most = wall_duration(self.first, "first"), wall_duration(self.most, "most")
        wall_duration(self.stable_after, "stable_after")
        if most < first:
            raise ConfigError(f"most: {self.most!r} must not be below first ({self.first!r})")

    def rng(self, *of: object) -> random.Random:
        """The random numbers of one feed, which ``of`` names."""
        return random.Random() if self.seed is None else random.Random(repr((self.seed, *of)))

    @property
    def stable_seconds(self) -> float:
        """``stable_after`` in seconds."""
        return wall_duration(self.stable_after, "stable_after") / 1e9


class Backoff:
    """The waiting times of one feed, all in seconds."""

    def __init__(self, rule: Reconnect, rng: random.Random) -> None:
        self._first = wall_duration(rule.first, "first") / 1e9
        self._most = wall_duration(rule.most, "most") / 1e9
        self._stable = rule.stable_seconds
        self._rng = rng
        self._tries = 0

    def delay(self, lived: float, retry_after: float = 0.0) -> float:
        """Seconds to wait now that a connection broke that lived for ``lived`` (0: it could not be made). Never less than
        ``retry_after``, which the venue asks for."""
        if lived >= self._stable:
            self._tries = 0
        bound = min(self._most, self._first * 2.0 ** min(self._tries, _MOST_DOUBLINGS))
        self._tries += 1
        return max(self._rng.uniform(0.0, bound), retry_after)
