"""What a task has to send: routed by partition, encoded, cut into commits. No I/O.

Items go to the partition of their key; marks go to every partition that the edge reaches. A frame that carries only a mark
is sent at most every ``mark_interval`` (data frames carry the mark for free; the end is never delayed). A commit takes a
bounded part of each stream's queue; what is left over is kept with the task's state, so that a flush of any size is exact
and never larger than a commit may be.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from market_data_pipeline.codec import encode_items, with_mark
from market_data_pipeline.dag.partition import split_by_key
from market_data_pipeline.dag.plan import Plan, PlanEdge, Subgraph
from market_data_pipeline.frame import END, IDLE, NO_MARK, Items, compact, join_items
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.packing import pack, unpack
from market_data_pipeline.runtime.contract import Limits, Stream

OUTBOX = "\x1eoutbox:"
"""Begins the keys of state under which frames wait that no commit had room for; no node's name holds this sign."""
_MARKS_AT_ONCE = 64
"""How many frames with only a mark an edge may bring in one ``mark_interval``; a wider one waits longer between them."""
_COMMIT_FRAMES = 1000
"""Frames in one commit over all its streams; more would hold the server up."""


@dataclass
class _Queued:
    """A frame that waits for a commit. ``stored``: its number in the stored outbox, where it is kept meanwhile."""

    stream: Stream
    blob: bytes
    items: int = 0
    stored: int | None = None


@dataclass
class _Edge:
    edge: PlanEdge
    targets: range
    mark: int = NO_MARK
    idle: bool = False
    sent: dict[int, int] = field(default_factory=dict)
    """Per partition the last mark that was sent, ``IDLE`` included."""

    @property
    def now(self) -> int:
        return IDLE if self.idle else self.mark

    def behind(self, partition: int) -> bool:
        """Whether ``partition`` has to hear a mark."""
        return self.sent[partition] != self.now


