"""The rate that each source before a store may use, where the store says how full its queue is. No clock, no socket, no units.

Such a store takes items quickly into a queue of its own, so no stream fills and nobody sees it wait. What it says has a unit
that nobody knows here, so only this is used of it: whether the queue is at its high or at its low level, whether it rises, and
which of two rates made it rise by how much more. A queue between its levels keeps its store busy at any rate, so a rate that is
wrong costs nothing for a while, and there is time to find one that is right. It is one rate for all sources before the store:
who brings in less is not held back, and who brings in more later gets as much as the others do, so nobody starves.

* **At the high level** (and not limited so far): a quarter of what the sources bring in where the queue rises fast, by a tenth
  of the way between its levels in a second; else a step less: 5 %. Then what was changed is given four observations to show; if
  the queue rises still, as much is taken away as the two slopes say that there is too much (where they say nothing, twice as
  much as the last time), at most three quarters. So what comes in above the high level is bounded, however slow the store is:
  by what the sources bring in ten seconds, or a third more than what lies between the levels, whichever is more.
* **At the low level**: back up. Two rates are known then, one at which the queue fell to the low level and one at which it
  rose to the high one. What the store takes is between them, and is looked for there as by *regula falsi*: where the two slopes
  say that the queue would stand still, or at the geometric mean where a slope is not known. Each answer moves one of the two,
  until they are one step from each other. From then on the rate is the one at the low level and the other one at the high
  level: one step to and fro.
* **The store has become faster**: at the larger of the two rates the queue does not leave the low level for five observations.
  The rate grows by a step, and after five more by a quarter with each observation, until the queue rises, or no source
  uses half of the rate: then there is no limit any more. **Slower**: at the smaller one it rises still, and is cut as at
  first.
* **Nothing is said**: the rate is left; after half a minute there is none. The streams have levels still. Who takes over
  and does not know that the rate is this store's waits five seconds for a word of it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from typing import NamedTuple

STEP = 0.05
_MOST, _FASTER, _STEEP = 0.75, 1.25, 0.1
_HOLD, _PATIENCE = 4, 5
"""So many observations a cut is given to show, and a rate to be found harmless: up to a second each until the queue is asked,
until that is said, and until it is read."""
_WINDOW = 3
_CLEAR = 0.1
"""By so much of the way between its levels a queue must have moved: less may be noise."""
_RESTS, _RESTED = 0.25, 10
"""Up to here a queue that is as empty as it ever was, for so many observations, counts as one at its low level: with a level of
0, what is just being written would keep it above; and others may fill the queue to some height."""
_LONG = 60
"""A queue that rests at its low level for so many observations is taken to be empty: it was emptier under other levels."""
_LEAST = 1.0
"""Items a second. A rate of none is no rate for a worker."""
_USED = 0.9
"""A rate of which the source brings in so much is what it brings in: intakes of one second vary."""
_UNUSED, _FORGOTTEN = 3, 30


class _Tried(NamedTuple):
    """What a rate did to the queue: its rise a second, in parts of the way between the levels; None where not known."""

    rate: float
    slope: float | None


class StoreRate:
    """The rate of each source before one store, from one observation to the next, a second apart; ``rate`` None is no limit.
    ``pressed``: the store has been at its high level since there is one."""

    def __init__(self) -> None:
        self.rate: float | None = None
        self.pressed = False
        self._positions: deque[float] = deque(maxlen=_WINDOW)
        self._silent = 0
        self._bottom = math.inf
        self._rests_for = 0
        self._forget()

    def _forget(self) -> None:
        self._too_little: _Tried | None = None
        self._too_much: _Tried | None = None
        self._held = self._climbed = self._unused = self._low_for = 0
        self._cut = 0.0
        self._first = self._lowest = self._steepest = math.inf

    def follow(self, rate: float | None, pressed: bool = False) -> None:
        """Another has decided this. ``pressed``: because of this store; else it may be one that never says anything, and a
        silence need not be long."""
        if rate != self.rate:
            self.rate = rate
            self._forget()
        self.pressed = pressed and rate is not None
        self._silent = 0 if pressed else _FORGOTTEN - _PATIENCE

    def update(self, position: float | None, intakes: Collection[float]) -> float | None:
        """The rate from now on. ``position`` of the store, see
        :attr:`~market_data_pipeline.feedback.StoreReading.position`; ``intakes``: what each source brings in a second."""
        self._silent = self._silent + 1 if position is None else 0
        if position is None:
            if self._silent >= _FORGOTTEN:
                self.follow(None)
            return self.rate
        self._positions.append(position)
        self._bottom = min(position, self._bottom)
        self._held += 1
        self._rests_for = self._rests_for + 1 if position <= min(self._bottom, _RESTS) + _CLEAR / 2 else 0
        low = position <= 0 or self._rests_for >= _RESTED
        self._low_for = self._low_for + 1 if low else 0
        if self._held == _HOLD - 1:
            self._first = position
        if position >= 1:
            self._press(position, intakes)
        else:
            self._cut = 0.0
            if low and self.rate is not None:
                self._release(self.rate, position, max(intakes))
        if self._held >= _HOLD - 1:
            self._lowest = min(self._lowest, position)
        if (slope := self._slope()) is not None:
            self._steepest = min(self._steepest, slope)
        return self.rate

    def _set(self, rate: float) -> None:
        self.rate, self._held, self._low_for = max(_LEAST, rate), 0, 0
        self._first = self._lowest = self._steepest = math.inf

    def _slope(self) -> float | None:
        if self._held < _HOLD or len(self._positions) < _WINDOW:
            return None
        return (self._positions[-1] - self._positions[0]) / (_WINDOW - 1)

    def _tried(self, intake: float) -> _Tried:
        """What is known of what comes in now: the rate, or less where no source has more than ``intake``."""
        rate = max(_LEAST, intake)
        if self.rate is not None and intake > _USED * self.rate:
            rate = self.rate
        return _Tried(rate, self._slope())

    def _press(self, position: float, intakes: Collection[float]) -> None:
        if self.rate is None and not any(intakes):
            return  # it is not ours what fills it, and who begins later would begin with nothing
        known, tried, self.pressed = self._too_little, self._tried(max(intakes)), True
        self._climbed = self._unused = 0
        if self.rate is not None and known is not None and known.rate < min(self.rate, tried.rate):
            self._too_much = tried
            self._set(known.rate)
        elif self.rate is None or (self._held >= _HOLD and position > self._lowest + _CLEAR):
            steep = tried.slope is None or tried.slope >= _STEEP
            self._cut = _MOST if steep else self._cut_after(tried)
            self._too_little, self._too_much = None, tried
            used = [tried.rate if intake > _USED * tried.rate else intake for intake in intakes]
            self._set(_level(used, (1 - self._cut) * sum(used)))

    def _cut_after(self, tried: _Tried) -> float:
        """How much of ``tried`` to take away where the queue rises slowly: a step; where that was done and it rises still, what
        the two slopes say that there is too much."""
        before, most = self._too_much, STEP / (1 + STEP)
        if self._cut and before is not None and before.slope is not None and tried.slope is not None:
            fell = before.slope - tried.slope
            share = tried.slope * (before.rate / tried.rate - 1) / fell if fell > 0 else 2 * self._cut
            most = max(most, min(_MOST, share))
        return most

    def _release(self, rate: float, position: float, intake: float) -> None:
        tried = self._tried(intake)
        self._unused = self._unused + 1 if intake < rate / 2 else 0
        if self._unused >= _UNUSED:
            self.follow(None)
        elif self._too_much is None:
            self._climb(rate, position, tried)
        elif not self._harmless(position):
            return
        elif (between := self._bracketed(tried, self._too_much)) > rate:
            self._set(between)
        else:
            self._too_much = None
            self._climb(rate, position, tried)

    def _bracketed(self, tried: _Tried, much: _Tried) -> float:
        """What to try next where ``tried`` is known to be too little; nothing more where the sources do not use their rate, or
        it is as much as ``much`` has been."""
        if tried.rate >= much.rate:
            return 0.0
        # an empty queue falls no more: how it fell says how much more the store could take
        self._too_little = tried._replace(slope=self._steepest)
        return _between(self._too_little, much)

    def _harmless(self, position: float) -> bool:
        """Whether the rate was found to be: the queue has fallen, or is as empty as ever and does not rise."""
        if self._held < _PATIENCE or position > self._first + _CLEAR:
            return False
        empty = position <= self._bottom + _CLEAR / 2 or self._low_for >= _LONG
        return empty or position < self._first - _CLEAR

    def _climb(self, rate: float, position: float, tried: _Tried) -> None:
        if self._climbed > 1 and self._too_little is not None and position > self._bottom + _CLEAR:
            self._climbed, self._too_much = 0, tried
            self._set(_between(self._too_little, tried))
            return
        verified = self._harmless(position)
        if verified:
            self._too_little = tried._replace(slope=self._steepest)
        if verified or self._climbed != 1:
            self._set(rate * _FASTER if self._climbed else rate * (1 + STEP))
            self._climbed += 1


def _level(intakes: Collection[float], wanted: float) -> float:
    """The rate by which ``intakes`` become ``wanted`` in sum: those that are smaller stay as they are."""
    left = len(intakes)
    for intake in sorted(intakes):
        if intake * left >= wanted:
            break
        wanted, left = wanted - intake, left - 1
    return wanted / max(1, left)


def _between(little: _Tried, much: _Tried) -> float:
    """What to try next: within a step of one another, the larger; else what the store seems to take, not nearer than a step to
    either."""
    step = little.rate * (1 + STEP)
    if much.rate <= step * (1 + 1e-9):
        return much.rate
    guess = math.sqrt(little.rate * much.rate)
    if little.slope is not None and much.slope is not None and little.slope < 0 < much.slope:
        share = -little.slope / (much.slope - little.slope)
        guess = little.rate + share * (much.rate - little.rate)
    return max(step, min(guess, much.rate / (1 + STEP)))
