"""Writers of other packages are killed again and again: what is committed is stored, at least once."""

from __future__ import annotations

import asyncio
import random

import pytest
from tools import foreign
from tools.foreign import BEGIN_NS
from tools.memory_job import ListSource, MemoryJob, until
from tools.memory_store import MemoryServer

from market_data_pipeline import CoordinatedSink, OutsideSink, Pipeline, Sink, Trade
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.runtime.contract import Limits

PARTITIONS = 2
SMALL = Limits(
    frame_items=16, frame_bytes=4096, commit_items=40, commit_frames=2, channel_capacity=6, channel_bytes=64 * 1024,
    high=4, low=1, linger=0.0, mark_interval=0.0,
)  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "sink", [OutsideSink(factory="tools.foreign:lines"), CoordinatedSink(factory="tools.foreign:coordinator")]
)
async def test_nothing_is_missing_when_writers_are_killed(sink: Sink, seed: int) -> None:
    """A dead writer's memory is gone with it. In the end each trade is there, those of a step that was repeated again."""
    foreign.THE_PLACE.rows.clear()
    trades = [Trade(f"S{number % 5}", BEGIN_NS + number, 1, 1.0, 2.0, "", number) for number in range(600)]
    dag = Pipeline("killed").source(ListSource(trades)).key_by("symbol").map(same).sink(sink).build()
    plan = compile_dag(dag, PARTITIONS)
    server = MemoryServer(plan, SMALL)
    job = MemoryJob(dag, plan, server, SMALL)
    rng = random.Random(seed)
    running = asyncio.create_task(job.run())
    kills = 0
    while not running.done():
        some = len(server.history) + rng.randrange(1, 12)
        await until(lambda: running.done() or len(server.history) >= some)  # noqa: B023 - it is over within the turn
        for _ in range(rng.randrange(12)):
            await asyncio.sleep(0)
        if job.running and not running.done():
            await job.take_over(rng.randrange(PARTITIONS))
            kills += 1
    await running
    assert kills >= 3
    stored = foreign.THE_PLACE.rows
    assert sorted(set(stored), key=lambda row: row.trade_id) == trades
    for symbol in range(5):
        first: list[int] = []
        for row in stored:
            if row.symbol == f"S{symbol}" and row.trade_id not in first:
                first.append(row.trade_id)
        assert first == sorted(first), "in order, but for what was repeated"


def same(item: Trade) -> Trade:
    return item
