"""Two versions of a program take turns at a job, by deployments, while processes are killed; equal to the oracle."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_main_job import end
from tools.jobs import APPS, PATIENCE, ROOT, Job, job, wait_until

from market_data_pipeline.store.embedded import EmbeddedServer

APP = APPS / "deploy_job.py"
RATE, LEASE_MS = 20_000, 800
ENOUGH, MOST = 3, 20
"""Deployments that were done, and turns in which they must have been."""
VERSIONS = ("plain", "boundary", "filter")


class Turns:
    """Processes of every version, all of which wait while the job has another's plan; and deployments between them."""

    def __init__(self, running: Job, tmp_path: Path, seed: int) -> None:
        self._running, self._tmp_path, self._rng = running, tmp_path, random.Random(seed)
        self.done, self.given_up, self.killed = 0, 0, 0
        self._version = VERSIONS[0]
        for version in VERSIONS:
            for name in (f"coordinator-{version}", f"w1-{version}", f"w2-{version}"):
                self._start(name)
            wait_until(running.info, "the first version to make the job")

    def _arguments(self, version: str) -> list[str]:
        values = {"output": self._tmp_path / "out", "rate": RATE, "version": version, "end": self._tmp_path / "end"}
        return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]

    def _start(self, name: str) -> None:
        self._running.start(name, *self._arguments(name.partition("-")[2]), "--await-plan")

    def kill(self) -> None:
        """Kill one of the processes that have the job's plan, and start it again."""
        name = self._rng.choice([f"{role}-{self._version}" for role in ("coordinator", "w1", "w2")])
        self._running.processes[name].send_signal(self._rng.choice([signal.SIGKILL, signal.SIGTERM]))
        self._running.processes[name].wait(timeout=PATIENCE)
        self._start(name)
        self.killed += 1

    def deploy(self) -> None:
        """Give the job another version's plan; sometimes kill the deployment, or a process while it is under way."""
        target = self._rng.choice([version for version in VERSIONS if version != self._version])
        command = [sys.executable, "-m", "market_data_pipeline.cli", "deploy", str(APP), *self._arguments(target)]
        deploying = subprocess.Popen(
            [*command, "--redis-url", self._running.url, "--lease-ttl-ms", str(LEASE_MS), "--timeout", "20s"],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        fault = self._rng.random()
        if fault < 0.6:
            time.sleep(self._rng.uniform(0.5, 1.3))  # it takes half a second to start, and then as long to do it
        if fault < 0.3:
            deploying.kill()
        elif fault < 0.6:
            self.kill()
        said, _ = deploying.communicate(timeout=PATIENCE)
        plan = self._running.info()["fingerprint"]
        if f"-> {plan}" in said or f"runs plan {plan} now" in said or f"({plan})" in said:
            self._version, self.done = target, self.done + 1
        else:
            self.given_up += 1


@pytest.mark.parametrize("seed", [1])
def test_versions_take_turns_while_processes_die(server: EmbeddedServer, tmp_path: Path, logs: Path, seed: int) -> None:
    with job(server.url, APP, logs, env={"MDP_LEASE_TTL_MS": str(LEASE_MS)}) as running:
        turns = Turns(running, tmp_path, seed)
        running.wait_for_items("source", 1)
        while turns.done < ENOUGH:
            assert turns.done + turns.given_up < MOST, f"of {MOST} deployments only {turns.done} were done"
            turns.kill()
            turns.deploy()
        assert running.state() == "running"
        end(running, tmp_path, RATE)
