"""How fast a job is, from counts seen now and then."""

from __future__ import annotations


class Meter:
    """Items per second from counts seen now and then."""

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None
        self._looked: tuple[int, float] | None = None
        self._began: float | None = None
        self._rate = 0.0
        self._first: int | None = None
        self.items = 0
        """Items that came in since the first look."""
        self.busy = 0.0
        """Seconds from the look before the first commit to the look behind the last one: what still stands in the streams
        when the last item came in takes its time as well."""

    def update(self, items: int, done: int, now: float) -> float:
        """The rate at which ``items`` come in; ``done`` grows with whatever any node committed."""
        self._first = items if self._first is None else self._first
        self.items = items - self._first
        if self._looked is not None and done > self._looked[0]:
            self._began = self._looked[1] if self._began is None else self._began
            self.busy = now - self._began
        self._looked = (done, now)
        if self._last is not None:
            before, then = self._last
            if items > before:
                self._rate = (items - before) / (now - then)
            elif now - then > 1.0:
                self._rate = 0.0
            else:
                return self._rate
        self._last = (items, now)
        return self._rate
