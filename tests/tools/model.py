"""The commit protocol as a state machine: no I/O, no clock, no asyncio. The reference that everything else is held to.

:class:`Model` is one job on one server. Its checks come in the order of ``store/scripts/commit.lua`` (memory, job,
duplicate, fence, lost record, continuity, head, room), all before the first write; an answer is the script's, with streams
and numbers in place of keys and text. What the server does by itself or what happens to it (a new owner, another job, a
rollback, somebody's deletion by hand) are methods, so that a schedule is a list of calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from market_data_pipeline.dag.plan import TaskId
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.runtime.channel_limits import ChannelLimits
from market_data_pipeline.runtime.contract import CommitRequest, Consumed, Entry, Limits, Stream


class Lease(NamedTuple):
    """Who may commit for a partition. An empty token: it was given back."""

    partition: int
    epoch: int
    token: str


class Job(NamedTuple):
    """The job as commits check it."""

    uid: str
    fingerprint: str


class Answer(NamedTuple):
    """``OK`` and ``DUP`` with the output streams' lengths, or what refused the commit and what the server says of it:

    ``OOM``; ``JOB`` uid, fingerprint; ``FENCED`` epoch; ``LOST``; ``STALE`` stored commit; ``HEAD`` stream; ``FULL`` streams
    (``None``: the dead letters). ``GAP`` stream: the commit was made, and entries were missing inside its input.
    """

    status: str
    detail: tuple[Any, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether this answer's commit wrote something."""
        return self.status in ("OK", "GAP")


class Accepted(NamedTuple):
    """One commit in the history."""

    task: TaskId
    parent: str
    id: str


@dataclass
class Record:
    """A task's record and state; ``tried`` to ``deaths``: starts at a commit, and where the process died (see ``attempt``)."""

    commit: str = ""
    meta: bytes = b""
    ended: bool = False
    state: dict[str, bytes] = field(default_factory=dict)
    tried: str = ""
    starts: int = 0
    place: str = ""
    suspect: str = ""
    deaths: int = 0


@dataclass
class Contents:
    """What commits write. ``used``: the bytes counters beside the streams."""

    tasks: dict[TaskId, Record] = field(default_factory=dict)
    streams: dict[Stream, list[Entry]] = field(default_factory=dict)
    used: dict[Stream, int] = field(default_factory=dict)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    ended: set[TaskId] = field(default_factory=set)

    def copy(self) -> Contents:
        return Contents(
            {task: replace(record, state=dict(record.state)) for task, record in self.tasks.items()},
            {stream: list(entries) for stream, entries in self.streams.items()},
            dict(self.used),
            list(self.dead_letters),
            set(self.ended),
        )

    def stream(self, stream: Stream) -> list[Entry]:
        return self.streams.setdefault(stream, [])


class Point(NamedTuple):
    """A point of the history to which the server may fall back: everything as it was then."""

    contents: Contents
    leases: dict[int, Lease]
    job: Job | None
    commits: int


