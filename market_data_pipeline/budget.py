"""What several callers may ask a venue for together: the rule, the decision, and the waiting. Who keeps the budget is not known
here: the memory of this process, or a server.

The decision is virtual scheduling, the generic cell rate algorithm (ITU-T I.371, annex A): one number per budget, the time at
which it will be full again. A request is told how long to wait for its place, and has that place from then on; nothing is held,
so nobody's death holds anything. Nobody gets a place that is more than a second away: that, and what the last one asked for at
once, is all that a crowd of dead callers can have taken. Of several requests at once the first one's place counts, and of
several rules the smallest burst: so those who ask for less, or have more room, cannot keep the others waiting for ever.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from abc import ABC, abstractmethod
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary, WeakValueDictionary

from market_data_pipeline.clock import SYSTEM_CLOCK, Clock
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.given import check_numbers

LONGEST = 1_000_000
"""So far ahead (microseconds) a place may be taken."""
_STEPS = 10
_CLOSE_ENOUGH = 1e-6
_LONGEST_FILL = 1e8
"""Seconds a full burst may be worth: microseconds stay exact in a server's floats."""


@dataclass(frozen=True)
class BudgetRule:
    """``per_second`` requests on the long run, more than 0, and ``burst`` at once (at least 1) after a while without any. In
    any ``t`` seconds there are at most ``burst + per_second * t``. The spacing is whole microseconds, rounded up. Raises
    ``ConfigError``."""

    per_second: float
    burst: int = 1

    def __post_init__(self) -> None:
        check_numbers(self, "per_second", whole=False)
        check_numbers(self, "burst")
        if not 0 < self.per_second < math.inf:
            raise ConfigError(f"per_second: {self.per_second} is not above 0 and finite")
        if self.burst < 1:
            raise ConfigError(f"burst: {self.burst} must be at least 1")
        if self.burst / self.per_second > _LONGEST_FILL:
            raise ConfigError(
                f"burst: {self.burst} at per_second={self.per_second} takes longer than {_LONGEST_FILL:g} s to come back"
            )

    @property
    def interval(self) -> int:
        """Microseconds from one request to the next on the long run, at least 1."""
        return math.ceil(1e6 / self.per_second)


class Budget(Protocol):
    """One budget, shared by all who name it."""

    async def acquire(self, requests: int = 1) -> None:
        """Return when ``requests`` more may be made, at least 1 and at most the rule's ``burst`` (else ``ConfigError``). Who
        asks first gets them first. Cancelled meanwhile, a place that was taken already is lost, and no more."""
        ...


class Bucket:
    """One budget's state. Times are microseconds of any clock. What ``scripts/budget.lua`` does, in Python."""

    def __init__(self) -> None:
        self.due = 0
        """When nothing will be used up any more: the theoretical arrival time of the next request."""
        self._at = self._room = 0

    def ask(self, now: int, rule: BudgetRule, requests: int, longest: int = LONGEST) -> int:
        """Microseconds until the place of all ``requests``, which is taken then. Below 0: the first one's would be so far away,
        more than ``longest``, and nothing is taken. Each caller takes the time that its own rule says; the smallest burst
        holds for all who asked since the budget was full. A clock that goes back stood still."""
        if now < self._at:
            self.due -= self._at - now
            self._at = now
        own = (rule.burst - 1) * rule.interval
        self._room = min(own, self._room) if self.due > now else own
        begin = max(self.due, now)
        first = max(0, begin - self._room - now)
        if first > longest:
            return -first
        self.due, self._at = begin + requests * rule.interval, now
        return max(0, self.due - rule.interval - self._room - now)


def patience(refusals: int) -> int:
    """How far away a place may be for somebody who was refused so often: half of :data:`LONGEST` at first, then more. So who
    has waited longer asks earlier, and newcomers cannot keep him waiting."""
    return LONGEST // 2 + LONGEST // 2 * min(refusals, _STEPS) // _STEPS


