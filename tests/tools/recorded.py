"""The recorded market data that tests are judged by, and polars' answers about it. Nothing here imports an operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars
import pytest

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FX_MINUTES = DATA / "bars_fxcm_gbpusd_m1_bid_2012.csv.gz"

needs_fx = pytest.mark.skipif(not FX_MINUTES.exists(), reason="the recorded 1-minute FX bars are not on this machine")


def fx_minutes() -> polars.DataFrame:
    """GBP/USD bids by the minute, as recorded: ts (start, ns), open, high, low, close. 30,117 rows; minutes are missing."""
    table = polars.read_csv(FX_MINUTES)
    ts = polars.col("timestamp").str.to_datetime("%Y-%m-%d %H:%M:%S%z", time_unit="ns", time_zone="UTC")
    return table.select(ts.alias("at"), "open", "high", "low", "close").with_columns(
        polars.col("at").dt.timestamp("ns").alias("ts")
    )


def resampled(minutes: polars.DataFrame, every: str) -> list[tuple[Any, ...]]:
    """ts_open (ns), open, high, low, close of the coarser bars, by time: ``group_by_dynamic``, closed and labelled left."""
    coarse = minutes.sort("at").group_by_dynamic("at", every=every, closed="left", label="left")
    bars = coarse.agg(
        polars.col("open").first(), polars.col("high").max(), polars.col("low").min(), polars.col("close").last()
    )
    return bars.select(polars.col("at").dt.timestamp("ns"), "open", "high", "low", "close").rows()
