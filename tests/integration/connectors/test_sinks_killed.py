"""Every sink in a real job whose workers die at each place of a step: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tools.jobs import APPS, Job, generate, job, wait_until
from tools.paced import load_module
from tools.sink_case import SinkCase
from tools.sink_cases import CASES

from market_data_pipeline.store.embedded import EmbeddedServer

APP = APPS / "sink_job.py"
POINTS = ("after-sink-write", "after-sink-prepare", "before-commit", "after-commit", "before-publish", "after-publish")


@pytest.fixture(params=sorted(CASES.keys() - {"guarded"}))  # which is one of the others
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SinkCase]:
    made = CASES[request.param](tmp_path)
    try:
        yield made
    finally:
        made.close()


def trades(items: int) -> Counter[Any]:
    """What a reader must find of the job's first ``items``."""
    rows = asyncio.run(generate(load_module(APP).trades(items)))
    return Counter((row["symbol"], row["trade_id"], row["price"], row["ts_event"]) for row in rows)


def test_nothing_is_lost_or_doubled_whenever_a_worker_dies(
    server: EmbeddedServer, tmp_path: Path, logs: Path, case: SinkCase
) -> None:
    end, faults = tmp_path / "end", tmp_path / "faults"
    faults.mkdir()
    arguments = ["--set", f"end={end}", "--set", f"sink={case.expression()}"]
    with job(server.url, APP, logs, *arguments, env={"MDP_FAULT_POINTS": str(faults)}) as running:
        running.start("coordinator", "--partitions", "4", "--min-workers", "2")
        for name in ("w0", "w1"):
            running.start(name)
        for point in POINTS:
            (faults / point).touch()
            running.start(wait_until(lambda: _dead(running), f"somebody to die at {point}"))
        end.touch()
        running.wait()
        assert running.client.xlen(running.keys.dead_letters) == 0
        wanted = trades(running.counts()["source"]["out"])
    hit = [line.split()[0] for line in (faults / "hits.log").read_text().splitlines()]
    assert hit == list(POINTS)
    found = Counter(map(tuple, case.read()))
    assert set(found) == set(wanted)
    if case.exactly_once:
        assert found == wanted


def _dead(running: Job) -> str:
    """A worker that was killed; empty when there is none."""
    return next((n for n, p in running.processes.items() if n != "coordinator" and p.poll() not in (None, 0)), "")
