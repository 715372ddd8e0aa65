"""The Source contract.

``read`` returns batches; each says the position *behind* it. The runtime commits that position together with everything
the batch led to, and opens the source there after a restart. A source that reads the same items again from the same
position (a file, a seeded generator, a log) is exactly-once from end to end.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from market_data_pipeline.budget import Budget, BudgetRule
from market_data_pipeline.clock import SYSTEM_CLOCK, Clock
from market_data_pipeline.component import Component
from market_data_pipeline.durations import Duration, positive_duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import Items
from market_data_pipeline.gauges import GaugeName
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.records import FieldNames


def _count_nothing(name: str, n: int = 1) -> None:
    pass


def _tell_nobody(text: str) -> None:
    pass


def _measure_nothing(name: GaugeName, of: str, value: float) -> None:
    pass


class SourceContext(NamedTuple):
    """Where a source runs: its node, and which of how many partitions (0 of 1 for a singleton). ``counted(name, n)`` adds to
    the node's counter ``name``, with the next commit; to be called from the event loop. ``trouble(text)``, from any
    thread: why the source waits for the outside, without secrets; ``""`` when it does not any more. ``gauge(name, of, value)``:
    a value of now, of something that the source has several of, as a metric. ``budget(name, rule)``: the budget of that name,
    which all tasks of the job (and, on a server, all jobs there) share; ``None`` where the source is alone."""

    node: str
    partition: int = 0
    partitions: int = 1
    clock: Clock = SYSTEM_CLOCK
    counted: Callable[[str, int], None] = _count_nothing
    trouble: Callable[[str], None] = _tell_nobody
    gauge: Callable[[GaugeName, str, float], None] = _measure_nothing
    budget: Callable[[str, BudgetRule], Budget] | None = None


class Batch(NamedTuple):
    """Items in arrival order, the position behind them (plain data), and rows that could not be used, which go where the node's
    ``on_error`` says. ``outputs``: items for the source's further outputs, by name."""

    items: Items
    position: Any
    rejected: tuple[DeadLetter, ...] = ()
    outputs: Mapping[str, Items] = {}


def checked_batch(node: str, source: object, made: Any) -> Batch | None:
    """What :meth:`Source.read` gave. Raises ``ConfigError`` for anything but a :class:`Batch`."""
    if made is None or isinstance(made, Batch):
        return made
    raise ConfigError(
        f"node {node!r}: {type(source).__name__}.read gave {made!r:.100}; return a Batch(items, position), None at the end"
    )


class Source(Component):
    """Base of all sources.

    ``splittable``: one instance per partition, each with only its partition's symbols; otherwise one instance (a
    singleton) that feeds a keyed edge. ``max_delay``: how far out of order events may come, in ns; the watermark is the
    largest ``ts_event`` seen less this. ``None`` promises nothing before the end. ``idle_after`` (ns): silent for so long,
    the source does not hold others back any more; ``None``: it always does. ``live``: its events carry about the present
    time, so while it is idle its watermark goes on with the clock (less ``max_delay``), and bars close without a next trade.
    """

    splittable: bool = False
    outputs: tuple[str, ...] = ()
    """Names of further outputs, for :attr:`Batch.outputs`; what no edge takes is left out."""
    max_delay: int | None = 0
    idle_after: int | None = None
    live: bool = False

    def fields_given(self, output: str = "") -> FieldNames:
        """All fields that an item of ``output`` may have, for warnings of names that none has. It holds for the class that says
        so, and not for those derived from it."""
        return None

    def check(self) -> None:
        """Look, before anything starts, whether this source can work. Raises ``SourceError``."""

    async def open(self, ctx: SourceContext, position: Any | None) -> None:
        """Start at ``position``, or at the beginning when it is ``None``."""

    @abstractmethod
    async def read(self) -> Batch | None:
        """The next batch, as soon as there is something; ``None`` at the end. Never called twice at once."""

    async def close(self) -> None:
        """Release what ``open`` took. Called once, also after an error."""


def checked_idleness(idle_after: Duration | None, live: bool) -> int | None:
    """``idle_after`` in ns. Raises ``ConfigError`` unless it is above zero, and for ``live`` without it."""
    if idle_after is None and live:
        raise ConfigError("live: True needs idle_after: a live source follows the clock once it was silent for so long")
    return None if idle_after is None else positive_duration(idle_after, "idle_after")
