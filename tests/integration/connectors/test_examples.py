"""Examples of connectors, as printed."""

from __future__ import annotations

import asyncio
import importlib.util
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import orjson
import polars as pl
from tools.ib_gateway import IbGateway
from tools.jobs import PATIENCE, ROOT, run_mdp

from market_data_pipeline import DagRuntime
from market_data_pipeline.store.client import connect_blocking
from market_data_pipeline.store.embedded import EmbeddedServer

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_feed_is_captured_and_compacted(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run_mdp("run", "examples/capture.py", "--workers", "2", "--set", f"output={out}", "--set", "items=20000")
    assert done.returncode == 0, done.stderr

    def tables() -> dict[str, pl.DataFrame]:
        return {name: pl.read_parquet(out / f"table={name}") for name in ("trades", "quotes")}

    found = tables()
    trades = found["trades"]
    assert 15_000 < len(trades) < 20_000, "doubles are gone, and ids that never came"
    assert trades.select("symbol", "trade_id").is_duplicated().sum() == 0
    assert len(found["quotes"]) > len(trades), "quotes were not deduped"
    assert found["quotes"].filter(pl.col("bid") >= pl.col("ask")).is_empty()
    assert run_mdp("compact", str(out), "--before", "2030-01-01", "--min-age", "1ms").returncode == 0
    for name, table in tables().items():
        assert table.sort(table.columns).equals(found[name].sort(table.columns))
        assert len(list((out / f"table={name}").glob("*/*.parquet"))) == 1


def test_trades_of_a_redis_stream_become_bars_on_another() -> None:
    with EmbeddedServer() as server, connect_blocking(server.url) as client:
        for n in range(50):
            fields = {"symbol": "BTC-USD", "ts_event": START + n * SECOND // 10, "price": 100 + n, "size": 0.5}
            for _ in range(1 + (n == 7)):  # one of them twice
                client.xadd("trades", {**fields, "trade_id": n})
        done = run_mdp("run", "examples/redis_bus.py", "--set", f"url={server.url}", "--set", "until=end")
        assert done.returncode == 0, done.stderr
        bars = [orjson.loads(fields[b"data"]) for _, fields in client.xrange("bars")]
        latest = client.hgetall("latest:bars:BTC-USD")
    assert [(bar["open"], bar["close"], bar["trade_count"]) for bar in bars] == [
        (100.0 + n, 109.0 + n, 10) for n in range(0, 50, 10)
    ]
    assert (latest[b"close"], int(latest[b"ts_open"])) == (b"149.0", START + 4 * SECOND)


async def test_ticks_of_interactive_brokers_are_stored(tmp_path: Path) -> None:
    async with IbGateway() as gateway:
        pipeline = example("interactive_brokers").pipeline(tmp_path, None, port=gateway.port)
        job = asyncio.create_task(DagRuntime(pipeline).start())
        try:
            trading = await gateway.subscribed("AAPL", "AllLast")
            quoting = await gateway.subscribed("AAPL", "BidAsk")
            gateway.trade(trading, "AAPL", 1_790_000_000, 191.25, 100)
            gateway.quote(quoting, "AAPL", 1_790_000_000, 191.2, 191.3, 300, 200)
            async with asyncio.timeout(PATIENCE):
                while (found := stored(tmp_path / "ticks.sqlite")) != (
                    [("AAPL", 191.25, 100.0)],
                    [("AAPL", 191.2, 191.3)],
                ):
                    assert not job.done(), found
                    await asyncio.sleep(0.05)
        finally:
            job.cancel()
            with suppress(asyncio.CancelledError):
                await job


def stored(path: Path) -> tuple[list[Any], list[Any]]:
    """The trades and quotes in the file, as far as there are tables."""
    if not path.exists():
        return [], []
    with closing(sqlite3.connect(path)) as connection:
        try:
            trades = connection.execute("SELECT symbol, price, size FROM trades").fetchall()
            return trades, connection.execute("SELECT symbol, bid, ask FROM quotes").fetchall()
        except sqlite3.OperationalError:  # not made yet
            return [], []
