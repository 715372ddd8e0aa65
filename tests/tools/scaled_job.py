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
from market_data_pipeline.store.embedded import EmbeddedServer
from tools.deployment import Deployment
from tools.jobs import APPS, Job, generate, job
from tools.keda_simulator import Simulator
from tools.oracle import check_bars, plain_bars

APP = APPS / "paced_job.py"
PARTITIONS = 8
CAPACITY = 64
SECOND = 1_000_000_000
CALM, BURST = 1_000, 40_000
"""Items per second: what one worker does easily, and more than all can."""
WORK = 1500
_STEP_SECONDS = 0.05
_SAMPLE_SECONDS = 0.5


class Sample(NamedTuple):
    """``at``: seconds since the start. ``backlog``: frames in all streams. ``rate``: items per second that left the streams since
    the sample before. ``pace``: items per second that the source was told."""

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


def scaled_object(address: str, streams: list[str], target: int, most: int, **values: Any) -> dict[str, Any]:
    """A ScaledObject as the chart renders it for streams. ``values``: ``polling``, ``up``, ``down`` (seconds), ``auth`` (a name)."""
    auth = {"authenticationRef": {"name": values["auth"]}} if "auth" in values else {}
    triggers = [
        {
            "type": "redis-streams",
            "name": f"p{number}",
            "metadata": {"address": address, "stream": stream, "streamLength": str(target), "databaseIndex": "0"},
            **auth,
        }
        for number, stream in enumerate(streams)
    ]
    behavior = {
        "scaleUp": {"stabilizationWindowSeconds": values.get("up", 0)},
        "scaleDown": {"stabilizationWindowSeconds": values.get("down", 120)},
    }
    formula = " + ".join(trigger["name"] for trigger in triggers)
    modifiers = {"formula": formula, "target": str(target), "activationTarget": "0", "metricType": "AverageValue"}
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "worker"},
        "spec": {
            "scaleTargetRef": {"name": "worker"},
            "pollingInterval": values.get("polling", 30),
            "minReplicaCount": 1,
            "maxReplicaCount": most,
            "fallback": {"failureThreshold": 3, "replicas": 1, "behavior": "currentReplicasIfHigher"},
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": behavior}, "scalingModifiers": modifiers},
            "triggers": triggers,
        },
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
        self, until: Callable[[Sample], bool], what: str, seconds: float, show: Callable[[Sample], None] = lambda _: None
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
def scaled_job(
    server: EmbeddedServer, folder: Path, work: int, rendered: Callable[[str, list[str]], Mapping[str, Any]]
) -> Iterator[ScaledJob]:
    """Coordinator, one worker, and KEDA with the ScaledObject that ``rendered(address, streams)`` gives. Output in ``folder/out``."""
    logs, pace = folder / "logs", folder / "pace"
    logs.mkdir(exist_ok=True)
    sets = {"pace": str(pace), "output": str(folder / "out"), "work": str(work)}
    plan = compile_dag(load_app(str(APP), sets), PARTITIONS)
    books = Books(plan, "paced", CAPACITY, 2**31)
    env = {"MDP_PARTITIONS": str(PARTITIONS), "MDP_CHANNEL_CAPACITY": str(CAPACITY), "MDP_FRAME_ITEMS": "100", **one_thread()}
    arguments = [part for name, value in sets.items() for part in ("--set", f"{name}={value}")]
    with job(server.url, APP, logs, *arguments, env=env) as running:
        running.start("coordinator")
        workers = Deployment(running)
        workers.scale(1)
        simulator = Simulator(rendered(f"127.0.0.1:{server.port}", list(books.streams)), workers, sync=1.0)
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
