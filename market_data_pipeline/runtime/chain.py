"""A fused subgraph: frames in, frames out, no I/O.

Nodes of one subgraph call each other directly. Each node merges the marks of its inputs; when its watermark advances, it
is told after the items before it were processed, and hands the mark on behind what it emitted, also when it emitted
nothing (a filter that drops everything must not hold a join back).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from market_data_pipeline.dag.graph import Dag, Node
from market_data_pipeline.dag.plan import Plan, PlanEdge, Subgraph
from market_data_pipeline.errors import OperatorFailed
from market_data_pipeline.frame import END, IDLE, NO_MARK, Columns, Frame, Items, columns_from_rows, join_items, to_rows
from market_data_pipeline.operators.base import AsyncOperator, DeadLetter, Operator, OperatorContext
from market_data_pipeline.runtime.progress import MarkMerger
from market_data_pipeline.sinks.base import Sink

SOURCE_INPUT = "source"
_SEPARATOR = "\x1f"


def input_key(edge: PlanEdge, origin: str) -> str:
    """The name of one input of a node: a channel and the task that writes to it."""
    return f"{edge.name}{_SEPARATOR}{origin}"


def node_of_field(name: str) -> str:
    """The node to which the field ``name`` of a task's stored state belongs."""
    return name.partition(_SEPARATOR)[0]


def input_keys(plan: Plan, name: str, partition: int) -> Iterator[str]:
    """The names of all inputs of node ``name``: ``source``, the node before it, or a channel and a task that writes to it."""
    if plan.node[name].kind == "source":
        yield SOURCE_INPUT
    for edge in plan.edges:
        if edge.dst == name and edge.kind == "forward":
            yield edge.src
        elif edge.dst == name:
            for origin in plan.origins(edge, partition):
                yield input_key(edge, origin)


@dataclass
class StepOutput:
    """What a step of the chain produced since the last :meth:`Chain.take`."""

    frames: dict[str, list[Items]] = field(default_factory=dict)
    """By channel (edge name), in order."""
    marks: dict[str, int] = field(default_factory=dict)
    """By channel, the newest mark before the end, where it advanced."""
    ended: set[str] = field(default_factory=set)
    """The channels that have ended."""
    idle: dict[str, bool] = field(default_factory=dict)
    """By channel, whether it is idle, where that changed."""
    sinks: dict[str, list[Frame]] = field(default_factory=dict)
    """By sink node."""
    dead_letters: list[DeadLetter] = field(default_factory=list)
    born: int = 0
    """Oldest entry time (ns) among the frames that led here, 0 where unknown."""


class _Stage:
    """A node at work: its operator or sink, its marks, where its results go."""

    def __init__(self, node: Node, merger: MarkMerger, ctx: OperatorContext) -> None:
        self.node = node
        self.merger = merger
        self.ctx = ctx
        self.operator: Operator | None = node.fn.fresh() if isinstance(node.fn, Operator) else None
        self.sink_accepts = node.fn.accepts if isinstance(node.fn, Sink) else None
        self.next: list[tuple[str, _Stage]] = []
        """Output port, and the stage that gets what goes there."""
        self.exits: list[tuple[str, str]] = []
        """Output port and channel."""
        self.ports: dict[str, str] = {}
        """Input -> port of the operator."""
        self.fed_from_outside = False


