"""What a new plan changes in a job that runs another one. Pure: two plans in, differences out.

A node is *the same* when its name, its kind, its type and its arguments are: then its state goes on. Frames that wait in a
stream stay good when the edge is the same, is read in the same partitions, and is written by the same tasks (readers merge
marks by the task that wrote them); other streams have to be empty before the plans can be exchanged. Another capacity, or
other levels, of a channel concern no frame: a stream that holds more than it now may is worked off before it gets more.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from market_data_pipeline.dag.plan import Plan, PlanEdge, TaskId
from market_data_pipeline.errors import ConfigError


@dataclass(frozen=True)
class Choice:
    """What the user says of nodes that changed: ``keep`` their state (it means the same to the new ones), or ``reset`` them
    (it is forgotten)."""

    keep: frozenset[str] = frozenset()
    reset: frozenset[str] = frozenset()


@dataclass(frozen=True)
class PlanChange:
    """``changed``: node -> what differs. ``drained``: channels whose streams must be empty before the exchange. ``resized``:
    channel -> its options before and after, where they differ."""

    same: tuple[str, ...]
    changed: dict[str, str]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    drained: tuple[str, ...]
    choice: Choice = field(default_factory=Choice)
    resized: dict[str, str] = field(default_factory=dict)

    def carried(self, name: str) -> bool:
        """Whether the state of ``name`` goes on. Of a changed node that has none this is as good."""
        return name in self.same or (name in self.changed and name not in self.choice.reset)


def compare(old: Plan, new: Plan, choice: Choice = Choice()) -> PlanChange:
    """How ``new`` differs from ``old``. Raises ``ConfigError`` for another P, and for a choice about an unknown node."""
    if old.partitions != new.partitions:
        raise ConfigError(
            f"partitions: the job has {old.partitions}, this program {new.partitions}; P is fixed for a job, as items in"
            " flight and state are spread by it"
        )
    unknown = (choice.keep | choice.reset) - {*old.node, *new.node}
    if unknown:
        raise ConfigError(
            f"no node {', '.join(sorted(unknown))}; there are: {', '.join(sorted({*old.node, *new.node}))}"
        )
    if choice.keep & choice.reset:
        raise ConfigError(f"both kept and reset: {', '.join(sorted(choice.keep & choice.reset))}")
    both = [name for name in new.node if name in old.node]
    differences = {name: _difference(old, new, name) for name in both}
    drained = tuple(edge.name for edge in old.channels if not _survives(old, new, edge))
    return PlanChange(
        same=tuple(name for name in both if not differences[name] and name not in choice.reset),
        changed={name: text or "asked for" for name, text in differences.items() if text or name in choice.reset},
        added=tuple(name for name in new.node if name not in old.node),
        removed=tuple(name for name in old.node if name not in new.node),
        drained=drained,
        choice=choice,
        resized=_resized(old, new),
    )


def obstacles(
    old: Plan, new: Plan, change: PlanChange, holding: Collection[str], ended: Collection[TaskId]
) -> list[str]:
    """Why the plans cannot be exchanged, one sentence each. ``holding``: nodes that have something stored (state, a position,
    a sink's manifest) or may have at any moment; ``ended``: tasks that have ended."""
    found: list[str] = []
    choice = change.choice
    for name, text in change.changed.items():
        if name in holding and name not in choice.keep | choice.reset:
            found.append(
                f"node {name!r} holds state and changed ({text}): --keep {name} if its state means the same to the new one,"
                f" or --reset {name} to forget it"
            )
        if name in choice.keep and old.node[name].kind != new.node[name].kind:
            found.append(f"node {name!r} is another kind of node ({text}): its state cannot be kept, only --reset")
        elif name in choice.keep and _rekeyed(old, new, name):
            found.append(
                f"node {name!r} gets its items in other partitions ({text}), where the state that goes with them is not: it"
                " cannot be kept, only --reset"
            )
        if name in choice.keep and not spread_alike(old, new, name):
            each = old.subgraph_of[name].home is None
            ran = "ran in every partition and runs once" if each else "ran once and runs in every partition"
            found.append(f"node {name!r} {ran} now: its state cannot be kept, only --reset")
    found += [
        f"node {name!r} is gone and holds state: --reset {name} to forget it"
        for name in change.removed
        if name in holding and name not in choice.reset
    ]
    for subgraph in dict.fromkeys(task.subgraph for task in ended):
        if not _untouched(old, new, change, subgraph):
            found.append(
                f"subgraph {subgraph!r} has ended, and would have to speak again: it, and what it feeds, must not change"
            )
    return found


def task_of(plan: Plan, node: str, partition: int) -> TaskId:
    """The task in which ``node`` runs for ``partition``; of a node that runs once, that one."""
    subgraph = plan.subgraph_of[node]
    return TaskId(subgraph.name, partition if subgraph.home is None else subgraph.home)


def spread_alike(old: Plan, new: Plan, node: str) -> bool:
    """Whether ``node`` runs once in both plans, or in every partition in both."""
    return (old.subgraph_of[node].home is None) == (new.subgraph_of[node].home is None)


def _difference(old: Plan, new: Plan, name: str) -> str:
    before, after = old.node[name], new.node[name]
    if (before.kind, before.type) != (after.kind, after.type):
        return f"{before.kind} {before.type} -> {after.kind} {after.type}"
    if not spread_alike(old, new, name):
        once, each = "runs once", "runs in every partition"
        return f"{each} -> {once}" if old.subgraph_of[name].home is None else f"{once} -> {each}"
    elsewhere = _rekeyed(old, new, name) or _other_inputs(old, new, name)
    if elsewhere:
        return elsewhere
    keys = sorted({*before.config, *after.config})
    texts = [
        f"{key}: {before.config.get(key)!r} -> {after.config.get(key)!r}"
        for key in keys
        if before.config.get(key) != after.config.get(key)
    ]
    return ", ".join(texts)


def _other_inputs(old: Plan, new: Plan, name: str) -> str:
    """Which nodes feed another input of an operator with several, where any does; else empty."""
    before, after = ({edge.src: edge.input for edge in plan.edges if edge.dst == name} for plan in (old, new))
    moved = [src for src in before if src in after and before[src] != after[src]]
    return ", ".join(f"{src} feeds input {before[src]!r} -> {after[src]!r}" for src in moved)


def _rekeyed(old: Plan, new: Plan, name: str) -> str:
    """Before and after, where an operator's items were spread over the partitions by one thing and are by another now (its
    state stands where they used to come); else empty."""
    if old.node[name].kind != "operator" or not spread_alike(old, new, name):
        return ""
    before, after = _spread_by(old, name), _spread_by(new, name)
    if not before - after or not after - before:
        return ""
    return f"spread by {' and '.join(sorted(before))} -> by {' and '.join(sorted(after))}"


def _spread_by(plan: Plan, name: str) -> frozenset[str]:
    """What decides to which partition the items of a node come; nothing does where it runs once."""
    if plan.subgraph_of[name].home is not None:
        return frozenset()
    found: set[str] = set()
    behind, seen = [name], {name}
    while behind:
        inputs = [edge for edge in plan.edges if edge.dst == behind[-1]]
        behind.pop()
        if not inputs:
            found.add("its source")
        for edge in inputs:
            if edge.kind == "keyed":
                found.add(f"key {edge.key!r}")
            elif edge.kind == "broadcast":
                found.add("broadcast")
            elif edge.src not in seen:
                seen.add(edge.src)
                behind.append(edge.src)
    return frozenset(found)


def _resized(old: Plan, new: Plan) -> dict[str, str]:
    before = {edge.name: edge.channel for edge in old.channels}
    after = {edge.name: edge.channel for edge in new.channels}
    return {
        name: f"{before[name] or 'as the settings say'} -> {after[name] or 'as the settings say'}"
        for name in before
        if name in after and before[name] != after[name]
    }


def _survives(old: Plan, new: Plan, edge: PlanEdge) -> bool:
    if edge.path not in {other.path for other in new.channels}:
        return False
    return old.readers(edge) == new.readers(edge) and all(
        old.origins(edge, partition) == new.origins(edge, partition) for partition in old.readers(edge)
    )


def _untouched(old: Plan, new: Plan, change: PlanChange, name: str) -> bool:
    """Whether a subgraph, and all that it is joined to by streams, is what it was."""
    before = next(s for s in old.subgraphs if s.name == name)
    after = next((s for s in new.subgraphs if s.name == name), None)
    return (
        before == after
        and all(node in change.same for node in before.nodes)
        and {edge.path for edge in old.outputs(before)} == {edge.path for edge in new.outputs(after)}
        and not any(edge.name in change.drained for edge in old.outputs(before))
    )
