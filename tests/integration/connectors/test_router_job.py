"""A router in a job of two workers, between two feeds that are processes; one of them is killed, and comes back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tools.jobs import APPS, ROOT, Job, job, wait_until

from market_data_pipeline.store.embedded import EmbeddedServer, free_port

ENV = {"PYTHONPATH": os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT), str(ROOT / "tests")])}
STEP = 5_000_000
SYMBOLS = 8


class Feeds:
    """The two feeds, ``primary`` and ``backup``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.start_ns = folder, time.time_ns()
        self.ports = {name: free_port() for name in ("primary", "backup")}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        command = [sys.executable, str(ROOT / "tests/tools/feed_server.py"), str(self.ports[name]), str(self.start_ns)]
        self.processes[name] = subprocess.Popen(
            [*command, str(STEP), str(self.folder), name], env={**os.environ, **ENV}, stdin=subprocess.DEVNULL
        )

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def log(self, name: str) -> list[str]:
        path = self.folder / f"{name}.log"
        return path.read_text().split() if path.exists() else []

    def end(self) -> int:
        """Both are over soon, behind the trade that is returned."""
        last = (time.time_ns() - self.start_ns) // STEP + 100
        (self.folder / "end.new").write_text(str(last))
        (self.folder / "end.new").rename(self.folder / "end")
        return last


@pytest.fixture
def feeds(tmp_path: Path) -> Iterator[Feeds]:
    made = Feeds(tmp_path)
    try:
        for name in made.ports:
            made.start(name)
        yield made
    finally:
        for process in made.processes.values():
            process.kill()
            process.wait()


def routed(running: Job) -> dict[str, float]:
    """Symbols by provider, over all partitions of both workers."""
    found: dict[str, float] = defaultdict(float)
    for worker in ("w0", "w1"):
        for line in running.http(worker, "/metrics").splitlines():
            if line.startswith("mdp_route_symbols{"):
                found[re.findall(r'provider="(\w+)"', line)[0]] += float(line.rsplit(" ", 1)[1])
    return dict(found)


def written(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


def test_a_killed_primary_costs_no_trade_and_is_taken_back(
    server: EmbeddedServer, tmp_path: Path, logs: Path, feeds: Feeds
) -> None:
    out = tmp_path / "out"
    given = [f"primary={feeds.ports['primary']}", f"backup={feeds.ports['backup']}", f"output={out}"]
    arguments = [part for one in given for part in ("--set", one)]
    with job(server.url, APPS / "router_job.py", logs, *arguments, env={**ENV, "MDP_LEASE_TTL_MS": "5000"}) as running:
        running.start("coordinator", "--partitions", "4", "--min-workers", "2")
        for name in ("w0", "w1"):
            running.start(name)
        for name in feeds.ports:
            wait_until(lambda name=name: len(feeds.log(name)) == SYMBOLS, f"{name} to be subscribed to")
        wait_until(lambda: routed(running) == {"primary": SYMBOLS, "backup": 0}, "the primary to have all symbols")
        running.wait_for_items("dedupe", 400)
        killed = time.time_ns()
        feeds.kill("primary")
        wait_until(lambda: routed(running) == {"primary": 0, "backup": SYMBOLS}, "the backup to have all symbols")
        feeds.start("primary")
        wait_until(lambda: routed(running) == {"primary": SYMBOLS, "backup": 0}, "the primary to have them again")
        assert sum(line.startswith("+") for line in feeds.log("primary")) == 2 * SYMBOLS
        last = feeds.end()
        running.wait()
        counts = running.counts()
    before_end = feeds.log("backup")[: feeds.log("backup").index("end")]
    assert sorted(before_end) == [f"+S{number}" for number in range(SYMBOLS)], "subscribed to once, all the time"
    numbers: dict[str, list[int]] = defaultdict(list)
    for row in written(out / "trades"):
        assert "trade_id" in row, f"a gap, though the backup had all: {row}"
        numbers[row["symbol"]].append(row["trade_id"])
    assert len(numbers) == SYMBOLS
    for found in numbers.values():
        assert found == list(range(found[0], last + 1))
    events = [event for event in written(out / "events") if event["event"] == "switched"]
    assert counts["feed"]["switched"] == len(events)
    events = sorted((event for event in events if event["ts_event"] > killed), key=lambda event: event["ts_event"])
    details = [event["detail"] for event in events]
    half = len(details) // 2
    assert set(details[:half]) == {"primary -> backup: disconnected"}
    assert set(details[half:]) == {"backup -> primary: recovered"}
    assert {event["symbol"] for event in events} == {""}
    assert counts["dedupe"].get("conflict", 0) == 0


def test_the_example_prints_its_switch_and_has_every_trade(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "examples/failover.py", "--output", str(tmp_path), "--seconds", "6"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, verdict = done.stdout.splitlines()
    switched = [line for line in lines if " switched " in line]
    assert len(switched) == 1
    assert re.fullmatch(r" +\d\.\d s  second  switched      first -> second: (disconnected|suspended)", switched[0])
    assert re.fullmatch(r"\d+ trades, \d+ of them from first and \d+ from second: each is there, once", verdict)
