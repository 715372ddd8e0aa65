"""The Operator contract.

An operator never does I/O, reads no clock and starts nothing. The runtime calls, for one task, in this order: ``open``,
``restore`` (when there is state), then any number of ``process`` and ``advance``, and ``snapshot`` before each commit. One
instance belongs to one task (subgraph, partition), so it sees all items of its partition's keys and nobody else's.
"""

from __future__ import annotations

import re
import traceback
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from market_data_pipeline.component import Component
from market_data_pipeline.errors import CodecError, OperatorFailed
from market_data_pipeline.frame import NO_MARK, Frame
from market_data_pipeline.packing import pack, portable, unpack
from market_data_pipeline.records import FieldNames

OnError = Literal["fail", "skip", "dead_letter"]
_FRAME = re.compile(r'^ *File "(.*)", line (\d+)', re.MULTILINE)
ON_ERROR: tuple[OnError, ...] = ("fail", "skip", "dead_letter")


class DeadLetter(NamedTuple):
    """An item that could not be used: by which node, why, the item, where it came from, and a traceback if any."""

    node: str
    reason: str
    item: Any
    where: str = ""
    traceback: str = ""

    def told(self) -> str:
        """One line for people: the node, where the item came from or the line that raised, and why. At most 300 characters."""
        at = self.where or _raised_at(self.traceback)
        return f"{self.node}{' at ' + at if at else ''}: {self.reason}"[:300]


def _raised_at(trace: str) -> str:
    """``file:line`` of the innermost frame of a traceback as text; empty where there is none."""
    frames = _FRAME.findall(trace)
    return f"{Path(frames[-1][0]).name}:{frames[-1][1]}" if frames else ""


class OperatorContext:
    """What an operator may tell its runtime: counts and items it could not use."""

    def __init__(self, node: str, partition: int = 0, on_error: OnError = "dead_letter") -> None:
        self.node = node
        self.partition = partition
        self.on_error = on_error
        self.counts: Counter[str] = Counter()
        self.dead_letters: list[DeadLetter] = []
        self.now = 0
        """Wall time (ns) of this step, set by the runtime. For operators whose results depend on when things come."""
        self.pressed = False
        """Whether an output of this task is above its high level."""

    def count(self, name: str, n: int = 1) -> None:
        """Add ``n`` to the counter ``name`` (``late``, ``duplicate``, ...); committed with the step."""
        if n:
            self.counts[name] += n

    def reject(self, item: Any, reason: str, trace: str = "", where: str = "") -> None:
        """Hand ``item`` to the dead letters (or skip it, or fail), as the node's policy says. ``where``: where it came from.
        The one place that decides, for sources, operators and sinks. Raises ``OperatorFailed``."""
        if self.on_error == "fail":
            at = f" at {where}" if where else ""
            raise OperatorFailed(f"node {self.node!r}{at}: {reason}; item: {item!r:.300}")
        if self.on_error == "skip":
            self.count("skipped")
            return
        self.count("dead_letter")
        self.dead_letters.append(DeadLetter(self.node, reason, item, where, trace))

    def failed(self, item: Any, error: Exception) -> None:
        """``item`` made a user's function raise ``error``: reject it with the traceback."""
        if self.on_error == "fail":
            raise OperatorFailed(f"node {self.node!r}: {type(error).__name__}: {error}; item: {item!r:.300}") from error
        trace = "".join(traceback.format_exception(error))
        self.reject(item, f"{type(error).__name__}: {error}", trace)


def pack_items(items: list[Any], ctx: OperatorContext) -> bytes:
    """``items`` as a state blob. Those that cannot be stored are rejected, and gone from the list."""
    try:
        blob = pack(items)
        unpack(blob)
    except CodecError:
        items[:], bad = portable(items)
        for item, reason in bad:
            ctx.reject(item, f"cannot be kept as state: {reason}")
        blob = pack(items)
    return blob


class Operator(Component):
    """One step of a subgraph.

    ``accepts`` is what ``process`` wants: ``"rows"``, ``"columns"`` (then rows are converted using the standard fields
    ``needs``; items that lack one go to the dead letters) or ``"any"``.
    """

    accepts: ClassVar[Literal["rows", "columns", "any"]] = "any"
    needs: ClassVar[tuple[str, ...]] = ()
    inputs: tuple[str, ...] = ()
    """Names of the inputs of an operator with several: ``frame.port`` says by which one a frame came."""
    outputs: tuple[str, ...] = ()
    """Names of further outputs, beside the usual one: frames returned with that ``port`` go along the edges with that
    ``output``."""

    absorbs: bool = False
    """Whether it keeps what comes to itself while ``ctx.pressed``: its task then reads on instead of waiting."""

    keeps: str = ""
    """What it keeps back until time (of events, or the clock) goes on, as "open windows"; empty: its results depend on items
    alone. Who has such a node must not stop all workers because nothing waits in the streams."""

    ctx: OperatorContext

    def required_outputs(self) -> tuple[str, ...]:
        """Those of ``outputs`` that must have an edge, as configured."""
        return ()

    def fields_read(self, input: str = "") -> tuple[str, ...]:  # noqa: A002 - what it is
        """The fields that its arguments name of the items of ``input``. As :meth:`fields_given`, for warnings."""
        return ()

    def fields_given(self, taken: FieldNames, output: str = "") -> FieldNames:
        """All fields that an item of ``output`` may have, where those that come to it may have ``taken``. It holds for the
        class that says so, and not for those derived from it."""
        return None

    def open(self, ctx: OperatorContext) -> None:
        """Called once before anything else."""
        self.ctx = ctx

    @abstractmethod
    def process(self, frame: Frame) -> Iterable[Frame]:
        """The items of one frame in; frames of results out. Marks of the results are set by the runtime."""

    def advance(self, watermark: int) -> Iterable[Frame]:
        """Event time has reached ``watermark`` (``END`` at the end of input): results that were waiting for it."""
        return ()

    def wake_at(self) -> int | None:
        """When (wall time, ns) :meth:`tick` wants to be called though nothing came; ``None``: not by time."""
        return None

    def tick(self, now: int) -> Iterable[Frame]:
        """Wall time has reached ``now`` (ns), at or behind :meth:`wake_at`."""
        return ()

    def snapshot(self) -> dict[str, bytes | None]:
        """State that changed since the last call: key -> blob, or ``None`` for a key that is gone."""
        return {}

    def restore(self, state: Mapping[str, bytes], watermark: int = NO_MARK) -> None:
        """Continue from all that snapshots have left, and from the last ``watermark`` that ``advance`` was told before
        them. The operator is freshly opened."""


class AsyncOperator(Operator):
    """An operator whose work on items waits for the outside (a request per item, say). It stands first in its subgraph.

    The task awaits :meth:`prepare` for each frame before the step, outside the chain; ``process`` then gets what it
    returned. Nothing of it is state: after a crash the items are prepared again, so ``prepare`` must be safe to repeat.
    """

    @abstractmethod
    async def prepare(self, frame: Frame) -> Frame:
        """The frame whose items :meth:`process` gets instead."""

    def process(self, frame: Frame) -> Iterable[Frame]:
        return (frame,)
