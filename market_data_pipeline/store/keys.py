"""Every key name of the system.

Keys carry the job's name, and a hash tag per partition so that one partition's keys share a slot. Names match
``[a-z0-9-]{1,40}``; node names were checked by the Dag, so no part can hold a colon, brace or pattern character. The names of
a job's streams are thus known before it runs (a scaler must be told them), and a pattern opens one job's keys. A job that was
removed and made again has other random words in its record (``uid``): what is left of the former one is refused by them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from market_data_pipeline.dag.plan import PlanEdge, TaskId
from market_data_pipeline.errors import ConfigError

_NAME = re.compile(r"[a-z0-9-]{1,40}")

Shape = Literal[
    "record", "leader", "term", "epochs", "assignment", "workers", "incarnations", "worker:*", "wake", "ended", "dlq",
    "lease", "task:*", "state:*", "q:*", "bytes", "next-task:*", "next-state:*", "budget:*",
]  # fmt: skip
"""What a key is for, as the end of its pattern. All belong to one job, but budgets: those are the server's."""
SHAPES: tuple[Shape, ...] = get_args(Shape)
_PER_PARTITION = ("lease", "task:*", "state:*", "q:*", "bytes", "next-task:*", "next-state:*")


def check_name(what: str, name: str) -> str:
    """``name`` if it may be part of a key; raises ``ConfigError`` naming ``what``."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{what}: {name!r} is not allowed; it must match [a-z0-9-]{{1,40}}")
    return name


def job_name(given: str | None, dag: str) -> str:
    """The name of the job: ``given`` where there is one, else that of its Dag. Raises ``ConfigError`` for one that is not
    allowed."""
    if not given and not _NAME.fullmatch(dag):
        raise ConfigError(
            f"name: {dag!r} is no name for a job, which must match {_NAME.pattern}; change it, or give --job"
        )
    return check_name("--job", given or dag)


def job_key(name: str) -> str:
    """Hash: uid, fingerprint, plan, partitions, state, error, version, created."""
    return f"mdp:job:{check_name('job name', name)}"


@dataclass(frozen=True)
class Keys:
    """The keys of the job named ``job``. Raises ``ConfigError`` for a name that could open others' keys."""

    job: str

    def __post_init__(self) -> None:
        check_name("job name", self.job)

    def _job(self, rest: str) -> str:
        return f"mdp:{{{self.job}}}:{rest}"

    def _partition(self, partition: int, rest: str) -> str:
        return f"mdp:{{{self.job}:{partition}}}:{rest}"

    @property
    def record(self) -> str:
        """The job's record, see :func:`job_key`."""
        return job_key(self.job)

    @property
    def patterns(self) -> tuple[str, str]:
        """Patterns that match every key of this job but its record, and no other job's."""
        return self._job("*"), f"mdp:{{{self.job}:*"

    def pattern(self, shape: Shape) -> str:
        """Matches this job's keys of one shape and no other key; of a server's special characters it holds only ``*``.
        Budgets have no job: theirs matches all of them."""
        if shape == "record":
            return self.record
        if shape == "budget:*":
            return f"mdp:{shape}"
        return f"mdp:{{{self.job}:*}}:{shape}" if shape in _PER_PARTITION else self._job(shape)

    @property
    def leader(self) -> str:
        """String ``term:token`` with a TTL: who leads."""
        return self._job("leader")

    @property
    def term(self) -> str:
        """Counter of leader terms."""
        return self._job("term")

    @property
    def epochs(self) -> str:
        """Hash partition -> newest epoch."""
        return self._job("epochs")

    @property
    def assignment(self) -> str:
        """Hash partition -> ``epoch:token:worker``, for readers; the leases are what commits check."""
        return self._job("assignment")

    @property
    def workers(self) -> str:
        """Set of the names of workers."""
        return self._job("workers")

    @property
    def incarnations(self) -> str:
        """Hash worker name -> ``number:token`` of the process that has it."""
        return self._job("incarnations")

    def worker(self, name: str) -> str:
        """String (JSON) with a TTL: a worker's heartbeat."""
        return self._job(f"worker:{name}")

    @property
    def wake(self) -> str:
        """List that wakes the coordinator."""
        return self._job("wake")

    @property
    def ended(self) -> str:
        """Set of tasks that have ended."""
        return self._job("ended")

    @property
    def dead_letters(self) -> str:
        """Stream of dead letters."""
        return self._job("dlq")

    def lease(self, partition: int) -> str:
        """Hash epoch, token, worker: who may commit for the partition."""
        return self._partition(partition, "lease")

    def task(self, task: TaskId) -> str:
        """Hash commit, meta, ended: a task's record."""
        return self._partition(task.partition, f"task:{task.subgraph}")

    def state(self, task: TaskId) -> str:
        """Hash of a task's state blobs."""
        return self._partition(task.partition, f"state:{task.subgraph}")

    def staged_task(self, task: TaskId, deployment: str) -> str:
        """A task's record in the making: a deployment puts it in place."""
        return self._partition(task.partition, f"next-task:{deployment}:{task.subgraph}")

    def staged_state(self, task: TaskId, deployment: str) -> str:
        """The state that goes with it."""
        return self._partition(task.partition, f"next-state:{deployment}:{task.subgraph}")

    def stream(self, edge: PlanEdge, partition: int) -> str:
        """Stream of frames on ``edge`` for ``partition``."""
        return self._partition(partition, f"q:{edge.name}")

    def stream_bytes(self, partition: int) -> str:
        """Hash stream key -> bytes of frames in it."""
        return self._partition(partition, "bytes")


def channel_keys(name: str) -> tuple[str, str]:
    """Stream and closed flag of a :class:`StreamChannel`; no job's pattern matches them, also not that of a job ``channel``."""
    check_name("channel name", name)
    return f"mdp:channel:{{{name}}}:q", f"mdp:channel:{{{name}}}:closed"


def budget_key(name: str) -> str:
    """Hash due, at, room: a budget, which all jobs at a server share. No job's pattern matches it."""
    return f"mdp:budget:{check_name('budget', name)}"
