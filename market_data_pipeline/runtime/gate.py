"""Backpressure between tasks: a task whose output is above its high level waits until it is back at the low one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from market_data_pipeline.channels.base import Hysteresis
from market_data_pipeline.clock import Clock
from market_data_pipeline.runtime.channel_limits import ChannelLimits
from market_data_pipeline.runtime.contract import Stream, TaskStore
from market_data_pipeline.runtime.observe import TaskObserver

log = logging.getLogger(__name__)

_FIRST_DELAY, _LAST_DELAY = 0.002, 0.05


class Gate:
    """The levels of one task's output streams. ``streams``: what holds for each; ``commit_frames``: the most that a commit
    appends to one, for which there must be room."""

    def __init__(
        self,
        streams: Mapping[Stream, ChannelLimits],
        commit_frames: int,
        store: TaskStore,
        observer: TaskObserver,
        clock: Clock,
        stopping: Callable[[], bool],
    ) -> None:
        self._levels = {stream: Hysteresis(of.levels) for stream, of in streams.items()}
        self._room = {stream: max(0, min(of.levels.low, of.capacity - commit_frames)) for stream, of in streams.items()}
        self._store = store
        self._observer = observer
        self._clock = clock
        self._stopping = stopping

    @property
    def pressed(self) -> bool:
        """Whether an output was above its levels when last looked at."""
        return any(levels.above for levels in self._levels.values())

    async def look(self, lengths: Mapping[Stream, int]) -> None:
        """Take note of ``lengths``, and of those of the outputs that are above; for tasks that read on all the same."""
        self._note(lengths)
        above = [stream for stream, levels in self._levels.items() if levels.above and stream not in lengths]
        if above:
            self._note(await self._store.lengths(above))

    async def wait(self, lengths: Mapping[Stream, int]) -> None:
        """Take note of ``lengths``; return when no output is above its levels, or the task is to stop."""
        self._note(lengths)
        above = [stream for stream, levels in self._levels.items() if levels.above]
        if not above:
            return
        started, delay = self._clock.monotonic(), _FIRST_DELAY
        while above and not self._stopping():
            await self._clock.sleep(delay)
            delay = min(delay * 1.5, _LAST_DELAY)
            self._note(await self._store.lengths(above))
            above = [stream for stream, levels in self._levels.items() if levels.above]
            now = self._clock.monotonic()
            self._observer.paused(now - started)
            started = now

    async def wait_for_room(self, streams: Sequence[Stream]) -> None:
        """Return when the streams that refused a commit are at the low level, or the task is to stop."""
        started, delay = self._clock.monotonic(), _FIRST_DELAY
        while streams and not self._stopping():
            await self._clock.sleep(delay)
            delay = min(delay * 1.5, _LAST_DELAY)
            lengths = await self._store.lengths(streams)
            self._note(lengths)
            now = self._clock.monotonic()
            self._observer.paused(now - started)
            started = now
            if all(length <= self._room[stream] for stream, length in lengths.items()):
                return

    def _note(self, lengths: Mapping[Stream, int]) -> None:
        for stream, length in lengths.items():
            crossing = self._levels[stream].update(length)
            if crossing is not None:
                log.debug("stream %s/%d crossed its %s level: %d frames", *stream, crossing, length)
                self._observer.crossed(stream, crossing)
