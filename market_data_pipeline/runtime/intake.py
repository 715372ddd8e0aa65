"""What a task brings in from its source: batches gathered for one commit, at the pace it is told."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, NamedTuple

from market_data_pipeline.component import awaited
from market_data_pipeline.frame import END, Columns
from market_data_pipeline.runtime.pace import Pace
from market_data_pipeline.runtime.progress import SourceWatermark
from market_data_pipeline.runtime.task import Task
from market_data_pipeline.sources.base import Batch, Source, SourceContext, checked_batch

_ROW_WEIGHT = 4
"""How many times more bytes a row takes than a row of columns; keeps commits of rows as small as those of columns."""

_REST_SECONDS = 0.05

_AT_HAND_SECONDS = 0.04
"""A source that always has items at hand commits after so long."""

_LOOK_SECONDS = 0.1
"""A source that must wait looks so often whether it still must."""


class Gathered(NamedTuple):
    """Batches for one commit, the wall time (ns) at which the first was there, and whether the source has ended."""

    batches: list[Batch]
    born: int
    ended: bool


class Intake:
    """The source ``node`` of ``task``. ``enough``: items for one commit, at most by one batch more; rows count as more."""

    def __init__(
        self, task: Task, node: str, source: Source, watermark: SourceWatermark, enough: int, pace: Pace
    ) -> None:
        self.node, self.watermark = node, watermark
        self._task, self._source, self._enough, self._pace = task, source, enough, pace
        self._clock, self._linger = task.clock, task.limits.linger
        self._gathered_at = float("-inf")
        self._reading: asyncio.Task[tuple[Batch | None, int]] | None = None
        self._opened = False

    async def open(self, ctx: SourceContext, position: Any | None) -> None:
        """Open the source, unless it has ended before."""
        self.watermark.heard(self._clock.monotonic())
        self._opened = self.watermark.mark != END
        if self._opened:
            await awaited(self.node, self._source.open, ctx, position)

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._reading
        if self._opened:
            await awaited(self.node, self._source.close)

    async def rest(self, seconds: float = _REST_SECONDS) -> None:
        """Let the source be for a while; its silence is ours."""
        self._task.check_reload()
        self.watermark.heard(self._clock.monotonic())
        await self._task.interruptible(self._clock.sleep(seconds))

    async def gather(self, due: float | None) -> Gathered:
        """Wait for the source, for ``due`` seconds at most (None: as long as it says), and take what it has.

        A source commits at most every ``linger`` seconds, and at once when it was quiet before. What is at hand is taken
        without waiting, for a while: else a source that is faster than commits would fall behind. One that has brought in what
        it may is not read at all until it may again.
        """
        owed = self._pace.wait(self._clock.monotonic())
        if owed > 0:
            await self.rest(min(owed, _LOOK_SECONDS if due is None else min(due, _LOOK_SECONDS)))
            return Gathered([], 0, False)
        batches: list[Batch] = []
        count, born, latest = 0, 0, 0.0
        until = self._gathered_at + self._linger
        while count < self._enough and not self._task.stopping:
            now = self._clock.monotonic()
            if batches and (now >= latest or self._pace.wait(now) > 0):
                break
            came = await self._read(until - now if batches else self._patience(now, due))
            if came is None:
                break
            batch, at = came
            if batch is None:
                return Gathered(batches, born, True)
            if not batches:
                born, latest = at, self._clock.monotonic() + max(_AT_HAND_SECONDS, self._linger)
            batches.append(batch)
            self._pace.took(_size(batch), self._clock.monotonic())
            if self._task.suspicion.careful:
                break
            weight = 1 if isinstance(batch.items, Columns) else _ROW_WEIGHT
            count += weight * len(batch.items) + len(batch.rejected)
        self._gathered_at = self._clock.monotonic()
        return Gathered(batches, born, False)

    def _patience(self, now: float, due: float | None) -> float:
        """Seconds to wait for the source before something else must be done."""
        patience = self.watermark.patience(now)
        return patience if due is None else min(patience, due)

    async def _read(self, timeout: float) -> tuple[Batch | None, int] | None:
        """The source's next batch and the wall time at which it was there; ``None`` when it is not there within ``timeout``:
        the read goes on, also while a commit is made."""
        self._task.check_reload()
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_and_stamp())
            await asyncio.sleep(0)
        if not self._reading.done() and timeout > 0:
            await self._task.interruptible(asyncio.wait({self._reading}, timeout=timeout))
        if not self._reading.done():
            return None
        reading, self._reading = self._reading, None
        return reading.result()

    async def _read_and_stamp(self) -> tuple[Batch | None, int]:
        made = await awaited(self.node, self._source.read)
        return checked_batch(self.node, self._source, made), self._clock.time_ns()


def _size(batch: Batch) -> int:
    return len(batch.items) + sum(map(len, batch.outputs.values()))
