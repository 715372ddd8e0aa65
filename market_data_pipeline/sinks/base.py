"""The Sink contract: write to the outside first, idempotently, then commit.

For one step of a task the runtime calls ``write`` (any number of times), then ``prepare``, then commits what ``prepare``
returned together with the inputs consumed, then calls ``committed``. After a crash a new owner calls ``open`` with the last
committed value; from it the sink must undo or repeat whatever the dead owner left half done. A zombie may still be writing
while the new owner works: nothing a sink writes before its commit may be visible under a name that another owner uses.

A sink whose store has a queue of its own (of what is durable, and not yet stored) may have a method ``async def
reading(self) -> StoreReading`` (see ``feedback.py``). While it is open, it is asked once a second, also in the midst of a
``write``.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

from market_data_pipeline.component import Component
from market_data_pipeline.errors import SinkError
from market_data_pipeline.feedback import StoreFeedback
from market_data_pipeline.frame import Frame
from market_data_pipeline.gauges import GaugeName


def _no_reject(item: Any, reason: str) -> None:
    raise SinkError(f"{reason}: {item!r:.200}")


def _count_nothing(name: str, n: int = 1) -> None:
    pass


def _measure_nothing(name: GaugeName, of: str, value: float) -> None:
    pass


class SinkContext(NamedTuple):
    """Which task this sink serves. ``job`` is random for each creation of the job, and for each time the sink begins anew in
    it: what was written under another one is not this sink's. ``epoch`` grows with every change of the partition's owner;
    ``owner`` is random for each process.

    ``generation`` is the server's time (microseconds) at which the task's state was loaded for this opening, and more than
    that of the last commit where the server's clock went back. Of two openings of one task the later has the larger one,
    whoever owns it and even when the server was rolled back in between: what an upsert compares, so that a zombie never
    overwrites its successor's rows. ``reject(item, reason)`` takes an item that the sink cannot write: to the dead letters, in
    the same commit, or as the node's ``on_error`` says. In a job it raises nothing; what ``fail`` wants comes when the sink's
    call is over. ``counted(name, n)`` adds to the node's counter ``name``;
    ``gauge(name, of, value)`` is a value of now, as a metric.
    """

    node: str
    job: str = "local"
    partition: int = 0
    epoch: int = 0
    owner: str = "local"
    generation: int = 0
    reject: Callable[[Any, str], None] = _no_reject
    counted: Callable[[str, int], None] = _count_nothing
    gauge: Callable[[GaugeName, str, float], None] = _measure_nothing


class Sink(Component):
    """Base of all sinks. ``accepts`` is the form of items that ``write`` wants."""

    accepts: ClassVar[Literal["rows", "columns", "any"]] = "any"
    one_process: bool = False
    """Whether it keeps what it gets in its own process, so that a job over processes could show it to nobody: refused there."""

    def destination(self) -> str:
        """Where the output goes, for people; empty where that says nothing."""
        return ""

    def others(self) -> list[str]:
        """What other runs have left at the destination, or write there now: a sentence each, for people. Asked before a new job
        is started, of which nothing can be there yet."""
        return []

    def check(self) -> None:
        """Look, before anything starts, whether this sink can work. Raises ``SinkError``."""

    async def open(self, ctx: SinkContext, state: Any | None) -> None:
        """Start, or continue behind the last committed ``state``."""

    @abstractmethod
    async def write(self, frames: Sequence[Frame]) -> None:
        """Take the frames' items."""

    async def prepare(self, ended: bool) -> Any | None:
        """Make all written so far durable outside; the returned plain data becomes part of the commit. ``ended``: no
        more items will come."""
        return None

    def due(self) -> bool:
        """Whether the sink wants to be asked to ``prepare`` though no items came (a file is old enough, say)."""
        return False

    async def committed(self) -> None:
        """What the last ``prepare`` returned is committed; called once for each ``prepare``. Whatever is done here may be
        done again by another owner."""

    async def close(self) -> None:
        """Release resources. What was not committed is as if it was never written."""


def asked_of(sink: object) -> StoreFeedback | None:
    """``sink`` itself, where it has an async method ``reading``."""
    return sink if inspect.iscoroutinefunction(getattr(sink, "reading", None)) else None  # type: ignore[return-value]
