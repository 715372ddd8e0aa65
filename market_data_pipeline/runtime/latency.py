"""A latency histogram, mergeable, small enough to travel with every commit.

Buckets as in HdrHistogram (Gil Tene, "HdrHistogram: A High Dynamic Range Histogram"): up to 64 ns one each, then every
power of two is divided into 32 of equal width. A bucket stands for its middle, at most 1 / 64 (1.6 %) from any latency in it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

_SUB_BITS = 5
_ROUNDING = 1e-12
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
"""What a summary gives, and its share of the items."""


def bucket_of(nanos: int) -> int:
    """The bucket of a latency in ns. One below zero (a clock was set back) counts as zero."""
    nanos = max(nanos, 0)
    shift = max(0, nanos.bit_length() - _SUB_BITS - 1)
    return (shift << _SUB_BITS) + (nanos >> shift)


def middle_of(bucket: int) -> int:
    """The latency in ns that a bucket stands for."""
    shift = max(0, (bucket >> _SUB_BITS) - 1)
    return (bucket - (shift << _SUB_BITS) << shift) + (1 << shift) // 2


class LatencyHistogram:
    """Counts by bucket."""

    def __init__(self, packed: Mapping[str, int] | None = None) -> None:
        self.buckets: Counter[int] = Counter()
        self.merge(packed or {})

    def record(self, nanos: int, count: int = 1) -> None:
        """``count`` items took ``nanos``."""
        self.buckets[bucket_of(nanos)] += count

    def packed(self) -> dict[str, int]:
        """The counts as plain data, for :meth:`merge` elsewhere."""
        return {str(bucket): count for bucket, count in self.buckets.items()}

    def merge(self, packed: Mapping[str, int]) -> None:
        """Add what another one counted."""
        for bucket, count in packed.items():
            self.buckets[int(bucket)] += count

    def percentile(self, share: float) -> float | None:
        """Seconds: the smallest latency that at least ``share`` (0..1) of the items did not exceed (nearest rank), as the
        middle of its bucket; ``None`` when empty."""
        rank = max(1, math.ceil(share * self.buckets.total() * (1 - _ROUNDING)))
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= rank:
                return middle_of(bucket) / 1e9
        return None

    def summary(self) -> dict[str, float | None]:
        """:data:`PERCENTILES` in seconds, ``None`` when empty."""
        return {name: self.percentile(share) for name, share in PERCENTILES.items()}
