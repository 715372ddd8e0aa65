"""Time as numbered buckets: the arithmetic that windows and bars share.

``Tumbling("1s")``: -0.5 s is in bucket -1, ``[-1 s, 0)``; 0 s is in bucket 0; the watermark 1 s closes all below bucket 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from market_data_pipeline.frame import Array


@runtime_checkable
class Buckets(Protocol):
    """Bucket number <-> time. Numbers (int64, may be negative) grow with time; buckets do not overlap and may leave gaps."""

    def indices(self, ts: Array) -> Array:
        """The bucket of each time, int64 of shape (n,); :data:`OUTSIDE` where a time belongs to none."""
        ...

    def starts(self, index: Array) -> Array:
        """Where each bucket begins, ns."""
        ...

    def ends(self, index: Array) -> Array:
        """Where each bucket ends, ns; the end does not belong to it."""
        ...

    def first_open(self, watermark: int) -> int:
        """The smallest bucket number that ``watermark`` has not closed: its end is behind ``watermark``."""
        ...

    def after(self, index: int) -> int:
        """The next bucket's number."""
        ...


OUTSIDE = -(2**63)
"""The number of no bucket."""
FARTHEST = 2**62
"""Times (ns) beyond this, some 146 years from 1970, are no market data; they would overflow the arithmetic of windows."""
LONGEST = 3660 * 86_400_000_000_000
"""The longest window (ns)."""


@dataclass(frozen=True)
class Tumbling:
    """Window number <-> time. ``size`` and ``align_to`` in ns; numbers may be negative."""

    size: int
    align_to: int = 0

    def index(self, ts: int) -> int:
        return (ts - self.align_to) // self.size

    def indices(self, ts: Array) -> Array:
        """Window numbers of an int64 array of times."""
        shifted = ts - self.align_to if self.align_to else ts
        return shifted // self.size

    def start(self, index: int) -> int:
        return index * self.size + self.align_to

    def end(self, index: int) -> int:
        return (index + 1) * self.size + self.align_to

    def first_open(self, watermark: int) -> int:
        """The smallest window number that ``watermark`` has not closed."""
        return self.index(watermark)

    def starts(self, index: Array) -> Array:
        return index * self.size + self.align_to

    def ends(self, index: Array) -> Array:
        return (index + 1) * self.size + self.align_to

    def after(self, index: int) -> int:
        return index + 1
