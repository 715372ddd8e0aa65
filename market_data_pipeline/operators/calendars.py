"""Buckets aligned to the trading sessions of an exchange: anchored at the open, cut at the close.

=============================================== =============================================================================
``SessionBuckets("XNYS", "1h")``, a usual day   09:30-10:30 ... 14:30-15:30, 15:30-16:00 (New York): seven, the last one short
``... "1h"``, the day after Thanksgiving        09:30-10:30, 10:30-11:30, 11:30-12:30, 12:30-13:00
``SessionBuckets("XHKG", "1h")``                09:30, 10:30, 11:30-12:00, then 13:00, 14:00, 15:00-16:00 (Hong Kong)
``SessionBuckets("XHKG", "session")``           09:30-16:00: one; nothing that happens from 12:00 to 13:00 belongs to it
``SessionBuckets("CMES", "1d")``                17:00 of the day before to 17:00 (Chicago), or the early close: one a session
``after_close="10s"``                           the bucket that ends at 16:00 ends at 16:00:10, and takes the auction's print
=============================================== =============================================================================

Opens and closes are moments in UTC, so buckets move with daylight saving time as the exchange does. Behind a break buckets
are anchored anew, as vendors' charts have it, so none spans one. Times in no session, in a break, before the open, or at or
behind the close belong to no bucket. A number is the session's day times 2**27 plus the bucket's place in its session: it
depends on that session only, not on where a table begins, and stays the same when a new version of the library knows more.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from market_data_pipeline.durations import Duration, parse_duration, positive_duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.extras import extra
from market_data_pipeline.frame import Array
from market_data_pipeline.operators.buckets import OUTSIDE
from market_data_pipeline.records import MAX_TIME, MIN_TIME

_PLACE_BITS = 27
"""A session has at most 24 h / 1 ms buckets, and days of 1900 to 2099 fit in 17 bits: 44 in all, with the sign."""
_LAST_NUMBER = (1 << 43) - 1
_DAY = 86_400_000_000_000
_MIN_INTERVAL = 1_000_000
_FROM, _TO = "1900-01-01", "2099-12-31"


@dataclass(frozen=True)
class SessionBuckets:
    """Bucket number <-> time, for the sessions of ``calendar``: a name or alias of ``exchange_calendars`` (``XNYS``,
    ``NASDAQ``, ``CMES``, ``24/7``).

    ``interval``: 1 ms to 1 day; ``"session"`` and ``"1d"`` give one bucket a session, with the break inside it but not in
    it. ``after_close``: how long (ns when an int) the last bucket before a close, also before a break, goes on, for what an
    auction prints then; never into the next session. ``ends`` includes it.

    Sessions are known from 1900 to 2099, less where the calendar itself has bounds (:attr:`known`; that of Shanghai ends
    with the year after the library's release): times beyond belong to none. Raises ``ConfigError`` for an unknown
    calendar, a missing library, or a calendar that the installed version cannot make. Tables are made once per process,
    in about 0.2 s, and are no part of the instance.
    """

    calendar: str
    interval: Duration
    after_close: Duration = 0

    def __post_init__(self) -> None:
        interval = _DAY if self.interval == "session" else positive_duration(self.interval, "interval")
        if not _MIN_INTERVAL <= interval <= _DAY:
            raise ConfigError(f"interval: {self.interval!r} must be from 1ms to 1d, which is one bar a session")
        after_close = parse_duration(self.after_close, "after_close")
        if not 0 <= after_close <= _DAY:
            raise ConfigError(f"after_close: {self.after_close!r} must be from 0 to 1d")
        object.__setattr__(self, "interval", interval)
        object.__setattr__(self, "after_close", after_close)
        _sessions(self.calendar)

    def indices(self, ts: Array) -> Array:
        """The bucket of each time, int64 of shape (n,); :data:`~market_data_pipeline.operators.buckets.OUTSIDE` for none."""
        if not len(ts):
            return np.empty(0, np.int64)
        parts, step = self._tables.parts, self._tables.step
        low, high = np.searchsorted(parts.start, [ts.min(), ts.max()], "right") - 1
        # a frame is mostly within one part of one session: then there is nothing to search, and scalars to compute with
        at = low if low == high else low + np.searchsorted(parts.start[low + 1 : high + 1], ts, "right")
        place = np.minimum((ts - parts.start[at]) // step, parts.last[at])
        numbers: Array = np.where(ts < parts.end[at], parts.first[at] + place, OUTSIDE)
        return numbers

    def starts(self, index: Array) -> Array:
        """Where each bucket begins, ns."""
        blocks, step = self._tables.blocks, self._tables.step
        at = _block_of(blocks, index)
        starts: Array = blocks.start[at] + (index - blocks.first[at]) * step
        return starts

    def ends(self, index: Array) -> Array:
        """Where each bucket ends, ns, with ``after_close``; the end does not belong to it."""
        blocks, step = self._tables.blocks, self._tables.step
        at = _block_of(blocks, index)
        place = index - blocks.first[at]
        ends: Array = np.where(place < blocks.last[at], blocks.start[at] + (place + 1) * step, blocks.end[at])
        return ends

    def first_open(self, watermark: int) -> int:
        """The smallest bucket number that ``watermark`` has not closed; behind the last known session 2**43 - 1."""
        blocks, step = self._tables.blocks, self._tables.step
        at = int(np.searchsorted(blocks.start, watermark, "right")) - 1
        if watermark < blocks.end[at]:
            place = min((watermark - int(blocks.start[at])) // step, int(blocks.last[at]))
            return int(blocks.first[at]) + place
        return int(blocks.first[min(at + 1, len(blocks.first) - 1)])

    def after(self, index: int) -> int:
        """The next bucket that there is, over breaks, nights and holidays; behind the last known session 2**43 - 1."""
        blocks = self._tables.blocks
        at = int(_block_of(blocks, np.array([index]))[0])
        if index < blocks.first[at] + blocks.last[at]:
            return index + 1
        return int(blocks.first[min(at + 1, len(blocks.first) - 1)])

    @property
    def known(self) -> tuple[int, int]:
        """The first open and the last close (ns) that the calendar knows."""
        sessions = _sessions(self.calendar)
        return int(sessions.open[0]), int(sessions.close[-1])

    @property
    def _tables(self) -> _Tables:
        return _tables(self.calendar, self.interval, self.after_close)


def trading_spans(calendar: str) -> tuple[Array, Array]:
    """When trading begins and ends (ns, int64 of shape (n,)), each session without its break, of the calendar named. Raises
    ``ConfigError`` as :class:`SessionBuckets`."""
    parts = _tables(calendar, _DAY, 0).parts
    return parts.start[1:-1], parts.end[1:-1]


class _Runs(NamedTuple):
    """Runs of neighbouring buckets, by time: when each starts and ends (ns), the number of its first bucket, and the place
    in it of its last. One that is always before and one that is always behind everything stand at the ends."""

    start: Array
    end: Array
    first: Array
    last: Array


class _Tables(NamedTuple):
    """``parts``: where times belong; ``blocks``: what buckets span. They differ for one bucket a session with a break."""

    parts: _Runs
    blocks: _Runs
    step: int


def _block_of(blocks: _Runs, index: Array) -> Array:
    return np.searchsorted(blocks.first, index, "right") - 1


def _runs(start: Array, close: Array, day: Array, step: int, grace: int) -> _Runs:
    """Buckets of ``step`` from each ``start`` to ``close``, numbered through those of one ``day``."""
    count = -((start - close) // step)
    before = np.zeros(len(start), np.int64)
    second = np.flatnonzero(day[1:] == day[:-1]) + 1
    before[second] = count[second - 1]
    end = np.minimum(close + grace, np.append(start[1:], MAX_TIME))
    return _Runs(
        np.concatenate(([MIN_TIME], start, [MAX_TIME])),
        np.concatenate(([MIN_TIME], end, [MAX_TIME])),
        np.concatenate(([-_LAST_NUMBER], (day << _PLACE_BITS) + before, [_LAST_NUMBER])),
        np.concatenate(([0], count - 1, [0])),
    )


@lru_cache(maxsize=64)
def _tables(calendar: str, interval: Duration, after_close: Duration) -> _Tables:
    s = _sessions(calendar)
    step, grace = parse_duration(interval), parse_duration(after_close)
    broken = s.break_start != MIN_TIME
    order = np.argsort(np.concatenate((s.open, s.break_end[broken])))
    start = np.concatenate((s.open, s.break_end[broken]))[order]
    close = np.concatenate((np.where(broken, s.break_start, s.close), s.close[broken]))[order]
    day = np.concatenate((s.day, s.day[broken]))[order]
    parts = _runs(start, close, day, step, grace)
    if step < _DAY:
        return _Tables(parts, parts, step)
    one = np.concatenate(([-_LAST_NUMBER], day << _PLACE_BITS, [_LAST_NUMBER]))
    return _Tables(parts._replace(first=one), _runs(s.open, s.close, s.day, step, grace), step)


class _Sessions(NamedTuple):
    """All sessions of a calendar: their days since 1970, opens, closes and breaks (ns, ``MIN_TIME`` where there is none)."""

    day: Array
    open: Array
    break_start: Array
    break_end: Array
    close: Array


@lru_cache(maxsize=32)
def _sessions(name: str) -> _Sessions:
    """The sessions of the calendar ``name``. Raises ``ConfigError`` where there is no such calendar, or no library."""
    exchange_calendars = extra("exchange_calendars", "calendars", f"calendar: {name!r}")
    names = exchange_calendars.get_calendar_names()
    if name not in names:
        by_upper = {known.upper(): known for known in names}
        near = get_close_matches(str(name).upper(), by_upper, 1, 0.5)
        hint = f"; did you mean {by_upper[near[0]]!r}?" if near else f"; one of: {', '.join(names)}"
        raise ConfigError(f"calendar: {name!r} is not known to exchange_calendars{hint}")
    try:
        with warnings.catch_warnings():  # the library's own use of pandas is not the user's business
            warnings.simplefilter("ignore")
            made = _calendar(exchange_calendars, name)
            columns = (made.opens_nanos, made.break_starts_nanos, made.break_ends_nanos, made.closes_nanos)
            day = np.asarray(made.sessions_nanos, np.int64) // _DAY
    except Exception as error:  # some calendars of some versions do not work with some versions of pandas
        version = getattr(exchange_calendars, "__version__", "")
        raise ConfigError(
            f"calendar: {name!r} of exchange_calendars {version} cannot be made: {type(error).__name__}: {error!s:.200}"
        ) from error
    return _Sessions(day, *(np.asarray(column, np.int64) for column in columns))


def _calendar(library: Any, name: str) -> Any:
    """The calendar over all the days that it can be made for."""
    import pandas  # noqa: PLC0415 - comes with the optional extra

    usual = library.get_calendar(name)  # about 20 years; only its class knows the bounds
    low, high = usual.bound_min(), usual.bound_max()
    start = max(day for day in (pandas.Timestamp(_FROM), low) if day is not None)
    end = min(day for day in (pandas.Timestamp(_TO), high) if day is not None)
    return type(usual)(start=start, end=end)
