"""Seeded schedules of the commit protocol, made on the model alone: what every process and the server do, step by step.

A schedule is a job of five subgraphs and two partitions (several producers on one stream, fan-out to several, a task with
two inputs), whose tasks have owners of the present and of the past. Each step is one commit, good or bad in one of many
ways, or something that happens to the server. Equal seeds give equal schedules.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache

from market_data_pipeline import Collect, Dag, Node, Synthetic
from market_data_pipeline.dag.plan import Plan, TaskId
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.operators.stateless import Map
from market_data_pipeline.runtime.contract import CommitRequest, Consumed, Entry, Limits, Stream
from tools.model import Answer, Job, Lease, Model, Point, check_history

LIMITS = Limits(commit_frames=3, frame_bytes=100, channel_capacity=8, channel_bytes=700, dead_letter_capacity=4)
FINGERPRINT = "f" * 16
NO_ENTRY = "99999999999999-0"
"""An id that no entry has."""


@cache
def schedule_plan() -> Plan:
    """source -> double -> merge, source -> merge, double -> side: all through streams, two partitions."""
    dag = Dag("schedules")
    dag.add_node(Node("source", Synthetic()))
    dag.add_node(Node("double", Map(str)))
    dag.add_node(Node("merge", Collect()))
    dag.add_node(Node("side", Collect()))
    dag.add_edge("source", "double", key="symbol")
    dag.add_edge("source", "merge", key="symbol")
    dag.add_edge("double", "merge", key="symbol")
    dag.add_edge("double", "side", boundary=True)
    return compile_dag(dag, 2)


@cache
def streams_of(task: TaskId) -> tuple[tuple[Stream, ...], tuple[Stream, ...]]:
    """Input and output streams of a task."""
    plan = schedule_plan()
    subgraph = next(s for s in plan.subgraphs if s.name == task.subgraph)
    outputs = [(e.name, p) for e in plan.outputs(subgraph) for p in plan.targets(e, task.partition)]
    return tuple((e.name, task.partition) for e in plan.inputs(subgraph)), tuple(outputs)


@dataclass(frozen=True)
class Commit:
    """One call of the script, and what the model answers."""

    task: TaskId
    lease: Lease
    job: Job
    request: CommitRequest
    expected: Answer


@dataclass(frozen=True)
class Attempt:
    """A task starts at a commit (``place`` is ``None``), or marks where it is at work; and what the model answers."""

    task: TaskId
    lease: Lease
    commit: str
    place: str | None
    expected: Answer


@dataclass(frozen=True)
class Assign:
    """The leader writes a lease."""

    lease: Lease


@dataclass(frozen=True)
class ReplaceJob:
    """The job under this name is another one now, or has another plan."""

    job: Job


@dataclass(frozen=True)
class DeleteRecord:
    task: TaskId


@dataclass(frozen=True)
class DeleteEntry:
    """Somebody deletes an entry by hand."""

    stream: Stream
    entry: str


@dataclass(frozen=True)
class ClearLetters:
    pass


@dataclass(frozen=True)
class Remember:
    """Keep everything under ``name``."""

    name: int


@dataclass(frozen=True)
class RollBack:
    """The server is again as it was at ``name``."""

    name: int


Step = Commit | Attempt | Assign | ReplaceJob | DeleteRecord | DeleteEntry | ClearLetters | Remember | RollBack


@dataclass
class Owner:
    """A process's view of one task: its lease, and the commit it believes to be the last."""

    lease: Lease
    parent: str


