"""The main job over real processes: equal to the oracle, whatever the number of workers and partitions, whoever dies."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tools.jobs import APPS, PATIENCE, Job, generate, job, wait_until
from tools.oracle import check_bars, plain_bars

from market_data_pipeline.store.embedded import EmbeddedServer

APP = APPS / "bars_job.py"
SECOND = 1_000_000_000
RATE = 20_000


def app_module() -> Any:
    spec = importlib.util.spec_from_file_location("bars_job", APP)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expected(items: int, rate: float | None = None) -> dict[Any, dict[str, Any]]:
    rows = asyncio.run(generate(app_module().source(items, rate)))
    bars, duplicates = plain_bars(rows, SECOND)
    assert duplicates > 0
    return bars


def arguments(tmp_path: Path, items: int, rate: float | None = None) -> list[str]:
    given = ["--set", f"output={tmp_path / 'out'}", "--set", f"items={items}"]
    given += ["--set", f"rate={rate}"] if rate else []
    return given


def until_told(tmp_path: Path, rate: float) -> list[str]:
    """Arguments of a job that runs until :func:`end`."""
    given = {"output": tmp_path / "out", "rate": rate, "end": tmp_path / "end"}
    return [word for name, value in given.items() for word in ("--set", f"{name}={value}")]


def end(running: Job, tmp_path: Path, rate: float) -> None:
    """End the feed, wait for the job, and judge its output."""
    (tmp_path / "end").touch()
    running.wait()
    check_bars(tmp_path / "out", expected(running.counts()["source"]["out"], rate), SECOND)


@pytest.mark.parametrize("partitions", [1, 8, 64])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_output_equals_the_oracle(
    server: EmbeddedServer, tmp_path: Path, logs: Path, workers: int, partitions: int
) -> None:
    with job(server.url, APP, logs, *arguments(tmp_path, 100_000)) as running:
        running.start("coordinator", "--partitions", str(partitions), "--min-workers", str(workers))
        for i in range(workers):
            running.start(f"w{i}")
        running.wait()
        assert {running.wait_for_exit(name) for name in running.processes} == {0}
        assert set(running.streams().values()) == {0}
        assert running.client.xlen(running.keys.dead_letters) == 0
    check_bars(tmp_path / "out", expected(100_000), SECOND)


@pytest.mark.parametrize("victim", ["w0", "w1"])
def test_a_killed_worker_loses_and_doubles_nothing(
    server: EmbeddedServer, tmp_path: Path, logs: Path, victim: str
) -> None:
    """w0 runs the source (partition 0 is pinned to it)."""
    with job(server.url, APP, logs, *arguments(tmp_path, 120_000, 40_000)) as running:
        running.start("coordinator", "--min-workers", "2")
        running.start("w0", "--partition", "0")
        running.start("w1")
        running.wait_for_items("source", 30_000)
        running.processes[victim].kill()
        running.wait()
    check_bars(tmp_path / "out", expected(120_000, 40_000), SECOND)


def test_a_zombie_is_fenced(server: EmbeddedServer, tmp_path: Path, logs: Path) -> None:
    with job(server.url, APP, logs, *until_told(tmp_path, RATE)) as running:
        running.start("coordinator", "--min-workers", "2")
        zombie = running.start("w0", "--partition", "0-3")
        running.start("w1", "--partition", "4-7")
        running.wait_for_items("source", 20_000)
        os.kill(zombie.pid, signal.SIGSTOP)
        keys = running.keys

        def taken_over() -> bool:
            owners = {running.client.hget(keys.lease(p), "worker") for p in range(4)}
            return owners == {b"w1"}

        wait_until(taken_over, "w1 to own everything")
        os.kill(zombie.pid, signal.SIGCONT)
        noticed = ("is over", "holding partitions []")
        wait_until(lambda: any(words in running.log("w0") for words in noticed), "the zombie to notice")
        end(running, tmp_path, RATE)
        assert running.wait_for_exit("w0") == 0


def test_a_worker_leaves_politely(server: EmbeddedServer, tmp_path: Path, logs: Path) -> None:
    with job(server.url, APP, logs, *until_told(tmp_path, RATE)) as running:
        running.start("coordinator", "--min-workers", "2")
        leaving = running.start("w0", "--partition", "0")
        running.start("w1")
        running.wait_for_items("source", 20_000)
        leaving.terminate()
        assert running.wait_for_exit("w0") == 0
        assert running.client.hget(running.keys.lease(0), "worker") in (b"", b"w1")
        end(running, tmp_path, RATE)


def test_workers_go_on_without_a_coordinator(server: EmbeddedServer, tmp_path: Path, logs: Path) -> None:
    with job(server.url, APP, logs, *arguments(tmp_path, 80_000, 40_000)) as running:
        running.start("coordinator", "--min-workers", "2")
        running.start("w0")
        running.start("w1")
        running.wait_for_items("source", 10_000)
        running.processes["coordinator"].kill()
        wait_until(lambda: running.ended_tasks() == 9, "all nine tasks to end without a coordinator")
        running.start("coordinator-2")
        running.wait()
    check_bars(tmp_path / "out", expected(80_000, 40_000), SECOND)


def test_two_coordinators_one_leads(server: EmbeddedServer, tmp_path: Path, logs: Path) -> None:
    calm = {"MDP_LEASE_TTL_MS": "2000"}  # a leader that a busy machine takes for dead would be another test
    with job(server.url, APP, logs, *until_told(tmp_path, RATE), env=calm) as running:
        running.start("coordinator")
        wait_until(lambda: "leading" in running.log("coordinator"), "the first to lead")
        running.start("coordinator-2")
        running.start("w0")
        running.wait_for_items("source", 10_000)
        wait_until(lambda: running.ready("coordinator-2") == "standing by\n", "the second to stand by")
        running.processes["coordinator"].kill()
        wait_until(lambda: "leading, term 2" in running.log("coordinator-2"), "the second to lead")
        end(running, tmp_path, RATE)


def test_of_two_workers_with_one_name_the_earlier_leaves(server: EmbeddedServer, tmp_path: Path, logs: Path) -> None:
    with job(server.url, APP, logs, *until_told(tmp_path, RATE)) as running:
        running.start("coordinator")
        earlier = running.start("w0")
        running.wait_for_items("source", 5_000)
        running.start("w0")
        assert earlier.wait(timeout=PATIENCE) == 1
        assert "another process was started as worker 'w0' after this one" in running.log("w0")
        end(running, tmp_path, RATE)
        assert running.wait_for_exit("w0") == 0


def test_a_late_worker_takes_its_share(server: EmbeddedServer, tmp_path: Path, logs: Path) -> None:
    with job(server.url, APP, logs, *until_told(tmp_path, RATE)) as running:
        running.start("coordinator")
        running.start("w0")
        running.wait_for_items("source", 20_000)
        running.start("w1")
        keys = running.keys

        def shared() -> bool:
            owners = [running.client.hget(keys.lease(p), "worker") for p in range(8)]
            return sorted(map(owners.count, {b"w0", b"w1"})) == [4, 4]

        wait_until(shared, "four partitions each")
        end(running, tmp_path, RATE)


def test_the_server_is_killed_and_comes_back(tmp_path: Path, logs: Path) -> None:
    server = EmbeddedServer(tmp_path / "data")
    server.start()
    try:
        with job(server.url, APP, logs, *arguments(tmp_path, 120_000, 40_000)) as running:
            running.start("coordinator", "--min-workers", "2")
            running.start("w0")
            running.start("w1")
            running.wait_for_items("source", 30_000)
            server.kill()
            server.start()
            running.wait()
    finally:
        server.stop()
    check_bars(tmp_path / "out", expected(120_000, 40_000), SECOND)


def test_coroutine_nodes_survive_restarts_of_the_server(tmp_path: Path, logs: Path) -> None:
    """A task that is told to load again must let the user's function go first: not spin, not hang."""
    server = EmbeddedServer(tmp_path / "data")
    server.start()
    given = ["--set", f"output={tmp_path / 'out'}", "--set", "items=80000"]
    try:
        with job(server.url, APPS / "coroutines.py", logs, *given) as running:
            running.start("coordinator", "--min-workers", "1", "--partitions", "4")
            running.start("w0")
            for items in (15_000, 35_000):
                running.wait_for_items("source", items)
                server.kill()
                server.start()
            running.wait()
    finally:
        server.stop()
    found = [json.loads(line) for path in (tmp_path / "out").glob("*.jsonl") for line in path.read_text().splitlines()]
    assert sorted(item["n"] for item in found) == [2 * n for n in range(80_000)]


