"""One run of a job over processes: checks what can be checked, starts server, coordinator and workers, watches, cleans up.

It works inside any event loop, beside others of its kind: it takes no signal, prints nothing and knows no exit code. Children
are started from the thread of the loop, because they are told when that thread is gone.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from market_data_pipeline.dag.change import Choice
from market_data_pipeline.dag.graph import Dag
from market_data_pipeline.dag.plan import Plan
from market_data_pipeline.dag.worries import check_processes
from market_data_pipeline.errors import ConfigError, PlanMismatch, StoreUnavailable
from market_data_pipeline.launcher.children import service
from market_data_pipeline.launcher.deploy import exchange
from market_data_pipeline.launcher.display import Display
from market_data_pipeline.launcher.meter import Meter
from market_data_pipeline.launcher.services import Services, child_environment
from market_data_pipeline.runtime.channel_limits import check_channels
from market_data_pipeline.settings import Settings, limits_of, server_address
from market_data_pipeline.sinks.base import Sink
from market_data_pipeline.sources.base import Source
from market_data_pipeline.store.client import check_server, connect, is_transient, refusals_explained
from market_data_pipeline.store.control import Control, JobInfo, check_plan, find_job, publish, remove_job
from market_data_pipeline.store.embedded import EmbeddedServer
from market_data_pipeline.store.rights import COORDINATOR, OPERATOR, check_rights
from market_data_pipeline.store.status import JobStatus, read_status
from market_data_pipeline.store.url import Address, parse_address

_LOOK_EVERY = 0.25
_LAST_LOOK_SECONDS = 2.0
_DEPLOY_SECONDS = 30.0
_START_POLL = 0.02


@dataclass(frozen=True)
class JobOptions:
    """What a job is run with. ``app``: the program as the children are told it, ``sets`` its parameters (``name=value``).
    ``data_dir``: where a server of our own keeps what it has, ``server``: its binary. ``environment``: more for the children,
    for what must not stand in a command line."""

    app: str
    sets: tuple[str, ...] = ()
    workers: int = 2
    data_dir: Path | None = None
    server: str | None = None
    fresh: bool = False
    deploy: Choice | None = None
    """Give a job that has another plan this one, with this choice about changed nodes."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    http_port: int = 0
    """Where the coordinator serves its status and metrics; workers take free ports. 0: a free one too."""


def preflight(dag: Dag) -> None:
    """Let every source and sink look whether it can work, before anything starts. Raises ``ConfigError`` for a sink that
    only works in one process."""
    check_processes(dag)
    for node in dag.nodes.values():
        if isinstance(node.fn, Source | Sink):
            node.fn.check()


