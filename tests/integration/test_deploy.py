"""Another plan for a job that runs: over real processes, in the middle of its work, equal to the oracle."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from test_main_job import SECOND, expected
from test_main_job import end as end_of_feed
from tools.jobs import APPS, PATIENCE, ROOT, Job, job, run_mdp, wait_until
from tools.oracle import check_bars

from market_data_pipeline.store.client import connect
from market_data_pipeline.store.control import Control, Transition, find_job
from market_data_pipeline.store.embedded import EmbeddedServer

APP = APPS / "deploy_job.py"
RATE, SOME = 20_000, 20_000


def given(tmp_path: Path, version: str) -> list[str]:
    """Arguments of a job that runs until :func:`end`."""
    values = {"output": tmp_path / "out", "rate": RATE, "version": version, "end": tmp_path / "end"}
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


def start(running: Job, version: str, tmp_path: Path) -> list[str]:
    """A coordinator and two workers of one version of the program."""
    names = [f"coordinator-{version}", f"w1-{version}", f"w2-{version}"]
    for name in names:  # no task before both are there: one that comes to a job that has failed waits for it to go on
        both = ["--min-workers", "2"] if name.startswith("coordinator") else []
        running.start(name, *given(tmp_path, version), *both)
    return names


def work(running: Job) -> None:
    """Let the processes that run bring in some more: all that were started last are at work then."""
    running.wait_for_items("source", running.counts().get("source", {}).get("out", 0) + SOME)


def end(running: Job, tmp_path: Path, names: Iterable[str]) -> None:
    """End the feed and wait for the job and its processes; the output is exact."""
    end_of_feed(running, tmp_path, RATE)
    assert {running.wait_for_exit(name) for name in names} == {0}


def deploy(running: Job, tmp_path: Path, version: str, *extra: str) -> tuple[int, str]:
    flags = [*given(tmp_path, version), "--redis-url", running.url, "--lease-ttl-ms", "600", *extra]
    done = run_mdp("deploy", str(APP), *flags)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("versions", [("plain", "filter", "boundary"), ("boundary", "plain")], ids="-".join)
def test_plans_are_exchanged_under_load(
    server: EmbeddedServer, tmp_path: Path, logs: Path, versions: tuple[str, ...]
) -> None:
    """Nodes come, go, and move to other subgraphs; old frames are drained; nothing is lost or doubled."""
    with job(server.url, APP, logs) as running:
        names = start(running, versions[0], tmp_path)
        for version in versions[1:]:
            work(running)
            code, said = deploy(running, tmp_path, version)
            assert code == 0, said
            assert "to be drained first" in said
            for name in names:
                assert running.wait_for_exit(name) == 2, "the old program's processes have no job any more"
                assert "another plan" in running.log(name)
                assert "error: job 'bars' runs plan" in running.log(name)
                del running.processes[name]
            names = start(running, version, tmp_path)
        end(running, tmp_path, names)
        assert running.client.xlen(running.keys.dead_letters) == 0
        assert not list(running.client.scan_iter("mdp:*:next-*"))


def test_what_would_lose_state_is_refused_with_the_difference(
    server: EmbeddedServer, tmp_path: Path, logs: Path
) -> None:
    with job(server.url, APP, logs) as running:
        names = start(running, "plain", tmp_path)
        work(running)
        for flags in ([], ["--check"]):
            code, said = deploy(running, tmp_path, "interval", *flags)
            assert code == 2
            assert "node 'bars' holds state and changed (interval: 1000000000 -> 2000000000)" in said
            assert "--keep bars if its state means the same to the new one, or --reset bars to forget it" in said
        code, said = deploy(running, tmp_path, "interval", "--reset", "bar")
        assert (code, "no node bar; there are: bars, dedupe, files, source" in said) == (2, True)
        code, said = deploy(running, tmp_path, "filter", "--check")
        assert (code, said.splitlines()[-1]) == (0, "this can be deployed")
        code, said = deploy(running, tmp_path, "plain")
        assert (code, "has this plan already" in said) == (0, True)
        end(running, tmp_path, names)


def test_a_job_that_failed_goes_on_with_the_program_that_does_not(
    server: EmbeddedServer, tmp_path: Path, logs: Path
) -> None:
    """Frames are in flight, and stay good: nothing changed between them and their readers."""
    with job(server.url, APP, logs) as running:
        for name in start(running, "broken", tmp_path):
            assert running.wait_for_exit(name) == 1
            del running.processes[name]
        assert running.state() == "failed"
        assert sum(running.streams().values()) > 0
        code, said = deploy(running, tmp_path, "plain")
        assert code == 0, said
        names = start(running, "plain", tmp_path)
        work(running)
        end(running, tmp_path, names)


def freeze_a_reader(running: Job) -> str:
    """Stop the worker that has not the source, as it is, and wait until frames lie before it: they cannot be drained."""
    keys = running.keys
    reading = running.client.hget(keys.lease(0), "worker") or b""
    frozen = next(name for name in running.processes if name.startswith("w") and name != reading.decode())
    held = [p for p in range(8) if running.client.hget(keys.lease(p), "worker") == frozen.encode()]
    running.processes[frozen].send_signal(signal.SIGSTOP)
    streams = [f"mdp:{{bars:{p}}}:q:source.dedupe" for p in held]
    wait_until(lambda: any(running.client.xlen(stream) for stream in streams), "frames to wait")
    return frozen


def test_a_deployment_that_dies_is_undone(server: EmbeddedServer, tmp_path: Path, logs: Path) -> None:
    """Killed while sources rest, it leaves a job that nobody leads; the coordinator notices, and the job goes on."""
    with job(server.url, APP, logs, env={"MDP_LEASE_TTL_MS": "5000"}) as running:
        names = start(running, "plain", tmp_path)
        work(running)
        frozen = freeze_a_reader(running)
        command = [sys.executable, "-m", "market_data_pipeline.cli", "deploy", str(APP), *given(tmp_path, "filter")]
        dying = subprocess.Popen([*command, "--redis-url", running.url, "--lease-ttl-ms", "600"], cwd=ROOT)
        wait_until(lambda: running.info().get("phase") == "drain", "sources to rest")
        dying.kill()
        dying.wait()
        running.processes[frozen].send_signal(signal.SIGCONT)
        wait_until(lambda: running.info().get("phase") == "", "the deployment to be undone")
        end(running, tmp_path, names)
        assert "a deployment was given up before it exchanged the plan" in running.log("coordinator-plain")


def test_what_cannot_be_drained_in_time_goes_on_as_it_was(server: EmbeddedServer, tmp_path: Path, logs: Path) -> None:
    with job(server.url, APP, logs, env={"MDP_LEASE_TTL_MS": "20000"}) as running:
        names = start(running, "plain", tmp_path)
        work(running)
        frozen = freeze_a_reader(running)
        code, said = deploy(running, tmp_path, "filter", "--timeout", "1s")
        running.processes[frozen].send_signal(signal.SIGCONT)
        assert code == 2
        assert "not done in 1 s, the job keeps its plan" in said
        end(running, tmp_path, names)


def test_a_program_that_changed_goes_on_in_its_data_dir(tmp_path: Path) -> None:
    """On a laptop nothing runs between two runs; what is in flight is on edges that did not change."""
    common = ["--data-dir", str(tmp_path / "data"), "--plain", "--partitions", "4"]
    with mdp_run(*given(tmp_path, "fixed"), *common) as first:
        wait_until(lambda: size(tmp_path / "out") > 10_000, "bars")
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=PATIENCE)
    changed = [*given(tmp_path, "plain"), *common]
    refused = run_mdp("run", str(APP), *changed)
    assert refused.returncode == 2
    assert "Give it this plan with --deploy" in refused.stderr
    lost = run_mdp("run", str(APP), *changed, "--keep", "bars")
    assert (lost.returncode, "give --deploy too" in lost.stderr) == (2, True)
    before = size(tmp_path / "out")
    with mdp_run(*changed, "--deploy", "--json") as second:
        wait_until(lambda: size(tmp_path / "out") > before + 10_000 or second.poll() is not None, "more bars")
        (tmp_path / "end").touch()
        summary, said = second.communicate(timeout=PATIENCE)
        assert second.returncode == 0, said
    check_bars(tmp_path / "out", expected(json.loads(summary)["items_in"], RATE), SECOND)


@contextmanager
def mdp_run(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """``mdp run`` in the background."""
    command = [sys.executable, "-m", "market_data_pipeline.cli", "run", str(APP), *arguments]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield running
    finally:
        if running.poll() is None:
            running.kill()
        running.communicate()


def size(folder: Path) -> int:
    """Bytes of all files in ``folder``, also of those that get other names meanwhile."""
    found = 0
    for path in folder.glob("**/*"):
        with suppress(FileNotFoundError):
            found += path.stat().st_size
    return found


def test_what_is_assigned_while_all_tasks_end_is_given_back(server: EmbeddedServer, tmp_path: Path, logs: Path) -> None:
    """A deployment found something unsent, let the workers go on, and stopped them again before one of them had looked."""
    with job(server.url, APP, logs) as running:
        names = start(running, "plain", tmp_path)
        work(running)
        asyncio.run(stop_and_assign(running.url, running.info()["name"]))
        end(running, tmp_path, names)


async def stop_and_assign(url: str, name: str) -> None:
    client = connect(url)
    found = await find_job(client, name)
    assert found is not None
    control = Control(client, found)

    async def all_given_back() -> None:
        while any(owner.token for owner in (await control.assignment()).values()):  # noqa: ASYNC110 - others' writes
            await asyncio.sleep(0.02)

    async with asyncio.timeout(PATIENCE):
        assert await control.ask_to_deploy("test")
        while not (term := await control.lead("test", 10_000)):  # noqa: ASYNC110 - another process gives it up
            await asyncio.sleep(0.02)
        assert await control.set_phase(term, "test", "stop", "test")
        await all_given_back()
        beat = next(iter((await control.workers()).values()))
        assert await control.assign(term, "test", [Transition(0, beat.worker, beat.token)])
        await all_given_back()
        assert await control.set_phase(term, "test", "", "")
        await control.resign(term, "test")
    await client.aclose()


def test_workers_may_leave_while_streams_are_drained(server: EmbeddedServer, tmp_path: Path, logs: Path) -> None:
    """No coordinator gives their partitions to others meanwhile; the deployment does."""
    with job(server.url, APP, logs) as running:
        names = start(running, "plain", tmp_path)
        work(running)
        running.start("w3-plain", *given(tmp_path, "plain"))
        wait_until(lambda: "holding partitions" in running.log("w3-plain"), "a third worker")
        for name in names[1:]:
            running.processes[name].send_signal(signal.SIGSTOP)  # frames wait, and nobody has the partitions soon
        command = [sys.executable, "-m", "market_data_pipeline.cli", "deploy", str(APP), *given(tmp_path, "filter")]
        deploying = subprocess.Popen([*command, "--redis-url", running.url, "--lease-ttl-ms", "600"], cwd=ROOT)
        wait_until(lambda: running.info().get("phase") or deploying.poll() is not None, "the deployment to begin")
        running.processes[names[1]].kill()
        running.processes[names[2]].send_signal(signal.SIGCONT)
        running.processes[names[2]].send_signal(signal.SIGTERM)
        assert deploying.wait(timeout=PATIENCE) == 0
        assert running.wait_for_exit("w3-plain") == 2
        end(running, tmp_path, start(running, "filter", tmp_path))


def test_a_sink_that_begins_anew_leaves_what_is_published(server: EmbeddedServer, tmp_path: Path, logs: Path) -> None:
    """With another argument, its manifest forgotten: the files of before are the user's, and nothing is lost or doubled."""
    with job(server.url, APP, logs) as running:
        names = start(running, "plain", tmp_path)
        work(running)
        code, said = deploy(running, tmp_path, "rolled", "--reset", "files")
        assert code == 0, said
        assert {running.wait_for_exit(name) for name in names} == {2}
        before = set((tmp_path / "out").glob("*.jsonl"))
        names = start(running, "rolled", tmp_path)
        work(running)
        end(running, tmp_path, names)
        assert before
        assert before < set((tmp_path / "out").glob("*.jsonl"))


def test_a_worker_that_starts_while_its_job_is_removed_waits_for_the_next(
    server: EmbeddedServer, tmp_path: Path, logs: Path
) -> None:
    with job(server.url, APP, logs) as running:
        arguments = ["--set", f"output={tmp_path / 'out'}", "--set", f"items={SOME}"]
        running.start("coordinator-1", *arguments)
        keys = running.keys
        running.processes["coordinator-1"].kill()
        running.processes["coordinator-1"].wait()
        running.client.hset(keys.record, mapping={"uid": "", "state": "removed"})
        worker = running.start("w", *arguments)
        wait_until(lambda: "waiting for a coordinator" in running.log("w"), "the worker to wait")
        assert run_mdp("remove", keys.job, "--redis-url", running.url).returncode == 0
        assert not list(running.client.scan_iter("mdp:*")), "who waits writes nothing"
        running.start("coordinator-2", *arguments)
        running.wait()
        assert worker.wait(timeout=PATIENCE) == 0
    check_bars(tmp_path / "out", expected(SOME), SECOND)
