"""The records of a job's tasks under a new plan. Pure: what the old tasks committed in, what the new ones begin with out.

Everything a task commits belongs to a node (its marks, counts, state, a source's position, a sink's manifest) or to a
channel that it writes (the mark it gave there last). So the record of a new task is put together from the records of the old
tasks in which its nodes were. The watermark of a node is a promise about its inputs and holds on, whatever stands before it
now: it never goes back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from market_data_pipeline.dag.change import PlanChange, spread_alike, task_of
from market_data_pipeline.dag.plan import Plan, PlanEdge, Subgraph, TaskId
from market_data_pipeline.frame import END, NO_MARK
from market_data_pipeline.runtime.chain import input_keys
from market_data_pipeline.runtime.contract import Meta
from market_data_pipeline.runtime.flow import TaskFlow


class Stored(NamedTuple):
    """What a task has committed. ``meta`` is empty at the beginning of a job."""

    meta: Meta
    ended: bool


@dataclass(frozen=True)
class NewRecord:
    """What a task of the new plan begins with.

    ``stays``: its stored state is that of the old task with its name, as it is. Otherwise it is made of the fields of the
    nodes in ``sources``, from each of the old tasks there.
    """

    task: TaskId
    meta: Meta
    ended: bool
    stays: bool
    sources: tuple[tuple[TaskId, tuple[str, ...]], ...]


def holding(records: Mapping[TaskId, Stored], fields: Mapping[TaskId, frozenset[str]]) -> set[str]:
    """The nodes that have something stored. ``fields``: per task the nodes that have state."""
    found = {node for nodes in fields.values() for node in nodes}
    for task, stored in records.items():
        found |= {name for name, state in stored.meta.get("sinks", {}).items() if state is not None}
        if stored.meta.get("position") is not None:
            found.add(task.subgraph)  # a source is the first node of its subgraph, which has its name
    return found


def migrate(
    old: Plan, new: Plan, change: PlanChange, records: Mapping[TaskId, Stored], life: str = ""
) -> list[NewRecord]:
    """The records of all tasks of ``new``. The streams named in ``change.drained`` are empty, and so are the outboxes of old
    tasks that do not stay. ``life`` is random: sinks that begin anew are told it, or they would take the output of a former
    sink with their name for their own, and undo what they know nothing of."""
    return [_Migration(old, new, change, records, task, life).record() for task in new.tasks()]


def silenced(old: Plan, new: Plan, change: PlanChange, records: Iterable[NewRecord]) -> list[str]:
    """The subgraphs of ``new`` that have nothing to do any more, and would have to tell readers on a new channel so: a task
    sends only while it works."""
    found = []
    for record in records:
        subgraph = next(s for s in new.subgraphs if s.name == record.task.subgraph)
        kept = {edge.name for edge in old.channels} - set(change.drained)
        speaks_anew = any(edge.name not in kept for edge in new.outputs(subgraph))
        marks = record.meta.get("marks", {})
        ended = all(
            name in marks and _has_ended(new, name, record.task.partition, marks[name]) for name in subgraph.nodes
        )
        if speaks_anew and ended:
            found.append(subgraph.name)
    return list(dict.fromkeys(found))


def _has_ended(plan: Plan, name: str, partition: int, saved: Mapping[str, Any]) -> bool:
    return all(saved["marks"].get(key) == END for key in input_keys(plan, name, partition))


def _is_idle(keys: Sequence[str], known: Mapping[str, int], idle: Collection[str]) -> bool:
    return bool(idle) and all(key in idle or known.get(key) == END for key in keys)


class _Migration:
    """The making of one task's record."""

    def __init__(
        self,
        old: Plan,
        new: Plan,
        change: PlanChange,
        records: Mapping[TaskId, Stored],
        task: TaskId,
        life: str,
    ) -> None:
        self._old, self._new, self._change, self._records, self._task = old, new, change, records, task
        self._life = life
        self._idle: set[str] = set()
        self._subgraph: Subgraph = next(s for s in new.subgraphs if s.name == task.subgraph)
        self._former = {name: self._former_task(name) for name in self._subgraph.nodes}

    def record(self) -> NewRecord:
        parts: dict[TaskId, tuple[str, ...]] = {}
        for name, former in self._former.items():
            if former is not None and self._change.carried(name):
                parts[former] = (*parts.get(former, ()), name)
        before = next((s for s in self._old.subgraphs if s.name == self._task.subgraph), None)
        stays = (
            before is not None
            and self._task in self._records
            and set(parts) <= {self._task}
            and all(name in parts.get(self._task, ()) for name in before.nodes)
        )
        ended = stays and self._records[self._task].ended
        return NewRecord(self._task, self._meta(), ended, stays, tuple(parts.items()))

    def _former_task(self, name: str) -> TaskId | None:
        """The old task that had the node's state for this partition."""
        if name not in self._old.node or not spread_alike(self._old, self._new, name):
            return None
        if self._old.node[name].kind != self._new.node[name].kind:
            return None  # what stands there is of a node that only had its name
        return task_of(self._old, name, self._task.partition)

    def _of(self, name: str, key: str) -> Any:
        """``key`` in the meta of the old task of ``name``."""
        former = self._former[name]
        return None if former is None else self._records[former].meta.get(key)

    def _meta(self) -> Meta:
        if not any(former is not None and self._records[former].meta for former in self._former.values()):
            lives = self._lives()
            return {"lives": lives} if lives else {}  # nothing was committed yet
        marks = self._marks()
        nodes = self._subgraph.nodes
        ends = [name for name in nodes if not any(e.src == name and e.kind == "forward" for e in self._new.edges)]
        counts = {name: (self._of(name, "counts") or {}).get(name, {}) for name in nodes}
        meta: Meta = {"marks": marks, "counts": counts, "watermark": min(marks[name]["watermark"] for name in ends)}
        first = nodes[0]
        if self._new.node[first].kind == "source" and self._change.carried(first):
            meta["position"] = self._of(first, "position")
            meta["source_mark"] = self._of(first, "source_mark") or NO_MARK
        if self._new.node[first].kind == "coroutine":
            inputs = {edge.name for edge in self._new.inputs(self._subgraph)} - set(self._change.drained)
            meta["skip"] = {name: n for name, n in (self._of(first, "skip") or {}).items() if name in inputs}
        self._add_sinks(meta)
        self._add_outputs(meta, marks)
        meta["flow"] = self._flow()._asdict()
        return meta

    def _flow(self) -> TaskFlow:
        """Items along the edges that survive; on others nothing waits, and both sides count from zero. Times begin anew."""
        plan = self._new

        def along(edges: Iterable[PlanEdge], side: str, end: str) -> dict[str, int]:
            known = {edge.name: (self._of(getattr(edge, end), "flow") or {}).get(side, {}) for edge in edges}
            return {name: n[name] for name, n in known.items() if name in n and name not in self._change.drained}

        return TaskFlow(
            along(plan.outputs(self._subgraph), "sent", "src"), along(plan.inputs(self._subgraph), "used", "dst")
        )

    def _marks(self) -> dict[str, dict[str, Any]]:
        marks: dict[str, dict[str, Any]] = {}
        for name in self._subgraph.nodes:
            saved = (self._of(name, "marks") or {}).get(name, {})
            known: dict[str, int] = {}
            keys = list(input_keys(self._new, name, self._task.partition))
            for key in keys:
                if key in saved.get("marks", {}):
                    known[key] = saved["marks"][key]
                elif key in marks:  # a forward edge: as far as the node before it has come
                    known[key] = marks[key]["watermark"]
            idle = sorted(key for key in known if key in saved.get("idle", ()) or key in self._idle)
            heard = _merged(known, idle) if len(known) == len(keys) else NO_MARK
            last = max([saved.get("last", NO_MARK), *(mark for mark in known.values() if mark != END)])
            marks[name] = {
                "marks": known, "idle": idle, "watermark": max(saved.get("watermark", NO_MARK), heard), "last": last,
            }  # fmt: skip
            if _is_idle(keys, known, idle):
                self._idle.add(name)
        return marks

    def _lives(self) -> dict[str, str]:
        """The lives of the task's sinks: of those that go on their own, of those that begin anew this deployment's."""
        lives = {}
        for name in self._subgraph.nodes:
            if self._new.node[name].kind == "sink":
                goes_on = self._former[name] is not None and self._change.carried(name)
                lives[name] = (self._of(name, "lives") or {}).get(name, "") if goes_on else self._life
        return {name: life for name, life in lives.items() if life}

    def _add_sinks(self, meta: Meta) -> None:
        sinks = [name for name in self._subgraph.nodes if self._new.node[name].kind == "sink"]
        if not sinks:
            return
        kept = {name: (self._of(name, "sinks") or {}).get(name) for name in sinks if self._change.carried(name)}
        meta["sinks"] = {name: state for name, state in kept.items() if state is not None}
        generation = max((self._of(name, "generation") or 0 for name in kept), default=0)
        if generation:
            meta["generation"] = generation
        lives = self._lives()
        if lives:
            meta["lives"] = lives
        unsealed = [name for name in kept if name in (self._of(name, "unsealed") or ())]
        if unsealed:
            meta["unsealed"] = unsealed
        former = next((latency for name in sinks if (latency := self._of(name, "latency"))), None)
        if former:
            meta["latency"] = former

    def _add_outputs(self, meta: Meta, marks: Mapping[str, Mapping[str, Any]]) -> None:
        """What the task promised its readers. A new edge begins as far as its writer has come."""
        edges = self._new.outputs(self._subgraph)
        if not edges or self._new.node[self._subgraph.nodes[0]].kind == "coroutine":
            return
        meta["out_marks"] = {
            edge.name: (self._of(edge.src, "out_marks") or {}).get(edge.name, marks[edge.src]["watermark"])
            for edge in edges
        }
        meta["out_idle"] = [edge.name for edge in edges if edge.src in self._idle]


def _merged(known: Mapping[str, int], idle: Collection[str]) -> int:
    """The watermark that all inputs of a node make together: the idle ones are left out while another speaks."""
    heard = [mark for key, mark in known.items() if mark != END and key not in idle]
    if idle:
        return min(heard) if heard else max(known[key] for key in idle)
    return min(known.values())
