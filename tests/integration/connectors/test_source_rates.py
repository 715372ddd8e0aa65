"""A store that stands still slows its source down: seen in the metrics of running processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools.jobs import APPS, ROOT, Job, job, wait_until
from tools.postgres import PostgresServer, lock_table, query, shared_server

from market_data_pipeline.store.embedded import EmbeddedServer

RATE = 10_000.0
CAPACITY = 32
SETTINGS = {
    "MDP_CHANNEL_CAPACITY": str(CAPACITY),
    "MDP_COMMIT_FRAMES": "8",
    "MDP_FRAME_ITEMS": "100",
    "MDP_LEASE_TTL_MS": "5000",  # a worker that a busy machine takes for dead would be another test
}
MOST_WAITING = 2 * CAPACITY * 100
"""Items in the streams of two partitions."""
MIB = 1024


@pytest.fixture(scope="session")
def postgres() -> PostgresServer:
    return shared_server()


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.database() as made:
        yield made


def resident_kib(running: Job) -> int:
    status = Path(f"/proc/{running.processes['w0'].pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0])


def test_a_locked_table_slows_the_source_and_loses_nothing(
    server: EmbeddedServer, tmp_path: Path, logs: Path, url: str
) -> None:
    end = tmp_path / "end"
    given = ["--set", f"url={url}", "--set", f"end={end}", "--set", f"rate={RATE}"]
    with job(server.url, APPS / "slow_store.py", logs, *given, env=SETTINGS) as running:
        running.start("coordinator", "--partitions", "2", "--min-workers", "1")
        running.start("w0")
        wait_until(lambda: running.state() == "running" and running.status()["items_out"] > RATE, "the job to run")
        # a machine that stands still at the start may have been limited for a moment
        wait_until(lambda: running.status()["rates"] == {}, "the source not to be limited")
        wait_until(lambda: running.metric("w0", "mdp_source_rate_limit{") == float("inf"), "the worker to know")
        with lock_table(url, "trades"):
            # the first cut is by what the store took in the last seconds, which may have been before it was locked
            wait_until(lambda: running.status()["rates"].get("source", RATE) <= RATE / 10, "the source to be limited")
            wait_until(lambda: running.metric("w0", "mdp_source_rate_limit{") < RATE, "the worker to obey")
            assert running.metric("coordinator", "mdp_source_rate_limit{") < RATE
            held, memory = running.status(), resident_kib(running)
            assert held["items_in"] - held["items_out"] <= MOST_WAITING
            seen: list[int] = []
            wait_until(lambda: seen.append(resident_kib(running)) or len(seen) >= 100, "some more seconds")
            later = running.status()
            assert later["items_in"] - held["items_in"] <= MOST_WAITING, "nothing fits in any more"
            assert later["items_out"] == held["items_out"]
            assert max(seen) - memory < 32 * MIB
            assert running.metric("w0", 'mdp_channel_crossings_total{channel="source.store",level="high"}') >= 1
            shown = subprocess.run(
                [sys.executable, "-m", "market_data_pipeline.cli", "status", "--redis-url", server.url],
                capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, "MDP_ALLOW_VOLATILE": "true"},
            )  # fmt: skip
            assert "slowed down: source" in " ".join(shown.stdout.split())
        wait_until(lambda: running.status()["items_out"] > later["items_out"] + MOST_WAITING, "the store to go on")
        assert running.metric("w0", 'mdp_channel_crossings_total{channel="source.store",level="low"}') >= 1
        assert running.metric("w0", "mdp_sink_write_seconds_sum") > 5, "the wait for the lock is in it"
        end.touch()
        running.wait()
        items = running.counts()["source"]["out"]
    assert query(url, "SELECT count(*), count(DISTINCT (symbol, trade_id)) FROM trades") == [(items, items)]


def test_the_example_ends_well(tmp_path: Path) -> None:
    short = ["--seconds", "1", "--slow", "2", "--after", "1"]
    done = subprocess.run(
        [sys.executable, "examples/backpressure.py", "--output", str(tmp_path), *short],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, verdict = done.stdout.splitlines()
    assert verdict == "all 200,000 trades are stored, each once"
    assert any(" slow " in line for line in lines)
    assert all(len(line) <= 80 for line in lines)
    header = next(at for at, line in enumerate(lines) if line.startswith("  s  store"))
    assert len({len(line) for line in lines[header:]}) == 1, "columns stand below each other"
