"""Quantiles of the items of a window, exact while they are few, then by a t-digest.

=================================== ================================
``Quantile("price", q)``            result
=================================== ================================
1, 2, 3, 4 and q = 0.5              2.5
the same and q = (0.25, 1.0)        ``[1.75, 4.0]``
100,000 items                       off by at most about 1 % in rank (0.1 % near q = 0.01 and 0.99)
=================================== ================================

The KLL and REQ sketches of the `datasketches` library flip coins, so a window computed twice would not be the same; its
t-digest (Dunning, "The t-digest: efficient distributions", 2021) does not. When a t-digest compresses its buffer would depend
on when it is stored, therefore the buffer is ours: a digest takes :data:`EXACT` items at a time, and results depend on the
order of the items of a key and on nothing else.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.extras import extra
from market_data_pipeline.frame import Array
from market_data_pipeline.operators.aggregations import Aggregation, Layout, Pairs, State

EXACT = 512
"""Up to so many items are kept as they are."""
_CENTROIDS = 500


class _Digest:
    """The values of one slot: what the digest has taken (``None``: nothing yet), and those behind it, fewer than EXACT."""

    __slots__ = ("recent", "taken")

    def __init__(self, taken: bytes | None = None, recent: Iterable[float] = ()) -> None:
        self.taken = taken
        self.recent = array("d", recent)

    def extend(self, values: Sequence[float]) -> None:
        start = 0
        while len(self.recent) + len(values) - start >= EXACT:
            stop = start + EXACT - len(self.recent)
            self.recent.extend(values[start:stop])
            self.taken, self.recent = self._all().serialize(), array("d")
            start = stop
        self.recent.extend(values[start:])

    def _all(self) -> Any:
        digest = _load_sketch()(_CENTROIDS) if self.taken is None else _load_sketch().deserialize(self.taken)
        if self.recent:
            digest.update(np.array(self.recent))
        return digest

    def absorb(self, other: _Digest) -> None:
        if other.taken is not None:
            digest = self._all()
            digest.merge(_load_sketch().deserialize(other.taken))
            self.taken, self.recent = digest.serialize(), array("d")
        self.extend(other.recent)

    def quantiles(self, qs: Sequence[float]) -> list[float]:
        if self.taken is None:
            ordered = sorted(self.recent)
            return [_between(ordered, q) for q in qs]
        digest = self._all()
        return [digest.get_quantile(q) for q in qs]


@dataclass(frozen=True)
class Quantile(Aggregation):
    """The ``q``-quantile of ``field`` (0 to 1); a list of them where ``q`` is a tuple. Needs the extra ``sketches``.

    Linear between the two nearest items (as numpy does by default) while a window has fewer than 512 items, then from a
    t-digest of 500. State: 8 bytes an item up to 4 KiB, then up to 14 KiB a window and key.
    """

    field: str
    q: float | tuple[float, ...] = 0.5
    layout: ClassVar[Layout] = {"digest": ("O", None)}

    def __post_init__(self) -> None:
        for q in self._all:
            if isinstance(q, bool) or not isinstance(q, int | float) or not 0 <= q <= 1:
                raise ConfigError(f"q: {self.q!r} is not allowed; a number from 0 to 1, or a tuple of some")
        if not self._all:
            raise ConfigError("q: () is not allowed; a number from 0 to 1, or a tuple of some")
        _load_sketch()

    @property
    def _all(self) -> tuple[float, ...]:
        return self.q if isinstance(self.q, tuple) else (self.q,)

    @property
    def numbers(self) -> tuple[str, ...]:
        return (self.field,)

    def fresh(self) -> _Digest:
        return _Digest()

    def add(self, state: State, pairs: Pairs) -> None:
        order = np.argsort(pairs.slots, kind="stable")
        slots, values = pairs.slots[order], pairs.numbers(self.field)[order]
        starts = np.flatnonzero(np.concatenate(([True], slots[1:] != slots[:-1])))
        stops = [*starts[1:].tolist(), len(slots)]
        all_values, digests = values.tolist(), state["digest"]
        for slot, start, stop in zip(slots[starts].tolist(), starts.tolist(), stops, strict=True):
            digests[slot].extend(all_values[start:stop])

    def merge(self, state: State, into: int, other: int) -> None:
        state["digest"][into].absorb(state["digest"][other])

    def result(self, state: State, slots: Array) -> Array | list[Any]:
        found = [digest.quantiles(self._all) for digest in state["digest"][slots]]
        return found if isinstance(self.q, tuple) else np.array([one for (one,) in found], np.float64)

    def dump(self, value: Any) -> Any:
        return [value.taken, np.array(value.recent, "<f8").tobytes()]

    def load(self, value: Any) -> Any:
        return _Digest(value[0], np.frombuffer(value[1], "<f8").tolist())


def _between(ordered: Sequence[float], q: float) -> float:
    """Hyndman and Fan's definition 7 (The American Statistician 50, 1996); NaN for no values."""
    if not ordered:
        return math.nan
    place = q * (len(ordered) - 1)
    at = min(int(place), len(ordered) - 2) if len(ordered) > 1 else 0
    low, high = ordered[at], ordered[min(at + 1, len(ordered) - 1)]
    return low + (high - low) * (place - at)


def _load_sketch() -> Any:
    return extra("datasketches", "sketches", "Quantile").tdigest_double
