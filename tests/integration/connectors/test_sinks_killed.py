"""Every sink in a real job whose workers die at each place of a step: nothing lost, nothing twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tools.jobs import APPS, Job, job, wait_until
from tools.sink_case import SinkCase
from tools.sink_cases import CASES

from market_data_pipeline.store.embedded import EmbeddedServer

APP = APPS / "sink_job.py"
POINTS = ("after-sink-write", "after-sink-prepare", "before-commit", "after-commit", "before-publish", "after-publish")
ITEMS, SECONDS = 8_000, 4.0


@pytest.fixture(params=sorted(CASES.keys() - {"guarded"}))  # which is one of the others
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SinkCase]:
    made = CASES[request.param](tmp_path)
    try:
        yield made
    finally:
        made.close()


def trades(path: Path) -> Counter[Any]:
    """Writes the trades; what a reader must find of them."""
    rows = [
        {"symbol": f"S{i % 40}", "ts_event": 1_767_364_200_000_000_000 + int(i * SECONDS / ITEMS * 1e9),
         "price": 100 + i / 100, "size": 1.0, "side": "buy", "trade_id": i}
        for i in range(ITEMS)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Counter((row["symbol"], row["trade_id"], row["price"], row["ts_event"]) for row in rows)


def test_nothing_is_lost_or_doubled_whenever_a_worker_dies(
    server: EmbeddedServer, tmp_path: Path, logs: Path, case: SinkCase
) -> None:
    source, faults = tmp_path / "trades.jsonl", tmp_path / "faults"
    wanted = trades(source)
    faults.mkdir()
    arguments = ["--set", f"source={source}", "--set", f"sink={case.expression()}", "--set", "speed=1.0"]
    with job(server.url, APP, logs, *arguments, env={"MDP_FAULT_POINTS": str(faults)}) as running:
        running.start("coordinator", "--partitions", "4", "--min-workers", "2")
        for name in ("w0", "w1"):
            running.start(name)
        for point in POINTS:
            if running.state() == "finished":
                break
            (faults / point).touch()
            victim = wait_until(lambda: _dead(running) or running.state() == "finished", f"somebody to die at {point}")
            if victim in running.processes:
                running.start(victim)
        running.wait()
        assert running.client.xlen(running.keys.dead_letters) == 0
    hit = [line.split()[0] for line in (faults / "hits.log").read_text().splitlines()]
    assert len(hit) >= 4, "the job was killed too seldom to show anything"
    found = Counter(map(tuple, case.read()))
    assert set(found) == set(wanted)
    if case.exactly_once:
        assert found == wanted


def _dead(running: Job) -> str:
    """A worker that was killed; empty when there is none."""
    return next((n for n, p in running.processes.items() if n != "coordinator" and p.poll() not in (None, 0)), "")
