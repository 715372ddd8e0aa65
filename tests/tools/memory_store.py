"""The protocol's model (``model.py``) as a task store for tasks in one process: with waiting, and with faults.

A :class:`Fault` makes a commit go wrong on purpose; :meth:`MemoryServer.snapshot` and :meth:`MemoryServer.rollback` are a
server that comes back with its last commits missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum

from market_data_pipeline.dag.plan import Plan, TaskId
from market_data_pipeline.errors import CorruptState, Fenced, JobChanged, LostTask, StaleTask
from market_data_pipeline.runtime.channel_limits import channel_limits
from market_data_pipeline.runtime.contract import (
    Attempts,
    CommitRequest,
    Entry,
    Limits,
    Stream,
    StreamsFull,
    TaskRecord,
)
from tools.model import Answer, Contents, Job, Lease, Model, Point, entry_order

_PER_STREAM = 16


class Fault(Enum):
    """What goes wrong with one commit."""

    FULL = "no room, although there is"
    LOSE_REPLY = "applied, and sent again with the same commit id"
    HANG_BEFORE = "never applied: the caller waits until it is killed"
    HANG_AFTER = "applied: the caller never hears of it and waits until it is killed"


Chooser = Callable[[TaskId, CommitRequest], Fault | None]


class MemoryServer:
    """What all tasks of one job share. ``choose_fault`` is asked before each commit; ``longest`` and ``heaviest`` hold
    the most entries and bytes that each stream ever had; ``history`` the tasks in the order of their commits."""

    def __init__(self, plan: Plan, limits: Limits) -> None:
        self.plan = plan
        self.limits = limits
        channels = {edge.name: channel_limits(edge, limits) for edge in plan.channels}
        self.model = Model(plan.tasks(), limits, Job("job-1", ""), channels=channels)
        self.choose_fault: Chooser = lambda task, request: None
        self.longest: dict[Stream, int] = {}
        self.heaviest: dict[Stream, int] = {}
        self.largest_append: int = 0
        self.history: list[TaskId] = []
        self.duplicates_answered = 0
        self.hung = asyncio.Event()
        self._changed = asyncio.Event()
        self._time = 0
        self.marking = asyncio.Lock()
        self.lease_held: Callable[[], bool] = lambda: True

    def next_time(self) -> int:
        """Microseconds; grows with each call, never goes back."""
        self._time += 1
        return self._time

    @property
    def contents(self) -> Contents:
        """What is on the server now."""
        return self.model.contents

    @property
    def leases(self) -> dict[int, Lease]:
        return self.model.leases

    @property
    def job(self) -> str:
        """The job's uid."""
        return self.model.job.uid if self.model.job else ""

    @job.setter
    def job(self, uid: str) -> None:
        self.model.job = Job(uid, "")

    def lease(self, partition: int) -> Lease:
        """A new owner of ``partition``: the epoch grows, former owners are fenced."""
        former = self.leases.get(partition)
        epoch = 1 if former is None else former.epoch + 1
        self.model.assign(Lease(partition, epoch, f"token-{partition}-{epoch}"))
        return self.leases[partition]

    def store(self, task: TaskId, lease: Lease) -> MemoryStore:
        return MemoryStore(self, task, lease)

    def snapshot(self) -> Point:
        return self.model.point()

    def rollback(self, point: Point) -> None:
        """Come back as at ``point``. Leases stay: what a leader does after it is not these tests' business."""
        self.model.roll_back(point, leases=False)
        self.wake()

    def wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def change(self) -> None:
        await self._changed.wait()

    def stream(self, stream: Stream) -> list[Entry]:
        return self.contents.stream(stream)

    def append(self, stream: Stream, blobs: Iterable[bytes]) -> None:
        """For tests that put entries of their own, good or bad, into a stream."""
        self.model.append(stream, blobs)
        self._measure(stream)
        self.wake()

    def _measure(self, stream: Stream) -> None:
        entries = self.stream(stream)
        self.longest[stream] = max(self.longest.get(stream, 0), len(entries))
        self.heaviest[stream] = max(self.heaviest.get(stream, 0), sum(len(entry.blob) for entry in entries))

    def apply(self, task: TaskId, lease: Lease, job: str, request: CommitRequest) -> None:
        """The commit. Raises what refuses it, before anything is written."""
        self._check_prefixes(request)
        answer = self.model.commit(task, lease, Job(job, ""), request)
        if answer.status == "DUP":
            self.duplicates_answered += 1
        elif answer.status != "OK":
            raise _refusal(task, answer)
        else:
            for stream, blobs in request.outputs.items():
                self.largest_append = max(self.largest_append, len(blobs))
                self._measure(stream)
            self.history.append(task)
            self.wake()

    def _check_prefixes(self, request: CommitRequest) -> None:
        """What a task says of entries that are there must be true of them."""
        for consumed in request.consumed:
            entries = self.stream(consumed.stream)
            ids = [entry.id for entry in entries]
            if ids and ids[0] == consumed.first and consumed.last in ids:
                prefix = entries[: ids.index(consumed.last) + (not consumed.partial)]
                assert len(prefix) == consumed.entries, "not a contiguous prefix"
                assert sum(len(entry.blob) for entry in prefix) == consumed.bytes, "wrong size of the prefix"


def _refusal(task: TaskId, answer: Answer) -> Exception:
    """The exception that a task store has for ``answer``."""
    match answer.status:
        case "FULL" | "OOM":
            return StreamsFull(list(answer.detail))
        case "JOB":
            return JobChanged(f"job is now {answer.detail[0]}")
        case "FENCED":
            return Fenced(f"task {task}: the lease is over, now epoch {answer.detail[0]}")
        case "LOST":
            return LostTask(f"task {task}: its record is missing")
        case "GAP":
            return CorruptState(f"task {task}: entries were missing inside {answer.detail[0]}")
        case _:
            return StaleTask(f"task {task}: {answer.status.lower()}: {answer.detail}")


class MemoryStore:
    """Implements ``TaskStore`` for one task under one lease."""

    def __init__(self, server: MemoryServer, task: TaskId, lease: Lease) -> None:
        self._server, self._task, self._lease = server, task, lease
        self._job = server.job
        self.dead = False
        self.marking = server.marking

    async def load(self) -> TaskRecord:
        await asyncio.sleep(0)
        self._check_alive()
        found = self._server.model.load(self._task, self._lease)
        if isinstance(found, Answer):
            raise _refusal(self._task, found)
        return TaskRecord(found.commit, found.meta, found.ended, dict(found.state), self._server.next_time())

    def _check_alive(self) -> None:
        if self.dead:  # the process that asks is gone
            raise asyncio.CancelledError

    def lease_held(self) -> bool:
        return self._server.lease_held()

    async def attempt(self, commit: str) -> Attempts:
        await asyncio.sleep(0)
        self._check_alive()
        answer = self._server.model.attempt(self._task, self._lease, commit)
        if answer.status != "OK":
            raise _refusal(self._task, answer)
        return Attempts(*answer.detail)

    async def mark(self, commit: str, place: str) -> None:
        await asyncio.sleep(0)
        self._check_alive()
        answer = self._server.model.mark(self._task, self._lease, commit, place)
        if answer.status != "OK":
            raise _refusal(self._task, answer)

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
            newer = [entry for entry in self._server.stream(stream) if entry_order(entry.id) > entry_order(cursor)]
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
