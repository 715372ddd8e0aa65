"""Which windows an item belongs to: the values that :class:`~market_data_pipeline.operators.window.WindowAggregate` takes.

============================== ========================================================================================
value                          windows of an item at 10:07
============================== ========================================================================================
``Tumble("5m")``               ``[10:05, 10:10)``
``Tumble("1h", "-15m")``       ``[09:45, 10:45)``
``Hop("10m", "5m")``           ``[10:00, 10:10)`` and ``[10:05, 10:15)``
``Hop("5m", "10m")``           none: the windows are ``[10:00, 10:05)``, ``[10:10, 10:15)``
``Session("3m")``              ``[10:07, 10:10)``, or a longer one with items up to 3 minutes before or behind
``CountWindow(100)``           the one of 100 items of its key in which it came
============================== ========================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import overload

from market_data_pipeline.durations import Duration, positive_duration, signed_duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import Array
from market_data_pipeline.operators.buckets import LONGEST, Tumbling


def _length(value: Duration, name: str) -> int:
    nanos = positive_duration(value, name)
    if nanos > LONGEST:
        raise ConfigError(f"{name}: {value!r} is too long; at most {LONGEST // 86_400_000_000_000}d")
    return nanos


@dataclass(frozen=True, init=False)
class Hop:
    """Sliding windows ``[align_to + i * slide, align_to + i * slide + size)`` for every int i, which is the window's number.

    All three in ns. An item is in ``size / slide`` windows (each costs as much as one tumbling window); where ``slide`` is
    larger than ``size``, there are gaps, and items there are in none. ``align_to`` may be negative.
    """

    size: int
    slide: int
    align_to: int

    def __init__(self, size: Duration, slide: Duration, align_to: Duration = 0) -> None:
        object.__setattr__(self, "size", _length(size, "size"))
        object.__setattr__(self, "slide", _length(slide, "slide"))
        offset = signed_duration(align_to, "align_to")
        if abs(offset) > LONGEST:
            raise ConfigError(f"align_to: {align_to!r} is too far from zero; at most {LONGEST // 86_400_000_000_000}d")
        object.__setattr__(self, "align_to", offset)

    @property
    def _opening(self) -> Tumbling:
        return Tumbling(self.slide, self.align_to)

    @property
    def _closing(self) -> Tumbling:
        return Tumbling(self.slide, self.align_to + self.size)

    def spans(self, ts: Array) -> tuple[Array, Array]:
        """The numbers of the first and the last window of each time, int64 of shape (n,); first > last: in none."""
        return self._closing.indices(ts) + 1, self._opening.indices(ts)

    @overload
    def start(self, number: int) -> int: ...
    @overload
    def start(self, number: Array) -> Array: ...
    def start(self, number: int | Array) -> int | Array:
        """Where a window (or each of an array of windows) begins, ns."""
        return number * self.slide + self.align_to

    def first_open(self, watermark: int) -> int:
        """The smallest number of a window whose end is behind ``watermark``."""
        return self._closing.index(watermark) + 1


@dataclass(frozen=True, init=False)
class Tumble(Hop):
    """Windows of ``size``, one behind the other: :class:`Hop` with ``slide = size``."""

    def __init__(self, size: Duration, align_to: Duration = 0) -> None:
        super().__init__(size, size, align_to)


@dataclass(frozen=True, init=False)
class Session:
    """Windows that end where a key is silent for longer than ``gap`` (ns).

    Two neighbouring items of a key are in the same session if and only if they are at most ``gap`` apart, so windows exactly
    one gap apart are one. ``ts_open`` is the first item's time, ``ts_close`` the last one's plus ``gap``. Because an item at
    ``ts_close`` itself still belongs to it, a session fires when W > ``ts_close``: only then no such item can come.
    """

    gap: int

    def __init__(self, gap: Duration) -> None:
        object.__setattr__(self, "gap", _length(gap, "gap"))


@dataclass(frozen=True)
class CountWindow:
    """Each ``n`` items of a key, in order of arrival; at the end of input the rest. Independent of event time and lateness.

    ``ts_open`` is the smallest event time in it, ``ts_close`` the largest plus 1 ns.
    """

    n: int

    def __post_init__(self) -> None:
        if type(self.n) is not int or self.n < 1:
            raise ConfigError(f"n: {self.n!r} is not allowed; an int of at least 1")


Windows = Hop | Session | CountWindow
