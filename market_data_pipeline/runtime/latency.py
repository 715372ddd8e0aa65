"""A latency histogram in logarithmic buckets (within 5 %), mergeable, small enough to travel with every commit."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

_BASE = math.log(1.1)
_FLOOR_NS = 1_000


class LatencyHistogram:
    """Counts by bucket: bucket b holds latencies around 1 µs x 1.1**b."""

    def __init__(self, buckets: Mapping[int, int] | None = None) -> None:
        self.buckets: Counter[int] = Counter(buckets or {})

    def record(self, nanos: int, count: int = 1) -> None:
        """``count`` items took ``nanos``."""
        bucket = 0 if nanos <= _FLOOR_NS else round(math.log(nanos / _FLOOR_NS) / _BASE)
        self.buckets[bucket] += count

    def merge(self, other: Mapping[int, int]) -> None:
        self.buckets.update({int(bucket): count for bucket, count in other.items()})

    def percentile(self, share: float) -> float | None:
        """Seconds that ``share`` (0..1) of the items stayed within; ``None`` when empty."""
        total = self.buckets.total()
        if not total:
            return None
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= share * total:
                break
        return float(_FLOOR_NS * 1.1**bucket / 1e9)
