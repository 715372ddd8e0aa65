"""PipelineRuntime over real processes, from an event loop: a worker that dies, a stop and a second start, the example."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from tools.jobs import PATIENCE, ROOT, generate
from tools.oracle import check_bars, plain_bars, written_bars

from market_data_pipeline import (
    Distributed,
    JsonLines,
    OrchestratorSettings,
    Pipeline,
    PipelineRuntime,
    RuntimeOrchestrator,
    Synthetic,
)
from market_data_pipeline.orchestration.running import Running
from market_data_pipeline.settings import load_settings

SECOND = 1_000_000_000
SOURCE = Synthetic(symbols=20, items=60_000, rate=30_000, event_rate=10_000, duplicates=0.05, disorder=0.1, seed=3)


def bars(output: Path) -> Pipeline:
    return Pipeline("bars").source(SOURCE).key_by().dedupe().bars("1s").sink(JsonLines(output), name="files")


async def check(output: Path) -> None:
    expected, duplicates = plain_bars(await generate(SOURCE), SECOND)
    assert duplicates > 0
    check_bars(output, expected, SECOND)


def processes() -> dict[int, str]:
    """The children of this process, each with its command."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


async def some_bars(running: Running) -> None:
    async with asyncio.timeout(PATIENCE):
        while running.status().items_out == 0:
            assert not running.done, running.status()
            await asyncio.sleep(0.02)


async def test_a_worker_that_is_killed_changes_nothing(tmp_path: Path) -> None:
    before = processes()
    workers = Distributed(workers=2, partitions=4, settings=load_settings(lease_ttl_ms=600))
    orchestrator = RuntimeOrchestrator(OrchestratorSettings(mode="distributed"), workers)
    whole = asyncio.create_task(orchestrator.run_pipeline(bars(tmp_path / "out")))
    while not orchestrator.runtime.running:  # noqa: ASYNC110 - it begins with the next turn of the loop
        await asyncio.sleep(0)
    await some_bars(orchestrator.runtime.running["bars"])
    (victim,) = [pid for pid, command in processes().items() if "--name w2" in command]
    os.kill(victim, signal.SIGKILL)
    status = await whole
    assert (status.where, status.state, status.items_in) == ("2 workers", "finished", 60_000)
    assert set(status.channels.values()) == {0}
    await check(tmp_path / "out")
    assert processes() == before


async def test_a_server_and_a_worker_that_somebody_has_stopped_do_not_cut_a_stop_short(tmp_path: Path) -> None:
    before = processes()
    runtime = PipelineRuntime(Distributed(workers=2, partitions=2))
    await some_bars(runtime.start(bars(tmp_path / "out")))
    for pid, command in processes().items():
        if "--name w2" in command or "--maxmemory-policy" in command:
            os.kill(pid, signal.SIGSTOP)
    status = (await runtime.stop())["bars"]
    assert (status.state, status.error) == ("stopped", "")
    assert processes() == before


async def test_a_job_that_was_stopped_goes_on_where_its_data_is(tmp_path: Path) -> None:
    before = processes()
    runtime = PipelineRuntime(Distributed(workers=1, partitions=2, data_dir=tmp_path / "data"))
    async with runtime:  # leaving it is what stops the job
        await some_bars(runtime.start(bars(tmp_path / "out")))
    stopped = runtime.status("bars")
    assert (stopped.where, stopped.state, stopped.error) == ("1 worker", "stopped", "")
    assert written_bars(tmp_path / "out")
    assert 0 < stopped.items_in < 60_000
    assert processes() == before
    status = await runtime.run_pipeline(bars(tmp_path / "out"))
    assert (status.state, status.items_in) == ("finished", 60_000)
    await check(tmp_path / "out")
    again = runtime.start(bars(tmp_path / "out"))
    assert (await again.wait()).state == "finished", "it has finished: nothing is done twice"
    await check(tmp_path / "out")
    assert processes() == before


def test_the_linear_and_dag_example(tmp_path: Path) -> None:
    mark = f"{os.getpid()}-{tmp_path.name}"
    done = subprocess.run(
        [sys.executable, "examples/linear_and_dag.py", str(tmp_path / "out")],
        cwd=ROOT, env={**os.environ, "MARK_OF_TEST": mark}, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *runs, verdict = done.stdout.splitlines()
    assert verdict == "equal"
    found = [re.fullmatch(r"(\w+) +(in process|2 workers) +in 60,000  out (\d+)  ([0-9a-f]{16})", run) for run in runs]
    assert [(match[1], match[2]) for match in found if match] == [
        ("linear", "in process"), ("graph", "in process"), ("linear", "2 workers"), ("graph", "2 workers"),
    ]  # fmt: skip
    lines = [
        line for file in (tmp_path / "out").glob("linear-workers/*.jsonl") for line in file.read_text().splitlines()
    ]
    assert {match[3] for match in found if match} == {str(len(lines))}
    assert len(lines) > 250
    assert mark.encode() not in b"".join(map(environment, Path("/proc").glob("[0-9]*"))), "all its processes are gone"


def environment(process: Path) -> bytes:
    """As far as it may be read."""
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""
