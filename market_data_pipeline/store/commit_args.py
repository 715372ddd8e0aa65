"""What the commit script is given: key names and arguments of a request. Pure, so that anything can call the script."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from market_data_pipeline.dag.plan import Plan, TaskId
from market_data_pipeline.errors import CodecError
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.packing import pack, seal
from market_data_pipeline.runtime.channel_limits import channel_limits
from market_data_pipeline.runtime.contract import CommitRequest, Limits, Stream
from market_data_pipeline.store.keys import Keys, job_key


@dataclass(frozen=True)
class JobRef:
    """A job as a task knows it; commits check that it is still this one."""

    name: str
    uid: str
    fingerprint: str


@dataclass(frozen=True)
class Lease:
    """The right to commit for a partition: epoch and random token, as the leader wrote them."""

    partition: int
    epoch: int
    token: str


class CommitArguments:
    """Turns the commits of one task into keys and arguments of ``scripts/commit.lua``.

    ``key_of`` has the key of every stream the task reads or writes, ``stream_of`` the reverse.
    """

    def __init__(self, job: JobRef, plan: Plan, task: TaskId, limits: Limits) -> None:
        self._job, self._task, self._limits = job, task, limits
        self.keys = Keys(job.name)
        subgraph = next(s for s in plan.subgraphs if s.name == task.subgraph)
        self.key_of: dict[Stream, str] = {}
        self._room: dict[str, list[int]] = {}
        for edge in plan.inputs(subgraph):
            self.key_of[edge.name, task.partition] = self.keys.stream(edge, task.partition)
        for edge in plan.outputs(subgraph):
            own = channel_limits(edge, limits)
            self._room[edge.name] = [own.capacity, limits.commit_frames, own.bytes, limits.commit_bytes]
            for partition in plan.targets(edge, task.partition):
                self.key_of[edge.name, partition] = self.keys.stream(edge, partition)
        self.stream_of = {key: stream for stream, key in self.key_of.items()}

    def of(self, request: CommitRequest, lease: Lease) -> tuple[list[str], list[Any]]:
        """Keys and arguments of ``request`` under ``lease``, in the order that the script's head gives."""
        limits, task, keys = self._limits, self._task, self.keys
        inputs = [self.key_of[consumed.stream] for consumed in request.consumed]
        outputs = [key for s in request.outputs for key in (self.key_of[s], keys.stream_bytes(s[1]))]
        sets = [(name, seal(blob)) for name, blob in request.state.items() if blob is not None]
        deletes = [name for name, blob in request.state.items() if blob is None]
        args: list[Any] = [
            job_key(self._job.name), self._job.uid, self._job.fingerprint,
            keys.lease(task.partition), lease.epoch, lease.token,
            request.parent, request.id, seal(request.meta), int(request.ended), str(task),
            len(inputs), len(request.outputs), len(request.dead_letters), len(sets), len(deletes),
            limits.dead_letter_capacity, int(request.idle),
        ]  # fmt: skip
        for consumed in request.consumed:
            trim = consumed.last if consumed.partial else _behind(consumed.last)
            args += [consumed.first, consumed.last, trim, consumed.entries, consumed.bytes]
        for stream, frames in request.outputs.items():
            args += [len(frames), sum(map(len, frames)), *self._room[stream[0]]]
        for frames in request.outputs.values():
            args += frames
        args += [pack_dead_letter(letter) for letter in request.dead_letters]
        for name, blob in sets:
            args += [name, blob]
        args += deletes
        fixed = [keys.task(task), keys.state(task), keys.ended, keys.dead_letters, keys.stream_bytes(task.partition)]
        return fixed + inputs + outputs, args


def _behind(entry_id: str) -> str:
    """The smallest entry id after ``entry_id``."""
    millis, _, sequence = entry_id.partition("-")
    return f"{millis}-{int(sequence) + 1}"


def pack_dead_letter(letter: DeadLetter) -> bytes:
    """As stored; an item that cannot be packed by its ``repr``."""
    try:
        return pack(letter._asdict())
    except CodecError:
        return pack(letter._replace(item=repr(letter.item)[:10_000])._asdict())
