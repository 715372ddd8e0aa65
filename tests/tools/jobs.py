"""Real processes for tests: a server, a coordinator and workers, each ended by pid."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from chaos.watch import Books

from market_data_pipeline.clock import SystemClock
from market_data_pipeline.dag.plan import plan_from_dict
from market_data_pipeline.sources.base import SourceContext
from market_data_pipeline.sources.synthetic import Synthetic
from market_data_pipeline.store.client import address_of, connect_blocking
from market_data_pipeline.store.keys import Keys, job_key
from market_data_pipeline.store.url import Address

APPS = Path(__file__).parent.parent / "integration" / "apps"
ROOT = Path(__file__).parent.parent.parent


PATIENCE = 120.0
"""Seconds to wait for what takes a few where nothing is wrong and the machine has time: only a failure takes so long."""


def wait_until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """The first true answer of ``condition``; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = condition()
        if answer:
            return answer
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds:g} s in vain: {what}")


class _Hurried(SystemClock):
    """The system's clock for one who never waits."""

    async def sleep(self, seconds: float) -> None:
        return None


async def generate(source: Synthetic) -> list[dict[str, Any]]:
    """All items of a source, as dicts, in order."""
    await source.open(SourceContext("source", clock=_Hurried()), None)
    rows: list[dict[str, Any]] = []
    while (batch := await source.read()) is not None:
        rows += [trade._asdict() for trade in batch.items.rows()]  # type: ignore[union-attr]
    return rows


