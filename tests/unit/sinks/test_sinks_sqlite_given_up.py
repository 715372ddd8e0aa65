"""A step on SQLite that is given up: its thread goes on, and the process and its event loop with it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from market_data_pipeline import Frame, SqliteStore, SqliteTable, Trade
from market_data_pipeline.sinks.base import SinkContext

SINKS = [SqliteStore, lambda path: SqliteTable(path, "trades", ("symbol", "trade_id"))]


def trades(n: int) -> Frame:
    return Frame([Trade("A", at, 0, 1.0, 1.0, "", at) for at in range(n)])


async def given_up(sink: Any, items: Frame) -> asyncio.Task[None]:
    """A step of ``sink`` that was cancelled in its thread; what closes the sink then."""
    await sink.write([items])
    step = asyncio.create_task(sink.prepare(False))
    await asyncio.sleep(0.1)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    return asyncio.create_task(sink.close())


@pytest.mark.parametrize("make", SINKS, ids=["store", "table"])
@pytest.mark.parametrize("locked", [True, False])
async def test_a_step_that_is_given_up_stops_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, locked: bool
) -> None:
    monkeypatch.setattr("market_data_pipeline.sinks.sqlite._BUSY_SECONDS", 3.0)
    path = tmp_path / "db.sqlite"
    sink = make(path)
    sink.busy_seconds = 3.0
    await sink.open(SinkContext("out"), None)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        if locked:
            other.execute("BEGIN IMMEDIATE")
        closing_it = await given_up(sink, trades(1 if locked else 50_000))
        await asyncio.sleep(0)
        assert not closing_it.done(), "the loop must not wait for the thread"
        if locked:
            other.execute("ROLLBACK")
        await closing_it
    again = make(path)
    await again.open(SinkContext("out", generation=1), None)
    await again.write([trades(100)])
    await again.prepare(False)
    await again.close()
    with closing(sqlite3.connect(path)) as reader:
        assert reader.execute("SELECT count(*) FROM trades WHERE trade_id < 100").fetchone()[0] >= 1