class Chain:
    """All nodes of one subgraph in one partition."""

    def __init__(self, plan: Plan, subgraph: Subgraph, dag: Dag, partition: int) -> None:
        self._stages = {
            name: _Stage(
                dag.nodes[name],
                MarkMerger(input_keys(plan, name, partition)),
                OperatorContext(name, partition, dag.nodes[name].on_error),
            )
            for name in subgraph.nodes
        }
        for edge in plan.edges:
            if edge.src in self._stages:
                stage = self._stages[edge.src]
                if edge.kind == "forward":
                    stage.next.append((edge.output, self._stages[edge.dst]))
                else:
                    stage.exits.append((edge.output, edge.name))
            if edge.dst in self._stages and edge.kind != "forward":
                self._stages[edge.dst].fed_from_outside = True
            if edge.dst in self._stages and edge.input:
                keys = [input_key(edge, origin) for origin in plan.origins(edge, partition)]
                ports = self._stages[edge.dst].ports
                ports.update(dict.fromkeys([edge.src] if edge.kind == "forward" else keys, edge.input))
        for stage in self._stages.values():
            if stage.operator is not None:
                stage.operator.open(stage.ctx)
        self._output = StepOutput()

    def feed(self, node: str, key: str, frame: Frame) -> None:
        """One frame for ``node`` from its input ``key``."""
        born = self._output.born
        if frame.born and (not born or frame.born < born):
            self._output.born = frame.born
        self._push(self._stages[node], key, frame.items, frame.mark, frame.born)

    def feed_output(self, node: str, port: str, items: Items, born: int) -> None:
        """``items`` of the source ``node`` for its further output ``port``."""
        stage = self._stages[node]
        stage.ctx.counts["in"] += 0  # nothing came in; said, so that "out" is not taken for what did
        self._emit(stage, [Frame(items, port=port)], NO_MARK, born)

    def feed_together(self, node: str, frames: Sequence[tuple[str, Frame]]) -> None:
        """Frames for ``node`` along one edge, each with its input's key, none of them idle or ended if there are several: the
        items are joined before an operator sees them, and the marks come behind them."""
        if len(frames) == 1 or self._stages[node].merger.idle:
            for key, frame in frames:
                self.feed(node, key, frame)
            return
        born = min((frame.born for _, frame in frames if frame.born), default=0)
        marks: dict[str, int] = {}
        for key, frame in frames:
            marks[key] = max(frame.mark, marks.get(key, NO_MARK))
        for items in join_items(frame.items for _, frame in frames):
            self.feed(node, frames[0][0], Frame(items, NO_MARK, born))
        for key, mark in marks.items():
            self.feed(node, key, Frame([], mark, born))

    def take(self) -> StepOutput:
        """Everything produced since the last call."""
        output, self._output = self._output, StepOutput()
        output.dead_letters = self.take_letters()
        return output

    def reject(self, node: str, letter: DeadLetter) -> None:
        """What ``node`` could not use, as its source or sink says, goes where the node's policy wants it. Raises
        ``OperatorFailed``."""
        self._stages[node].ctx.reject(letter.item, letter.reason, letter.traceback, letter.where)

    def take_letters(self) -> list[DeadLetter]:
        """The dead letters since the last call, or the last :meth:`take`."""
        letters: list[DeadLetter] = []
        for stage in self._stages.values():
            if stage.ctx.dead_letters:
                letters += stage.ctx.dead_letters
                stage.ctx.dead_letters.clear()
        return letters

    def undo(self, node: str, counts: Mapping[str, int]) -> None:
        """Forget what ``node`` rejected and counted since its counters were ``counts``, which was behind the last
        :meth:`take`."""
        ctx = self._stages[node].ctx
        ctx.dead_letters.clear()
        ctx.counts.clear()
        ctx.counts.update(counts)

    def counts(self) -> dict[str, Counter[str]]:
        """Counters of every node since the task began: ``in``, ``out``, and what operators count. The live objects."""
        return {name: stage.ctx.counts for name, stage in self._stages.items()}

    @property
    def ended(self) -> bool:
        """Whether every node has seen the end of its inputs."""
        return all(min(stage.merger.marks.values()) == stage.merger.watermark == END for stage in self._stages.values())

    def watermark(self) -> int:
        """The smallest watermark of the chain's last nodes."""
        ends = [stage.merger.watermark for stage in self._stages.values() if not stage.next]
        return min(ends)

    @property
    def untouched(self) -> bool:
        """Whether nothing was produced since the last :meth:`take`."""
        output = self._output
        return not (output.marks or output.ended or output.idle or output.sinks or any(output.frames.values()))

    @property
    def absorbs(self) -> bool:
        """Whether an operator that conflates stands before every exit: then the task may read on while its outputs are
        above their high level."""
        return all(self._absorbed(name) for name, stage in self._stages.items() if stage.exits)

    def _absorbed(self, name: str) -> bool:
        operator = self._stages[name].operator
        if operator is not None and operator.absorbs:
            return True
        before = [other for other, stage in self._stages.items() if any(s.node.name == name for _, s in stage.next)]
        return bool(before) and not self._stages[name].fed_from_outside and all(map(self._absorbed, before))

    def waiting(self, node: str) -> AsyncOperator | None:
        """The operator of ``node`` if its task must let it prepare each frame."""
        operator = self._stages[node].operator
        return operator if isinstance(operator, AsyncOperator) else None

    def set_now(self, now: int, pressed: bool = False) -> None:
        """Wall time (ns) of the coming step, and whether an output is above its high level."""
        for stage in self._stages.values():
            stage.ctx.now, stage.ctx.pressed = now, pressed

    def wake_at(self) -> int | None:
        """When (wall time, ns) an operator wants to be woken."""
        wakes = [stage.operator.wake_at() for stage in self._stages.values() if stage.operator is not None]
        return min((wake for wake in wakes if wake is not None), default=None)

    def tick(self, now: int) -> None:
        """Wall time has reached ``now`` (ns): wake the operators that wanted to be woken by then."""
        for stage in self._stages.values():
            wake = stage.operator.wake_at() if stage.operator is not None else None
            if stage.operator is not None and wake is not None and wake <= now:
                self._emit(stage, list(stage.operator.tick(now)), NO_MARK, 0)

    def _push(self, stage: _Stage, key: str, items: Items, mark: int, born: int) -> None:
        results: list[Frame] = []
        merger = stage.merger
        before = merger.watermark
        was_idle = bool(merger.idle) and merger.is_idle
        if len(items):
            if merger.idle:
                merger.came(key)
            stage.ctx.counts["in"] += len(items)
            results += self._process(stage, key, items, born)
        advanced = mark != NO_MARK and merger.update(key, mark)
        if advanced and merger.watermark == END and merger.last > before:
            # so that what comes out does not depend on whether this mark was seen before the end
            if stage.operator is not None:
                results += stage.operator.advance(merger.last)
            self._emit(stage, results, merger.last, born)
            results = []
        if advanced and stage.operator is not None:
            results += stage.operator.advance(merger.watermark)
        idle = bool(merger.idle) and merger.is_idle
        resumed = was_idle and not idle
        if results or advanced or resumed:
            self._emit(stage, results, merger.watermark if advanced or resumed else NO_MARK, born)
        if idle and not was_idle:
            self._emit(stage, [], IDLE, born)

    def _emit(self, stage: _Stage, results: list[Frame], mark: int, born: int) -> None:
        ports = {frame.port for frame in results}
        batches = {port: join_items(frame.items for frame in results if frame.port == port) for port in ports}
        stage.ctx.counts["out"] += sum(len(items) for port in batches for items in batches[port])
        for port, edge in stage.exits:
            self._output.frames.setdefault(edge, []).extend(batches.get(port, []))
            if mark != NO_MARK:
                self._output.idle[edge] = mark == IDLE
            if mark == END:
                self._output.ended.add(edge)
            elif mark not in (NO_MARK, IDLE):
                self._output.marks[edge] = mark
        for port, following in stage.next:
            parts = batches.get(port, [])
            for items in parts[:-1]:
                self._push(following, stage.node.name, items, NO_MARK, born)
            if parts or mark != NO_MARK:
                self._push(following, stage.node.name, parts[-1] if parts else [], mark, born)

    def _process(self, stage: _Stage, key: str, items: Items, born: int) -> list[Frame]:
        if stage.sink_accepts is not None:
            form = to_rows(items) if stage.sink_accepts == "rows" else items
            self._output.sinks.setdefault(stage.node.name, []).append(Frame(form, NO_MARK, born))
            return []
        operator = stage.operator
        if operator is None:  # a source: its items enter here
            return [Frame(items)]
        if operator.accepts == "rows":
            items = to_rows(items)
        elif operator.accepts == "columns" and not isinstance(items, Columns):
            items, bad = columns_from_rows(items, operator.needs)
            for item, reason in bad:
                stage.ctx.reject(item, reason)
        try:
            return list(operator.process(Frame(items, NO_MARK, born, stage.ports.get(key, ""))))
        except OperatorFailed:
            raise
        except Exception as error:  # a user's operator may raise anything; its frame goes where the policy says
            for item in to_rows(items):
                stage.ctx.failed(item, error)
            return []

    def snapshot(self) -> dict[str, bytes | None]:
        """State that changed since the last call, by ``node + separator + key``."""
        delta: dict[str, bytes | None] = {}
        for name, stage in self._stages.items():
            if stage.operator is not None:
                for key, blob in stage.operator.snapshot().items():
                    delta[f"{name}{_SEPARATOR}{key}"] = blob
        return delta

    def marks(self) -> dict[str, dict[str, Any]]:
        """The marks of every node's inputs, to be committed with the state."""
        return {name: stage.merger.saved() for name, stage in self._stages.items()}

    def restore(
        self, state: Mapping[str, bytes], marks: Mapping[str, dict[str, Any]], counts: Mapping[str, dict[str, int]]
    ) -> None:
        """Continue from a commit. Called once, before the first frame."""
        by_node: dict[str, dict[str, bytes]] = {}
        for field_name, blob in state.items():
            name, _, key = field_name.partition(_SEPARATOR)
            by_node.setdefault(name, {})[key] = blob
        for name, stage in self._stages.items():
            stage.merger.restore(marks.get(name, {}))
            stage.ctx.counts.update(counts.get(name, {}))
            if stage.operator is not None:
                stage.operator.restore(by_node.get(name, {}), stage.merger.watermark)