class Job:
    """Processes of one job against one server."""

    def __init__(
        self, where: str | Address, app: Path, logs: Path, *arguments: str, env: dict[str, str] | None = None
    ) -> None:
        address = address_of(where)
        self.url = address.url
        self.client = connect_blocking(address)
        self._app = app
        self._logs = logs
        self.arguments = arguments
        self._env = {
            "MDP_LEASE_TTL_MS": "600",
            **(env or {}),
            "MDP_REDIS_URL": address.url,
            "MDP_ALLOW_VOLATILE": "true",
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self, name: str, *extra: str, env: dict[str, str] | None = None, inside: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        """Start ``coordinator...`` or a worker under ``name``; its output goes to ``<name>.log``. ``inside``: a command that
        becomes it, elsewhere."""
        worker = not name.startswith("coordinator")
        command = [*inside, sys.executable, "-m", "mdp_worker.cli" if worker else "mdp_coordinator.cli", str(self._app)]
        command += [*self.arguments, *(["--name", name] if worker else []), *extra]
        with (self._logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env={**os.environ, **self._env, **(env or {})},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        self.processes[name] = process
        return process

    def log(self, name: str) -> str:
        return (self._logs / f"{name}.log").read_text()

    def info(self) -> dict[str, str]:
        """The job's record; empty before it is published."""
        keys = list(self.client.scan_iter("mdp:job:*"))
        found = {k.decode(): v.decode() for k, v in self.client.hgetall(keys[0]).items()} if keys else {}
        return {"name": keys[0].decode().removeprefix("mdp:job:"), **found} if found else {}

    @property
    def keys(self) -> Keys:
        return Keys(wait_until(self.info, "the job to be published")["name"])

    def streams(self) -> dict[str, int]:
        """Length of every data stream."""
        return {k.decode(): self.client.xlen(k) for k in self.client.scan_iter("mdp:*:q:*")}

    def state(self) -> str:
        return self.info().get("state", "")

    def ended_tasks(self) -> int:
        return int(self.client.scard(self.keys.ended))

    def wait_for_items(self, node: str, items: int) -> None:
        """Until ``node`` has emitted so many items, as the server knows."""
        wait_until(lambda: self.counts().get(node, {}).get("out", 0) >= items, f"{node} to emit {items} items")

    def counts(self) -> dict[str, Counter[str]]:
        """Committed counters by node; none while there is no job, or no server."""
        try:
            info = self.info()
            if not info:
                return {}
            books = Books(plan_from_dict(json.loads(info["plan"])), info["name"], 0, 0)
            return books.look(self.client, deep=False).counts()
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
            return {}

    def wait(self, seconds: float = PATIENCE) -> None:
        """Until the job is finished; fails with the error if it failed."""
        state = wait_until(lambda: self.state() in ("finished", "failed") and self.state(), "the job to end", seconds)
        assert state == "finished", self.info()["error"]

    def wait_for_exit(self, name: str, seconds: float = PATIENCE) -> int:
        return self.processes[name].wait(timeout=seconds)

    def ask(self, name: str, path: str) -> tuple[int, str]:
        """A GET at the process's own port, which is found in its log: the status and the text."""
        found = wait_until(lambda: re.findall(r"listening on (http://\S+)", self.log(name)), f"{name} to listen")
        try:
            with urllib.request.urlopen(found[-1] + path, timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, refusal.read().decode()

    def http(self, name: str, path: str) -> str:
        """The text of a GET that is answered, once it is: what cannot be answered now (503) is asked for again."""

        def answered() -> tuple[int, str] | None:
            status, text = self.ask(name, path)
            return None if status == 503 else (status, text)

        status, text = wait_until(answered, f"{name} to answer {path}")
        assert status == 200, f"{path}: {status} {text}"
        return str(text)

    def status(self) -> dict[str, Any]:
        """What the coordinator says at /api/status."""
        return dict(json.loads(self.http("coordinator", "/api/status")))

    def metric(self, process: str, name: str) -> float:
        """The sum of a metric; ``name`` may go on into its labels."""
        lines = [line for line in self.http(process, "/metrics").splitlines() if line.startswith(name)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def ready(self, name: str) -> str:
        """What the process says of itself at /readyz; empty while it answers 503."""
        status, text = self.ask(name, "/readyz")
        return text if status == 200 else ""

    def leads(self, name: str = "coordinator") -> bool:
        """Whether the coordinator ``name`` says that it leads."""
        return self.ready(name) == "leading\n"

    def stop(self) -> None:
        """End whatever still runs."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
        for process in self.processes.values():
            process.wait()
        self.client.close()


@contextmanager
def job(
    where: str | Address, app: Path, logs: Path, *arguments: str, env: dict[str, str] | None = None
) -> Iterator[Job]:
    """A :class:`Job` whose processes are gone afterwards."""
    running = Job(where, app, logs, *arguments, env=env)
    try:
        yield running
    finally:
        running.stop()


def run_mdp(
    *arguments: str, env: dict[str, str] | None = None, seconds: float = 2 * PATIENCE
) -> subprocess.CompletedProcess[str]:
    """The ``mdp`` command, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "market_data_pipeline.cli", *arguments],
        env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=seconds, check=False, cwd=ROOT,
    )  # fmt: skip


COMMANDS = {
    "run": ["market_data_pipeline.cli", "run", "{app}"],
    "status": ["market_data_pipeline.cli", "status"],
    "dlq": ["market_data_pipeline.cli", "dlq"],
    "worker": ["mdp_worker.cli", "{app}"],
    "coordinator": ["mdp_coordinator.cli", "{app}"],
}
"""Every command that talks to a server, as arguments of ``python -m``."""


def every_command(
    app: Path, *arguments: str, env: dict[str, str], names: Iterable[str] = COMMANDS, seconds: float = PATIENCE
) -> dict[str, subprocess.CompletedProcess[str]]:
    """All the commands at once, each to its end."""
    base = {name: value for name, value in os.environ.items() if not name.startswith("MDP_")}
    started = {
        name: subprocess.Popen(
            [sys.executable, "-m", *(part.format(app=app) for part in COMMANDS[name]), *arguments],
            env={**base, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for name in names
    }  # fmt: skip
    done = {}
    try:
        for name, process in started.items():
            out, err = process.communicate(timeout=seconds)
            done[name] = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    finally:
        for process in started.values():
            if process.poll() is None:
                process.kill()
                process.communicate()
    return done


__all__ = ["APPS", "COMMANDS", "ROOT", "Job", "every_command", "generate", "job", "job_key", "run_mdp", "wait_until"]