class Model:
    """One job. ``history``: the commits in their order; ``run_id`` changes when the server starts anew; ``memory_full``:
    whether it refuses commands that need memory. ``channels``: what holds for channels with limits of their own."""

    def __init__(
        self,
        tasks: Iterable[TaskId],
        limits: Limits,
        job: Job,
        beginning: str = "",
        channels: Mapping[str, ChannelLimits] | None = None,
    ) -> None:
        self.limits = limits
        self.channels = channels or {}
        self.job: Job | None = job
        self.leases: dict[int, Lease] = {}
        self.contents = Contents(tasks={task: Record(beginning) for task in tasks})
        self.history: list[Accepted] = []
        self.run_id = 1
        self.memory_full = False
        self._next_id = 0

    # what happens to the server

    def assign(self, lease: Lease) -> None:
        """Whatever the leader wrote: a new owner, the same epoch for another, or nobody."""
        self.leases[lease.partition] = lease

    def point(self) -> Point:
        """Now, as a point to fall back to."""
        return Point(self.contents.copy(), dict(self.leases), self.job, len(self.history))

    def roll_back(self, point: Point, leases: bool = True) -> None:
        """Start anew as at ``point``; with ``leases`` these too. Entry ids go on: they are times."""
        self.contents = point.contents.copy()
        self.job = point.job
        if leases:
            self.leases = dict(point.leases)
        del self.history[point.commits :]
        self.run_id += 1

    def restart(self) -> None:
        """Start anew with everything there."""
        self.run_id += 1

    def delete_record(self, task: TaskId) -> None:
        self.contents.tasks.pop(task, None)

    def delete_entry(self, stream: Stream, entry_id: str) -> None:
        """By hand, behind the protocol's back: the counter of bytes does not hear of it."""
        self.contents.streams[stream] = [entry for entry in self.contents.stream(stream) if entry.id != entry_id]

    def append(self, stream: Stream, blobs: Iterable[bytes]) -> None:
        """Entries at the end of a stream, counted."""
        for blob in blobs:
            self._next_id += 1
            self.contents.stream(stream).append(Entry(f"{self._next_id}-0", blob))
            self.contents.used[stream] = self.contents.used.get(stream, 0) + len(blob)

    # what a task does

    def load(self, task: TaskId, lease: Lease) -> Record | Answer:
        """The task's record for its owner; for anybody else, or when it is missing, a refusal."""
        if self.leases.get(lease.partition) != lease:
            return self._fenced(lease)
        record = self.contents.tasks.get(task)
        return record or Answer("LOST")

    def attempt(self, task: TaskId, lease: Lease, commit: str) -> Answer:
        """Count a start at ``commit``: ``OK`` starts, suspect (where the last death was), deaths there in a row."""
        record = self._at(task, lease, commit)
        if isinstance(record, Answer):
            return record
        if record.tried != commit:
            record.starts, record.place, record.suspect, record.deaths = 0, "", "", 0
        record.tried, record.starts = commit, record.starts + 1
        if record.place:
            record.deaths = record.deaths + 1 if record.place == record.suspect else 1
            record.suspect, record.place = record.place, ""
        return Answer("OK", (record.starts, record.suspect, record.deaths))

    def mark(self, task: TaskId, lease: Lease, commit: str, place: str) -> Answer:
        """Note where the task is at work."""
        record = self._at(task, lease, commit)
        if isinstance(record, Answer):
            return record
        record.place = place
        return Answer("OK")

    def _at(self, task: TaskId, lease: Lease, commit: str) -> Record | Answer:
        found = self.load(task, lease)
        if isinstance(found, Record) and found.commit != commit:
            return Answer("STALE", (found.commit,))
        return found

    def _fenced(self, lease: Lease) -> Answer:
        current = self.leases.get(lease.partition)
        return Answer("FENCED", (current.epoch if current else None,))

    def commit(self, task: TaskId, lease: Lease, job: Job, request: CommitRequest) -> Answer:
        """The script."""
        refusal = self._refusal(task, lease, job, request)
        return refusal or self._write(task, request)

    def lengths(self, streams: Iterable[Stream]) -> tuple[int, ...]:
        return tuple(len(self.contents.stream(stream)) for stream in streams)

    def _refusal(self, task: TaskId, lease: Lease, job: Job, request: CommitRequest) -> Answer | None:
        if self.memory_full and request.ingest:
            return Answer("OOM")
        if self.job != job:
            return Answer("JOB", self.job or ("", ""))
        record = self.contents.tasks.get(task)
        if record is not None and record.commit == request.id:
            return Answer("DUP", self.lengths(request.outputs))
        if self.leases.get(lease.partition) != lease:
            return self._fenced(lease)
        if record is None:
            return Answer("LOST")
        if record.commit != request.parent:
            return Answer("STALE", (record.commit,))
        for consumed in request.consumed:
            if not self._is_prefix(consumed):
                return Answer("HEAD", (consumed.stream,))
        full = self._full(request)
        return Answer("FULL", full) if full else None

    def _is_prefix(self, consumed: Consumed) -> bool:
        """Nothing before the first, the last is there, and there are as many."""
        entries = self.contents.stream(consumed.stream)
        if not entries or entry_order(entries[0].id) < entry_order(consumed.first):
            return False
        return any(entry.id == consumed.last for entry in entries) and len(entries) >= consumed.entries

    def _full(self, request: CommitRequest) -> tuple[Stream | None, ...]:
        """Streams without room for this commit, or for one of full size."""
        limits = self.limits
        full: list[Stream | None] = []
        for stream, blobs in request.outputs.items():
            entries = len(self.contents.stream(stream)) + max(len(blobs), limits.commit_frames)
            used = self.contents.used.get(stream, 0) + max(sum(map(len, blobs)), limits.commit_bytes)
            own = self.channels.get(stream[0])
            capacity, size = (own.capacity, own.bytes) if own else (limits.channel_capacity, limits.channel_bytes)
            if entries > capacity or used > size:
                full.append(stream)
        letters = len(request.dead_letters)
        if letters and len(self.contents.dead_letters) + letters > limits.dead_letter_capacity:
            full.append(None)
        return tuple(full)

    def _write(self, task: TaskId, request: CommitRequest) -> Answer:
        record = self.contents.tasks[task]
        for stream, blobs in request.outputs.items():
            self.append(stream, blobs)
        self.contents.dead_letters += request.dead_letters
        for name, blob in request.state.items():
            if blob is None:
                record.state.pop(name, None)
            else:
                record.state[name] = blob
        if request.idle and record.tried == request.parent:
            record.tried = request.id
        record.commit, record.meta, record.ended = request.id, request.meta, request.ended
        if request.ended:
            self.contents.ended.add(task)
        self.history.append(Accepted(task, request.parent, request.id))
        gaps = [consumed.stream for consumed in request.consumed if self._trim(consumed) != consumed.entries]
        return Answer("GAP", (gaps[-1],)) if gaps else Answer("OK", self.lengths(request.outputs))

    def _trim(self, consumed: Consumed) -> int:
        """Remove what was consumed; how many entries that were."""
        entries = self.contents.stream(consumed.stream)
        count = next(i for i, entry in enumerate(entries) if entry.id == consumed.last) + (not consumed.partial)
        del entries[:count]
        self.contents.used[consumed.stream] -= consumed.bytes
        return count


def entry_order(entry_id: str) -> tuple[int, int]:
    """What entry ids are sorted by."""
    millis, _, sequence = entry_id.partition("-")
    return int(millis), int(sequence)


def check_history(history: Sequence[Accepted]) -> None:
    """Exactly one accepted child per parent, and each one's parent is the one before it of the same task."""
    newest: dict[TaskId, str] = {}
    for accepted in history:
        before = newest.get(accepted.task, accepted.parent)
        assert accepted.parent == before, (
            f"{accepted.task}: two children of {accepted.parent}, or a gap behind {before}"
        )
        newest[accepted.task] = accepted.id
    children = [(accepted.task, accepted.parent) for accepted in history]
    assert len(set(children)) == len(children), "a commit with two children"
