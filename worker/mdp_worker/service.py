"""Performs what ``state.py`` decides: runs the tasks of the partitions this worker holds, heartbeats, serves HTTP."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from dataclasses import dataclass, field, replace
from functools import partial

from market_data_pipeline.budget import HOST
from market_data_pipeline.clock import SYSTEM_CLOCK, Clock
from market_data_pipeline.dag.graph import Dag
from market_data_pipeline.dag.plan import Plan, TaskId
from market_data_pipeline.errors import Fenced, JobChanged, JobFailed, NameTaken
from market_data_pipeline.http import HttpServer
from market_data_pipeline.metrics import WorkerMetrics
from market_data_pipeline.runtime.channel_limits import check_channels
from market_data_pipeline.runtime.task import Task
from market_data_pipeline.settings import Settings, allowed_hosts, limits_of
from market_data_pipeline.store.budget import ServerBudgets
from market_data_pipeline.store.client import (
    Client,
    check_server,
    connect,
    explained,
    is_transient,
    refusals_explained,
    until_done,
)
from market_data_pipeline.store.commit import Lease
from market_data_pipeline.store.control import Control, Heartbeat, JobInfo, JobNow
from market_data_pipeline.store.heartbeat import HeartbeatThread
from market_data_pipeline.store.rates import HeardRates
from market_data_pipeline.store.reader import StreamReader
from market_data_pipeline.store.rights import WORKER, check_rights
from market_data_pipeline.store.url import Address
from mdp_worker.finding import JobFinder, nap
from mdp_worker.pins import Pins
from mdp_worker.report import Report
from mdp_worker.state import HeldPartitions, Start, Stop
from mdp_worker.tasks import TaskMaker
from mdp_worker.waits import OUTSIDE, Failures, failure_of

log = logging.getLogger(__name__)

_LEAVE_SECONDS = 30.0


@dataclass
class _Partition:
    """The running tasks of one partition."""

    lease: Lease
    tasks: list[Task] = field(default_factory=list)
    jobs: list[asyncio.Task[None]] = field(default_factory=list)


class Worker:
    """One worker process for one job. ``run`` returns when the job is finished or a signal asked it to leave."""

    def __init__(
        self,
        dag: Dag,
        job_name: str,
        settings: Settings,
        url: Address,
        heartbeat: Heartbeat,
        pins: Pins,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._dag, self._job_name, self._settings, self._url, self._clock = dag, job_name, settings, url, clock
        self._heartbeat, self._pins = heartbeat, pins
        self._limits = limits_of(settings)
        self._metrics = WorkerMetrics(clock)
        self._state = HeldPartitions(heartbeat.token)
        self._running: dict[int, _Partition] = {}
        self._ending: dict[int, asyncio.Task[None]] = {}
        self._leaving = self._resting = False
        self._report = Report(clock, self._metrics.outside.waiting)
        self._heard, self._rates = HeardRates(), dict[str, float]()
        self._asked_to_leave = asyncio.Event()
        self._away = False
        self._failure = ""
        self._finder = JobFinder(dag, job_name, settings.await_plan)

    async def run(self) -> None:
        """Work until the job is over. Raises ``JobFailed`` when it ended so, ``PlanMismatch`` for another plan (unless with
        ``await_plan``)."""
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, self.leave)
        self._client: Client = connect(self._url)
        self._budgets = ServerBudgets(self._client, self._url, self._clock)
        HOST.set(self._budgets)
        try:
            await check_server(self._client, self._url, self._settings.allow_volatile)
            await check_rights(self._client, self._url, WORKER, self._job_name)
            http = HttpServer(self._metrics.registry, self._ready, {}, allowed_hosts(self._settings))
            await http.start(self._settings.http_host, self._settings.http_port)
            self._heartbeat = replace(self._heartbeat, pid=os.getpid(), host=socket.gethostname(), http_port=http.port)
            try:
                with refusals_explained(self._url):
                    while (found := await self._finder.find(self._client, self._asked_to_leave)) is not None:
                        if await self._work_on(*found):
                            break
            finally:
                await http.close()
        finally:
            await self._client.aclose()

    def leave(self) -> None:
        """Finish the commits under way, give the partitions back, and return."""
        self._leaving = True
        self._asked_to_leave.set()

    async def _work_on(self, job: JobInfo, plan: Plan) -> bool:
        """Whether there is nothing more to do: the job is over, or we were asked to leave. False: it has another plan now."""
        check_channels(plan, self._limits)
        self._job, self._plan = job, plan
        self._heartbeat = replace(self._heartbeat, pins=self._pins.of(job.partitions))
        self._control = Control(self._client, job)
        self._state = HeldPartitions(self._heartbeat.token)
        self._heart = heart = HeartbeatThread(self._url, job, self._heartbeat, self._settings.lease_ttl_ms, self._clock)
        with explained(self._url):
            heart.start()
        try:
            await until_done(self._control.wake, "saying hello")
            async with StreamReader(self._client, self._settings.wait_replicas) as reader:
                self._maker = TaskMaker(
                    dag=self._dag, job=job, plan=plan, limits=self._limits, client=self._client, reader=reader,
                    heart=heart, metrics=self._metrics, budgets=self._budgets, clock=self._clock,
                )  # fmt: skip
                over = True
                try:
                    over = await self._loop(heart)
                finally:
                    await self._end_all(give_back=self._leaving or not over)
        finally:
            heart.stop()
        await self._give_back()  # a heartbeat behind it would be one of a worker that is not there
        return over

    def _tasks(self) -> list[Task]:
        return [task for partition in self._running.values() for task in partition.tasks]

    async def _loop(self, heart: HeartbeatThread) -> bool:
        version, run_id, phase = -1, heart.run_id, ""
        self._metrics.limits(self._plan, {})
        while not self._leaving:
            self._report.write(heart, self._tasks())
            if (now := await self._look()) is None:
                await nap(self._asked_to_leave)
                continue
            self._check_failure(now)
            if now.state == "finished":
                log.info("job %s: finished", self._job.name)
                return True
            if now.fingerprint != self._job.fingerprint:
                log.warning("job %s has another plan now; every task ends", self._job.name)
                return False
            if heart.superseded:
                raise NameTaken(f"another process was started as worker {self._heartbeat.worker!r} after this one")
            if heart.run_id != run_id:
                log.warning("the server was restarted or replaced; every task loads again")
                run_id, version = heart.run_id, -1
                for task in self._tasks():
                    task.reload()
            if now.phase != phase:
                phase = now.phase
                self._follow_phase(phase)
            if phase == "stop":
                await self._return_assigned()
            elif now.version != version:
                version = now.version
                await self._follow_assignment()
            await nap(self._asked_to_leave)
        return True

    async def _look(self) -> JobNow | None:
        """How the job is now; nothing while the server is away. The sources obey the rates that hold in either case."""
        try:
            now = await self._control.now()
        except Exception as problem:
            if not is_transient(problem):
                raise
            self._away = True
            self._obey()
            return None
        self._away = False
        self._heard.hear(now.rates, self._clock.monotonic())
        self._obey()
        return now

    def _check_failure(self, now: JobNow) -> None:
        if self._failure:  # also when somebody let the job run again meanwhile: our task is gone
            raise JobFailed(f"job {self._job.name!r} failed: {self._failure}")
        if now.uid != self._job.uid:
            raise JobFailed(f"job {self._job.name!r} was removed or replaced")
        if now.state == "failed":
            raise JobFailed(f"job {self._job.name!r} failed: {now.error}")

    def _obey(self) -> None:
        """Tell the sources the rates that hold, when they are others than before."""
        rates = self._heard.at(self._clock.monotonic())
        if rates != self._rates:
            self._rates = rates
            self._metrics.limits(self._plan, rates)
            for task in self._tasks():
                task.obey(rates)

    def _follow_phase(self, phase: str) -> None:
        """A deployment is under way: ``drain``, sources rest; ``stop``, every task ends and its partition is given back."""
        self._resting = phase == "drain"
        for task in self._tasks():
            task.resting = self._resting
        if phase == "stop":
            log.info("a deployment exchanges the plan: giving every partition back")
            for command in self._state.assigned({}):
                self._end(command.partition, give_back=True)
            self._metrics.owned.set(0)

    async def _return_assigned(self) -> None:
        """While every task is to end: give back what was assigned meanwhile, and what could not be given back before."""
        for partition, owner in (await until_done(self._control.assignment, "assignment")).items():
            ending = self._ending.get(partition)
            if owner.token == self._heartbeat.token and (ending is None or ending.done()):
                await self._release(Lease(partition, owner.epoch, owner.token))

    async def _follow_assignment(self) -> None:
        commands = self._state.assigned(await until_done(self._control.assignment, "assignment"))
        for command in commands:
            if isinstance(command, Stop):
                self._end(command.partition)
            else:
                self._start(command)
        self._metrics.owned.set(len(self._running))
        if commands:
            log.info("holding partitions %s", sorted(self._running))

    def _start(self, command: Start) -> None:
        lease = Lease(command.partition, command.epoch, self._heartbeat.token)
        self._running[command.partition] = running = _Partition(lease)
        for subgraph in self._plan.subgraphs:
            if command.partition in self._plan.partitions_of(subgraph):
                task = self._maker.make(TaskId(subgraph.name, command.partition), lease)
                task.resting = self._resting
                task.obey(self._rates)
                running.tasks.append(task)
                job = self._run_to_end(task, lease, self._ending.get(command.partition))
                running.jobs.append(asyncio.create_task(job, name=str(task.id)))

    async def _run_to_end(self, task: Task, lease: Lease, former: asyncio.Task[None] | None) -> None:
        try:
            await self._run_task(task, lease, former)
        except Exception as error:  # of what answers errors: else the task would stand, and the job count as healthy
            await self._fail(lease, failure_of(task, error))
        finally:
            task.observer.stopped()

    async def _run_task(self, task: Task, lease: Lease, former: asyncio.Task[None] | None) -> None:
        lapses = self._heart.lapses
        if former is not None:  # the partition came back under another epoch
            await asyncio.wait({former})
        failures = Failures()
        while True:
            try:
                if await task.run():
                    log.info("task %s: ended", task.id)
                return
            except Fenced as error:
                log.warning("%s: stopping", error)
                heard = self._heart.held() and self._heart.lapses == lapses
                self._metrics.fenced.labels("moved" if heard else "silent").inc()
                for command in self._state.fenced(lease.partition, lease.epoch):
                    if command.partition in self._running:
                        self._signal_stop(self._running[command.partition])
                return
            except JobChanged as error:  # no fault of the job's: what is to be done is seen in its record
                log.warning("%s; task %s stops", error, task.id)
                return
            except OUTSIDE as error:
                failure = await self._report.waits.wait(task, error, failures)
                if failure:
                    await self._fail(lease, failure)
                if failure or task.stopping:
                    return
            except Exception as error:  # whatever a user's code raised ends the job, with its message
                await self._fail(lease, failure_of(task, error))
                return

    async def _fail(self, lease: Lease, failure: str) -> None:
        """The job ends with ``failure``, unless ``lease`` is over: then it is the other owner's."""
        try:
            ours = await until_done(partial(self._control.fail, lease, failure), "failing the job")
        except Exception as error:  # the server refuses to be told; this worker ends all the same
            log.error("the server was not told that the job failed (%s)", error)
            ours = True
        if ours:
            self._failure = failure
        else:
            log.warning("partition %d has another owner now; its tasks stop", lease.partition)

    def _signal_stop(self, running: _Partition) -> None:
        for task in running.tasks:
            task.stop()

    def _end(self, partition: int, give_back: bool = False) -> None:
        """Stop the partition's tasks without waiting: a sink that blocks must not keep other partitions from starting."""
        stopped = self._running.pop(partition, None)
        if stopped is not None:
            self._signal_stop(stopped)
            former = self._ending.get(partition)
            self._ending[partition] = asyncio.create_task(self._await_end(stopped, former, give_back))

    async def _await_end(self, stopped: _Partition, former: asyncio.Task[None] | None, give_back: bool) -> None:
        if former is not None:
            await asyncio.wait({former})
        if stopped.jobs:
            _, late = await asyncio.wait(stopped.jobs, timeout=_LEAVE_SECONDS)
            for job in late:
                log.warning("task %s did not stop within %g s; its step is given up", job.get_name(), _LEAVE_SECONDS)
                job.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if give_back:
            await self._release(stopped.lease)

    async def _end_all(self, give_back: bool) -> None:
        await self._report.close()
        for partition in list(self._running):
            self._end(partition, give_back)
        for ending in list(self._ending.values()):
            await ending
        self._metrics.owned.set(0)

    async def _release(self, lease: Lease) -> None:
        try:
            await self._control.release(lease)
        except Exception as error:
            if not is_transient(error):
                raise
            log.warning("partition %d was not given back, the server is away (%s)", lease.partition, error)

    async def _give_back(self) -> None:
        try:
            await self._control.leave(self._heartbeat.worker, self._heartbeat.token)
        except Exception as error:
            if not is_transient(error):
                raise
            log.warning("cannot say goodbye, the server is away (%s); the coordinator will notice", error)

    async def _ready(self) -> tuple[bool, str]:
        if self._away:
            return False, "the server is away"
        if not self._running:
            return False, self._finder.waiting or "holds no partition"
        return True, f"holds partitions {sorted(self._running)}"
