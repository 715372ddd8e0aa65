"""Where things run: in this process, or over worker processes."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import SecretStr

from market_data_pipeline.clock import Clock
from market_data_pipeline.dag.planner import MAX_PARTITIONS, compile_dag
from market_data_pipeline.errors import ConfigError, JobFailed
from market_data_pipeline.given import check_given, check_numbers
from market_data_pipeline.launcher.job_run import JobOptions, JobRun, preflight
from market_data_pipeline.orchestration.program import Program
from market_data_pipeline.orchestration.run_status import RunState, RunStatus, status_of_dag, status_of_job
from market_data_pipeline.orchestration.running import Place
from market_data_pipeline.runtime.local import DagRuntime, RunConfig
from market_data_pipeline.settings import Settings, settings_with
from market_data_pipeline.store.keys import check_name
from market_data_pipeline.store.status import JobStatus

log = logging.getLogger(__name__)

_MOST_WORKERS = 256


@dataclass(frozen=True)
class InProcess:
    """Runs are a :class:`DagRuntime` in this process: no server, nothing is kept. ``config``: its channels and bounds."""

    config: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        check_given(self.config, RunConfig, "config", "RunConfig(...)")

    def place(self, program: Program, name: str, clock: Clock) -> Place:
        """Where ``program`` can run. Raises ``ConfigError``."""
        return _ThisProcess(DagRuntime(program.dag, self.config, clock))


@dataclass(frozen=True)
class Distributed:
    """Runs are jobs over worker processes on this machine, as ``mdp run`` makes them: exactly once, a process that dies is
    started again. A run's name is its job's, ``[a-z0-9-]{1,40}``.

    ``workers``: how many processes, beside a coordinator. ``partitions``: number of hash partitions; ``None``: as the settings
    say. ``redis_url``: the server; ``None``: as the settings say, else one of its own is started for each run, which keeps its
    data in ``data_dir`` (one run at a time), or nothing. With a server that keeps its data a job that was stopped goes on when
    it is started again, and one that has finished is not run again unless ``fresh`` (which forgets it). ``server``: the binary
    to start. ``settings``: all other settings; ``None``: :func:`load_settings` (environment and file). ``job``,
    ``worker_name``, ``min_workers`` and ``http_port`` mean nothing here: there may be several runs side by side, and each has
    its own name, its own workers, all of which it waits for, and free ports.

    A Dag or Pipeline goes to the workers as a document, so each of its functions must be one that another process can import;
    for any other give the program's name. Raises ``ConfigError``."""

    workers: int = 2
    partitions: int | None = None
    redis_url: str | SecretStr | None = field(default=None, repr=False)
    data_dir: Path | str | None = None
    server: str | None = None
    settings: Settings | None = None
    fresh: bool = False

    def __post_init__(self) -> None:
        self._check_types()
        if not 1 <= self.workers <= _MOST_WORKERS:
            raise ConfigError(f"workers: {self.workers} is not allowed; 1 to {_MOST_WORKERS}")
        if self.partitions is not None and not 1 <= self.partitions <= MAX_PARTITIONS:
            raise ConfigError(f"partitions: {self.partitions} is not allowed; 1 to {MAX_PARTITIONS}")
        if self.redis_url is not None and self.data_dir is not None:
            raise ConfigError("data_dir belongs to a server of the run's own; with redis_url the server keeps the data")

    def _check_types(self) -> None:
        check_numbers(self, "workers", *(() if self.partitions is None else ("partitions",)))
        if not isinstance(self.redis_url, str | SecretStr | None):  # it may hold a password
            raise ConfigError(f"redis_url: a {type(self.redis_url).__name__} is no address; give text or a SecretStr")
        check_given(self.data_dir, Path | str | None, "data_dir", "path")
        check_given(self.server, str | None, "server", "name or path of a binary")
        check_given(self.settings, Settings | None, "settings", "Settings; make them with load_settings(...)")
        check_given(self.fresh, bool, "fresh", "bool")

    def place(self, program: Program, name: str, clock: Clock) -> Place:
        """Where ``program`` can run as the job ``name``. The clock is the machine's: processes share no other. Raises
        ``ConfigError``."""
        return _Workers(self, program, check_name("name", name))

    def effective_settings(self, capacity: Mapping[str, int | float] | None = None) -> Settings:
        """The settings with what is given here, and with ``capacity``: a capacity and levels for streams. Raises
        ``ConfigError``."""
        own: dict[str, Any] = {"partitions": self.partitions, "redis_url": self.redis_url}
        given = {name: value for name, value in own.items() if value is not None} | dict(capacity or {})
        if self.settings is None:
            return settings_with(given)
        return settings_with(given, self.settings) if given else self.settings


class _ThisProcess:
    where = "in process"

    def __init__(self, runtime: DagRuntime) -> None:
        self._runtime = runtime

    async def run(self) -> bool:
        await self._runtime.start()
        return self._runtime.cut

    def stop(self, at_once: bool = False) -> None:
        self._runtime.stop()

    def status(self, name: str, state: RunState, error: str) -> RunStatus:
        return status_of_dag(name, self.where, state, error, self._runtime)


class _Workers:
    def __init__(self, on: Distributed, program: Program, name: str) -> None:
        self.where = "1 worker" if on.workers == 1 else f"{on.workers} workers"
        self._on, self._name = on, name
        self._settings = on.effective_settings()
        self._told = program.told()
        self._plan = compile_dag(self._told.dag, self._settings.partitions)
        self._job: JobRun | None = None
        self._stopping = False

    async def run(self) -> bool:
        await asyncio.to_thread(preflight, self._told.dag)
        if self._stopping:
            return True
        with tempfile.TemporaryDirectory(prefix="mdp-program-") as folder:
            return self._end_of(await self._job_in(Path(folder)).run())

    def _job_in(self, folder: Path) -> JobRun:
        on, told = self._on, self._told.written(folder)
        options = JobOptions(
            told.app, told.sets, on.workers, None if on.data_dir is None else Path(on.data_dir), on.server, on.fresh,
            environment=told.environment,
        )  # fmt: skip
        self._job = JobRun(options, told.dag, self._plan, self._name, self._settings, _Logged())
        return self._job

    def _end_of(self, status: JobStatus | None) -> bool:
        """Whether it was stopped. Raises ``JobFailed``."""
        if status is None or status.state == "running":
            return True
        if status.state == "failed":
            raise JobFailed(status.error)
        if status.state != "finished":
            raise JobFailed(f"job {self._name!r} was removed while it ran")
        return False

    def stop(self, at_once: bool = False) -> None:
        self._stopping = True
        if self._job is not None:
            self._job.stop(at_once=at_once)

    def status(self, name: str, state: RunState, error: str) -> RunStatus:
        return status_of_job(name, self.where, state, error, None if self._job is None else self._job.status())


class _Logged:
    """A display for nobody: what is said stands in the log."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, status: JobStatus, rate: float) -> None:
        return None

    def say(self, text: str) -> None:
        log.info("%s", text)