class Outputs:
    """The outgoing side of one task."""

    def __init__(self, plan: Plan, subgraph: Subgraph, partition: int, origin: str, limits: Limits) -> None:
        self._limits = limits
        self._origin = origin
        self._partitions = plan.partitions
        self._edges = {
            edge.name: _Edge(
                edge, plan.targets(edge, partition), sent=dict.fromkeys(plan.targets(edge, partition), NO_MARK)
            )
            for edge in plan.outputs(subgraph)
        }
        producers = len(plan.partitions_of(subgraph))
        widest = max((len(out.targets) for out in self._edges.values()), default=1)
        # all-to-all edges: P producers marking P streams each; what they send together must not grow with P squared
        self._mark_interval = limits.mark_interval * max(1.0, producers * widest / _MARKS_AT_ONCE)
        self._queue: deque[_Queued] = deque()
        self._stored = 0
        self._marks_sent_at = float("-inf")
        self.sent: Counter[str] = Counter()
        """By edge, the items in the frames that :meth:`take` has given; whoever restores sets it to what was committed."""
        self.hold_marks = False
        """Keep marks back while an output is above its high level; the end is sent all the same."""

    @property
    def streams(self) -> list[Stream]:
        return [(name, partition) for name, out in self._edges.items() for partition in out.targets]

    @property
    def waiting(self) -> int:
        """Frames that no commit has taken yet."""
        return len(self._queue)

    def marks_due(self, now: float) -> float | None:
        """Seconds until a mark must be sent that no data frame carried; ``None`` when all are sent."""
        if self.hold_marks or not any(out.behind(partition) for out in self._edges.values() for partition in out.sent):
            return None
        return max(0.0, self._marks_sent_at + self._mark_interval - now)

    def add(
        self,
        frames: Mapping[str, list[Items]],
        marks: Mapping[str, int],
        born: int,
        now: float,
        idle: Mapping[str, bool] = MappingProxyType({}),
        ended: Collection[str] = (),
    ) -> list[DeadLetter]:
        """Queue what the chain produced, by edge; returns items that cannot travel. The last mark goes before the end."""
        for name, is_idle in idle.items():
            self._edges[name].idle = is_idle
        for name, mark in marks.items():
            self._edges[name].mark = max(self._edges[name].mark, mark)
        due = self.marks_due(now)
        only_marks = due == 0.0
        bad: list[DeadLetter] = []
        for name, out in self._edges.items():
            parts = self._route(out, frames.get(name, []), bad)
            for partition in out.targets:
                if partition in parts:
                    self._queue_items(out, partition, parts[partition], born, bad)
                if out.behind(partition) and (only_marks or name in ended or out.mark == END):
                    self._queue_mark(out, partition)
            if name in ended and out.mark != END:
                out.mark, out.idle = END, False
                for partition in out.targets:
                    self._queue_mark(out, partition)
        if only_marks:
            self._marks_sent_at = now
        return bad

    def _queue_mark(self, out: _Edge, partition: int) -> None:
        self._queue.append(_Queued((out.edge.name, partition), with_mark(self._origin, out.now)))
        out.sent[partition] = out.now

    def _route(self, out: _Edge, batches: list[Items], bad: list[DeadLetter]) -> dict[int, list[Items]]:
        parts: dict[int, list[Items]] = {}
        for items in map(compact, join_items(batches)):
            if out.edge.kind == "keyed":
                assert out.edge.key is not None
                split, unkeyed = split_by_key(items, out.edge.key, self._partitions)
                bad += [DeadLetter(out.edge.src, reason, item) for item, reason in unkeyed]
            else:
                split = dict.fromkeys(out.targets, items)
            for partition, part in split.items():
                parts.setdefault(partition, []).append(part)
        return parts

    def _queue_items(self, out: _Edge, partition: int, batches: list[Items], born: int, bad: list[DeadLetter]) -> None:
        for items in batches:
            mark = out.mark if items is batches[-1] else NO_MARK
            encoded, rejected = encode_items(
                self._origin, items, mark, born, self._limits.frame_items, self._limits.frame_bytes
            )
            bad += [DeadLetter(out.edge.src, reason, item) for item, reason in rejected]
            stream = (out.edge.name, partition)
            self._queue.extend(_Queued(stream, blob, count) for blob, count in encoded)
        out.sent[partition] = out.mark

    def take(self) -> tuple[dict[Stream, list[bytes]], dict[str, bytes | None]]:
        """Frames for one commit, and the change of the stored outbox that goes with it."""
        taken: dict[Stream, list[bytes]] = {}
        sizes: dict[Stream, int] = {}
        delta: dict[str, bytes | None] = {}
        rest: deque[_Queued] = deque()
        blocked: set[Stream] = set()
        total = 0
        for queued in self._queue:
            stream, size = queued.stream, len(queued.blob)
            frames = taken.get(stream, [])
            fits = len(frames) < self._limits.commit_frames and sizes.get(stream, 0) + size <= self._limits.commit_bytes
            if stream in blocked or not fits or total >= _COMMIT_FRAMES:
                blocked.add(stream)
                rest.append(queued)
                continue
            total += 1
            taken.setdefault(stream, []).append(queued.blob)
            self.sent[stream[0]] += queued.items
            sizes[stream] = sizes.get(stream, 0) + size
            if queued.stored is not None:
                delta[f"{OUTBOX}{queued.stored}"] = None
        for queued in rest:
            if queued.stored is None:
                queued.stored = self._stored
                delta[f"{OUTBOX}{self._stored}"] = pack([*queued.stream, queued.blob, queued.items])
                self._stored += 1
        self._queue = rest
        return taken, delta

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Queue again what a former commit left in the outbox."""
        for number in sorted(int(name.removeprefix(OUTBOX)) for name in state):
            edge, partition, blob, items = unpack(state[f"{OUTBOX}{number}"])
            self._queue.append(_Queued((edge, partition), blob, items, number))
            self._stored = number + 1

    def restore_marks(self, marks: Mapping[str, int], idle: Collection[str] = ()) -> None:
        """The edges' marks as committed; they are sent again, which receivers ignore."""
        for name in idle:
            if name in self._edges:
                self._edges[name].idle = True
        for name, mark in marks.items():
            if name in self._edges:
                self._edges[name].mark = mark

    def marks(self) -> dict[str, int]:
        """The edges' marks, to be committed."""
        return {name: out.mark for name, out in self._edges.items()}

    def idle(self) -> list[str]:
        """The edges that are idle, to be committed."""
        return [name for name, out in self._edges.items() if out.idle]
