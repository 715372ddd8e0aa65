"""A pure-Python model of the server's commit, for tasks in one process.

Checks come in the order of ``store/scripts/commit.lua`` (job, duplicate, fence, continuity, head, room) and all before
the first write. A :class:`Fault` makes a commit go wrong on purpose; :meth:`MemoryServer.snapshot` and
:meth:`MemoryServer.rollback` model a server that comes back with its last commits missing.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from market_data_pipeline.dag.plan import Plan, TaskId
from market_data_pipeline.errors import Fenced, JobChanged, LostTask, StaleTask
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.runtime.contract import (
    Attempts,
    CommitRequest,
    Entry,
    Limits,
    Stream,
    StreamsFull,
    TaskRecord,
)

_PER_STREAM = 16


class Fault(Enum):
    """What goes wrong with one commit."""

    FULL = "no room, although there is"
    LOSE_REPLY = "applied, and sent again with the same commit id"
    HANG_BEFORE = "never applied: the caller waits until it is killed"
    HANG_AFTER = "applied: the caller never hears of it and waits until it is killed"


@dataclass
class _Record:
    commit: str = ""
    meta: bytes = b""
    ended: bool = False
    state: dict[str, bytes] = field(default_factory=dict)
    tried: str = ""
    attempts: Attempts = field(default_factory=lambda: Attempts(0))
    place: str = ""


@dataclass
class Lease:
    partition: int
    epoch: int
    token: str


@dataclass
class _Contents:
    """Everything that a rollback brings back."""

    streams: dict[Stream, list[Entry]] = field(default_factory=dict)
    tasks: dict[TaskId, _Record] = field(default_factory=dict)
    dead_letters: list[DeadLetter] = field(default_factory=list)


Chooser = Callable[[TaskId, CommitRequest], Fault | None]


class MemoryServer:
    """What all tasks of one job share. ``choose_fault`` is asked before each commit; ``longest`` and ``heaviest`` hold
    the most entries and bytes that each stream ever had; ``history`` the tasks in the order of their commits."""

    def __init__(self, plan: Plan, limits: Limits) -> None:
        self.plan = plan
        self.limits = limits
        self.job = "job-1"
        self.contents = _Contents(tasks={task: _Record() for task in plan.tasks()})
        self.leases: dict[int, Lease] = {}
        self.choose_fault: Chooser = lambda task, request: None
        self.longest: dict[Stream, int] = {}
        self.heaviest: dict[Stream, int] = {}
        self.largest_append: int = 0
        self.history: list[TaskId] = []
        self.duplicates_answered = 0
        self.hung = asyncio.Event()
        self._next_id = 0
        self._time = 0
        self.marking = asyncio.Lock()
        self.lease_held: Callable[[], bool] = lambda: True
        self._changed = asyncio.Event()

    def lease(self, partition: int) -> Lease:
        """A new owner of ``partition``: the epoch grows, former owners are fenced."""
        former = self.leases.get(partition)
        epoch = 1 if former is None else former.epoch + 1
        self.leases[partition] = Lease(partition, epoch, f"token-{partition}-{epoch}")
        return self.leases[partition]

    def store(self, task: TaskId, lease: Lease) -> MemoryStore:
        return MemoryStore(self, task, lease)

    def snapshot(self) -> _Contents:
        return copy.deepcopy(self.contents)

    def rollback(self, contents: _Contents) -> None:
        """Come back as at ``contents``. Entry ids and leases do not go back: a restarted server's clock goes on."""
        self.contents = copy.deepcopy(contents)
        self.wake()

    def wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def next_time(self) -> int:
        """Microseconds; grows with each call, never goes back."""
        self._time += 1
        return self._time

    async def change(self) -> None:
        await self._changed.wait()

    def stream(self, stream: Stream) -> list[Entry]:
        return self.contents.streams.setdefault(stream, [])

    def append(self, stream: Stream, blobs: Iterable[bytes]) -> None:
        """Also for tests that put entries of their own, good or bad, into a stream."""
        entries = self.stream(stream)
        for blob in blobs:
            self._next_id += 1
            entries.append(Entry(f"{self._next_id}-0", blob))
        self.longest[stream] = max(self.longest.get(stream, 0), len(entries))
        self.heaviest[stream] = max(self.heaviest.get(stream, 0), sum(len(entry.blob) for entry in entries))
        self.wake()

    def apply(self, task: TaskId, lease: Lease, job: str, request: CommitRequest) -> None:
        """The commit. Raises what refuses it, before anything is written."""
        if job != self.job:
            raise JobChanged(f"job is now {self.job}")
        record = self.contents.tasks.get(task)
        if record is not None and record.commit == request.id:
            self.duplicates_answered += 1
            return
        if self.leases.get(lease.partition) != lease:
            raise Fenced(f"task {task}: epoch {lease.epoch} is over")
        if record is None:
            raise LostTask(f"task {task}: its record is missing")
        if record.commit != request.parent:
            raise StaleTask(f"task {task}: stale")
        self._check_head(task, request)
        self._check_room(request)
        self._write(record, request)
        self.history.append(task)

    def _check_head(self, task: TaskId, request: CommitRequest) -> None:
        for consumed in request.consumed:
            entries = self.stream(consumed.stream)
            ids = [entry.id for entry in entries]
            if not ids or ids[0] != consumed.first or consumed.last not in ids or len(ids) < consumed.entries:
                raise StaleTask(f"task {task}: head of {consumed.stream}")
            prefix = entries[: consumed.entries]
            end = entries[consumed.entries] if consumed.partial else prefix[-1]
            assert end.id == consumed.last, "not a contiguous prefix"
            assert sum(len(entry.blob) for entry in prefix) == consumed.bytes, "wrong size of the prefix"

    def _check_room(self, request: CommitRequest) -> None:
        limits = self.limits
        full: list[Stream | None] = []
        for stream, blobs in request.outputs.items():
            entries, size = self.stream(stream), sum(map(len, blobs))
            used = sum(len(entry.blob) for entry in entries)
            if (
                len(entries) + max(len(blobs), limits.commit_frames) > limits.channel_capacity
                or used + max(size, limits.commit_bytes) > limits.channel_bytes
            ):
                full.append(stream)
        letters = len(request.dead_letters)
        if letters and len(self.contents.dead_letters) + letters > limits.dead_letter_capacity:
            full.append(None)
        if full:
            raise StreamsFull(full)

    def _write(self, record: _Record, request: CommitRequest) -> None:
        for stream, blobs in request.outputs.items():
            self.largest_append = max(self.largest_append, len(blobs))
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
        for consumed in request.consumed:
            del self.stream(consumed.stream)[: consumed.entries]
        self.wake()