class Schedule:
    """One job, one seed. ``step`` decides and plays the next step on the model; ``seen`` counts the answers."""

    def __init__(self, seed: int, uid: str) -> None:
        self.rng = random.Random(seed)
        self.plan = schedule_plan()
        self.job = Job(uid, FINGERPRINT)
        self.model = Model(self.plan.tasks(), LIMITS, self.job, "beginning")
        self.seen: Counter[str] = Counter()
        self._tasks = list(self.plan.tasks())
        self._weights = [4 if task.subgraph in ("source", "double") else 2 for task in self._tasks]
        self._tokens = self._serial = 0
        for partition in range(self.plan.partitions):
            self.model.assign(self._lease(partition, 1))
        self._owners = {task: Owner(self.model.leases[task.partition], "beginning") for task in self._tasks}
        self._zombies: list[tuple[TaskId, Owner]] = []
        self._last: dict[TaskId, Commit] = {}
        self._points: dict[int, Point] = {}
        self._readings: dict[Stream, Consumed] = {}
        self._next: TaskId | None = None
        self._actions = [
            self._commit, self._attempt, self._repeat, self._zombie, self._take_over, self._renew,
            self._remember, self._roll_back, self._delete_entry, self._delete_record, self._replace_job, self._clear_letters,
        ]  # fmt: skip

    def step(self, memory_full: bool = False) -> Step:
        """The next step. With ``memory_full`` only commits: nothing else gets through to such a server."""
        self.model.memory_full = memory_full
        weights = [60, 8, 8, 6, 4, 14, 4, 3, 2, 1, 2, 2]
        while True:
            action = self.rng.choices(self._actions, weights)[0]
            if self.model.job != self.job and self.rng.random() < 0.4:
                action = self._replace_job
            step = self._commit() if memory_full else action()
            if step is not None:
                if isinstance(step, Commit):
                    self.seen[step.expected.status] += 1
                elif isinstance(step, Attempt):
                    self.seen[f"Attempt {step.expected.status}"] += 1
                else:
                    self.seen[type(step).__name__] += 1
                return step

    def finish(self) -> None:
        """What must be true of every history."""
        check_history(self.model.history)

    # the server and its leader

    def _lease(self, partition: int, epoch: int) -> Lease:
        self._tokens += 1
        return Lease(partition, epoch, f"token-{self._tokens}")

    def _take_over(self) -> Step:
        """Another owner; another under the same epoch, as after a rollback; the same again under a new one; or nobody."""
        partition = self.rng.randrange(self.plan.partitions)
        _, epoch, token = self.model.leases[partition]
        lease = self._lease(partition, epoch + self.rng.choice([0, 1, 1]))
        kind = self.rng.random()
        if kind < 0.15:
            lease = Lease(partition, epoch, "")
        elif kind < 0.35 and token:
            lease = Lease(partition, epoch + 1, token)
        self.model.assign(lease)
        return Assign(lease)

    def _remember(self) -> Step:
        name = len(self._points)
        self._points[name] = self.model.point()
        return Remember(name)

    def _roll_back(self) -> Step | None:
        """To any remembered point; those after it never were."""
        if not self._points:
            return None
        name = self.rng.choice(sorted(self._points))
        self.model.roll_back(self._points[name])
        self._points = {known: point for known, point in self._points.items() if known <= name}
        return RollBack(name)

    def _delete_entry(self) -> Step | None:
        """From the head, from the middle or from the end of a stream."""
        streams = [stream for stream, entries in self.model.contents.streams.items() if entries]
        if not streams:
            return None
        stream = self.rng.choice(streams)
        entries = self.model.contents.streams[stream]
        entries = entries[: self.rng.randint(1, len(entries))]
        self._readings[stream] = _prefix(stream, entries)  # its owner had read these, and is about to commit
        self._next = TaskId(stream[0].partition(".")[2], stream[1])
        entry = self.rng.choice(entries).id
        self.model.delete_entry(stream, entry)
        return DeleteEntry(stream, entry)

    def _delete_record(self) -> Step:
        task = self.rng.choice(self._tasks)
        self.model.delete_record(task)
        return DeleteRecord(task)

    def _replace_job(self) -> Step:
        """Another uid, another plan, or the old ones again."""
        other = [Job("another", FINGERPRINT), Job(self.job.uid, "0" * 16)]
        job = self.rng.choice(other) if self.model.job == self.job else self.job
        self.model.job = job
        return ReplaceJob(job)

    def _clear_letters(self) -> Step:
        self.model.contents.dead_letters.clear()
        return ClearLetters()

    # the processes

    def _renew(self) -> Step | None:
        """The newest owners begin, and load; the former ones become zombies. No step of its own: loading writes nothing."""
        if self.model.job != self.job:
            return self._replace_job()
        for task in self._tasks:
            record, lease = self.model.contents.tasks.get(task), self.model.leases[task.partition]
            owner = self._owners[task]
            if owner.lease != lease:
                self._zombies.append((task, owner))
            if record is not None:
                self._owners[task] = Owner(lease, record.commit)
        return None

    def _commit(self) -> Step:
        task, self._next = self._next or self.rng.choices(self._tasks, self._weights)[0], None
        return self._play(task, self._owners[task])

    def _zombie(self) -> Step | None:
        """A former owner goes on with what it knows, or (as one that was never told) with what is stored."""
        if not self._zombies:
            return None
        task, zombie = self.rng.choice(self._zombies)
        record = self.model.contents.tasks.get(task)
        if record is not None and self.rng.random() < 0.5:
            zombie = Owner(zombie.lease, record.commit)
        return self._play(task, zombie)

    def _repeat(self) -> Step | None:
        """The reply was lost: the same request once more, however much later."""
        if not self._last:
            return None
        former = self._last[self.rng.choice(sorted(self._last, key=str))]
        answer = self.model.commit(former.task, former.lease, former.job, former.request)
        return replace(former, expected=answer)

    def _attempt(self) -> Step:
        """A present or a former owner starts, or marks one of two places."""
        task = self.rng.choice(self._tasks[:3])
        owners = [self._owners[task], *(zombie for known, zombie in self._zombies if known == task)]
        owner = self.rng.choice(owners)
        if self.rng.random() < 0.5:
            place = self.rng.choice(["one", "two"])
            answer = self.model.mark(task, owner.lease, owner.parent, place)
            return Attempt(task, owner.lease, owner.parent, place, answer)
        return Attempt(task, owner.lease, owner.parent, None, self.model.attempt(task, owner.lease, owner.parent))

    def _play(self, task: TaskId, owner: Owner) -> Step:
        job = self.job
        if self.rng.random() < 0.02:
            job = Job(self.job.uid, "0" * 16)
            if self.model.job != (other := Job("another", FINGERPRINT)):  # or it would be that job's own task, lost
                job = self.rng.choice([job, other])
        parent = f"stale-{self._serial}" if self.rng.random() < 0.04 else owner.parent
        request = self._request(task, parent)
        answer = self.model.commit(task, owner.lease, job, request)
        step = Commit(task, owner.lease, job, request, answer)
        if answer.accepted:
            owner.parent = request.id
            self._last[task] = step
        return step

    def _request(self, task: TaskId, parent: str) -> CommitRequest:
        rng = self.rng
        self._serial += 1
        inputs, outputs = streams_of(task)
        keys = [f"k{rng.randrange(4)}" for _ in range(rng.randrange(4))]
        letters = [DeadLetter(task.subgraph, f"r{i}", self._serial) for i in range(rng.choice([0] * 12 + [1, 1, 2]))]
        return CommitRequest(
            parent,
            f"commit-{self._serial}",
            b"meta-%d" % self._serial,
            ended=rng.random() < 0.03,
            consumed=[c for stream in inputs if (c := self._consumed(stream)) is not None],
            outputs={stream: self._frames() for stream in outputs if rng.random() < 0.7},
            state={key: rng.choice([None, rng.randbytes(2), rng.randbytes(2)]) for key in keys},
            dead_letters=letters,
            ingest=not inputs,
            idle=rng.random() < 0.3,
        )

    def _frames(self) -> list[bytes]:
        """A few frames, each unlike any other; rarely more than a commit may have."""
        count = self.rng.choice([1, 1, 2, 3, 3, 4]) if self.rng.random() < 0.95 else 5
        size = self.rng.choice([12, 12, 50, 100])
        frames = []
        for _ in range(count):
            self._serial += 1
            frames.append((b"%d:" % self._serial).ljust(size, b"."))
        return frames

    def _consumed(self, stream: Stream) -> Consumed | None:
        """A prefix of the stream, or now and then not quite one."""
        rng = self.rng
        entries = self.model.contents.stream(stream)
        if stream in self._readings and rng.random() < 0.8:
            return self._readings.pop(stream)
        if not entries or rng.random() < 0.2:
            return None
        count, wrong = rng.randint(1, len(entries)), rng.random()
        start = 1 if wrong < 0.05 and count < len(entries) else 0
        consumed = _prefix(stream, entries[start : start + count])
        if wrong < 0.05:
            return consumed
        return self._bent(consumed, entries, wrong)

    def _bent(self, consumed: Consumed, entries: list[Entry], wrong: float) -> Consumed:
        count = consumed.entries
        if wrong < 0.10:  # its end is not there any more: a server that lost its tail
            return consumed._replace(last=NO_ENTRY)
        if wrong < 0.13:  # more than there are
            return consumed._replace(entries=len(entries) + 1)
        if wrong < 0.15 and count > 1:  # its head was used already
            return consumed._replace(first="1-0")
        if wrong < 0.40 and count < len(entries):  # the one behind was used in part, and stays
            return consumed._replace(last=entries[count].id, partial=True)
        if wrong < 0.45:  # nothing but a part of the first
            return Consumed(consumed.stream, consumed.first, consumed.first, 0, 0, partial=True)
        return consumed


def _prefix(stream: Stream, entries: list[Entry]) -> Consumed:
    return Consumed(stream, entries[0].id, entries[-1].id, len(entries), sum(len(entry.blob) for entry in entries))
