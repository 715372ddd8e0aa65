"""Performs what ``state.py`` decides: leads, assigns, concludes, serves HTTP."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from market_data_pipeline.clock import SYSTEM_CLOCK, Clock
from market_data_pipeline.dag.plan import Plan
from market_data_pipeline.errors import JobFailed, PlanMismatch
from market_data_pipeline.feedback import StoreFeedback
from market_data_pipeline.http import HttpServer, NotAnswered
from market_data_pipeline.metrics import CoordinatorMetrics
from market_data_pipeline.runtime.channel_limits import levels_of
from market_data_pipeline.runtime.store_poll import StorePoll
from market_data_pipeline.settings import Settings, allowed_hosts, limits_of
from market_data_pipeline.store.client import Client, check_server, connect, is_transient, refusals_explained
from market_data_pipeline.store.control import Control, JobInfo, JobNow, publish
from market_data_pipeline.store.rates import presses_in, published, rates_in
from market_data_pipeline.store.rights import COORDINATOR, check_rights
from market_data_pipeline.store.status import JobStatus, read_status
from market_data_pipeline.store.stores import HeardStores, together
from market_data_pipeline.store.url import Address
from mdp_coordinator.autoscale import Observation
from mdp_coordinator.rates import Rates
from mdp_coordinator.scaling import Scaling
from mdp_coordinator.state import Assign, CoordinatorState, Finish, View

log = logging.getLogger(__name__)

_TICK = 0.1
_PLAN_POLL = 0.5
_STATUS_EVERY = 1.0
_TOO_SLOW = "what is behind it is too slow"


class Coordinator:
    """One coordinator process for one job. ``run`` returns when the job is over or a signal asks it to leave. ``absorbing``:
    the nodes that keep what they cannot hand on to themselves, so that pressure ends at them. ``feedback``: whom to ask how the
    store of a node is."""

    def __init__(
        self,
        plan: Plan,
        job_name: str,
        settings: Settings,
        url: Address,
        clock: Clock = SYSTEM_CLOCK,
        absorbing: frozenset[str] = frozenset(),
        feedback: Mapping[str, StoreFeedback] = {},
    ) -> None:
        self._plan, self._job_name, self._settings, self._url, self._clock = plan, job_name, settings, url, clock
        self._metrics = CoordinatorMetrics()
        limits = limits_of(settings)
        levels = levels_of(plan, limits)
        self._scaling = Scaling(plan, limits.low, self._metrics, clock, levels)
        self._rates = Rates(plan, limits.high, limits.low, absorbing, levels)
        self._feedback = {(name, -1): store for name, store in feedback.items()}
        self._poll, self._heard = StorePoll(clock), HeardStores()
        self._said = 0
        self._token = secrets.token_hex(16)
        self._term = 0
        self._asked_to_leave = asyncio.Event()
        self._waiting = f"job {job_name!r} is not published yet"
        """Why there is nothing to coordinate, while there is nothing."""
        self._tick_failed = False
        self._status_at = float("-inf")
        self._leaderless_since: float | None = None

    async def run(self) -> None:
        """Publish, lead (or stand by), until the job is over. Raises ``JobFailed`` when it ended so, ``PlanMismatch`` for
        another plan (unless with ``await_plan``)."""
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, self.leave)
        self._client: Client = connect(self._url)
        try:
            await check_server(self._client, self._url, self._settings.allow_volatile)
            await check_rights(self._client, self._url, COORDINATOR, self._job_name)
            with refusals_explained(self._url):
                await self._run()
        finally:
            await self._client.aclose()

    async def _run(self) -> None:
        documents = {"/api/status": self._status_document, "/api/scale": self._scaling.document}
        http = HttpServer(self._metrics.registry, self._ready, documents, allowed_hosts(self._settings))
        await http.start(self._settings.http_host, self._settings.http_port)
        try:
            while (job := await self._publish()) is not None:
                if await self._coordinate(job):
                    break
        finally:
            await self._poll.close()
            await http.close()

    async def _publish(self) -> JobInfo | None:
        """The job with this plan, made where there is none; ``None`` when asked to leave before it had this plan."""
        refused = ""
        while not self._asked_to_leave.is_set():
            try:
                job = await publish(self._client, self._job_name, self._plan)
                self._waiting = ""
                return job
            except PlanMismatch as error:
                if not self._settings.await_plan:
                    raise
                if error.difference != refused:
                    log.warning("waiting for another plan: %s", error.difference)
                self._waiting = refused = error.difference
            except Exception as error:
                if not refused or not is_transient(error):
                    raise
            with suppress(TimeoutError):
                async with asyncio.timeout(_PLAN_POLL):
                    await self._asked_to_leave.wait()
        return None

    def leave(self) -> None:
        """Give up leadership and return."""
        self._asked_to_leave.set()

    async def _coordinate(self, job: JobInfo) -> bool:
        """Whether there is nothing more to do: the job is over, or we were asked to leave. False: it has another plan now."""
        self._control = Control(self._client, job)
        if job.state == "failed":
            log.info("job %s had failed (%s); it goes on from its last commit", job.name, job.error)
            await self._control.resume()
        log.info("job %s: plan %s, %d tasks", job.name, job.fingerprint, len(list(self._plan.tasks())))
        state = CoordinatorState(job.partitions, len(list(self._plan.tasks())), self._settings.min_workers)
        changed = False
        while not self._asked_to_leave.is_set():
            try:
                now = await self._control.now()
                if self._over(job, now):
                    return True
                changed = now.fingerprint != job.fingerprint
                if changed:
                    log.warning("job %s has another plan now", job.name)
                    break
                if not await self._stands_aside(now):
                    await self._tick(state, now)
                self._poll.look(self._feedback)
                await self._measure(now)
                self._tick_failed = False
                await self._control.wait_for_wake(_TICK)
            except Exception as error:
                if not is_transient(error):
                    raise
                if not self._tick_failed:
                    log.warning("server away (%s); workers go on with the assignment they have", error)
                self._tick_failed = True
                await self._clock.sleep(_TICK * 5)
        if not self._tick_failed:
            await self._control.resign(self._term, self._token)
        self._term = 0
        self._metrics.leader.set(0)
        return not changed

    def _over(self, job: JobInfo, now: JobNow) -> bool:
        if now.uid != job.uid:
            raise JobFailed(f"job {job.name!r} was removed or replaced")
        if now.state == "failed" and not now.deploy:
            raise JobFailed(f"job {job.name!r} failed: {now.error}")
        if now.state == "finished":
            log.info("job %s: finished", job.name)
        return now.state == "finished"

    async def _stands_aside(self, now: JobNow) -> bool:
        """Whether a deployment leads the job, or is about to. One whose leadership has run out is over."""
        if not now.deploy:
            self._leaderless_since = None
            return False
        if self._term:
            log.info("standing aside: a deployment exchanges the plan")
            await self._control.resign(self._term, self._token)
            self._term = 0
            self._metrics.leader.set(0)
        if await self._control.leader():
            self._leaderless_since = None
            return True
        if self._leaderless_since is None:
            self._leaderless_since = self._clock.monotonic()
        return self._clock.monotonic() - self._leaderless_since < self._settings.lease_ttl_ms / 1000

    async def _tick(self, state: CoordinatorState, now: JobNow) -> None:
        term = await self._control.lead(self._token, self._settings.lease_ttl_ms)
        if bool(term) != bool(self._term):
            log.info(
                "leading, term %d" if term else "standing by: another coordinator leads", *([term] if term else [])
            )
        if term and not self._term:  # it may have led at once, and never followed
            self._rates.follow(rates_in(now.rates), presses_in(now.rates))
        self._term = term
        self._metrics.leader.set(1 if term else 0)
        if not term:
            return
        if now.deploy and await self._control.set_phase(term, self._token, "", ""):
            log.warning("a deployment was given up before it exchanged the plan; the job goes on as it was")
        workers, owners = await self._control.workers(), await self._control.assignment()
        view = View(self._clock.monotonic(), workers, owners, await self._control.ended())
        self._metrics.workers.set(len(workers))
        self._metrics.tasks_ended.set(view.ended)
        for command in state.decide(view):
            if isinstance(command, Assign):
                await self._assign(command)
            elif isinstance(command, Finish):
                await self._control.conclude("finished", ended=len(list(self._plan.tasks())))
        self._metrics.unassigned.set(state.unassigned(view))

    async def _assign(self, command: Assign) -> None:
        if not await self._control.assign(self._term, self._token, list(command.transitions)):
            log.warning("leadership was lost before an assignment; another coordinator decides now")
            return
        self._metrics.assignments.inc(len(command.transitions))
        by_worker: dict[str, list[int]] = {}
        for transition in command.transitions:
            by_worker.setdefault(transition.worker, []).append(transition.partition)
        for worker, partitions in by_worker.items():
            log.info("assigned to %s: %s", worker, partitions)

    async def _measure(self, job: JobNow) -> None:
        now = self._clock.monotonic()
        if now - self._status_at < _STATUS_EVERY:
            return
        self._status_at = now
        if self._term:
            await self._control.forget_silent()
        status = await self._status()
        await self._limit_sources(self._scaling.observe(status), job)
        self._metrics.stores(status.stores)
        for channel in status.channels:
            self._metrics.capacity.labels(channel.name).set(channel.capacity)
            for partition, length in channel.lengths.items():
                self._metrics.length.labels(channel.name, str(partition)).set(length)

    async def _limit_sources(self, seen: Observation, job: JobNow) -> None:
        """As the leader, say what each source may bring in; else go by what the leader says, to go on from there."""
        rates = rates_in(job.rates)
        if self._term:
            before, rates = self._rates.rates, self._rates.observe(seen, self._scaling.waiting())
            presses, asked = self._rates.presses, self._poll.readings()
            for name in sorted(rates.keys() - before.keys()):
                why = f"the store of {', '.join(presses[name])} is too full" if name in presses else _TOO_SLOW
                log.info("source %s: limited to %.0f items/s, %s", name, rates[name], why)
            for name in sorted(before.keys() - rates.keys()):
                log.info("source %s: not limited any more", name)
            if rates or asked or job.rates:
                self._said += 1
                said = published(self._said, rates, presses, asked)
                if not await self._control.set_rates(self._term, self._token, said):
                    log.warning("leadership was lost before the sources' rates were said")
        else:
            self._rates.follow(rates, presses_in(job.rates))
        self._metrics.limits(self._plan, rates)

    async def _status(self) -> JobStatus:
        status = await read_status(
            self._client, self._control, self._control.job, self._plan, self._settings.channel_capacity
        )
        heard = self._heard.hear(status.words, self._clock.monotonic())
        return replace(status, stores=together([heard, self._poll.readings()]))

    async def _status_document(self, query: Mapping[str, str]) -> object:
        if self._waiting:
            raise NotAnswered(503, self._waiting)
        return (await self._status()).to_dict()

    async def _ready(self) -> tuple[bool, str]:
        if self._tick_failed:
            return False, "the server is away"
        if self._waiting:
            return False, self._waiting
        return True, "leading" if self._term else "standing by"
