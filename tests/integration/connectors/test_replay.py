"""Replays of Parquet as whole jobs: killed and started again, and the example."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import polars as pl
import pytest
from test_mdp_run import bars_seen, mdp
from tools.jobs import APPS, PATIENCE, run_mdp, wait_until
from tools.oracle import check_bars, plain_bars, written_bars
from tools.replayed import some_trades, write_trades

from market_data_pipeline.records import Trade

SECOND = 1_000_000_000
MINUTE = 60 * SECOND


def write_folder(folder: Path) -> list[Trade]:
    """Six files over 60 s of event time: two at a time, each pair behind the one before."""
    found: list[Trade] = []
    for n in range(6):
        trades = [t._replace(ts_event=t.ts_event + n // 2 * 20 * SECOND) for t in some_trades(3000, n, step=5_000_000)]
        write_trades(folder / f"{n}.parquet", trades, rows=700)
        found += trades
    return found


def test_a_replay_that_is_killed_goes_on_exactly(tmp_path: Path) -> None:
    trades = write_folder(tmp_path / "trades")
    expected, _ = plain_bars((trade._asdict() for trade in trades), SECOND)
    given = [
        str(APPS / "replay_job.py"), "--workers", "2", "--data-dir", str(tmp_path / "data"), "--set", "speed=20",
        "--set", f"trades={tmp_path / 'trades'}", "--set", f"output={tmp_path / 'out'}",
    ]  # fmt: skip
    err = tmp_path / "err"
    with mdp(*given, err=err) as first:
        wait_until(lambda: bars_seen(err) > 0, "some bars")
        children = subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True, check=True)
        for pid in [*children.stdout.split(), str(first.pid)]:
            os.kill(int(pid), signal.SIGKILL)
        first.wait(PATIENCE)
    assert len(written_bars(tmp_path / "out")) < len(expected)
    again = run_mdp("run", *given, "--json")
    assert again.returncode == 0, again.stderr
    check_bars(tmp_path / "out", expected, SECOND)
    assert json.loads(again.stdout)["dead_letters"] == 0


@pytest.mark.parametrize("more", [{}, {"start": "2026-01-02T15:00", "end": "2026-01-02T16:00:00Z", "speed": "100000"}])
def test_the_example_makes_bars_of_a_folder(tmp_path: Path, more: dict[str, str]) -> None:
    sets = [part for name, value in {"output": str(tmp_path), **more}.items() for part in ("--set", f"{name}={value}")]
    done = run_mdp("run", "examples/replay_parquet.py", "--workers", "2", *sets, "--json")
    assert done.returncode == 0, done.stderr
    table = pl.read_parquet(tmp_path / "trades" / "*.parquet").with_columns(pl.col("ts_event").dt.timestamp("ns"))
    assert len(table) == 12_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bars", "trades"]
    if more:
        hour = 1767366000 * SECOND
        table = table.filter(pl.col("ts_event").is_between(hour, hour + 60 * MINUTE, closed="left"))
    expected, _ = plain_bars(table.sort("ts_event").iter_rows(named=True), MINUTE)
    check_bars(tmp_path / "bars", expected, MINUTE)
    summary = json.loads(done.stdout)
    assert summary["items_in"] == len(table)
    counted = [node.get("out_of_range", 0) for node in summary["nodes"].values()]
    assert sum(counted) == 12_000 - len(table)
