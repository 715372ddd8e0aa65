"""A rolling upgrade of the workers of a running job, as Kubernetes does it, and how long each partition stood still."""

from __future__ import annotations

import signal
import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from market_data_pipeline.dag.plan import TaskId
from market_data_pipeline.store.client import connect_blocking
from market_data_pipeline.store.keys import Keys
from tools.jobs import wait_until
from tools.paced import PARTITIONS, PacedJob, paced_job

LOOK_SECONDS = 0.02
PACE = 10_000
"""Items per second: about 50 batches, each with items for every partition, so a healthy partition commits as often."""
WORKERS = 4
_STEADY_ITEMS = 3_000


class CommitWatch:
    """Looks every 20 ms at the commit ids of the tasks behind the streams, and keeps each partition's longest time between two
    that differ. What was under way when it stops counts too. A context manager; a thread with a connection of its own."""

    def __init__(self, url: str, keys: Keys) -> None:
        self._url, self._tasks = url, [keys.task(TaskId("dedupe", partition)) for partition in range(PARTITIONS)]
        self.longest = [0.0] * PARTITIONS
        self.looks = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="commits")
        self._failure: BaseException | None = None

    def __enter__(self) -> CommitWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            with connect_blocking(self._url) as client:
                seen, since = [b""] * PARTITIONS, [time.monotonic()] * PARTITIONS
                while not self._stop.wait(LOOK_SECONDS):
                    pipe = client.pipeline(transaction=False)
                    for task in self._tasks:
                        pipe.hget(task, "commit")
                    commits, now = pipe.execute(), time.monotonic()
                    self.looks += 1
                    for partition, commit in enumerate(commits):
                        self.longest[partition] = max(self.longest[partition], now - since[partition])
                        if commit != seen[partition]:
                            seen[partition], since[partition] = commit, now
        except BaseException as error:
            self._failure = error


@dataclass(frozen=True)
class Upgrade:
    """``stops``: seconds, by partition the longest between two commits during the whole upgrade. ``seconds``: how long that
    was. ``items``: how many the job had, all of them accounted for."""

    stops: list[float]
    seconds: float
    items: int

    @property
    def longest(self) -> float:
        return max(self.stops)

    @property
    def typical(self) -> float:
        return statistics.median(self.stops)


def upgrade(url: str, folder: Path, kind: str, env: Mapping[str, str] | None = None) -> Upgrade:
    """Replace four workers one after the other under a steady load, then judge the output.

    ``kind``: ``surge``, as a Deployment with maxSurge 1 and maxUnavailable 0 does: the new one starts under a new name, and
    when it holds partitions the old one is asked to leave. ``pinned``, as a StatefulSet does: the old one leaves, and one with
    the same name and the same partitions takes its place.
    """
    with _running(url, folder, kind, env) as (paced, names):
        with CommitWatch(url, paced.job.keys) as watch:
            started = time.monotonic()
            for number, name in enumerate(list(names)):
                paced.wait_for_items(_STEADY_ITEMS)
                if kind == "surge":
                    names.append(f"new-{number}")
                    paced.job.start(names[-1])
                    _wait_for_share(paced, names[-1])
                    _leave(paced, name)
                    names.remove(name)
                else:
                    _leave(paced, name)
                    paced.job.start(name, *_pins(number))
                    _wait_for_share(paced, name)
            paced.wait_for_items(_STEADY_ITEMS)
            seconds = time.monotonic() - started
        assert watch.looks > 0
        return Upgrade(watch.longest, seconds, paced.finish(*names, "coordinator"))


@contextmanager
def _running(url: str, folder: Path, kind: str, env: Mapping[str, str] | None) -> Iterator[tuple[PacedJob, list[str]]]:
    with paced_job(url, folder, env=env) as paced:
        paced.pace(PACE)
        paced.job.start("coordinator", "--min-workers", str(WORKERS))
        names = [f"worker-{number}" for number in range(WORKERS)]
        for number, name in enumerate(names):
            paced.job.start(name, *(_pins(number) if kind == "pinned" else []))
        for name in names:
            _wait_for_share(paced, name)
        yield paced, names


def _pins(number: int) -> list[str]:
    share = PARTITIONS // WORKERS
    return ["--partition", f"{number * share}-{(number + 1) * share - 1}"]


def _wait_for_share(paced: PacedJob, name: str) -> None:
    wait_until(lambda: name in paced.owners().values(), f"{name} to hold partitions")


def _leave(paced: PacedJob, name: str) -> None:
    paced.job.processes[name].send_signal(signal.SIGTERM)
    assert paced.job.wait_for_exit(name) == 0, paced.job.log(name)
