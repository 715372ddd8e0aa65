"""Tasks that wait for the outside after an error: when they try again, and who hears of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from prometheus_client import Gauge

from market_data_pipeline.clock import Clock
from market_data_pipeline.runtime.task import Task
from market_data_pipeline.store.trouble import MOST, Trouble, grouped

log = logging.getLogger(__name__)

_RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)


class Waits:
    """Of one worker."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: set[str] = set()

    async def wait(self, task: Task, error: Exception, attempt: int) -> None:
        """Until ``task`` is to be run again after ``error``, or is to stop. A text is logged as a warning once for as long as
        tasks wait because of it."""
        delay = _RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)]
        task.waits_for = str(error) or type(error).__name__
        level = logging.DEBUG if task.waits_for in self._told else logging.WARNING
        log.log(level, "task %s: %s; nothing is lost, trying again in %g s", task.id, error, delay)
        self._told.add(task.waits_for)
        await task.interruptible(self._clock.sleep(delay))

    def look(self, tasks: Iterable[Task], waiting: Gauge) -> tuple[Trouble, ...]:
        """What of ``tasks`` a heartbeat is to say; their number goes to ``waiting``."""
        troubled = [task for task in tasks if task.trouble]
        waiting.set(len(troubled))
        self._told &= {task.waits_for for task in troubled}
        return tuple(grouped(Trouble(str(task.id), task.trouble) for task in troubled)[:MOST])
