"""The launcher: checks everything that can be checked, starts the processes, watches, reports, cleans up."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from market_data_pipeline.dag.change import Choice
from market_data_pipeline.dag.graph import Dag
from market_data_pipeline.dag.plan import Plan
from market_data_pipeline.errors import ConfigError, JobFailed, StoreUnavailable
from market_data_pipeline.launcher.children import NO_RESTART, Child, service
from market_data_pipeline.launcher.deploy import exchange
from market_data_pipeline.launcher.display import Display, choose_display, summary
from market_data_pipeline.operators.batch import Batcher
from market_data_pipeline.options import INTERRUPTED
from market_data_pipeline.settings import Settings, as_environment, server_address
from market_data_pipeline.sinks.base import Sink
from market_data_pipeline.sources.base import Source
from market_data_pipeline.store.client import Client, check_server, connect, is_transient, refusals_explained
from market_data_pipeline.store.control import Control, JobInfo, check_plan, find_job, publish, remove_job
from market_data_pipeline.store.embedded import EmbeddedServer
from market_data_pipeline.store.rights import COORDINATOR, OPERATOR, check_rights
from market_data_pipeline.store.status import JobStatus, read_status
from market_data_pipeline.store.trouble import Trouble
from market_data_pipeline.store.url import Address, parse_address
from market_data_pipeline.terminal import visible

_LOOK_EVERY = 0.25
_LEAVE_SECONDS = 35.0
_LEFT_SECONDS = 2.0
_DEPLOY_SECONDS = 30.0
_BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class RunOptions:
    """What ``mdp run`` was asked for."""

    app: str
    sets: tuple[str, ...]
    workers: int
    data_dir: Path | None
    server: str | None
    fresh: bool
    plain: bool
    as_json: bool = False
    deploy: Choice | None = None
    """Give a job that has another plan this one, with this choice about changed nodes."""


def preflight(dag: Dag) -> None:
    """Let every source and sink look whether it can work, before anything starts."""
    for node in dag.nodes.values():
        if isinstance(node.fn, Source | Sink):
            node.fn.check()


class Launcher:
    """One ``mdp run``. ``run`` returns the exit code."""

    def __init__(self, options: RunOptions, dag: Dag, plan: Plan, job_name: str, settings: Settings) -> None:
        self._options, self._dag, self._plan, self._job_name = options, dag, plan, job_name
        self._settings = settings
        self._interrupts = 0
        self._display: Display = choose_display(options.plain)
        self._children: list[Child] = []
        self._embedded: EmbeddedServer | None = None
        self._status: JobStatus | None = None
        self._busy_seconds = 0.0
        self._told = False
        self._troubles: list[Trouble] = []

    def run(self) -> int:
        """Everything, from the server's start to its end."""
        with ExitStack() as stack:
            address = self._server(stack)
            if self._options.data_dir is not None:
                logs = self._options.data_dir / "logs"
                logs.mkdir(parents=True, exist_ok=True)
            else:
                logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mdp-logs-")))
            return asyncio.run(self._run(address, logs))

    def _server(self, stack: ExitStack) -> Address:
        if self._settings.redis_url is not None:
            if self._options.data_dir is not None:
                raise ConfigError(
                    "--data-dir belongs to the embedded server; with --redis-url the server keeps the data"
                )
            return server_address(self._settings)
        if any((self._settings.redis_ca, self._settings.redis_cert, self._settings.redis_key)):
            raise ConfigError("MDP_REDIS_CA, _CERT and _KEY are for a server of your own: give its --redis-url as well")
        if self._settings.redis_username or self._settings.redis_password:
            raise ConfigError(
                "MDP_REDIS_USERNAME and _PASSWORD are for a server of your own: give its --redis-url as well"
            )
        server = self._embedded = EmbeddedServer(self._options.data_dir, self._options.server)
        stack.enter_context(server)
        kept = f"data kept in {self._options.data_dir}" if self._options.data_dir else "nothing kept"
        look = f"mdp status --redis-url {server.url} --job {self._job_name}"
        self._display.say(f"server: {server.url} ({kept}); look with: {look}")
        return parse_address(server.url)

    async def _run(self, address: Address, logs: Path) -> int:
        for name in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(name, self._interrupt)
        embedded = self._settings.redis_url is None
        self._address = address
        self._client: Client = connect(address)
        try:
            await check_server(self._client, address, self._settings.allow_volatile or embedded)
            await check_rights(self._client, address, COORDINATOR, self._job_name)
            with refusals_explained(address):
                return await self._run_job(address, logs, embedded)
        finally:
            await self._client.aclose()

    async def _run_job(self, address: Address, logs: Path, embedded: bool) -> int:
        job = await self._find_or_publish()
        self._control = Control(self._client, job)
        if job.state == "finished":
            self._display.say(f"job {job.name} has finished already; run it again from the beginning with --fresh")
            self._status = await self._read(job)
            self._report(0.0)
            return 0
        if job.version == 0:
            self._warn_of_other_files()
        return await self._supervise(job, address, logs, embedded)

    def _warn_of_other_files(self) -> None:
        sinks = [node.fn for node in self._dag.nodes.values() if isinstance(node.fn, Sink)]
        for text in dict.fromkeys(text for sink in sinks for text in sink.others()):
            self._display.say(text)

    async def _find_or_publish(self) -> JobInfo:
        job = await find_job(self._client, self._job_name)
        if job is not None:
            living = await self._living(job)
            if living:
                raise ConfigError(
                    f"job {job.name!r} is running already, with workers {', '.join(living)}; choose another name with --job"
                )
            if self._options.fresh:
                await check_rights(self._client, self._address, OPERATOR, job.name)
                await remove_job(self._client, job.name)
            elif self._options.deploy is not None and job.state != "finished":
                await exchange(
                    self._client, self._address, job, self._dag, self._plan, self._options.deploy,
                    lease_ttl_ms=self._settings.lease_ttl_ms, timeout=_DEPLOY_SECONDS, say=self._display.say,
                )  # fmt: skip
            else:
                check_plan(job, self._plan)
        return await publish(self._client, self._job_name, self._plan)

    async def _living(self, job: JobInfo) -> list[str]:
        """Workers that beat; those of a run that was killed are silent, and gone within a lease."""
        control = Control(self._client, job)
        deadline = time.monotonic() + 1.5 * self._settings.lease_ttl_ms / 1000
        while True:
            names = list(await control.workers())
            if not names or time.monotonic() >= deadline:
                return names
            await asyncio.sleep(_LOOK_EVERY)

    def _interrupt(self) -> None:
        self._interrupts += 1

    def _spawn(self, address: Address, logs: Path, embedded: bool) -> None:
        arguments = [self._options.app, "--job", self._job_name]
        for pair in self._options.sets:
            arguments += ["--set", pair]
        env = child_environment(self._settings, address, embedded, self._options.workers)
        coordinator = service("coordinator", "mdp_coordinator.cli", arguments, env, logs)
        workers = [
            service(f"w{i}", "mdp_worker.cli", [*arguments, "--name", f"w{i}"], env, logs)
            for i in range(1, self._options.workers + 1)
        ]
        self._children = [coordinator, *workers]
        for child in self._children:
            child.start()

    async def _supervise(self, job: JobInfo, address: Address, logs: Path, embedded: bool) -> int:
        started = time.monotonic()
        self._spawn(address, logs, embedded)
        try:
            with self._display:
                state = await self._watch(job)
        finally:
            await self._end_children()
        # the workers, who said what for the job waits, have left
        self._status = replace(await self._read(job), troubles=self._troubles if state == "running" else [])
        self._report(time.monotonic() - started)
        if state == "failed":
            raise JobFailed(self._status.error)
        return INTERRUPTED if self._interrupts and state == "running" else 0

    async def _watch(self, job: JobInfo) -> str:
        """Until the job is over or a signal came; the job's state."""
        meter = Meter()
        while True:
            try:
                status = await self._read(job)
            except Exception as error:
                if not is_transient(error):
                    raise
                self._look_after_server()
                await asyncio.sleep(_LOOK_EVERY)
                continue
            done = sum(sum(counts.values()) for counts in status.nodes.values())
            rate = meter.update(status.items_in, done + status.tasks_ended, time.monotonic())
            self._busy_seconds = meter.busy
            self._display.show(status, rate)
            self._troubles = status.troubles
            self._tell_of_dead_letters(status, rate)
            if status.state != "running":
                return status.state
            if self._interrupts:
                self._display.say("leaving: finishing the commits under way (again to leave at once) ...")
                return status.state
            self._look_after_children()
            await asyncio.sleep(_LOOK_EVERY)

    def _tell_of_dead_letters(self, status: JobStatus, rate: float) -> None:
        """Once, when they stand in the way: a job that waits must say what for."""
        if not self._told and rate == 0 and 2 * status.dead_letters > self._settings.dead_letter_capacity:
            self._told = True
            self._display.say(
                f"{status.dead_letters:,} dead letters, {self._settings.dead_letter_capacity:,} are kept at most: the job waits"
                f" until they are read (mdp dlq --clear). The first: {status.first_dead_letter}"
            )

    def _look_after_children(self) -> None:
        for child in self._children:
            code = child.exit_code()
            if code is None:
                continue
            if (
                code == 0 and child.start_at is None
            ):  # it saw the job's end before we did, or somebody asked it to leave
                child.start_at = time.monotonic() + _LEFT_SECONDS
            elif child.start_at is None:
                self._display.say(f"{child.name} died with {_cause(code)}; its last words:\n{child.last_words()}")
                if code in NO_RESTART or not child.may_restart():
                    raise JobFailed(f"{child.name} cannot run ({_cause(code)}); see above")
            elif time.monotonic() >= child.start_at:
                self._display.say(f"{child.name}: starting it again")
                child.start()

    def _look_after_server(self) -> None:
        """An embedded server that died is started again where it kept its data; without data there is nothing to go on
        from."""
        server = self._embedded
        if server is None or server.exit_code() is None:
            return
        self._display.say(f"the server died; its last words: {server.last_words()}")
        if self._options.data_dir is None:
            self._interrupts = 2  # nothing is left that could be finished
            raise StoreUnavailable("the embedded server died and kept nothing; run with --data-dir to survive that")
        server.start()
        self._display.say("the server was started again")

    async def _end_children(self) -> None:
        """Politely; at once after a second signal, or when they do not go."""
        deadline = time.monotonic() + _LEAVE_SECONDS
        for child in reversed(self._children):  # workers first: the coordinator is there while they give back
            child.terminate()
        running = list(self._children)
        while running and time.monotonic() < deadline and self._interrupts < 2:
            await asyncio.sleep(0.02)
            running = [child for child in running if child.exit_code() is None]
        for child in running:
            child.kill()

    async def _read(self, job: JobInfo) -> JobStatus:
        return await read_status(self._client, self._control, job, self._plan, self._settings.channel_capacity)

    def _report(self, seconds: float) -> None:
        assert self._status is not None
        sinks = [node.fn for node in self._dag.nodes.values() if isinstance(node.fn, Sink)]
        outputs = [destination for destination in (sink.destination() for sink in sinks) if destination]
        rate = self._status.items_in / self._busy_seconds if self._busy_seconds else 0.0
        if self._options.as_json:
            document = {**self._status.to_dict(), "seconds": seconds, "items_per_second": rate, "outputs": outputs}
            print(visible(json.dumps(document)), flush=True)  # noqa: T201 - this is the output
        else:
            lists = any(isinstance(node.fn, Batcher) for node in self._dag.nodes.values())
            gone = self._embedded is not None and self._options.data_dir is None
            self._display.say(summary(self._status, seconds, outputs, rate, gone=gone, lists=lists))


