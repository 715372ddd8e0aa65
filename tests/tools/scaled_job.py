"""A job on a real server whose workers a simulated KEDA starts and stops, with what was seen of it over time."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from chaos.watch import Books

from market_data_pipeline.app import load_app
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.store.embedded import EmbeddedServer, free_port
from tools.chart import NAMESPACE, RELEASE, objects_of_kind
from tools.deployment import Deployment
from tools.jobs import APPS, Job, generate, job
from tools.keda_simulator import Simulator
from tools.oracle import check_bars, plain_bars

APP = APPS / "paced_job.py"
JOB, SECRET = "paced", "paced-redis"
REDIS, COORDINATOR = "redis.databases.svc:6379", f"{RELEASE}-market-data-pipeline-coordinator.{NAMESPACE}.svc:8080"
"""Where KEDA finds them in a cluster."""
KEDA_USER = [
    "ACL",
    "SETUSER",
    "keda",
    "reset",
    "on",
    ">keda-pw",
    "%R~mdp:{paced:*}:q:*",
    "+xlen",
    "+ping",
    "+client|setinfo",
]
"""All that KEDA may do."""
PARTITIONS = 8
CAPACITY = 64
SECOND = 1_000_000_000
CALM, BURST = 1_000, 30_000
"""Items per second: what one worker does easily, and more than all can."""
WORK = 100
"""Microseconds per trade."""
_STEP_SECONDS = 0.05
_SAMPLE_SECONDS = 0.5


class Sample(NamedTuple):
    """``at``: seconds since the start. ``backlog``: frames in all streams. ``rate``: items per second that left the streams
    since the sample before. ``pace``: items per second that the source was told."""

    at: float
    backlog: int
    replicas: int
    rate: float
    pace: float


def set_pace(path: Path, items_per_second: float) -> None:
    """Tell the source of ``paced_job.py``; 0 ends it. Whole or not at all, as it reads at any moment."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(str(items_per_second))
    Path(file.name).replace(path)


