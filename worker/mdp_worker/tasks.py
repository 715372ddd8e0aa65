"""The tasks of a job, as a worker runs them: with their stores, their metrics, and what they are given of the outside."""

from __future__ import annotations

from dataclasses import dataclass

from market_data_pipeline.budget import Budgets
from market_data_pipeline.clock import Clock
from market_data_pipeline.dag.graph import Dag
from market_data_pipeline.dag.plan import Plan, TaskId
from market_data_pipeline.metrics import WorkerMetrics
from market_data_pipeline.runtime.chain_task import ChainTask
from market_data_pipeline.runtime.contract import Limits
from market_data_pipeline.runtime.coroutine_task import CoroutineTask
from market_data_pipeline.runtime.task import Task
from market_data_pipeline.sinks.base import SinkContext
from market_data_pipeline.store.client import Client
from market_data_pipeline.store.commit import Lease, RedisTaskStore
from market_data_pipeline.store.control import JobInfo
from market_data_pipeline.store.heartbeat import HeartbeatThread
from market_data_pipeline.store.reader import StreamReader


@dataclass(frozen=True, kw_only=True)
class TaskMaker:
    """Makes them, for one job and plan."""

    dag: Dag
    job: JobInfo
    plan: Plan
    limits: Limits
    client: Client
    reader: StreamReader
    heart: HeartbeatThread
    metrics: WorkerMetrics
    budgets: Budgets
    clock: Clock

    def make(self, task: TaskId, lease: Lease) -> Task:
        """The task, for as long as ``lease`` is held."""
        store = RedisTaskStore(
            self.client, self.reader, self.job.ref, self.plan, task, lease, self.limits, self.heart.held
        )  # fmt: skip
        observer = self.metrics.observer(task, self.limits.channel_capacity, self.plan.capacities)
        if self.plan.node[task.subgraph].kind == "coroutine":
            return CoroutineTask(self.plan, self.dag, task, store, self.limits, observer, self.clock)
        context = SinkContext("", self.job.uid, task.partition, lease.epoch, lease.token)
        return ChainTask(
            self.plan, self.dag, task, store, self.limits, observer, context, self.clock, budget=self.budgets.of
        )  # fmt: skip
