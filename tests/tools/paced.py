"""``paced_job.py`` on a real server: told its pace by a test, judged by a plain loop over the same trades."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chaos.watch import Books

from market_data_pipeline.app import load_app
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.store.url import Address
from tools.jobs import APPS, Job, generate, job, wait_until
from tools.oracle import check_bars, plain_bars

APP = APPS / "paced_job.py"
JOB = "paced"
PARTITIONS = 8
CAPACITY = 64
SECOND = 1_000_000_000


class PacedJob:
    """Made by :func:`paced_job`; no process runs yet. ``offered``: items per second that the source was told last."""

    def __init__(self, running: Job, books: Books, folder: Path) -> None:
        self.job, self.books, self.offered = running, books, 0.0
        self._folder = folder

    def pace(self, items_per_second: float) -> None:
        """From now on the source brings so many; 0 ends it. Written whole or not at all, as it reads at any moment."""
        self.offered = items_per_second
        with tempfile.NamedTemporaryFile("w", dir=self._folder, delete=False) as file:
            file.write(str(items_per_second))
        Path(file.name).replace(self._folder / "pace")

    def counted(self, node: str, count: str) -> int:
        """A committed counter (``in`` or ``out``) of a node."""
        return int(self.books.look(self.job.client, False).counts().get(node, {}).get(count, 0))

    def wait_for_items(self, more: int) -> None:
        """Until the source brought in so many more."""
        enough = self.counted("source", "out") + more
        wait_until(lambda: self.counted("source", "out") >= enough, f"{more} more items")

    def owners(self) -> dict[int, str]:
        """Partition -> name of its owner, empty when it has none."""
        found = self.job.client.hgetall(self.job.keys.assignment)
        return {int(partition): value.decode().split(":", 2)[2] for partition, value in found.items()}

    def finish(self, *leftover: str) -> int:
        """End the source, wait for the job and for the processes named; how many items there were. Fails unless all of them
        end with 0 and the bars are exactly those of a plain loop."""
        self.pace(0)
        self.job.wait()
        for name in leftover:
            assert self.job.wait_for_exit(name) == 0, self.job.log(name)
        assert set(self.job.streams().values()) == {0}
        assert self.job.client.xlen(self.job.keys.dead_letters) == 0
        items = self.counted("source", "out")
        assert self.counted("dedupe", "in") == items
        bars, duplicates = plain_bars(asyncio.run(generate(load_module(APP).trades(items))), SECOND)
        assert duplicates > 0
        check_bars(self._folder / "out", bars, SECOND)
        return items


@contextmanager
def paced_job(
    where: str | Address, folder: Path, work: int = 0, env: Mapping[str, str] | None = None
) -> Iterator[PacedJob]:
    """A job without processes. ``work``: microseconds per trade. Logs and output are in ``folder``."""
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    sets = {"pace": str(folder / "pace"), "output": str(folder / "out"), "work": str(work)}
    books = Books(compile_dag(load_app(str(APP), sets), PARTITIONS), JOB, CAPACITY, 2**31)
    given = {"MDP_PARTITIONS": str(PARTITIONS), "MDP_CHANNEL_CAPACITY": str(CAPACITY), **one_thread(), **(env or {})}
    arguments = [part for name, value in sets.items() for part in ("--set", f"{name}={value}")]
    with job(where, APP, logs, *arguments, env=given) as running:
        yield PacedJob(running, books, folder)


def one_thread() -> dict[str, str]:
    """No pools of threads for linear algebra: they cost start-up time and are used by nothing here."""
    return {f"{name}_NUM_THREADS": os.environ.get(f"{name}_NUM_THREADS", "1") for name in ("OPENBLAS", "MKL", "OMP")}


def load_module(path: Path) -> Any:
    """A program as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
