"""``mdp run`` as a user types it: summary, resume, Ctrl-C, children that die, real data, examples."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from test_main_job import APP, SECOND, expected
from tools.jobs import APPS, PATIENCE, ROOT, run_mdp, wait_until
from tools.oracle import check_bars, plain_bars, written_bars

from market_data_pipeline.store.embedded import EmbeddedServer

DATA = ROOT.parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the recorded market data is not on this machine")


@contextmanager
def mdp(*arguments: str, err: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``mdp run`` in the background, its progress in ``err``."""
    with err.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "market_data_pipeline.cli", "run", *arguments], stdout=sink, stderr=sink, cwd=ROOT
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait(PATIENCE)


def bars_seen(err: Path) -> int:
    """How many bars had come out when ``mdp run`` last said so."""
    found = re.findall(r"^in=[\d,]+ out=([\d,]+)", err.read_text(), re.M)
    return int(found[-1].replace(",", "")) if found else 0


def run_bars(tmp_path: Path, *more: str) -> list[str]:
    return [str(APP), "--workers", "2", "--set", f"output={tmp_path / 'out'}", *more]


def test_the_summary_tells_what_happened(tmp_path: Path) -> None:
    done = run_mdp("run", *run_bars(tmp_path, "--set", "items=100000", "--json"))
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    bars = expected(100_000)
    trades = sum(bar["trade_count"] for bar in bars.values())
    assert summary["state"] == "finished"
    assert summary["items_in"] == 100_000
    assert summary["items_out"] == len(bars)
    assert summary["nodes"]["dedupe"]["duplicate"] == 100_000 - trades
    assert summary["latency"]["p50"] <= summary["latency"]["p99"]
    check_bars(tmp_path / "out", bars, SECOND)


def test_a_data_dir_is_resumed_after_ctrl_c(tmp_path: Path) -> None:
    given = run_bars(tmp_path, "--set", "items=200000", "--set", "rate=40000", "--data-dir", str(tmp_path / "data"))
    err = tmp_path / "err"
    with mdp(*given, err=err) as first:
        wait_until(lambda: bars_seen(err) > 0, "some bars")
        first.send_signal(signal.SIGINT)
        assert first.wait(PATIENCE) == 130
    assert 0 < len(written_bars(tmp_path / "out")) < len(expected(200_000, 40_000))
    assert "job bars: interrupted after" in err.read_text()
    again = run_mdp("run", *given)
    assert again.returncode == 0, again.stderr
    check_bars(tmp_path / "out", expected(200_000, 40_000), SECOND)
    third = run_mdp("run", *given)
    assert third.returncode == 0
    assert "has finished already" in third.stderr
    other = run_mdp("run", *given, "--set", "symbols=49")
    assert other.returncode == 2
    assert "first difference: plan.nodes.source.config.symbols: ours 49, theirs 50" in other.stderr
    assert "Traceback" not in other.stderr


def test_a_run_that_keeps_nothing_says_what_the_next_one_does(tmp_path: Path) -> None:
    err = tmp_path / "err"
    with mdp(*run_bars(tmp_path, "--set", "items=200000", "--set", "rate=40000"), err=err) as first:
        wait_until(lambda: bars_seen(err) > 0, "some bars")
        first.send_signal(signal.SIGINT)
        assert first.wait(PATIENCE) == 130
    assert err.read_text().splitlines()[-1].endswith("a new one begins at the start; with --data-dir DIR it resumes")
    files = len(list((tmp_path / "out").glob("*.jsonl")))
    again = run_mdp("run", *run_bars(tmp_path, "--set", "items=1000"))
    assert again.returncode == 0, again.stderr
    assert f"output folder {tmp_path / 'out'} holds {files} file" in again.stderr
    assert "of other runs already" in again.stderr


def test_everything_killed_at_once_is_resumed(tmp_path: Path) -> None:
    given = run_bars(tmp_path, "--set", "items=200000", "--set", "rate=40000", "--data-dir", str(tmp_path / "data"))
    err = tmp_path / "err"
    with mdp(*given, err=err) as first:
        wait_until(lambda: bars_seen(err) > 0, "some bars")
        children = subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True, check=True)
        for pid in [*children.stdout.split(), str(first.pid)]:
            os.kill(int(pid), signal.SIGKILL)
        first.wait(PATIENCE)
    again = run_mdp("run", *given)
    assert again.returncode == 0, again.stderr
    check_bars(tmp_path / "out", expected(200_000, 40_000), SECOND)


