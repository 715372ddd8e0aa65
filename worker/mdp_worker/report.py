"""What a worker says of its tasks with each heartbeat: what they wait for, and how the stores of its sinks are."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Gauge

from market_data_pipeline.clock import Clock
from market_data_pipeline.runtime.store_poll import StorePoll
from market_data_pipeline.runtime.task import Task
from market_data_pipeline.store.heartbeat import HeartbeatThread
from market_data_pipeline.store.stores import StoreWord
from mdp_worker.waits import Waits


class Report:
    """Of one worker. ``waiting``: the metric of tasks that wait."""

    def __init__(self, clock: Clock, waiting: Gauge) -> None:
        self.waits = Waits(clock)
        self._waiting = waiting
        self._poll = StorePoll(clock)

    def write(self, heart: HeartbeatThread, tasks: Sequence[Task]) -> None:
        """For the next heartbeat. Stores that were not asked for a second are asked; nobody waits for their answers."""
        heart.troubles = self.waits.look(tasks, self._waiting)
        self._poll.look({(name, task.id.partition): store for task in tasks for name, store in task.stores().items()})
        heart.stores = StoreWord.of(self._poll.answers, self._poll.readings())

    async def close(self) -> None:
        """Ask nobody any more."""
        await self._poll.close()
