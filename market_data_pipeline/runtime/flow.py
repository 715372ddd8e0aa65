"""What a task commits about its own progress, for the coordinator to scale by: items through it, and where its time went.

The figures are cumulative since the job began and part of the commit, so a takeover goes on with them and a rollback of the
server takes them back. Of what a producer sent along an edge less what the consumers used, exactly what waits in the streams
is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from market_data_pipeline.clock import Clock


class TaskFlow(NamedTuple):
    """A task's figures as they were committed: items by edge, seconds."""

    sent: Mapping[str, int] = {}
    used: Mapping[str, int] = {}
    busy: float = 0.0
    """In steps, from having input to the commit's answer, pauses left out. Tasks of one process wait for each other, so the
    busy times of its tasks may sum to more than the time that went by."""
    outside: float = 0.0
    """Of that, waiting for the outside."""
    paused: float = 0.0
    """Waiting for room in the outputs."""

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> TaskFlow:
        """What a commit's ``meta`` says; zeros where it says nothing yet."""
        return cls(**meta.get("flow", {}))


class Flow:
    """Measures one task. ``used`` counts the items of each input edge.

    Waiting for the outside is the time that a call to a sink (or an operator that waits for an answer) took, less what the
    thread computed meanwhile, for whomever: encoding rows, and the steps of other tasks on the same event loop, are work that
    another worker could take over. What is left is time in which this process could do nothing but wait.
    """

    def __init__(self, clock: Clock, saved: TaskFlow) -> None:
        self._clock = clock
        self.used: Counter[str] = Counter(saved.used)
        self._busy, self._outside, self._paused = saved.busy, saved.outside, saved.paused
        self._since: float | None = None
        self._left: tuple[float, float] | None = None

    def begin(self) -> None:
        """There is something to do."""
        self._since = self._clock.monotonic()

    def end(self) -> None:
        """The task waits for input."""
        self._busy, self._since = self._busy_until(self._clock.monotonic()), None

    @contextmanager
    def step(self) -> Iterator[None]:
        """From :meth:`begin` to :meth:`end`."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def leave(self) -> None:
        """Somebody else's code is called, which may wait for the outside."""
        self._left = self._clock.monotonic(), self._clock.computed()

    def come_back(self) -> None:
        """It has answered."""
        if self._left is not None:
            waited = self._clock.monotonic() - self._left[0] - (self._clock.computed() - self._left[1])
            self._outside += max(0.0, waited)
            self._left = None

    @contextmanager
    def outside(self) -> Iterator[None]:
        """From :meth:`leave` to :meth:`come_back`."""
        self.leave()
        try:
            yield
        finally:
            self.come_back()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """The task waits for room: that is not its work."""
        started = self._clock.monotonic()
        try:
            yield
        finally:
            waited = self._clock.monotonic() - started
            self._paused += waited
            if self._since is not None:
                self._since += waited

    def _busy_until(self, now: float) -> float:
        return self._busy if self._since is None else self._busy + max(0.0, now - self._since)

    def saved(self, sent: Mapping[str, int]) -> dict[str, Any]:
        """As plain data, for a commit that is made now; ``sent`` with the frames of this commit."""
        flow = TaskFlow(
            dict(sent), dict(self.used), self._busy_until(self._clock.monotonic()), self._outside, self._paused
        )
        return flow._asdict()
