"""A case's operators at work: in chains of the real runtime, one per partition, behind sources that the case drives."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

from tools.memory_job import CommittedRows, ListSource

from market_data_pipeline.dag.graph import Dag, Node
from market_data_pipeline.dag.partition import split_by_key
from market_data_pipeline.dag.plan import Plan
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.frame import END, NO_MARK, Frame, Items, to_rows
from market_data_pipeline.packing import pack, unpack
from market_data_pipeline.runtime.chain import Chain, input_key
from market_data_pipeline.runtime.progress import SourceWatermark

from .case import Case

_LAST = "sink"


def _dag(case: Case) -> tuple[Dag, dict[str, str], str]:
    """The case as a Dag, the port of each sink, and the name of the first operator."""
    dag = Dag("conformance")
    names = [f"op{n}" for n in range(len(case.operators))]
    for name in case.inputs:
        dag.add_node(Node(f"source-{name}", ListSource([])))
    for name, operator in zip(names, case.operators, strict=True):
        dag.add_node(Node(name, operator, on_error=case.on_error))
    for name in case.inputs:
        port = name if name in case.operators[0].inputs else ""
        crossing: dict[str, Any] = {"key": case.key} if case.key is not None else {"boundary": True}
        crossing = {"broadcast": True} if name in case.broadcast else crossing
        dag.add_edge(f"source-{name}", names[0], input=port, **crossing)
    for src, dst in pairwise(names):
        dag.add_edge(src, dst)
    sinks = {_LAST: ""}
    dag.add_node(Node(_LAST, CommittedRows()))
    dag.add_edge(names[-1], _LAST)
    for name, operator in zip(names, case.operators, strict=True):
        for port in operator.outputs:
            sink = f"{name}-{port}"
            sinks[sink] = port
            dag.add_node(Node(sink, CommittedRows()))
            dag.add_edge(name, sink, output=port)
    return dag, sinks, names[0]


@lru_cache(maxsize=16)
def _compiled(case: Case, partitions: int) -> tuple[Dag, dict[str, str], str, Plan]:
    """What :func:`_dag` returns, and its plan; the ways to play a case follow each other, and share it."""
    dag, ports, first = _dag(case)
    return dag, ports, first, compile_dag(dag, partitions)


class Task:
    """One partition's chain, and what a store would hold of it."""

    def __init__(self, plan: Plan, dag: Dag, first: str, partition: int) -> None:
        self._made = plan, plan.subgraph_of[first], dag, partition
        self.chain = Chain(*self._made)
        self.stored: dict[str, bytes] = {}

    def store(self) -> None:
        """What a commit does with the state."""
        for name, blob in self.chain.snapshot().items():
            if blob is None:
                self.stored.pop(
                    name, None
                )  # as HDEL: an operator may say of a key that was never stored that it is gone
            else:
                self.stored[name] = blob

    def restart(self) -> None:
        """A new instance goes on from what is stored."""
        counts = {name: dict(count) for name, count in self.chain.counts().items()}
        marks, counts = unpack(pack([self.chain.marks(), counts]))
        self.chain = Chain(*self._made)
        self.chain.restore(self.stored, marks, counts)