def test_a_child_that_dies_is_reported_and_started_again(tmp_path: Path) -> None:
    given = run_bars(tmp_path, "--set", "items=160000", "--set", "rate=40000", "--lease-ttl-ms", "600")
    err = tmp_path / "err"
    with mdp(*given, err=err) as running:
        wait_until(lambda: bars_seen(err) > 0, "some bars")
        found = subprocess.run(
            ["pgrep", "-f", "-P", str(running.pid), "name w2"], capture_output=True, text=True, check=True
        )
        os.kill(int(found.stdout.split()[0]), signal.SIGKILL)
        assert running.wait(PATIENCE) == 0
    text = err.read_text()
    assert "w2 died with signal SIGKILL; its last words:" in text
    assert "w2: starting it again" in text
    check_bars(tmp_path / "out", expected(160_000, 40_000), SECOND)


def test_a_failing_operator_ends_the_job_with_its_message(tmp_path: Path) -> None:
    app = tmp_path / "fails.py"
    app.write_text(
        "from market_data_pipeline import Pipeline, Synthetic, Discard\n"
        "pipeline = (Pipeline('fails').source(Synthetic(items=1000))\n"
        "    .map(lambda trade: 1 / 0, name='divide', on_error='fail').sink(Discard()))\n"
    )
    failed = run_mdp("run", str(app), "--workers", "1")
    assert failed.returncode == 1
    assert "node 'divide': ZeroDivisionError: division by zero; item: Trade(" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_coroutine_nodes_run_unchanged_across_processes(tmp_path: Path) -> None:
    done = run_mdp(
        "run", str(APPS / "coroutines.py"), "--workers", "2", "--partitions", "4", "--set", f"output={tmp_path / 'out'}"
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for path in (tmp_path / "out").glob("*.jsonl") for line in path.read_text().splitlines()]
    assert sorted(item["n"] for item in found) == [2 * n for n in range(20_000)]
    assert all(item["tagged"] for item in found)


def test_two_runs_on_one_data_dir_are_refused(tmp_path: Path) -> None:
    given = run_bars(tmp_path, "--set", "items=400000", "--set", "rate=40000", "--data-dir", str(tmp_path / "data"))
    err = tmp_path / "err"
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with mdp(*given, "--http-port", str(port), err=err):
        wait_until(lambda: bars_seen(err) > 0, "some bars")
        second = run_mdp("run", *given)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status", timeout=10) as answer:
            assert json.load(answer)["job"] == "bars", "of the coordinator; the workers have other ports"
    assert second.returncode == 2
    assert "data: in use by another run" in second.stderr


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server on PATH")
def test_an_installed_redis_serves_as_well(tmp_path: Path) -> None:
    done = run_mdp("run", *run_bars(tmp_path, "--set", "items=50000", "--server", "redis-server"))
    assert done.returncode == 0, done.stderr
    check_bars(tmp_path / "out", expected(50_000), SECOND)


def recorded(name: str) -> list[dict[str, Any]]:
    with gzip.open(DATA / name, "rt") as file:
        return [json.loads(line) for line in file] if ".jsonl" in name else list(csv.DictReader(file))


def dropped(rows: list[dict[str, Any]]) -> int:
    """How many of ``rows`` a dedupe drops: all with a known id, but for the first live one behind a snapshot."""
    phases: dict[tuple[str, Any], str] = {}
    count = 0
    for row in rows:
        key, phase = (row["symbol"], row["trade_id"]), row.get("phase", "live")
        if row["trade_id"] == "":
            continue
        if key not in phases or (phases[key] == "snapshot" and phase == "live"):
            phases[key] = phase
        else:
            count += 1
    return count