def chart_values(streams: list[str], autoscaling: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a release of ``paced_job.py``: what an operator writes, and what ``mdp keys`` would print."""
    return {
        "app": {"name": "/app/paced_job.py"},
        "job": {"name": JOB, "partitions": PARTITIONS, "streams": streams, "stages": ["dedupe"]},
        "redis": {"host": REDIS.partition(":")[0], "existingSecret": SECRET},
        "channel": {"capacity": CAPACITY},
        "autoscaling": {"enabled": True, **autoscaling},
    }


def quick(most: int, target: int, signal: str = "streams") -> dict[str, Any]:
    """Values of ``autoscaling`` with which nothing takes minutes: the rules are as they are, the periods short."""
    return {
        "signal": signal,
        "maxReplicas": most,
        "target": target,
        "pollingInterval": 1,
        "scaleDown": {"stabilizationWindowSeconds": 3},
    }


class ScaledJob:
    """Made by :func:`scaled_job`. The caller's loop is :meth:`run`."""

    def __init__(self, running: Job, books: Books, workers: Deployment, simulator: Simulator, pace: Path) -> None:
        self.job, self.workers, self.samples = running, workers, [Sample(0.0, 0, workers.replicas, 0.0, 0.0)]
        self._books, self._simulator, self._file = books, simulator, pace
        self._pace = 0.0
        self._started = time.monotonic()
        self._seen = (self._started, 0)

    def pace(self, items_per_second: float) -> None:
        """From now on the source brings so many; 0 ends it."""
        self._pace = items_per_second
        set_pace(self._file, items_per_second)

    def run(
        self,
        until: Callable[[Sample], bool],
        what: str,
        seconds: float,
        show: Callable[[Sample], None] = lambda _: None,
    ) -> Sample:
        """Let KEDA and the HPA work until ``until`` says so of a sample. ``AssertionError`` after ``seconds``."""
        deadline = time.monotonic() + seconds
        while (now := time.monotonic()) < deadline:
            self._simulator.step(now)
            if now - self._seen[0] >= _SAMPLE_SECONDS:
                self.samples.append(self._look(now))
                show(self.samples[-1])
                assert not self.workers.failed(), self.workers.failed()
                if until(self.samples[-1]):
                    return self.samples[-1]
            time.sleep(_STEP_SECONDS)
        raise AssertionError(f"waited {seconds:g} s in vain: {what}; last seen {self.samples[-1]}")

    def items(self) -> int:
        """How many items the source brought in, as committed."""
        return int(self._books.look(self.job.client, False).counts().get("source", {}).get("out", 0))

    def finish(self) -> int:
        """End the source and wait for everybody; how many items there were. Fails on anything left over."""
        self.pace(0)
        self.job.wait()
        for name in (*self.workers.running, *self.workers.leaving, "coordinator"):
            assert self.job.wait_for_exit(name) == 0, self.job.log(name)
        assert set(self.job.streams().values()) == {0}
        assert self.job.client.xlen(self.job.keys.dead_letters) == 0
        return self.items()

    def _look(self, now: float) -> Sample:
        look = self._books.look(self.job.client, False)
        at, before = self._seen
        taken = look.counts().get("dedupe", {}).get("in", 0)
        self._seen = (now, taken)
        backlog = sum(look.lengths.values())
        return Sample(now - self._started, backlog, self.workers.replicas, (taken - before) / (now - at), self._pace)


@contextmanager
def scaled_job(server: EmbeddedServer, folder: Path, autoscaling: Mapping[str, Any]) -> Iterator[ScaledJob]:
    """Coordinator, one worker, and KEDA with what the chart renders for ``autoscaling``. Output in ``folder/out``."""
    logs, pace, port = folder / "logs", folder / "pace", free_port()
    logs.mkdir(exist_ok=True)
    sets = {"pace": str(pace), "output": str(folder / "out"), "work": str(WORK)}
    books = Books(compile_dag(load_app(str(APP), sets), PARTITIONS), JOB, CAPACITY, 2**31)
    env = {
        "MDP_PARTITIONS": str(PARTITIONS), "MDP_CHANNEL_CAPACITY": str(CAPACITY), "MDP_FRAME_ITEMS": "25",
        "MDP_LINGER_MS": "20", **one_thread(),
    }  # fmt: skip
    arguments = [part for name, value in sets.items() for part in ("--set", f"{name}={value}")]
    with job(server.url, APP, logs, *arguments, env=env) as running:
        running.client.execute_command(*KEDA_USER)
        running.start(
            "coordinator", "--http-port", str(port), env={"MDP_HTTP_ALLOWED_HOSTS": COORDINATOR.partition(":")[0]}
        )
        workers = Deployment(running)
        workers.scale(1)
        values = chart_values(list(books.streams), autoscaling)
        found = {REDIS: f"127.0.0.1:{server.port}", COORDINATOR: f"127.0.0.1:{port}"}
        simulator = Simulator(
            objects_of_kind(values, "ScaledObject")[0], workers, sync=1.0, found=found,
            authentications=objects_of_kind(values, "TriggerAuthentication"),
            secrets={SECRET: {"username": "keda", "password": "keda-pw"}},
        )  # fmt: skip
        try:
            yield ScaledJob(running, books, workers, simulator, pace)
        finally:
            simulator.close()


def one_thread() -> dict[str, str]:
    """No pools of threads for linear algebra: they cost start-up time and are used by nothing here."""
    return {f"{name}_NUM_THREADS": os.environ.get(f"{name}_NUM_THREADS", "1") for name in ("OPENBLAS", "MKL", "OMP")}


def check_output(folder: Path, items: int) -> None:
    """Fails unless the bars in ``folder/out`` are exactly those of a plain loop over the first ``items`` trades."""
    source = load_module(APP).trades(items)
    bars, duplicates = plain_bars(asyncio.run(generate(source)), SECOND)
    assert duplicates > 0
    check_bars(folder / "out", bars, SECOND)


def load_module(path: Path) -> Any:
    """A program's module, as its own name."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
