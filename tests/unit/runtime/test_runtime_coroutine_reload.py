"""A coroutine node is told to load again while its function waits for something of its own."""

from __future__ import annotations

import asyncio

from test_runtime_coroutine_task import Channels, double, job_of
from tools.memory_job import until

from market_data_pipeline.dag.plan import TaskId


async def test_a_function_that_reads_nothing_starts_anew() -> None:
    """Nobody but the task can notice: the function does not come back to a channel."""
    started: list[asyncio.Event] = []
    both = asyncio.Event()

    async def wait(in_ch: Channels, out_ch: Channels) -> None:
        started.append(asyncio.Event())
        if len(started) == 2:
            both.set()
        await started[-1].wait()

    job, _ = job_of(wait, double)
    first = TaskId("first", 0)
    job.start(first)
    async with asyncio.timeout(60):
        await until(lambda: bool(started))
        job.running[first][0].reload()
        await both.wait()
    assert len(started) == 2
    await job.stop()
