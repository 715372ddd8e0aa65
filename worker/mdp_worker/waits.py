"""Tasks that wait for the outside after an error: when they try again, who hears of it, and when it has been often enough."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

from prometheus_client import Gauge

from market_data_pipeline.clock import Clock
from market_data_pipeline.dag.options import Retries
from market_data_pipeline.errors import MdpError, SinkError, SourceError, StoreUnavailable
from market_data_pipeline.runtime.task import Task
from market_data_pipeline.store.trouble import MOST, Trouble, grouped

log = logging.getLogger(__name__)

OUTSIDE = (SinkError, SourceError, StoreUnavailable)
"""What a task may be run again after."""
_RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)


class Failures:
    """How often in a row the outside of each node of one task has failed: without a commit in between that used input. Pure."""

    def __init__(self) -> None:
        self._progress = 0
        self._counts: Counter[str] = Counter()

    def another(self, node: str, progress: int) -> int:
        """One more of ``node``, where the task has made ``progress`` since it was made; how many these are in a row."""
        if progress != self._progress:
            self._progress = progress
            self._counts.clear()
        self._counts[node] += 1
        return self._counts[node]


def delay_of(retries: Retries | None, error: Exception, failures: int) -> float | None:
    """Seconds to wait behind so many failures in a row; ``None``: the job is to fail. A sink, and the job's own server, are
    tried for ever where nothing else is said; a source that cannot go on is not tried again."""
    if retries is not None:
        return retries.delay(failures)
    if isinstance(error, SourceError):
        return None
    return _RETRY_SECONDS[min(failures, len(_RETRY_SECONDS)) - 1]


def failure_of(task: Task, error: Exception) -> str:
    """What the job's record says when ``error`` has ended ``task`` for good; logged with its traceback."""
    log.error("task %s failed", task.id, exc_info=error)
    return f"task {task.id}: {'' if isinstance(error, MdpError) else f'{type(error).__name__}: '}{error}"


class Waits:
    """Of one worker."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: set[str] = set()

    async def wait(self, task: Task, error: Exception, failures: Failures) -> str:
        """Until ``task`` is to be run again after ``error`` (one of :data:`OUTSIDE`), or is to stop: then ``""``. Where its
        node's ``Retries`` are used up, at once: why the job fails. A text is logged as a warning once for as long as tasks wait
        because of it."""
        node = task.blamed(error)
        retries = task.dag.nodes[node].retries if node else None
        count = failures.another(node, task.progress)
        delay = delay_of(retries, error, count)
        if delay is None:
            tried = "" if retries is None else f"; node {node!r} was tried {count} times in a row"
            return failure_of(task, error) + tried
        task.waits_for = str(error) or type(error).__name__
        level = logging.DEBUG if task.waits_for in self._told else logging.WARNING
        kept = "its position is kept" if isinstance(error, SourceError) else "nothing is lost"
        log.log(level, "task %s: %s; %s, trying again in %g s", task.id, error, kept, delay)
        self._told.add(task.waits_for)
        await task.interruptible(self._clock.sleep(delay))
        return ""

    def look(self, tasks: Iterable[Task], waiting: Gauge) -> tuple[Trouble, ...]:
        """What of ``tasks`` a heartbeat is to say; their number goes to ``waiting``."""
        troubled = [task for task in tasks if task.trouble]
        waiting.set(len(troubled))
        self._told &= {task.waits_for for task in troubled}
        return tuple(grouped(Trouble(str(task.id), task.trouble) for task in troubled)[:MOST])
