"""What stands between a feed that does not wait and a job that may have to: bounded, in order, and nothing lost in silence.

=========== ==================================================================================================
policy      when more comes than is worked off
=========== ==================================================================================================
block       the feed is not read on until the queue is low again: TCP pushes back
conflate    above the high level only the last quote per symbol is kept, at the place of the first, which is at most
            ``within`` older: the watermark must not run ahead of what stands behind; what cannot be conflated (trades,
            gaps) goes into the queue, and when that is full as with ``block``
spill       above the high level everything goes to a file, and is read back in order; when that is full as with
            ``block``
=========== ==================================================================================================

Each policy begins at the high level (or where the queue is full) and ends at the low one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal

from market_data_pipeline.channels.base import Hysteresis, Watermark
from market_data_pipeline.records import Gap, Quote
from market_data_pipeline.sources.spill import SpillFile

log = logging.getLogger(__name__)

Overload = Literal["block", "conflate", "spill"]
POLICIES: tuple[Overload, ...] = ("block", "conflate", "spill")


class _Slot:
    """The place of a quote in the queue."""

    __slots__ = ("first", "quote")

    def __init__(self, quote: Quote) -> None:
        self.quote, self.first = quote, quote.ts_event


class Inbox:
    """A queue of at most ``capacity`` records, from several writers to one reader. ``spill`` is there with the policy
    ``spill``. ``within`` (ns; ``None``: for ever): for so long quotes are conflated into one. Counts ``conflated``, ``spilled``
    and ``blocked`` (how often a writer had to wait)."""

    def __init__(
        self,
        capacity: int,
        policy: Overload,
        counted: Callable[[str, int], None],
        name: str,
        spill: SpillFile | None = None,
        within: int | None = None,
    ) -> None:
        self._capacity, self._policy, self._spill, self._within = capacity, policy, spill, within
        self._counted, self._name = counted, name
        self._queue: deque[Any] = deque()
        self._levels = Hysteresis(Watermark.of(capacity))
        self._low = Watermark.of(capacity).low
        self._slots: dict[str, dict[str, _Slot]] = {}  # by symbol and venue
        self._came, self._room = asyncio.Event(), asyncio.Event()
        self._spilling = asyncio.Lock()
        self._poked = self._ended = False
        self._failure: Exception | None = None
        self.waits = 0
        """How often a writer had to wait."""

    def __len__(self) -> int:
        return len(self._queue)

    # What feeds write

    async def put(self, records: Sequence[Any]) -> None:
        """Add ``records`` in order; waits as the policy says. One call at a time from each writer keeps its order."""
        done = 0
        while done < len(records):
            if self._spill is not None and self._must_spill(self._spill):
                taken = await self._put_aside(self._spill, records[done:])
                done += taken
                if taken:
                    continue
            elif (taken := self._enqueue(records, done)) > 0:
                done += taken
                continue
            await self._wait_for_room()

    def _enqueue(self, records: Sequence[Any], begin: int) -> int:
        """How many of ``records`` from ``begin`` on had room."""
        if self._policy == "conflate":
            return self._enqueue_conflated(records, begin)
        most = self._capacity if self._spill is None else Watermark.of(self._capacity).high
        count = max(0, min(most - len(self._queue), len(records) - begin))
        self._queue.extend(records[begin : begin + count])
        self._crossed()
        return count

    def _enqueue_conflated(self, records: Sequence[Any], begin: int) -> int:
        taken = 0
        for record in records[begin:]:
            slot = self._slots.get(record.symbol, {}).get(record.venue) if type(record) is Quote else None
            if slot is not None and self._levels.above and self._is_near(slot, record):
                slot.quote = record
                self._counted("conflated", 1)
            elif len(self._queue) < self._capacity:
                self._append(record)
            else:
                break
            taken += 1
        self._came.set()
        return taken

    def _is_near(self, slot: _Slot, quote: Quote) -> bool:
        return self._within is None or quote.ts_event - slot.first <= self._within

    def _append(self, record: Any) -> None:
        if type(record) is Quote:
            slot = self._slots.setdefault(record.symbol, {})[record.venue] = _Slot(record)
            record = slot
        elif type(record) is Gap:  # a quote behind a gap must not take a place in front of it
            self._slots.pop(record.symbol, None)
        self._queue.append(record)
        self._crossed()

    def _must_spill(self, spill: SpillFile) -> bool:
        return spill.pending or len(self._queue) >= Watermark.of(self._capacity).high

    async def _put_aside(self, spill: SpillFile, records: Sequence[Any]) -> int:
        async with self._spilling:
            if not self._must_spill(spill):  # it was read to its end meanwhile
                return self._enqueue(records, 0)
            if not spill.pending:
                log.warning("%s: more comes than is worked off: it goes to the spill file", self._name)
            try:
                taken = await spill.write(records)
            except OSError as error:
                log.warning(
                    "%s: the spill file cannot grow (%s): the feed has to wait", self._name, error.strerror or error
                )
                return 0
            self._counted("spilled", taken)
            self._came.set()
            return taken

    async def _wait_for_room(self) -> None:
        self._counted("blocked", 1)
        self.waits += 1
        self._room.clear()
        await self._room.wait()

    def _crossed(self) -> None:
        self._came.set()
        crossing = self._levels.update(len(self._queue))
        if crossing == "high":
            log.warning("%s: %d records wait, on_overload=%s begins", self._name, len(self._queue), self._policy)
        elif crossing == "low":
            log.info("%s: %d records wait, on_overload=%s is over", self._name, len(self._queue), self._policy)

    # What the source reads

    async def take(self, limit: int) -> list[Any] | None:
        """Up to ``limit`` records, as soon as there is one; ``[]`` after :meth:`poke`, ``None`` at the end. Raises what
        :meth:`fail` was given."""
        while True:
            if self._queue:
                return self._pop(limit)
            if self._spill is not None and self._spill.pending:
                await self._refill(self._spill)
                continue
            if self._poked:
                self._poked = False
                return []
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return None
            self._came.clear()
            await self._came.wait()

    def _pop(self, limit: int) -> list[Any]:
        taken = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
        if self._policy == "conflate":
            taken = [self._unwrapped(item) if type(item) is _Slot else item for item in taken]
        self._crossed()
        if len(self._queue) <= self._low and not (self._spill is not None and self._spill.full):
            self._room.set()
        return taken

    def _unwrapped(self, slot: _Slot) -> Quote:
        quote = slot.quote
        of_symbol = self._slots.get(quote.symbol, {})
        if of_symbol.get(quote.venue) is slot:
            del of_symbol[quote.venue]
            if not of_symbol:
                del self._slots[quote.symbol]
        return quote

    async def _refill(self, spill: SpillFile) -> None:
        async with self._spilling:
            self._queue.extend(await spill.read())
        if not spill.pending:
            log.info("%s: the spill file was read to its end", self._name)
            self._room.set()

    def poke(self) -> None:
        """Let :meth:`take` return, with nothing if there is nothing."""
        self._poked = True
        self._came.set()

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._came.set()

    def fail(self, error: Exception) -> None:
        """Nothing more comes because of ``error``, which the reader meets behind the last record."""
        self._failure = error
        self._came.set()
