"""Sums over runs of an array, in the order of a plain loop.

Floating-point addition is not associative: ``np.add.reduceat`` adds pairwise, and a difference of cumulative sums rounds
differently again. State that must not depend on how items were batched is therefore added strictly from left to right,
beginning with what was there: then one frame of n items and n frames of one item give the same bits.
"""

from __future__ import annotations

import numpy as np

from market_data_pipeline.frame import Array

_SIDE_BY_SIDE = 64
"""So many rows of every run are added side by side, all runs at once; what is behind them in longer ones, run by run."""


def run_totals(values: Array, first: Array, initial: Array) -> Array:
    """``initial[r, k] + values[first[r], k] + values[first[r] + 1, k] + ...`` up to the next run, added in this order.

    ``values``: float64 of shape (n, k), ``first``: where each of the r runs begins, ascending, ``first[0] == 0``;
    ``initial`` and the result: float64 of shape (r, k). Every run has at least one row.
    """
    length = np.diff(first, append=len(values))
    longest_first = np.argsort(-length, kind="stable")
    sums, begin, length = initial[longest_first], first[longest_first], length[longest_first]
    together = min(int(length[0]), _SIDE_BY_SIDE) if len(first) > 8 else 0
    reach = np.searchsorted(
        -length, -np.arange(together + 1), "left"
    ).tolist()  # how many runs are longer than 0, 1, ...
    for row, runs in enumerate(reach[:-1]):
        sums[:runs] += values.take(begin[:runs] + row, axis=0)
    for run in range(reach[-1]):
        part = values[begin[run] + together : begin[run] + length[run]]
        sums[run] = np.add.accumulate(np.concatenate((sums[run : run + 1], part)), axis=0)[-1]
    totals = np.empty_like(sums)
    totals[longest_first] = sums
    return totals