class JobRun:
    """One run of the job ``name``, which is ``dag`` compiled to ``plan``; ``display`` is told what happens. Run it once.
    Raises ``ConfigError`` where an edge's channel does not go with the settings.

    ``seconds``: how long its children ran; ``busy_seconds``: for how long the job moved on."""

    def __init__(
        self, options: JobOptions, dag: Dag, plan: Plan, name: str, settings: Settings, display: Display
    ) -> None:
        self._options, self._dag, self._plan, self._name = options, dag, plan, name
        self._settings = settings
        check_channels(plan, limits_of(settings))
        self._display = display
        self._asked = asyncio.Event()
        self._at_once = False
        self._services = Services(display.say)
        self._embedded: EmbeddedServer | None = None
        self._status: JobStatus | None = None
        self._meter = Meter()
        self._told = False
        self.seconds = 0.0

    @property
    def busy_seconds(self) -> float:
        return self._meter.busy

    @property
    def items_in(self) -> int:
        """Items that came in during this run; those of runs before it, with which it goes on, are in :meth:`status` too."""
        return self._meter.items

    @property
    def kept(self) -> bool:
        """Whether what the job has committed outlives this run."""
        return self._settings.redis_url is not None or self._options.data_dir is not None

    @property
    def stopping(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._asked.is_set()

    def status(self) -> JobStatus | None:
        """The job when it was last looked at (a quarter of a second ago); ``None`` before it was."""
        return self._status

    def stop(self, *, at_once: bool = False) -> None:
        """End the run. The workers finish the commits under way and give back what they own, so that the job can go on later;
        with ``at_once`` they are killed, which loses nothing that was committed."""
        self._asked.set()
        self._at_once |= at_once

    async def run(self) -> JobStatus | None:
        """From the server's start to its end: until the job is over, or :meth:`stop` was called. Returns the status at the
        end, of a job that failed too; ``None`` where it was stopped before there was a job. Raises ``ConfigError`` and
        ``StoreUnavailable`` for what is wrong, ``JobFailed`` for children that cannot run. Cancelled, it ends its children
        as :meth:`stop` does."""
        async with AsyncExitStack() as stack:
            address = await self._server(stack)
            if address is None:
                return None
            if self._options.data_dir is not None:
                logs = self._options.data_dir / "logs"
                logs.mkdir(parents=True, exist_ok=True)
            else:
                logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mdp-logs-")))
            self._address, self._client = address, connect(address)
            stack.push_async_callback(self._client.aclose)
            embedded = self._embedded is not None
            await check_server(self._client, address, self._settings.allow_volatile or embedded)
            await check_rights(self._client, address, COORDINATOR, self._name)
            with refusals_explained(address):
                return await self._run_job(address, logs, embedded)

    async def _server(self, stack: AsyncExitStack) -> Address | None:
        if self._settings.redis_url is not None:
            if self._options.data_dir is not None:
                raise ConfigError("data_dir belongs to the embedded server; with redis_url the server keeps the data")
            return server_address(self._settings)
        if any((self._settings.redis_ca, self._settings.redis_cert, self._settings.redis_key)):
            raise ConfigError("MDP_REDIS_CA, _CERT and _KEY are for a server of your own: give its --redis-url as well")
        if self._settings.redis_username or self._settings.redis_password:
            raise ConfigError(
                "MDP_REDIS_USERNAME and _PASSWORD are for a server of your own: give its --redis-url as well"
            )
        server = self._embedded = EmbeddedServer(self._options.data_dir, self._options.server)
        stack.push_async_callback(server.leave)
        if not await self._come_up(server):
            return None
        kept = f"data kept in {self._options.data_dir}" if self._options.data_dir else "nothing kept"
        look = f"mdp status --redis-url {server.url} --job {self._name}"
        self._display.say(f"server: {server.url} ({kept}); look with: {look}")
        return parse_address(server.url)

    async def _come_up(self, server: EmbeddedServer) -> bool:
        """Start it and wait until it answers; ``False`` when the run is to stop first."""
        server.launch()
        while not await server.answers():
            if self.stopping:
                return False
            await asyncio.sleep(_START_POLL)
        return True

    async def _run_job(self, address: Address, logs: Path, embedded: bool) -> JobStatus | None:
        job = await self._find_or_publish()
        if job is None:
            return None
        self._control = Control(self._client, job)
        if job.state == "finished":
            self._display.say(f"job {job.name} has finished already; run it again from the beginning with --fresh")
            return await self._read(job)
        if job.state == "failed":  # in a run before this one
            self._display.say(f"job {job.name} had failed ({job.error}); it goes on from its last commit")
            await self._control.resume()
        if job.version == 0:
            self._warn_of_other_files()
        return await self._supervise(job, address, logs, embedded)

    def _warn_of_other_files(self) -> None:
        sinks = [node.fn for node in self._dag.nodes.values() if isinstance(node.fn, Sink)]
        for text in dict.fromkeys(text for sink in sinks for text in sink.others()):
            self._display.say(text)

    async def _find_or_publish(self) -> JobInfo | None:
        job = await find_job(self._client, self._name)
        if job is not None:
            living = await self._living(job)
            if self.stopping:
                return None
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
                self._check_plan(job)
        return await publish(self._client, self._name, self._plan)

    def _check_plan(self, job: JobInfo) -> None:
        """Advises what this run can do: its server may be gone with it, so no other command would find one."""
        try:
            check_plan(job, self._plan)
        except PlanMismatch as error:
            way = (
                "It has finished: begin anew"
                if job.state == "finished"
                else "Give it this plan with --deploy, begin anew"
            )
            raise PlanMismatch(
                error.difference, f"{way} with --fresh, which forgets it, or choose another name with --job"
            ) from None

    async def _living(self, job: JobInfo) -> list[str]:
        """Workers that beat; those of a run that was killed are silent, and gone within a lease."""
        control = Control(self._client, job)
        deadline = time.monotonic() + 1.5 * self._settings.lease_ttl_ms / 1000
        while True:
            names = list(await control.workers())
            if not names or time.monotonic() >= deadline or self.stopping:
                return names
            await self._pause()

    async def _pause(self) -> None:
        """Until the next look, or until the run is asked to stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_EVERY):
                await self._asked.wait()

    def _spawn(self, address: Address, logs: Path, embedded: bool) -> None:
        arguments = [self._options.app, "--job", self._name]
        for pair in self._options.sets:
            arguments += ["--set", pair]
        env, leads = (
            child_environment(self._settings, address, embedded, self._options.workers, port)
            | dict(self._options.environment)
            for port in (0, self._options.http_port)
        )
        coordinator = service("coordinator", "mdp_coordinator.cli", arguments, leads, logs)
        workers = [
            service(f"w{i}", "mdp_worker.cli", [*arguments, "--name", f"w{i}"], env, logs)
            for i in range(1, self._options.workers + 1)
        ]
        self._services.start([coordinator, *workers])

    async def _supervise(self, job: JobInfo, address: Address, logs: Path, embedded: bool) -> JobStatus | None:
        started = time.monotonic()
        try:
            self._spawn(address, logs, embedded)
            with self._display:
                seen = await self._watch(job)
        finally:
            if self._embedded is not None:
                self._embedded.wake()  # a server that is stopped answers no commit
            await self._services.end(lambda: self._at_once)
        self.seconds = time.monotonic() - started
        self._services.tell_never_awaited()
        try:
            status = await self._looked(job)
        except Exception as error:
            if not is_transient(error) or (seen is None and not self.stopping):
                raise
            return seen  # the server is away, and we were asked to stop
        # the workers, who said what for the job waits, have left
        self._status = replace(status, troubles=seen.troubles if seen is not None and seen.state == "running" else [])
        return self._status

    async def _watch(self, job: JobInfo) -> JobStatus | None:
        """Until the job is over or the run is to stop; the last status read."""
        while True:
            try:
                status = await self._looked(job)
            except Exception as error:
                if not is_transient(error):
                    raise
                if self.stopping:
                    return self._status
                await self._look_after_server()
                await self._pause()
                continue
            done = sum(sum(counts.values()) for counts in status.nodes.values())
            rate = self._meter.update(status.items_in, done + status.tasks_ended, time.monotonic())
            self._display.show(status, rate)
            self._tell_of_dead_letters(status, rate)
            if status.state != "running":
                return status
            if self.stopping:
                self._display.say("leaving: finishing the commits under way (again to leave at once) ...")
                return status
            self._services.look_after()
            await self._pause()

    def _tell_of_dead_letters(self, status: JobStatus, rate: float) -> None:
        """Once, when they stand in the way: a job that waits must say what for."""
        if not self._told and rate == 0 and 2 * status.dead_letters > self._settings.dead_letter_capacity:
            self._told = True
            self._display.say(
                f"{status.dead_letters:,} dead letters, {self._settings.dead_letter_capacity:,} are kept at most: the job waits"
                f" until they are read (mdp dlq --clear). The first: {status.first_dead_letter}"
            )

    async def _look_after_server(self) -> None:
        """An embedded server that died is started again where it kept its data; without data there is nothing to go on
        from."""
        server = self._embedded
        if server is None or server.exit_code() is None:
            return
        self._display.say(f"the server died; its last words: {server.last_words()}")
        if self._options.data_dir is None:
            self._at_once = True  # nothing is left that could be finished
            raise StoreUnavailable("the embedded server died and kept nothing; run with --data-dir to survive that")
        if await self._come_up(server):
            self._display.say("the server was started again")

    async def _looked(self, job: JobInfo) -> JobStatus:
        """What :meth:`_read` reads. Raises ``TimeoutError`` soon after the run was asked to stop: the workers are to be told,
        also where the server hangs."""
        reading, asked = asyncio.create_task(self._read(job)), asyncio.create_task(self._asked.wait())
        try:
            await asyncio.wait({reading, asked}, return_when=asyncio.FIRST_COMPLETED)
            async with asyncio.timeout(_LAST_LOOK_SECONDS):
                return await reading
        finally:
            for task in (reading, asked):
                task.cancel()
            await asyncio.gather(reading, asked, return_exceptions=True)

    async def _read(self, job: JobInfo) -> JobStatus:
        status = await read_status(self._client, self._control, job, self._plan, self._settings.channel_capacity)
        self._status = status
        return status
