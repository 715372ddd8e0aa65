"""A circuit breaker as a pure decision: no clock, no I/O, no calls of its own.

========== ================================================ =========================================================
state      calls                                            leaves it
========== ================================================ =========================================================
closed     all are allowed, and counted                     to open, when too large a share of the last ones failed
open       none is allowed                                  to half-open, after ``open_for``
half-open  ``trials`` are allowed at a time                 to closed when that many succeeded, to open when one failed
========== ================================================ =========================================================
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from market_data_pipeline.durations import Duration, wall_duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.given import check_numbers

State = Literal["closed", "open", "half_open"]
LEVELS: Mapping[State, float] = {"closed": 0.0, "half_open": 1.0, "open": 2.0}
"""The states as the gauge ``circuit_state`` shows them."""
_SLICES = 10
"""Calls are counted in so many slices of the window: memory does not grow with how many there are."""


@dataclass(frozen=True)
class CircuitRule:
    """When a circuit opens: at least ``min_calls`` ended within ``window``, and at least the share ``failure_rate`` (0..1,
    above 0) of them failed. It stays open for ``open_for``; then ``trials`` calls are allowed. Raises ``ConfigError``."""

    failure_rate: float = 0.5
    window: Duration = "60s"
    min_calls: int = 5
    open_for: Duration = "30s"
    trials: int = 1

    def __post_init__(self) -> None:
        wall_duration(self.window, "window")
        wall_duration(self.open_for, "open_for")
        check_numbers(self, "failure_rate", whole=False)
        check_numbers(self, "min_calls", "trials")
        if not 0 < self.failure_rate <= 1:
            raise ConfigError(f"failure_rate: {self.failure_rate} is not above 0 and at most 1")
        for name in ("min_calls", "trials"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: {getattr(self, name)} must be at least 1")


class Ticket(NamedTuple):
    """An allowed call. What comes of calls that began before the state last changed is ignored."""

    era: int


class CircuitBreaker:
    """One circuit. Every ``now`` is monotonic seconds and never goes back. Each ticket is given back once: by
    :meth:`succeeded`, :meth:`failed`, or :meth:`given_up` where nobody knows."""

    def __init__(self, rule: CircuitRule) -> None:
        self.rule = rule
        self._slice = wall_duration(rule.window, "window") / 1e9 / _SLICES
        self._open_for = wall_duration(rule.open_for, "open_for") / 1e9
        self._era = 0
        self._opened_at: float | None = None
        self._counts: deque[list[int]] = deque()  # slice, ended, failed; oldest first
        self._under_way = self._succeeded = 0  # trials

    def state(self, now: float) -> State:
        """What it is at ``now``."""
        if self._opened_at is None:
            return "closed"
        return "open" if now < self._opened_at + self._open_for else "half_open"

    def allow(self, now: float) -> Ticket | None:
        """A ticket for one call, ``None`` where it must not be made."""
        state = self.state(now)
        if state == "open":
            return None
        if state == "half_open":
            if self._under_way + self._succeeded >= self.rule.trials:
                return None
            self._under_way += 1
        return Ticket(self._era)

    def wait(self, now: float) -> float:
        """Seconds after which it is worth asking :meth:`allow` again; 0 where it would allow a call now."""
        if self._opened_at is not None and now < self._opened_at + self._open_for:
            return self._opened_at + self._open_for - now
        full = self._opened_at is not None and self._under_way + self._succeeded >= self.rule.trials
        return self._slice if full else 0.0

    def succeeded(self, ticket: Ticket, now: float) -> None:
        """The call ended well."""
        if ticket.era != self._era:
            return
        if self._opened_at is None:
            self._count(now, failed=False)
            return
        self._under_way, self._succeeded = self._under_way - 1, self._succeeded + 1
        if self._succeeded >= self.rule.trials:
            self._change(None)

    def failed(self, ticket: Ticket, now: float) -> None:
        """The call ended with a failure."""
        if ticket.era != self._era:
            return
        if self._opened_at is not None:
            self._change(now)
            return
        self._count(now, failed=True)
        ended, failed = self.recent(now)
        if ended >= self.rule.min_calls and failed >= self.rule.failure_rate * ended:
            self._change(now)

    def given_up(self, ticket: Ticket) -> None:
        """The call was not made, or not to its end: it says nothing."""
        if ticket.era == self._era and self._opened_at is not None:
            self._under_way -= 1

    def recent(self, now: float) -> tuple[int, int]:
        """How many calls ended within the window while the circuit was closed, and how many of them failed."""
        oldest = int(now / self._slice) - _SLICES + 1
        while self._counts and self._counts[0][0] < oldest:
            self._counts.popleft()
        return sum(ended for _, ended, _ in self._counts), sum(failed for *_, failed in self._counts)

    def _count(self, now: float, failed: bool) -> None:
        number = int(now / self._slice)
        if not self._counts or self._counts[-1][0] != number:
            self.recent(now)
            self._counts.append([number, 0, 0])
        self._counts[-1][1] += 1
        self._counts[-1][2] += failed

    def _change(self, opened_at: float | None) -> None:
        self._era += 1
        self._opened_at = opened_at
        self._under_way = self._succeeded = 0
        self._counts.clear()
