"""A job whose workers a simulated KEDA starts and stops, with what was seen of it over time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from market_data_pipeline.store.embedded import EmbeddedServer, free_port
from tools.chart import NAMESPACE, RELEASE, objects_of_kind
from tools.deployment import Deployment
from tools.jobs import PATIENCE, run_mdp
from tools.keda_simulator import Simulator
from tools.paced import APP, CAPACITY, JOB, PARTITIONS, PacedJob, paced_job

CALM, BURST = 1_000, 30_000
"""Items per second: what one worker does easily, and more than all can."""
WORK = 100
"""Microseconds per trade."""
SECRET = "paced-redis"
REDIS, COORDINATOR = "redis.databases.svc:6379", f"{RELEASE}-coordinator.{NAMESPACE}.svc:8080"
"""Where KEDA finds them in a cluster."""
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


def chart_values(keys: Mapping[str, Any], autoscaling: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a release of ``paced_job.py``: ``keys`` as ``mdp keys`` prints them, and what an operator writes."""
    return {
        **keys,
        "app": {"name": "/app/paced_job.py"},
        "redis": {"host": REDIS.partition(":")[0], "existingSecret": SECRET},
        "channel": {"capacity": CAPACITY},
        "autoscaling": {"enabled": True, **autoscaling},
    }


def said(*arguments: str) -> str:
    """What an ``mdp`` command prints; it must succeed."""
    done = run_mdp(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def coordinator_hosts(values: Mapping[str, Any]) -> dict[str, str]:
    """The setting by which the coordinator's pods answer to the Service's names."""
    for deployment in objects_of_kind(values, "Deployment"):
        for variable in deployment["spec"]["template"]["spec"]["containers"][0]["env"]:
            if variable["name"] == "MDP_HTTP_ALLOWED_HOSTS" and "value" in variable:
                return {variable["name"]: variable["value"]}
    raise AssertionError("no Deployment sets MDP_HTTP_ALLOWED_HOSTS")


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

    def __init__(self, running: PacedJob, workers: Deployment, simulator: Simulator) -> None:
        self.paced, self.workers = running, workers
        self.samples = [Sample(0.0, 0, workers.replicas, 0.0, 0.0)]
        self._simulator = simulator
        self._started = time.monotonic()
        self._seen = (self._started, 0)

    def run(
        self,
        until: Callable[[Sample], bool],
        what: str,
        seconds: float = PATIENCE,
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

    def finish(self) -> int:
        """End the source and judge the output, see :meth:`PacedJob.finish`; how many items there were."""
        return self.paced.finish(*self.workers.running, *self.workers.leaving, "coordinator")

    def _look(self, now: float) -> Sample:
        look = self.paced.books.look(self.paced.job.client, False)
        at, before = self._seen
        taken = look.counts().get("dedupe", {}).get("in", 0)
        self._seen = (now, taken)
        backlog, rate = sum(look.lengths.values()), (taken - before) / (now - at)
        return Sample(now - self._started, backlog, self.workers.replicas, rate, self.paced.offered)


@contextmanager
def scaled_job(server: EmbeddedServer, folder: Path, autoscaling: Mapping[str, Any]) -> Iterator[ScaledJob]:
    """Coordinator, one worker, and KEDA with what the chart renders for ``autoscaling``. Output in ``folder/out``."""
    port = free_port()
    with paced_job(server.url, folder, WORK, {"MDP_FRAME_ITEMS": "25", "MDP_LINGER_MS": "20"}) as paced:
        keys = [
            "keys",
            str(APP),
            "--job",
            JOB,
            "--partitions",
            str(PARTITIONS),
            "--format",
            "json",
            *paced.job.arguments,
        ]
        values = chart_values(json.loads(said(*keys)), autoscaling)
        rule = said("acl", "--job", JOB, "--role", "keda").split()
        paced.job.client.execute_command(*rule)
        password = next(word for word in rule if word.startswith(">")).removeprefix(">")
        paced.job.start("coordinator", "--http-port", str(port), env=coordinator_hosts(values))
        paced.job.http("coordinator", "/healthz")
        workers = Deployment(paced.job)
        workers.scale(1)
        simulator = Simulator(
            objects_of_kind(values, "ScaledObject")[0],
            workers,
            authentications=objects_of_kind(values, "TriggerAuthentication"),
            secrets={SECRET: {"username": rule[2], "password": password}},
            found={REDIS: f"127.0.0.1:{server.port}", COORDINATOR: f"127.0.0.1:{port}"},
            sync=1.0,
        )
        try:
            yield ScaledJob(paced, workers, simulator)
        finally:
            simulator.close()
