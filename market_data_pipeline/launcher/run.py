"""``mdp run``: a job for somebody at a terminal: signals, progress, a summary, an exit code."""

from __future__ import annotations

import asyncio
import json
import signal

from market_data_pipeline.dag.graph import Dag
from market_data_pipeline.dag.plan import Plan
from market_data_pipeline.errors import JobFailed
from market_data_pipeline.launcher.display import Display, choose_display, summary
from market_data_pipeline.launcher.job_run import JobOptions, JobRun
from market_data_pipeline.operators.batch import Batcher
from market_data_pipeline.options import INTERRUPTED
from market_data_pipeline.settings import Settings
from market_data_pipeline.sinks.base import Sink
from market_data_pipeline.store.status import JobStatus
from market_data_pipeline.terminal import visible


class Launcher:
    """One ``mdp run``. ``run`` returns the exit code. ``as_json``: the summary is one JSON document on standard output."""

    def __init__(
        self,
        options: JobOptions,
        dag: Dag,
        plan: Plan,
        job_name: str,
        settings: Settings,
        *,
        plain: bool,
        as_json: bool,
    ) -> None:
        self._dag, self._as_json = dag, as_json
        self._display: Display = choose_display(plain)
        self._job = JobRun(options, dag, plan, job_name, settings, self._display)

    def run(self) -> int:
        """Everything, from the server's start to its end. Raises ``JobFailed`` behind the summary."""
        status = asyncio.run(self._run())
        if status is None:
            raise KeyboardInterrupt  # nothing was started
        self._report(status)
        if status.state == "failed":
            raise JobFailed(status.error)
        return INTERRUPTED if self._job.stopping and status.state == "running" else 0

    async def _run(self) -> JobStatus | None:
        for name in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(name, self._interrupt)
        return await self._job.run()

    def _interrupt(self) -> None:
        self._job.stop(at_once=self._job.stopping)

    def _report(self, status: JobStatus) -> None:
        job = self._job
        sinks = [node.fn for node in self._dag.nodes.values() if isinstance(node.fn, Sink)]
        outputs = [destination for destination in (sink.destination() for sink in sinks) if destination]
        rate = job.items_in / job.busy_seconds if job.busy_seconds else 0.0
        if self._as_json:
            document = {**status.to_dict(), "seconds": job.seconds, "items_per_second": rate, "outputs": outputs}
            print(visible(json.dumps(document)), flush=True)  # noqa: T201 - this is the output
        else:
            lists = any(isinstance(node.fn, Batcher) for node in self._dag.nodes.values())
            self._display.say(summary(status, job.seconds, outputs, rate, gone=not job.kept, lists=lists))
