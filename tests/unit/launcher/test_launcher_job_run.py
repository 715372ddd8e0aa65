"""JobRun inside an event loop: it takes no signals, prints nothing, and leaves nothing behind; its children go when it does."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from market_data_pipeline import Dag, Discard, Pipeline, Synthetic
from market_data_pipeline.app import load_app
from market_data_pipeline.dag.change import Choice
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import ConfigError, PlanMismatch
from market_data_pipeline.launcher.display import Lines
from market_data_pipeline.launcher.job_run import _LOOK_EVERY, JobOptions, JobRun
from market_data_pipeline.processes import ask_to_end
from market_data_pipeline.settings import load_settings
from market_data_pipeline.store.client import connect
from market_data_pipeline.store.control import publish
from market_data_pipeline.store.embedded import EmbeddedServer
from market_data_pipeline.store.keys import job_key


def dag_of_one_symbol(name: str) -> Dag:
    return Pipeline(name).source(Synthetic(symbols=1, items=10)).sink(Discard()).build()


def job(name: str, data_dir: Path | None = None) -> JobRun:
    dag = dag_of_one_symbol(name)
    settings = load_settings()
    options = JobOptions("nowhere.py", data_dir=data_dir)
    return JobRun(options, dag, compile_dag(dag, settings.partitions), name, settings, Lines())


def children() -> set[int]:
    """Processes whose parent this one is."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == os.getpid():
                found.add(int(entry.name))
    return found


async def test_one_that_is_stopped_first_starts_no_worker_and_leaves_nothing() -> None:
    before, handler = children(), signal.getsignal(signal.SIGINT)
    run = job("stopped-first")
    run.stop()
    assert await run.run() is None
    assert run.status() is None
    assert run.stopping
    assert children() == before
    assert signal.getsignal(signal.SIGINT) is handler


async def test_a_folder_of_data_serves_one_at_a_time(tmp_path: Path) -> None:
    before = children()
    first, second = job("one", tmp_path / "data"), job("two", tmp_path / "data")
    running = asyncio.create_task(first.run())
    while not (tmp_path / "data" / "lock").exists():  # noqa: ASYNC110 - what is waited for is no event of ours
        await asyncio.sleep(0)
    with pytest.raises(ConfigError, match="data: in use by another run"):
        await second.run()
    first.stop(at_once=True)
    await running
    assert children() == before


async def test_one_that_is_cancelled_leaves_nothing() -> None:
    before = children()
    running = asyncio.create_task(job("cancelled").run())
    while children() == before:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert children() == before


SLOW = """
from market_data_pipeline import Discard, Pipeline, Synthetic

pipeline = Pipeline("slow").source(Synthetic(symbols=1, items=100_000, rate=100)).sink(Discard())
"""


async def test_one_whose_server_hangs_ends_its_children_all_the_same(tmp_path: Path) -> None:
    """A command waits ten seconds for its answer; whoever ends the run at once does not wait for any."""
    before = children()
    app = tmp_path / "slow.py"
    app.write_text(SLOW)
    dag = load_app(str(app), {})
    with EmbeddedServer(tmp_path / "data") as server:
        settings = load_settings(redis_url=server.url, partitions=1)
        run = JobRun(JobOptions(str(app), workers=1), dag, compile_dag(dag, 1), "slow", settings, Lines())
        running = asyncio.create_task(run.run())
        while run.status() is None:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        os.kill(server.pid, signal.SIGSTOP)
        await asyncio.sleep(2 * _LOOK_EVERY)  # it waits for an answer now
        run.stop(at_once=True)
        async with asyncio.timeout(14):  # twice ten seconds, were the answers waited for
            status = await running
    assert status is not None
    assert status.state == "running"
    assert children() == before


def test_a_child_that_was_stopped_is_ended_too() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        ask_to_end(child)
        try:
            assert child.wait(timeout=20) == -signal.SIGTERM
        finally:
            child.kill()


@pytest.mark.parametrize(
    ("state", "way"),
    [
        ("running", "Give it this plan with --deploy, begin anew with --fresh, which forgets it"),
        ("finished", "It has finished: begin anew with --fresh, which forgets it"),
    ],
)
async def test_another_plan_is_refused_with_a_way_on_that_this_run_has(state: str, way: str) -> None:
    """A server of the run's own goes with it, so ``mdp deploy`` and ``mdp remove`` would find none; and a deployment to a job
    that has finished was answered with the advice to deploy."""
    with EmbeddedServer() as server:
        client = connect(server.url)
        dag = Pipeline("changed").source(Synthetic(symbols=2, items=10)).sink(Discard()).build()
        await publish(client, "changed", compile_dag(dag, 8))
        await client.hset(job_key("changed"), "state", state)
        await client.aclose()
        changed = dag_of_one_symbol("changed")
        settings = load_settings(redis_url=server.url, allow_volatile=True)
        for choice in [None] if state == "running" else [None, Choice()]:
            options = JobOptions("nowhere.py", deploy=choice)
            run = JobRun(options, changed, compile_dag(changed, 8), "changed", settings, Lines())
            with pytest.raises(PlanMismatch, match=f"ours 1, theirs 2. {way}, or choose another name with --job$"):
                await run.run()


_CHILD = "import time; print('up', flush=True); time.sleep(10); print('outlived its parent', flush=True)"
_PARENT = f"""
import subprocess, sys, time
from market_data_pipeline.processes import with_parent
CHILD = {_CHILD!r}
child = subprocess.Popen(with_parent([sys.executable, "-c", CHILD]))
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
def test_a_child_goes_with_a_parent_that_was_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        said = [parent.stdout.readline().strip() for _ in range(2)]
        assert "up" in said
        parent.kill()
        assert parent.stdout.read() == "", "the pipe ends when the child, too, is gone"