class MemoryStore:
    """Implements ``TaskStore`` for one task under one lease."""

    def __init__(self, server: MemoryServer, task: TaskId, lease: Lease) -> None:
        self._server, self._task, self._lease = server, task, lease
        self._job = server.job
        self.dead = False
        self.marking = server.marking

    async def load(self) -> TaskRecord:
        await asyncio.sleep(0)
        record = self._server.contents.tasks.get(self._task)
        if record is None:
            raise LostTask(f"task {self._task}: its record is missing")
        self._check_lease()
        return TaskRecord(record.commit, record.meta, record.ended, dict(record.state), self._server.next_time())

    def _check_lease(self) -> None:
        if self.dead:  # the process that asks is gone
            raise asyncio.CancelledError
        if self._server.leases.get(self._lease.partition) != self._lease:
            raise Fenced(f"task {self._task}: epoch {self._lease.epoch} is over")

    def lease_held(self) -> bool:
        return self._server.lease_held()

    def _known(self, commit: str) -> _Record:
        self._check_lease()
        record = self._server.contents.tasks.get(self._task)
        if record is None:
            raise LostTask(f"task {self._task}: its record is missing")
        if record.commit != commit:
            raise StaleTask(f"task {self._task}: stale")
        return record

    async def attempt(self, commit: str) -> Attempts:
        await asyncio.sleep(0)
        record = self._known(commit)
        seen, place = (record.attempts, record.place) if record.tried == commit else (Attempts(0), "")
        deaths = (seen.deaths + 1 if place == seen.suspect else 1) if place else seen.deaths
        record.tried, record.place = commit, ""
        record.attempts = Attempts(seen.starts + 1, place or seen.suspect, deaths)
        return record.attempts

    async def mark(self, commit: str, place: str) -> None:
        await asyncio.sleep(0)
        self._known(commit).place = place

    async def read(self, cursors: Mapping[Stream, str], timeout: float) -> dict[Stream, list[Entry]]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        await asyncio.sleep(0)
        while not (found := self._behind(cursors)):
            try:
                async with asyncio.timeout_at(deadline):
                    await self._server.change()
            except TimeoutError:
                return {}
        return found

    def _behind(self, cursors: Mapping[Stream, str]) -> dict[Stream, list[Entry]]:
        found: dict[Stream, list[Entry]] = {}
        for stream, cursor in cursors.items():
            newer = [entry for entry in self._server.stream(stream) if _order(entry.id) > _order(cursor)]
            if newer:
                found[stream] = newer[:_PER_STREAM]
        return found

    async def commit(self, request: CommitRequest) -> dict[Stream, int]:
        fault = self._server.choose_fault(self._task, request)
        await asyncio.sleep(0)  # on its way to the server
        if fault is Fault.FULL:
            raise StreamsFull(list(request.outputs))
        if fault is not Fault.HANG_BEFORE:
            self._server.apply(self._task, self._lease, self._job, request)
        if fault in (Fault.HANG_BEFORE, Fault.HANG_AFTER):
            self._server.hung.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0)  # on its way back
        if fault is Fault.LOSE_REPLY:
            self._server.apply(self._task, self._lease, self._job, request)
        return {stream: len(self._server.stream(stream)) for stream in request.outputs}

    async def lengths(self, streams: Sequence[Stream]) -> dict[Stream, int]:
        await asyncio.sleep(0)
        return {stream: len(self._server.stream(stream)) for stream in streams}


def _order(entry_id: str) -> tuple[int, int]:
    millis, _, sequence = entry_id.partition("-")
    return int(millis), int(sequence)
