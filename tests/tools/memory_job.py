"""A whole job on a :class:`MemoryServer`: every task runs, is killed and taken over as a test wants.

Also a source over a list, and a sink whose output is part of the commit, so that it shows the commit and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

from market_data_pipeline.dag.graph import Dag
from market_data_pipeline.dag.plan import Plan, TaskId
from market_data_pipeline.errors import Fenced
from market_data_pipeline.frame import Frame, to_rows
from market_data_pipeline.packing import unpack
from market_data_pipeline.runtime.chain_task import ChainTask
from market_data_pipeline.runtime.contract import Limits
from market_data_pipeline.runtime.coroutine_task import CoroutineTask
from market_data_pipeline.runtime.observe import TaskObserver
from market_data_pipeline.runtime.task import Task
from market_data_pipeline.sinks.base import Sink, SinkContext
from market_data_pipeline.sources.base import Batch, Source, SourceContext
from tools.fake_clock import FakeClock
from tools.memory_store import MemoryServer


async def until(reached: Callable[[], bool]) -> None:
    """Let the loop turn until ``reached()``."""
    while not reached():  # noqa: ASYNC110 - what is waited for is no event of ours
        await asyncio.sleep(0)


class ListSource(Source):
    """The items of a list in batches; the position is how many were read."""

    def __init__(self, items: Sequence[Any], batch_items: int = 10, max_delay: int | None = 0) -> None:
        self._items, self._batch = list(items), batch_items
        self.max_delay = max_delay

    async def open(self, ctx: SourceContext, position: Any | None) -> None:
        self._at = position or 0

    async def read(self) -> Batch | None:
        await asyncio.sleep(0)
        items = self._items[self._at : self._at + self._batch]
        self._at += len(items)
        return Batch(items, self._at) if items else None


class CommittedRows(Sink):
    """Keeps its rows in the commit itself: what :func:`committed_rows` finds was committed, exactly as often."""

    accepts: ClassVar[Literal["rows"]] = "rows"

    async def open(self, ctx: SinkContext, state: Any | None) -> None:
        self._rows: list[Any] = list(state or [])

    async def write(self, frames: Sequence[Frame]) -> None:
        self._rows += [item for frame in frames for item in to_rows(frame.items)]

    async def prepare(self, ended: bool) -> Any | None:
        return list(self._rows)


def committed_rows(server: MemoryServer, node: str) -> dict[int, list[Any]]:
    """What the sink ``node`` has committed, by partition, in order."""
    rows: dict[int, list[Any]] = {}
    for task, record in server.contents.tasks.items():
        if node in server.plan.subgraph_of and task.subgraph == server.plan.subgraph_of[node].name and record.meta:
            rows[task.partition] = unpack(record.meta).get("sinks", {}).get(node) or []
    return rows


class MemoryJob:
    """Runs all tasks until every one has ended. ``kill`` and ``take_over`` work on one task at a time."""

    def __init__(self, dag: Dag, plan: Plan, server: MemoryServer, limits: Limits) -> None:
        self.dag, self.plan, self.server, self.limits = dag, plan, server, limits
        self.clock = FakeClock()
        self.observer = TaskObserver()
        self.running: dict[TaskId, tuple[Task, asyncio.Task[bool]]] = {}
        self.over = False

    def start(self, task: TaskId) -> None:
        """A new owner for ``task``. One task per lease: a fence of one says nothing about its neighbours."""
        lease = self.server.leases.get(task.partition) or self.server.lease(task.partition)
        store = self.server.store(task, lease)
        made: Task
        if self.plan.node[task.subgraph].kind == "coroutine":
            made = CoroutineTask(self.plan, self.dag, task, store, self.limits, self.observer, self.clock)
        else:
            context = SinkContext("", "job", task.partition, lease.epoch, f"{task.subgraph[:2]}{lease.token[-6:]}")
            made = ChainTask(self.plan, self.dag, task, store, self.limits, self.observer, context, self.clock)
        self.running[task] = (made, asyncio.create_task(made.run(), name=str(task)))

    async def kill(self, task: TaskId) -> None:
        """The process is gone, at whatever it was doing."""
        found = self.running.pop(task, None)
        if found is not None:
            found[1].cancel()
            await asyncio.gather(found[1], return_exceptions=True)

    def crash(self) -> None:
        """The process of all tasks is gone: none takes another step."""
        for task, running in self.running.values():
            running.cancel()
            task.store.dead = True  # type: ignore[attr-defined]

    async def take_over(self, partition: int) -> None:
        """Kill every task of ``partition`` and let a new owner go on under a new epoch."""
        mine = [task for task in self.running if task.partition == partition]
        for task in mine:
            await self.kill(task)
        self.server.lease(partition)
        for task in mine:
            if not self.over:
                self.start(task)

    async def run_until(self, reached: Callable[[], bool], only: Sequence[TaskId] | None = None) -> None:
        """Start what does not run yet (``only`` these), and let it run until ``reached()``."""
        self.over = False
        for task in self.plan.tasks() if only is None else only:
            if task not in self.running:
                self.start(task)
        await until(reached)

    async def run(self, seconds: float = 20.0) -> None:
        """Start what does not run yet and wait for the end. A task that is fenced is left to its successor."""
        self.over = False
        for task in self.plan.tasks():
            if task not in self.running:
                self.start(task)
        async with asyncio.timeout(seconds):
            while not all(record.ended for record in self.server.contents.tasks.values()):
                for _, job in list(self.running.values()):
                    if job.done() and not isinstance(job.exception(), Fenced):
                        job.result()
                working = [job for _, job in self.running.values() if not job.done()]
                await asyncio.wait([*working, asyncio.create_task(asyncio.sleep(0.002))], return_when="FIRST_COMPLETED")
        await self.stop()

    async def stop(self) -> None:
        """Kill whatever still runs; nothing starts any more."""
        self.over = True
        for task in list(self.running):
            await self.kill(task)
