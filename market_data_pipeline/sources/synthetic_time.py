"""When the items of a synthetic feed happen: evenly, in bursts, within sessions. A pure function of an item's number."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from market_data_pipeline.durations import Duration, positive_duration
from market_data_pipeline.errors import ConfigError, SourceError
from market_data_pipeline.frame import Array
from market_data_pipeline.operators.calendars import trading_spans

_DAY = 86_400_000_000_000
_SPAN = re.compile(r"(\d\d):(\d\d)(?::(\d\d))?-(\d\d):(\d\d)(?::(\d\d))?", re.ASCII)
_GOLDEN, _M1, _M2 = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))

Sessions = str | Sequence[str] | None


@dataclass(frozen=True)
class Bursts:
    """In each ``every`` of time that the market is open, for ``lasting``, ``factor`` times as many items; where in it, follows
    from the seed. Raises ``ConfigError`` unless ``lasting`` is shorter than ``every`` and ``factor`` above 1."""

    every: Duration = "1m"
    lasting: Duration = "2s"
    factor: float = 10.0

    def __post_init__(self) -> None:
        every, lasting = (
            positive_duration(self.every, "bursts: every"),
            positive_duration(self.lasting, "bursts: lasting"),
        )
        if lasting >= every:
            raise ConfigError(f"bursts: lasting={self.lasting!r} must be shorter than every={self.every!r}")
        if not 1 < self.factor < math.inf:
            raise ConfigError(f"bursts: factor={self.factor!r} must be above 1")
        object.__setattr__(self, "every", every)
        object.__setattr__(self, "lasting", lasting)


def mixed(numbers: Array, seed: int) -> Array:
    """A random word (uint64) for each of ``numbers`` (int64), the same wherever it is asked for: splitmix64."""
    words: Array = (numbers.astype(np.uint64) + np.uint64(seed % 2**64)) * _GOLDEN
    words ^= words >> np.uint64(30)
    words *= _M1
    words ^= words >> np.uint64(27)
    words *= _M2
    words ^= words >> np.uint64(31)
    return words


class _BurstClock:
    """Item number -> time for which the market was open (ns), with bursts."""

    def __init__(self, step: float, bursts: Bursts, seed: int) -> None:
        assert isinstance(bursts.every, int)
        assert isinstance(bursts.lasting, int)
        self._every, self._seed = bursts.every, seed
        self._calm = round((bursts.every - bursts.lasting) / step)
        self._busy = round(bursts.lasting * bursts.factor / step)
        if not self._calm or not self._busy:
            raise ConfigError(f"bursts: less than one item in or between them at one in {step / 1e9:g} s")
        self._calm_step = (bursts.every - bursts.lasting) / self._calm
        self._busy_step = bursts.lasting / self._busy

    def __call__(self, number: Array) -> Array:
        items = self._calm + self._busy
        period = np.floor_divide(number, items).astype(np.int64)
        place = number - period * items
        before = (mixed(period, self._seed) % np.uint64(self._calm + 1)).astype(np.int64)
        busy = np.clip(place - before, 0, self._busy)
        within = (place - busy) * self._calm_step + busy * self._busy_step
        moments: Array = period * self._every + within.astype(np.int64)
        return moments


class _Daily:
    """Open time -> moments within the same spans of every day, UTC. ``spans``: ns of the day, shape (n, 2)."""

    def __init__(self, spans: Array, start: int) -> None:
        length = spans[:, 1] - spans[:, 0]
        self._open, self._ends, self._length = spans[:, 0], np.cumsum(length), int(length.sum())
        self._day, of_day = divmod(start, _DAY)
        self._passed = int(np.clip(of_day - spans[:, 0], 0, length).sum())

    def __call__(self, elapsed: Array) -> Array:
        day, rest = np.divmod(elapsed + self._passed, self._length)
        at = np.searchsorted(self._ends, rest, "right")
        begun = np.concatenate(([0], self._ends[:-1]))
        moments: Array = (self._day + day) * _DAY + self._open[at] + rest - begun[at]
        return moments


class _Calendar:
    """Open time -> moments within the sessions of an exchange, without breaks."""

    def __init__(self, name: str, start: int) -> None:
        self._name = name
        opens, closes = trading_spans(name)
        coming = closes > start
        self._open = np.maximum(opens[coming], start)
        self._ends = np.cumsum(closes[coming] - self._open)
        if not len(self._ends):
            raise ConfigError(f"sessions: {name!r} has no session behind start={start}")

    def __call__(self, elapsed: Array) -> Array:
        at = np.searchsorted(self._ends, elapsed, "right")
        if len(at) and int(at.max()) >= len(self._ends):
            raise SourceError(f"synthetic: the calendar {self._name!r} knows no session as late as this feed has come")
        begun = np.concatenate(([0], self._ends[:-1]))
        moments: Array = self._open[at] + elapsed - begun[at]
        return moments


class Timeline:
    """Item number -> event time (ns), from ``start`` on, one every ``step`` ns (may have a fraction)."""

    def __init__(self, start: int, step: float, bursts: Bursts | None, sessions: Sessions, seed: int) -> None:
        self._start, self._step = start, step
        self._bursts = None if bursts is None else _BurstClock(step, bursts, seed)
        self._sessions: _Daily | _Calendar | None = None
        if isinstance(sessions, str):
            self._sessions = _Calendar(sessions, start)
        elif sessions is not None:
            self._sessions = _Daily(daily_spans(sessions), start)

    def elapsed(self, number: Array) -> Array:
        """For how long (ns) the market was open until each item."""
        if self._bursts is not None:
            return self._bursts(number)
        return (number * self._step).astype(np.int64)

    def times(self, number: Array) -> Array:
        """The event time of each item; numbers are not negative and may have a fraction."""
        elapsed = self.elapsed(number)
        return self._start + elapsed if self._sessions is None else self._sessions(elapsed)


def daily_spans(texts: Sequence[str]) -> Array:
    """``["09:30-12:00", "13:00-16:00"]`` as ns of the day, int64 of shape (n, 2). Raises ``ConfigError``."""
    spans = [_span(text) for text in texts]
    if not spans or any(begin >= end for begin, end in spans):
        raise ConfigError(f"sessions: {list(texts)!r} must be spans like '09:30-16:00' that end behind their beginning")
    if any(end > begin for (_, end), (begin, _) in pairwise(spans)):
        raise ConfigError(f"sessions: {list(texts)!r} must be in order and apart")
    return np.array(spans, np.int64)


def _span(text: str) -> tuple[int, int]:
    found = _SPAN.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ConfigError(f"sessions: {text!r} is no span like '09:30-16:00' (UTC)")
    hours = [int(part or 0) for part in found.groups()]
    begin, end = ((h * 3600 + m * 60 + s) * 1_000_000_000 for h, m, s in (hours[:3], hours[3:]))
    if end > _DAY or max(hours[1], hours[2], hours[4], hours[5]) > 59:
        raise ConfigError(f"sessions: {text!r} is no time of day, from 00:00 to 24:00")
    return begin, end
