"""A task above its output's high level waits for the low one; time and lengths are the test's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from tools.fake_clock import FakeClock
from tools.memory_job import CommittedRows, ListSource
from tools.memory_store import MemoryServer

from market_data_pipeline.channels.base import Watermark
from market_data_pipeline.dag.pipeline import Pipeline
from market_data_pipeline.dag.plan import TaskId
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.runtime.channel_limits import ChannelLimits
from market_data_pipeline.runtime.contract import Limits, Stream
from market_data_pipeline.runtime.gate import Gate
from market_data_pipeline.runtime.observe import TaskObserver

A, B = ("source.out", 0), ("source.out", 1)
LIMITS = Limits(channel_capacity=10, high=6, low=2, commit_frames=2)


class Notes(TaskObserver):
    def __init__(self) -> None:
        self.crossings: list[tuple[Stream, str]] = []
        self.pause = 0.0

    def crossed(self, stream: Stream, level: str) -> None:
        self.crossings.append((stream, level))

    def paused(self, seconds: float) -> None:
        self.pause += seconds


class Draining(FakeClock):
    """With every sleep, each stream loses one entry."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__()
        self.server = server

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds)
        for entries in self.server.contents.streams.values():
            del entries[:1]


def make(
    lengths: Mapping[Stream, int], stopping: Sequence[bool] = (False,), own: ChannelLimits | None = None
) -> tuple[Gate, MemoryServer, Draining, Notes]:
    plan = compile_dag(Pipeline("g").source(ListSource([])).key_by().sink(CommittedRows(), "out").build(), 2)
    server = MemoryServer(plan, LIMITS)
    for stream, length in lengths.items():
        server.append(stream, [b"x"] * length)
    clock, notes = Draining(server), Notes()
    store = server.store(TaskId("source", 0), server.lease(0))
    each = own or ChannelLimits(LIMITS.channel_capacity, LIMITS.channel_bytes, Watermark(LIMITS.high, LIMITS.low))
    streams = {A: each, B: each}
    return Gate(streams, LIMITS.commit_frames, store, notes, clock, lambda: stopping[0]), server, clock, notes


async def test_below_the_high_level_nothing_waits() -> None:
    gate, _, clock, notes = make({A: 5, B: 5})
    await gate.wait({A: 5, B: 5})
    assert (clock.slept, notes.crossings) == ([], [])


async def test_above_it_waits_for_the_low_level_of_every_stream() -> None:
    gate, server, clock, notes = make({A: 6, B: 9})
    await gate.wait({A: 6, B: 9})
    assert len(server.stream(B)) == 2
    assert len(server.stream(A)) == 0
    assert notes.crossings == [(A, "high"), (B, "high"), (A, "low"), (B, "low")]
    assert len(clock.slept) == 7
    assert notes.pause == pytest.approx(sum(clock.slept))
    assert clock.slept == sorted(clock.slept), "it asks ever more rarely"
    assert max(clock.slept) <= 0.05


async def test_between_the_levels_nothing_fires_again() -> None:
    gate, _, clock, notes = make({A: 6})
    await gate.wait({A: 6})
    slept = len(clock.slept)
    for length in (3, 5, 4, 2, 5):
        await gate.wait({A: length})
    assert len(clock.slept) == slept
    assert notes.crossings == [(A, "high"), (A, "low")]


async def test_room_means_the_low_level_of_the_streams_that_refused() -> None:
    gate, server, clock, _ = make({A: 5, B: 9})
    await gate.wait_for_room([A])
    assert len(server.stream(A)) == 2
    assert len(server.stream(B)) == 6
    assert len(clock.slept) == 3


async def test_a_task_that_stops_does_not_wait() -> None:
    gate, server, clock, _ = make({A: 9}, stopping=(True,))
    await gate.wait({A: 9})
    await gate.wait_for_room([A])
    assert clock.slept == []
    assert len(server.stream(A)) == 9
