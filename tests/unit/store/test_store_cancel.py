"""Jobs that are ended: also when the client loses a cancellation while it connects."""

from __future__ import annotations

import asyncio

import pytest

from market_data_pipeline.store import client
from market_data_pipeline.store.client import cancel_and_wait


async def test_a_cancellation_that_was_lost_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_CANCEL_AGAIN_SECONDS", 0.01)
    lost = 0

    async def work() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                lost += 1
                if lost == 3:
                    raise

    job = asyncio.create_task(work())
    await asyncio.sleep(0)
    await cancel_and_wait(job)
    assert job.cancelled()
    assert lost == 3


async def test_a_job_that_failed_is_over_and_says_nothing_more() -> None:
    async def work() -> None:
        raise ValueError("what went wrong")

    job = asyncio.create_task(work())
    await asyncio.sleep(0)
    await cancel_and_wait(job)
    assert job.done()