class Bench:
    """All partitions of a case. Collects what comes out, by port, until :meth:`take`."""

    def __init__(self, case: Case, partitions: int) -> None:
        self._case = case
        self._partitions = partitions
        dag, self._ports, self._first, plan = _compiled(case, partitions)
        self._nodes = [f"op{n}" for n in range(len(case.operators))]
        self._keys = {}
        for edge in plan.channels:
            if edge.dst == self._first:
                (self._keys[edge.src.removeprefix("source-")],) = (input_key(edge, o) for o in plan.origins(edge, 0))
        self.tasks = [Task(plan, dag, self._first, partition) for partition in range(partitions)]
        self._now, self._pressed = case.epoch, False
        self._sources = {name: SourceWatermark(s.max_delay, s.idle_after, s.live) for name, s in case.sources.items()}
        self.tell_time(self._now, self._pressed)
        self._out: dict[str, list[Any]] = {}
        self.rejected: list[Any] = []

    def restart(self) -> None:
        """A new owner for every task."""
        for task in self.tasks:
            task.restart()
        self.tell_time(self._now, self._pressed)

    def tell_time(self, now: int, pressed: bool) -> None:
        """Wall time, and whether the outputs are full."""
        self._now, self._pressed = now, pressed
        for task in self.tasks:
            task.chain.set_now(now, pressed)

    def feed(self, name: str, items: Items, mark: int = NO_MARK) -> None:
        """One frame from the input ``name``. Where that is a source with times of its own, it adds its mark."""
        source = self._sources.get(name)
        if source is not None and len(items):
            source.heard(self._monotonic)
            mark = max(mark, source.observe(items))
        if source is not None and mark == END:
            source.end()
        parts = self._parts(name, items)
        for partition, task in enumerate(self.tasks):
            if partition in parts or mark != NO_MARK:
                self._push(task, name, Frame(parts.get(partition, []), mark))
        self._collect()

    def _parts(self, name: str, items: Items) -> Mapping[int, Items]:
        """What each partition gets. What has no key goes to the first, to be refused there as where nothing is split."""
        if name in self._case.broadcast:
            return dict.fromkeys(range(self._partitions), items)
        if self._case.key is None or not len(items):
            return {0: items}
        parts, bad = split_by_key(items, self._case.key, self._partitions)
        return {**parts, 0: [*to_rows(parts.get(0, [])), *(item for item, _ in bad)]} if bad else parts

    def _push(self, task: Task, name: str, frame: Frame) -> None:
        waiting = task.chain.waiting(self._first)
        if waiting is not None and len(frame.items):
            frame = asyncio.run(waiting.prepare(frame._replace(port=name if name in waiting.inputs else "")))
        task.chain.feed(self._first, self._keys[name], frame)

    @property
    def _monotonic(self) -> float:
        return (self._now - self._case.epoch) / 1e9

    def press(self, pressed: bool) -> None:
        """The outputs fill, or have room again."""
        self.tell_time(self._now, pressed)

    def tick(self, now: int) -> None:
        """The clock is at ``now``: sources may have fallen silent, operators may want to be woken."""
        self.tell_time(now, self._pressed)
        for name, source in self._sources.items():
            mark = source.silence(self._monotonic, now)
            if mark is not None:
                self.feed(name, [], mark)
        for task in self.tasks:
            task.chain.tick(now)
        self._collect()

    def _collect(self) -> None:
        for task in self.tasks:
            output = task.chain.take()
            for sink, frames in output.sinks.items():
                into = self._out.setdefault(self._ports[sink], [])
                into += [item for frame in frames for item in to_rows(frame.items)]
            self.rejected += [letter.item for letter in output.dead_letters]
            task.store()

    def take(self) -> dict[str, list[Any]]:
        """What came out since the last call, by port."""
        out, self._out = self._out, {}
        return out

    def watermark(self) -> int:
        """The smallest watermark behind the operators."""
        return min(task.chain.watermark() for task in self.tasks)

    def idle_out(self) -> bool:
        """Whether every partition told what follows it that it is idle."""
        return all(task.chain.marks()[_LAST]["idle"] for task in self.tasks)

    def counts(self) -> Counter[str]:
        """What the operators counted, apart from ``in`` and ``out``."""
        total: Counter[str] = Counter()
        for task in self.tasks:
            for node in self._nodes:
                total.update(task.chain.counts()[node])
        return Counter({name: n for name, n in total.items() if n and name not in ("in", "out")})

    def stored(self) -> int:
        """How many pieces of state a store would hold now."""
        return sum(len(task.stored) for task in self.tasks)
