"""Processes whose program is not the job's: they wait for their plan, or go; and slices, names and checks of a cluster."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_main_job import APP, RATE, end, until_told
from tools.jobs import Job, job, run_mdp, wait_until

from market_data_pipeline.cli import main
from market_data_pipeline.store.embedded import EmbeddedServer

LEASE = {"MDP_LEASE_TTL_MS": "5000"}
"""One that a busy machine takes for dead would be another test."""


@pytest.fixture
def running(server: EmbeddedServer, tmp_path: Path, logs: Path) -> Iterator[Job]:
    with job(server.url, APP, logs, *until_told(tmp_path, RATE), env=LEASE) as made:
        yield made


def give_another_plan(running: Job) -> str:
    """As a deployment of another program would; the fingerprint there was."""
    keys, former = running.keys, running.info()["fingerprint"]
    running.client.hset(keys.record, "fingerprint", "f" * 16)
    return former


def give_back(running: Job, fingerprint: str) -> None:
    running.client.hset(running.keys.record, "fingerprint", fingerprint)


def test_who_has_another_plan_waits_until_it_is_the_jobs(running: Job, tmp_path: Path) -> None:
    running.start("coordinator")
    fingerprint = wait_until(running.info, "the job")["fingerprint"]
    give_back(running, "f" * 16)
    assert running.wait_for_exit("coordinator") == 2
    assert "first difference" in running.log("coordinator")
    for name in ("coordinator-2", "w0"):
        running.start(name, "--await-plan")
        wait_until(lambda name=name: "waiting for another plan: job 'bars' runs plan ffff" in running.log(name), name)
        assert running.ask(name, "/healthz") == (200, "ok\n")
        code, why = running.ask(name, "/readyz")
        assert code == 503
        assert "first difference" in why
        assert "mdp remove" not in running.log(name) + why, (
            "in an update every process of the former program waits like this"
        )
    assert running.ask("coordinator-2", "/api/status") == running.ask("coordinator-2", "/readyz")
    give_back(running, fingerprint)
    running.wait_for_items("source", 20_000)
    end(running, tmp_path, RATE)
    for name in ("coordinator-2", "w0"):
        assert running.wait_for_exit(name) == 0
        assert running.log(name).count("waiting for another plan") == 1


def test_a_plan_that_changes_under_way_and_comes_back(running: Job, tmp_path: Path) -> None:
    """Everybody lets go, nobody fails the job, and all go on where they were."""
    names = ["coordinator", "w0", "w1"]
    for name in names:
        running.start(name, "--await-plan")
    running.wait_for_items("source", 20_000)
    former = give_another_plan(running)
    for name in names:
        wait_until(lambda name=name: "waiting for another plan" in running.log(name), name)
        assert running.ask(name, "/readyz")[0] == 503
    keys = running.keys
    assert {running.client.hget(keys.lease(p), "worker") for p in range(8)} == {b""}, "given back"
    assert running.client.smembers(keys.workers) == set()
    assert running.client.get(keys.leader) is None
    assert running.state() == "running"
    checked = run_mdp("status", "--check", "--job", "bars", "--redis-url", running.url)
    assert checked.returncode == 1
    assert checked.stderr.splitlines() == [
        "job 'bars': no coordinator leads",
        *(f"job 'bars': partition {p} has no living owner" for p in range(8)),
    ]
    give_back(running, former)
    end(running, tmp_path, RATE)
    assert {running.wait_for_exit(name) for name in names} == {0}


def test_without_waiting_they_say_what_differs_and_go(running: Job) -> None:
    for name in ("coordinator", "w0"):
        running.start(name)
    running.wait_for_items("source", 10_000)
    give_another_plan(running)
    for name in ("coordinator", "w0"):
        assert running.wait_for_exit(name) == 2
        assert "runs plan ffffffffffffffff, this program compiles to" in running.log(name).splitlines()[-1]
        assert "Traceback" not in running.log(name)
    assert running.client.hget(running.keys.lease(0), "worker") == b"", "given back"
    assert running.state() == "running"


def test_a_signal_ends_the_waiting_at_once(running: Job, server: EmbeddedServer) -> None:
    running.start("coordinator")
    wait_until(running.info, "the job")
    give_another_plan(running)
    assert running.wait_for_exit("coordinator") == 2
    for name in ("coordinator-2", "w0"):
        process = running.start(name, env={"MDP_AWAIT_PLAN": "true"})
        wait_until(lambda name=name: "waiting for another plan" in running.log(name), name)
        process.send_signal(signal.SIGTERM)
        assert running.wait_for_exit(name) == 0
    others = {name: running.start(name, "--await-plan") for name in ("coordinator-3", "w1")}
    for name in others:
        wait_until(lambda name=name: "waiting for another plan" in running.log(name), name)
    server.kill()
    for name, process in others.items():
        assert running.ask(name, "/healthz")[0] == 200
        process.send_signal(signal.SIGTERM)
        assert running.wait_for_exit(name) == 0, "also while the server is away"


def test_slices_and_names_of_pods(running: Job, tmp_path: Path) -> None:
    """A worker a slice, named as its pod is; the credentials apart from the address."""
    running.client.config_set("requirepass", "sesame")
    apart = {"MDP_REDIS_PASSWORD": "sesame"}
    running.start("coordinator", "--min-workers", "3", env=apart)
    pods = [f"bars-market-data-pipeline-workers-pinned-{i}" for i in range(3)]
    for i, pod in enumerate(pods):
        running.start(pod, "--partition", f"{i}/3", env=apart)
    held = [[0, 1], [2, 3, 4], [5, 6, 7]]
    for pod, partitions in zip(pods, held, strict=True):
        wait_until(lambda pod=pod, wanted=partitions: f"holding partitions {wanted}" in running.log(pod), pod)
    names = {name.decode() for name in running.client.smembers(running.keys.workers)}
    assert sorted(name[-16:] for name in names) == [f"workers-pinned-{i}" for i in range(3)]
    checked = run_mdp("status", "--check", "--redis-url", running.url, env={**apart, "MDP_JOB": "bars"})
    assert (checked.returncode, checked.stderr) == (0, "")
    end(running, tmp_path, RATE)
    assert {running.wait_for_exit(name) for name in ("coordinator", *pods)} == {0}
    assert all("sesame" not in running.log(name) for name in ("coordinator", *pods))


def test_a_slice_that_there_is_not(running: Job) -> None:
    running.start("coordinator")
    running.start("w0", "--partition", "8/9")
    assert running.wait_for_exit("w0") == 2
    assert "--partition 8/9: the job has 8 partitions, too few for 9 slices" in running.log("w0").splitlines()[-1]


def test_a_job_that_is_not_there_is_not_well(server: EmbeddedServer) -> None:
    checked = CliRunner().invoke(main, ["status", "--check", "--job", "bars", "--redis-url", server.url])
    assert (checked.exit_code, checked.output) == (1, "no job 'bars' on this server; there are: none\n")
