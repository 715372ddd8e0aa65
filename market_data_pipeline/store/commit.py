"""The task store on the server: load, read, and the fenced atomic commit (``scripts/commit.lua``)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import redis.asyncio
from redis.exceptions import OutOfMemoryError, ResponseError

from market_data_pipeline.dag.plan import Plan, TaskId
from market_data_pipeline.errors import (
    CodecError,
    CorruptState,
    Fenced,
    JobChanged,
    LostTask,
    StaleTask,
    StoreUnavailable,
)
from market_data_pipeline.packing import unseal
from market_data_pipeline.runtime.contract import (
    Attempts,
    CommitRequest,
    Entry,
    Limits,
    Stream,
    StreamsFull,
    TaskRecord,
)
from market_data_pipeline.store.client import Script, lacks_rights, text_of, until_done
from market_data_pipeline.store.commit_args import CommitArguments, JobRef, Lease
from market_data_pipeline.store.reader import StreamReader

__all__ = ["JobRef", "Lease", "RedisTaskStore"]

# a full server must still drain, so internal commits may exceed maxmemory (they are bounded by the streams' capacity);
# commits that bring new data in may not
_INTERNAL = Script("commit", "allow-oom")
_INGEST = Script("commit")
_ATTEMPT = Script("attempt", "allow-oom")
_LOAD = Script("load", "no-writes")  # a full server refuses even a transaction that only reads

_LEASE_POLL = 0.02


class RedisTaskStore:
    """Implements :class:`~market_data_pipeline.runtime.contract.TaskStore`.

    ``held``: whether a heartbeat got through lately (see ``HeartbeatThread``).
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        reader: StreamReader,
        job: JobRef,
        plan: Plan,
        task: TaskId,
        lease: Lease,
        limits: Limits,
        held: Callable[[], bool] = lambda: True,
    ) -> None:
        self.lease_held = held
        self.marking = reader.marking
        self._committer = reader.committer
        self._client = client
        self._reader = reader
        self._job = job
        self._task = task
        self._lease = lease
        self._arguments = CommitArguments(job, plan, task, limits)
        self._keys, self._key_of = self._arguments.keys, self._arguments.key_of
        self._stream_of = self._arguments.stream_of

    async def load(self) -> TaskRecord:
        async def fetch() -> Any:
            while not self.lease_held():  # noqa: ASYNC110 - the thread that beats has no event loop
                await asyncio.sleep(_LEASE_POLL)
            keys = [self._keys.task(self._task), self._keys.state(self._task)]
            return await _LOAD.call(self._client, keys, [self._keys.lease(self._task.partition)])

        (seconds, micros), (epoch, token), (commit, meta, ended), flat = await until_done(fetch, f"task {self._task}")
        state = dict(zip(flat[::2], flat[1::2], strict=True))
        if epoch != str(self._lease.epoch).encode() or token != self._lease.token.encode():
            raise self._fenced(text_of(epoch or b""))
        if commit is None:
            raise LostTask(f"task {self._task}: its record is missing on the server; data was lost, restore a backup")
        try:
            return TaskRecord(
                commit.decode(),
                unseal(meta, f"task {self._task}, meta") if meta else b"",
                ended == b"1",
                {k.decode(): unseal(v, f"task {self._task}, state {k!r}") for k, v in state.items()},
                int(seconds) * 1_000_000 + int(micros),
            )
        except CodecError as error:
            raise CorruptState(f"{error}; the stored state is damaged, restore a backup") from error

    async def attempt(self, commit: str) -> Attempts:
        starts, suspect, deaths = await self._attempt(commit, "start", "")
        return Attempts(int(starts), text_of(suspect), int(deaths))

    async def mark(self, commit: str, place: str) -> None:
        await self._attempt(commit, "mark", place)

    async def _attempt(self, commit: str, what: str, place: str) -> list[Any]:
        keys, args = self._keys, [self._lease.epoch, self._lease.token, commit, what, place]
        lease = keys.lease(self._task.partition)

        async def send() -> Any:
            return await _ATTEMPT.call(self._client, [keys.task(self._task)], [lease, *args])

        status, *rest = await until_done(send, f"task {self._task}")
        if status != b"OK":
            self._refuse(status.decode(), [text_of(part) for part in rest])
        return list(rest)

    def _fenced(self, epoch: str) -> Fenced:
        return Fenced(f"task {self._task}: epoch {self._lease.epoch} is over, now {epoch or 'none'}")

    async def read(self, cursors: Mapping[Stream, str], timeout: float) -> dict[Stream, list[Entry]]:
        found = await self._reader.read({self._key_of[stream]: cursor for stream, cursor in cursors.items()}, timeout)
        return {self._stream_of[key]: entries for key, entries in found.items()}

    async def lengths(self, streams: Sequence[Stream]) -> dict[Stream, int]:
        async def fetch() -> list[int]:
            pipe = self._client.pipeline(transaction=False)
            for stream in streams:
                pipe.xlen(self._key_of[stream])
            return list(await pipe.execute())

        return dict(zip(streams, await until_done(fetch, f"task {self._task}"), strict=True))

    async def commit(self, request: CommitRequest) -> dict[Stream, int]:
        keys, args = self._arguments.of(request, self._lease)
        script = _INGEST if request.ingest else _INTERNAL

        try:
            send = partial(self._committer.commit, script, keys, args, request.ingest)
            status, *rest = await until_done(send, f"task {self._task}")
        except OutOfMemoryError:
            raise StreamsFull([]) from None
        except ResponseError as error:
            if not lacks_rights(error):
                raise
            raise StoreUnavailable(f"task {self._task}: the server refuses the commit ({error})") from error
        if status not in (b"OK", b"DUP"):
            self._refuse(status.decode(), [text_of(part) for part in rest])
        return dict(zip(request.outputs, map(int, rest), strict=True))

    def _refuse(self, status: str, detail: list[str]) -> NoReturn:
        """Raise what a script's refusal means."""
        if status == "FULL":
            raise StreamsFull([self._stream_of.get(key) for key in detail])
        if status == "FENCED":
            raise self._fenced(detail[0])
        if status == "JOB":
            raise JobChanged(f"job {self._job.name!r} is now {detail[0] or 'gone'} with plan {detail[1] or 'none'}")
        if status == "LOST":
            raise LostTask(f"task {self._task}: its record is missing on the server")
        if status == "GAP":
            raise CorruptState(f"task {self._task}: entries were missing inside stream {detail[0]}")
        raise StaleTask(f"task {self._task}: {status.lower()}: {', '.join(detail)}")