def test_a_flush_larger_than_the_streams_comes_out_while_the_source_is_idle(
    server: EmbeddedServer, tmp_path: Path, logs: Path
) -> None:
    app = tmp_path / "flood.py"
    app.write_text(
        "import asyncio\n"
        "from pathlib import Path\n"
        "from market_data_pipeline import JsonLines, Pipeline, Synthetic\n"
        "class One(Synthetic):\n"
        "    async def read(self):\n"
        "        if self._number == 1:\n"
        "            await asyncio.Event().wait()\n"
        "        return await super().read()\n"
        "def pipeline(output: Path) -> Pipeline:\n"
        "    source = One(symbols=1, items=1)\n"
        "    many = lambda trade: [{'symbol': str(n % 10), 'n': n} for n in range(20_000)]\n"
        "    flood = Pipeline('flood').source(source, name='source').flat_map(many)\n"
        "    return flood.key_by('symbol').map(dict).sink(JsonLines(output, roll_interval='1s'))\n"
    )
    small = {"MDP_FRAME_ITEMS": "50", "MDP_COMMIT_FRAMES": "2", "MDP_CHANNEL_CAPACITY": "4"}
    with job(server.url, app, logs, "--set", f"output={tmp_path / 'out'}", env=small) as running:
        running.start("coordinator", "--partitions", "2")
        running.start("w0")
        wait_until(lambda: running.counts().get("jsonlines", {}).get("in", 0) >= 20_000, "the whole flood")
        assert running.counts()["source"]["out"] == 1, "the source was idle"
        assert max(running.streams().values()) <= 4