@needs_data
@pytest.mark.parametrize("name", ["trades_btcusdt_binance.csv.gz", "trades_crypto.jsonl.gz"])
def test_recorded_trades(tmp_path: Path, name: str) -> None:
    done = run_mdp(
        "run", "examples/bars.py", "--workers", "2", "--set", f"input={DATA / name}", "--set",
        f"output={tmp_path / 'out'}", "--set", "interval=1s", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = recorded(name)
    live = [row for row in rows if row.get("phase", "live") == "live"]
    check_bars(tmp_path / "out", plain_bars(live, SECOND)[0], SECOND)
    summary = json.loads(done.stdout)
    assert summary["items_in"] == len(rows)
    assert summary["nodes"]["dedupe"].get("duplicate", 0) == dropped(rows)
    assert summary["dead_letters"] == 0
    assert summary["nodes"]["tumblingbars"].get("late", 0) == 0


def test_the_bars_example_with_a_bad_row(tmp_path: Path, server: EmbeddedServer) -> None:
    rows = [f"A,{i * 100_000_000},{100 + i},1,{i}" for i in range(30)]
    rows[7] = "A,700000000,abc,1,7"
    rows[19] = "A,oops"
    trades = tmp_path / "trades.csv"
    trades.write_text("\n".join(["symbol,ts_event,price,size,trade_id", *rows, ""]))
    given = ["--redis-url", server.url]
    done = run_mdp(
        "run",
        "examples/bars.py",
        *given,
        "--allow-volatile",
        "--set",
        f"input={trades}",
        "--set",
        f"output={tmp_path / 'out'}",
    )
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"dead letters +2\n +the first: +source at trades.csv:9: price: 'abc' is not a finite number", done.stderr
    )
    assert sum(bar["trade_count"] for bar in written_bars(tmp_path / "out").values()) == 28
    letters = [json.loads(line) for line in run_mdp("dlq", *given).stdout.splitlines()]
    assert [(letter["where"], letter["reason"]) for letter in letters] == [
        ("trades.csv:9", "price: 'abc' is not a finite number"),
        ("trades.csv:21", "2 fields instead of 5"),
    ]
    assert letters[0]["item"]["price"] == "abc"
    assert len(run_mdp("dlq", *given, "--clear").stdout.splitlines()) == 2
    assert run_mdp("dlq", *given).stdout == ""
    shown = run_mdp("status", *given)
    assert shown.returncode == 0
    assert "bars" in shown.stdout
    assert "finished" in shown.stdout


def test_the_basic_example() -> None:
    done = subprocess.run([sys.executable, "examples/basic.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *batches, result = done.stdout.splitlines()
    numbers = [item for line in batches for item in json.loads(line.replace("'", '"'))]
    assert numbers == [{"n": n, "n2": 2 * n} for n in range(25)]
    assert [len(json.loads(line.replace("'", '"'))) for line in batches] == [5] * 5
    assert result == "RunResult(started=4, completed=4, cancelled=0, failed=0)"


@needs_data
def test_recorded_minute_bars_become_hours(tmp_path: Path) -> None:
    path = DATA / "bars_fxcm_gbpusd_m1_bid_2012.csv.gz"
    done = run_mdp(
        "run", "examples/resample.py", "--workers", "2", "--set", f"input={path}", "--set", "symbol=GBPUSD",
        "--set", f"output={tmp_path}", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["dead_letters"] == 0
    minutes = pl.read_csv(path, try_parse_dates=True).sort("timestamp")
    for every, folder in (("5m", "5m"), ("1h", "1h")):
        oracle = minutes.group_by_dynamic("timestamp", every=every).agg(
            pl.col("open").first(), pl.col("high").max(), pl.col("low").min(), pl.col("close").last()
        )
        wanted = [(int(ts.timestamp()) * SECOND, *ohlc) for ts, *ohlc in oracle.iter_rows()]
        bars = written_bars(tmp_path / folder).values()
        found = [(b["ts_open"], b["open"], b["high"], b["low"], b["close"]) for b in bars]
        assert sorted(found) == wanted
        assert len(wanted) > 500
        assert all(b["is_final"] and b["revision"] == 0 for b in bars)


def test_the_asof_example_gives_each_trade_the_last_closed_bar(tmp_path: Path) -> None:
    done = run_mdp(
        "run", "examples/asof.py", "--workers", "2", "--set", f"output={tmp_path}", "--set", "items=30000", "--json"
    )
    assert done.returncode == 0, done.stderr
    lines = [line for file in (tmp_path / "joined").glob("*.jsonl") for line in file.read_text().splitlines()]
    trades = pl.DataFrame([json.loads(line) for line in lines], infer_schema_length=None)
    assert len(trades) == 30_000
    second = pl.col("ts_event").floordiv(SECOND)
    by = trades.sort("ts_event", "trade_id").group_by("symbol", second.alias("second"), maintain_order=True)
    bars = by.agg(pl.col("price").last().alias("wanted")).with_columns(ts_event=(pl.col("second") + 1) * SECOND)
    joined = trades.sort("ts_event").join_asof(
        bars.sort("ts_event"), on="ts_event", by="symbol", strategy="backward", tolerance=60 * SECOND
    )
    assert joined["close"].equals(joined["wanted"], null_equal=True, check_names=False)
    windows = [
        json.loads(line) for file in (tmp_path / "windows").glob("*.jsonl") for line in file.read_text().splitlines()
    ]
    five = pl.col("ts_event").floordiv(5 * SECOND) * 5 * SECOND
    counts = trades.group_by("symbol", five.alias("ts_open")).agg(pl.len())
    assert {(w["symbol"], w["ts_open"], w["trades"]) for w in windows} == set(counts.iter_rows())
    assert len(windows) == len(counts)
