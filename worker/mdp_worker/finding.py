"""What a worker does before it has a job: it waits for one to be published whose plan is its program's."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from market_data_pipeline.dag.graph import Dag
from market_data_pipeline.dag.plan import Plan
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import PlanMismatch
from market_data_pipeline.store.client import Client, is_transient
from market_data_pipeline.store.control import JobInfo, check_plan, find_job

log = logging.getLogger(__name__)

POLL = 0.05
_PLAN_POLL = 0.5


async def nap(left: asyncio.Event, seconds: float = POLL) -> None:
    """So long, or until the worker is asked to leave."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await left.wait()


class JobFinder:
    """Finds the job ``name`` for the program ``dag``. ``await_plan``: another plan is waited out."""

    def __init__(self, dag: Dag, name: str, await_plan: bool) -> None:
        self._dag, self._name, self._await_plan = dag, name, await_plan
        self.waiting = ""
        """For what job or plan, if for one."""

    async def find(self, client: Client, left: asyncio.Event) -> tuple[JobInfo, Plan] | None:
        """The job and its plan, which is this program's; ``None`` when the worker is asked to leave meanwhile. Raises
        ``PlanMismatch`` for another plan, unless that is waited out."""
        refused = ""
        while not left.is_set():
            pause = POLL
            try:
                job = await find_job(client, self._name)
                if job is None or job.state in ("failed", "removed"):
                    refused = ""
                    self._wait_for(logging.INFO, f"waiting for a coordinator to publish job {self._name!r}")
                elif job.fingerprint != refused:
                    plan = compile_dag(self._dag, job.partitions)
                    check_plan(job, plan)
                    self.waiting = ""
                    return job, plan
            except PlanMismatch as error:
                if not self._await_plan:
                    raise
                refused = job.fingerprint if job else ""
                self._wait_for(logging.WARNING, f"waiting for another plan: {error.difference}")
            except Exception as error:
                if not is_transient(error):
                    raise
                refused, pause = "", _PLAN_POLL
                self._wait_for(logging.WARNING, "finding the job: server away, trying again")
            await nap(left, _PLAN_POLL if refused else pause)
        return None

    def _wait_for(self, level: int, what: str) -> None:
        if what != self.waiting:
            log.log(level, what)
            self.waiting = what