class Meter:
    """Items per second from counts seen now and then."""

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None
        self._looked: tuple[int, float] | None = None
        self._began: float | None = None
        self._rate = 0.0
        self.busy = 0.0
        """Seconds from the look before the first commit to the look behind the last one: what still stands in the streams
        when the last item came in takes its time as well."""

    def update(self, items: int, done: int, now: float) -> float:
        """The rate at which ``items`` come in; ``done`` grows with whatever any node committed."""
        if self._looked is not None and done > self._looked[0]:
            self._began = self._looked[1] if self._began is None else self._began
            self.busy = now - self._began
        self._looked = (done, now)
        if self._last is not None:
            before, then = self._last
            if items > before:
                self._rate = (items - before) / (now - then)
            elif now - then > 1.0:
                self._rate = 0.0
            else:
                return self._rate
        self._last = (items, now)
        return self._rate


def child_environment(settings: Settings, address: Address, embedded: bool, workers: int) -> Mapping[str, str]:
    """The settings as environment, for children: a password never stands in a command line. The workers share the cores, so
    each has one thread for linear algebra where the user says nothing else (starting more also costs each child 50 ms of
    CPU)."""
    kept = {"MDP_REDIS_URL", "MDP_JOB"}
    env = {name: text for name, text in as_environment(settings).items() if name.upper() not in kept}
    env["MDP_REDIS_URL"] = address.url
    env["MDP_HTTP_PORT"] = "0"  # they are several on one machine
    env["MDP_MIN_WORKERS"] = str(workers)
    if embedded:
        env["MDP_ALLOW_VOLATILE"] = "true"
    if not any(name in os.environ for name in _BLAS_THREADS):
        env |= dict.fromkeys(_BLAS_THREADS, "1")
    return env


def _cause(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