class Budgets(ABC):
    """All budgets that are kept at one place. Of the callers in this process and event loop only one asks for a budget at a
    time, the others stand in line behind it: so each process gets its turn, however many callers it has. ``where``: the place;
    those with one name for it share the lines."""

    def __init__(self, where: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self.where, self._clock = where, clock

    def of(self, name: str, rule: BudgetRule) -> Budget:
        """The budget ``name``, each request spaced by ``rule``."""
        return _Turns(self, name, rule, self._clock)

    @abstractmethod
    async def ask(self, name: str, rule: BudgetRule, requests: int, longest: int) -> int:
        """As :meth:`Bucket.ask`, now."""


class _Turns(Budget):
    def __init__(self, budgets: Budgets, name: str, rule: BudgetRule, clock: Clock) -> None:
        self._budgets, self._name, self._rule, self._clock = budgets, name, rule, clock

    async def acquire(self, requests: int = 1) -> None:
        if not 1 <= requests <= self._rule.burst:
            raise ConfigError(
                f"budget {self._name!r}: {requests} requests at once; allowed: 1 to burst={self._rule.burst}"
            )
        async with _line(self._budgets.where, self._name):
            wait, refusals = await self._ask(requests, 0), 0
            while wait < 0:
                refusals += 1
                await self._sleep(-wait - patience(refusals))
                wait = await self._ask(requests, refusals)
            await self._sleep(wait)

    async def _ask(self, requests: int, refusals: int) -> int:
        return await self._budgets.ask(self._name, self._rule, requests, patience(refusals))

    async def _sleep(self, micros: int) -> None:
        """Never less: timers of some event loops are milliseconds, rounded."""
        until = self._clock.monotonic() + micros / 1e6
        while (left := until - self._clock.monotonic()) > _CLOSE_ENOUGH:
            await self._clock.sleep(left)


_Lines = WeakValueDictionary[tuple[str, str], asyncio.Lock]
_LINES: WeakKeyDictionary[asyncio.AbstractEventLoop, _Lines] = WeakKeyDictionary()


def _line(where: str, name: str) -> asyncio.Lock:
    """Where callers of one budget wait for each other; a lock lets them in in order. It is there as long as one of them is: a
    lock holds on to its event loop."""
    lines = _LINES.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
    return lines.setdefault((where, name), asyncio.Lock())


_numbers = itertools.count(1)
_FEW = 64
"""Budgets among which those that are full are not looked for."""


class MemoryBudgets(Budgets):
    """Budgets of this process alone; for several event loops in several threads too."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(f"memory {next(_numbers)}", clock)
        self._buckets: dict[str, Bucket] = {}
        self._most = _FEW
        self._lock = threading.Lock()

    async def ask(self, name: str, rule: BudgetRule, requests: int, longest: int) -> int:
        with self._lock:
            now = round(self._clock.monotonic() * 1e6)
            if name not in self._buckets and len(self._buckets) >= self._most:
                self._forget(now)
            bucket = self._buckets.setdefault(name, Bucket())
            return bucket.ask(now, rule, requests, longest)

    def _forget(self, now: int) -> None:
        """What is full is as if it was not there, as on a server. Looked for each time that there are twice as many: so a
        name costs no more, however many there are."""
        self._buckets = {name: bucket for name, bucket in self._buckets.items() if bucket.due > now}
        self._most = max(_FEW, 2 * len(self._buckets))


HOST: ContextVar[Budgets | None] = ContextVar("HOST", default=None)
"""The budgets of the worker whose task this code runs in, if it runs in one."""
_IN_PROCESS = MemoryBudgets()


def in_process(clock: Clock = SYSTEM_CLOCK) -> Budgets:
    """The budgets that all of this process shares where there is no server; others for another clock than the machine's."""
    return _IN_PROCESS if clock is SYSTEM_CLOCK else MemoryBudgets(clock)
