"""A ``Replay`` read to its end, from any place; and files to read."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from market_data_pipeline.frame import to_rows
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.records import Trade
from market_data_pipeline.sources.base import Batch, SourceContext
from market_data_pipeline.sources.replay import Replay
from tools.fake_clock import FakeClock


class Counted(Counter[str]):
    def add(self, name: str, n: int = 1) -> None:
        self[name] += n


async def batches(
    source: Replay, position: Any = None, clock: FakeClock | None = None, counted: Counted | None = None
) -> list[Batch]:
    """All batches behind ``position``."""
    fresh = source.fresh()
    counts = Counted() if counted is None else counted
    found = []
    try:
        await fresh.open(SourceContext("src", clock=clock or FakeClock(), counted=counts.add), position)
        while (batch := await fresh.read()) is not None:
            found.append(batch)
    finally:
        await fresh.close()
    return found


def rows_of(found: list[Batch]) -> list[Any]:
    return [row for batch in found for row in to_rows(batch.items)]


def letters_of(found: list[Batch]) -> list[DeadLetter]:
    return [letter for batch in found for letter in batch.rejected]


async def everything(source: Replay, position: Any = None) -> tuple[list[Any], list[DeadLetter]]:
    found = await batches(source, position)
    return rows_of(found), letters_of(found)


async def check_resume(source: Replay) -> list[Batch]:
    """From every batch on, the rest comes out exactly: rows and dead letters."""
    whole = await batches(source)
    for at, batch in enumerate(whole):
        position = json.loads(json.dumps(batch.position))  # plain data, as a commit stores it
        rest = await batches(source, position)
        assert rows_of(rest) == rows_of(whole[at + 1 :])
        assert list(map(repr, letters_of(rest))) == list(
            map(repr, letters_of(whole[at + 1 :]))
        )  # a NaN is not its equal
    return whole


def some_trades(n: int, seed: int = 0, step: int = 1000, symbols: str = "ABC") -> list[Trade]:
    """Trades by time, with ties; no two alike."""
    rng = random.Random(seed)
    ts, found = seed, []
    for i in range(n):
        ts += rng.choice((0, step, step, 3 * step))
        price, size = rng.randrange(1, 999) / 8, float(rng.randrange(1, 99))
        found.append(
            Trade(rng.choice(symbols), ts, ts + 5, price, size, rng.choice(("buy", "sell", "")), f"{seed}-{i}")
        )
    return found


def table_of(trades: list[Trade]) -> pl.DataFrame:
    names = ("symbol", "ts_event", "ts_recv", "price", "size", "side", "trade_id")
    return pl.DataFrame({name: [getattr(trade, name) for trade in trades] for name in names})


def write_trades(path: Path, trades: list[Trade], rows: int = 16) -> Path:
    """``trades`` in the format that ``path`` names; ``rows`` per row group or record batch."""
    table = table_of(trades)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        table.write_parquet(path, row_group_size=rows)
    elif path.suffix == ".arrow":
        table.write_ipc(path, record_batch_size=rows)
    elif path.suffix == ".csv":
        table.write_csv(path)
    else:
        table.write_ndjson(path)
    return path
