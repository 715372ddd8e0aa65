"""Control data of a job: the job's record, leadership, heartbeats, assignment.

Every write of the leader is checked against its term on the server. Times that matter between machines are the server's
(TTLs).
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, Self

import redis.asyncio
from redis.exceptions import NoPermissionError

from market_data_pipeline.dag.plan import Plan, first_difference
from market_data_pipeline.errors import ConfigError, PlanMismatch, StoreUnavailable
from market_data_pipeline.runtime.contract import new_commit_id
from market_data_pipeline.store.client import Script, text_of
from market_data_pipeline.store.commit import JobRef, Lease
from market_data_pipeline.store.keys import Keys, job_key
from market_data_pipeline.store.stores import SAYS_NOTHING, StoreWord
from market_data_pipeline.store.trouble import Trouble

# small and bounded, and needed most when the server is full: they may exceed maxmemory; a new job may not
_PUBLISH = Script("publish")
_LEAD, _ASSIGN, _RESIGN = Script("lead", "allow-oom"), Script("assign", "allow-oom"), Script("resign", "allow-oom")
_RESUME, _RELEASE = Script("resume", "allow-oom"), Script("release", "allow-oom")
_CONCLUDE, _WAKE = Script("conclude", "allow-oom"), Script("wake", "allow-oom")
_ASK, _PHASE = Script("ask", "allow-oom"), Script("phase", "allow-oom")
_CLEAR, _RATES = Script("clear", "allow-oom"), Script("rates", "allow-oom")
_FORGET, _RETIRE = Script("forget", "allow-oom"), Script("retire", "allow-oom")


@dataclass(frozen=True)
class JobInfo:
    """The job's record. ``state``: ``running``, ``finished``, ``failed`` (then ``error`` says why), or ``removed`` while its
    keys are being deleted. ``uid`` is random for each creation of the job."""

    name: str
    uid: str
    fingerprint: str
    partitions: int
    plan: str
    state: str
    error: str
    version: int

    @property
    def ref(self) -> JobRef:
        return JobRef(self.name, self.uid, self.fingerprint)

    @property
    def keys(self) -> Keys:
        return Keys(self.name)


@dataclass(frozen=True)
class Heartbeat:
    """What a worker says of itself. ``token`` is random per process; ``pins`` are partitions it asks for;
    ``troubles``: what its tasks wait for; ``stores``: how the stores of its sinks are."""

    worker: str
    token: str
    pins: tuple[int, ...] = ()
    pid: int = 0
    host: str = ""
    http_port: int = 0
    troubles: tuple[Trouble, ...] = ()
    stores: StoreWord = SAYS_NOTHING

    def to_json(self) -> str:
        """As it is written; ``troubles`` and ``stores`` only where there are any."""
        document = asdict(self)
        if not self.troubles:
            del document["troubles"]
        if not self.stores.readings:
            del document["stores"]
        return json.dumps(document)

    @classmethod
    def from_json(cls, raw: str | bytes) -> Self:
        """What a worker wrote, also one of a later version, which may say more."""
        known = {item.name for item in fields(cls)}
        said = {name: value for name, value in json.loads(raw).items() if name in known}
        troubles = tuple(Trouble(*trouble) for trouble in said.get("troubles", ()))
        stores = StoreWord.from_plain(said.get("stores"))
        return cls(**{**said, "pins": tuple(said["pins"]), "troubles": troubles, "stores": stores})


class JobNow(NamedTuple):
    """What changes of a job's record. ``version`` grows with each change of the assignment, of the state or of a deployment's
    ``phase``: ``""``, ``drain`` (sources rest) or ``stop`` (tasks end). ``deploy``: the token of a deployment that is under
    way. ``rates``: see ``store/rates.py``; they do not change the version. All empty when the job is gone."""

    version: int
    uid: str
    state: str
    error: str
    fingerprint: str
    rates: str
    phase: str
    deploy: str


class Owner(NamedTuple):
    """A partition's assignment. ``worker`` is empty when it was given back."""

    epoch: int
    token: str
    worker: str


class Transition(NamedTuple):
    """One change of assignment that the leader wants."""

    partition: int
    worker: str
    token: str


async def list_jobs(client: redis.asyncio.Redis) -> list[str] | None:
    """The names of all jobs on the server, sorted; ``None`` where the user may not look for keys."""
    prefix = job_key("x").removesuffix("x")
    try:
        return sorted([text_of(key).removeprefix(prefix) async for key in client.scan_iter(f"{prefix}*", count=1000)])
    except NoPermissionError:
        return None


async def find_job(client: redis.asyncio.Redis, name: str) -> JobInfo | None:
    """The job's record, ``None`` where there is no such job."""
    fields = await client.hgetall(job_key(name))
    if not fields:
        return None
    text = {text_of(key): text_of(value) for key, value in fields.items()}
    return JobInfo(
        name, text["uid"], text["fingerprint"], int(text["partitions"]), text["plan"], text["state"],
        text.get("error", ""), int(text.get("version", 0)),
    )  # fmt: skip


async def publish(client: redis.asyncio.Redis, name: str, plan: Plan) -> JobInfo:
    """Create the job, or find it with the same plan. Raises ``PlanMismatch`` for another plan under this name."""
    uid = secrets.token_hex(6)
    keys = Keys(name)
    fields = {
        "uid": uid, "fingerprint": plan.fingerprint, "partitions": plan.partitions, "plan": plan.to_json(),
        "state": "running", "error": "", "version": 0, "created": time.time_ns(),
    }  # fmt: skip
    args = [new_commit_id(), *(part for pair in fields.items() for part in pair)]
    await _PUBLISH.call(client, [job_key(name), *(keys.task(task) for task in plan.tasks())], args)
    job = await find_job(client, name)
    if job is None:
        raise StoreUnavailable(f"job {name!r} vanished while it was being published; does somebody flush the server?")
    if job.state == "removed":
        raise ConfigError(f"job {name!r} was not removed to the end; run 'mdp remove {name}' again")
    check_plan(job, plan)
    return job


def check_plan(job: JobInfo, plan: Plan) -> None:
    """Raises ``PlanMismatch`` unless ``plan`` is the job's."""
    if job.fingerprint != plan.fingerprint:
        difference = first_difference(plan.to_dict(), json.loads(job.plan)) or "unknown"
        raise PlanMismatch(
            f"job {job.name!r} runs plan {job.fingerprint}, this program compiles to {plan.fingerprint}; first difference:"
            f" {difference}",
            "Give the job this plan with 'mdp deploy' (or 'mdp run --deploy'), choose another name with --job, or remove the"
            f" job with 'mdp remove {job.name}'",
        )


async def remove_job(client: redis.asyncio.Redis, name: str) -> bool:
    """Delete everything of a job. Whether there was one. Its tasks, should some still run, are refused from then on. The
    record goes last: a removal that was cut short must be seen, or the job's next life would find old frames."""
    job = await find_job(client, name)
    if job is None:
        return False
    await _RETIRE.call(client, [job.keys.record], [job.uid])
    for pattern in job.keys.patterns:
        batch = [key async for key in client.scan_iter(match=pattern, count=1000)]
        for start in range(0, len(batch), 500):
            if not await _CLEAR.call(client, [job.keys.record, *batch[start : start + 500]], []):
                return True  # another removal has done it meanwhile
    await _CLEAR.call(client, [job.keys.record, job.keys.record], [])
    return True


class Control:
    """Control data of one job."""

    def __init__(self, client: redis.asyncio.Redis, job: JobInfo) -> None:
        self._client = client
        self.job = job
        self.keys = job.keys

    async def now(self) -> JobNow:
        """The record's changing part."""
        version, *rest = await self._client.hmget(self.keys.record, list(JobNow._fields))
        return JobNow(int(version or 0), *(text_of(value or b"") for value in rest))

    async def assignment(self) -> dict[int, Owner]:
        """Every partition that was ever assigned."""
        found = await self._client.hgetall(self.keys.assignment)
        owners = {}
        for partition, value in found.items():
            epoch, token, worker = text_of(value).split(":", 2)
            owners[int(partition)] = Owner(int(epoch), token, worker)
        return owners

    async def wake(self) -> None:
        """Make the coordinator look at once."""
        await _WAKE.call(self._client, [self.keys.wake], [])

    async def wait_for_wake(self, seconds: float) -> None:
        """Return at a wake-up, or after ``seconds``."""
        await self._client.blpop([self.keys.wake], timeout=seconds)

    async def workers(self) -> dict[str, Heartbeat]:
        """The workers that live, by name."""
        beats = await self._beats()
        return {name: Heartbeat.from_json(raw) for name, raw in beats.items() if raw is not None}

    async def _beats(self) -> dict[str, Any]:
        names = sorted(text_of(name) for name in await self._client.smembers(self.keys.workers))
        beats = await self._client.mget([self.keys.worker(name) for name in names]) if names else []
        return dict(zip(names, beats, strict=True))

    async def forget_silent(self) -> None:
        """Forget the workers whose heartbeats have run out; should one come back, it is known again."""
        silent = [name for name, raw in (await self._beats()).items() if raw is None]
        if silent:
            await self._forget(silent, "")

    async def leave(self, worker: str, token: str) -> None:
        """Forget a worker that leaves politely, unless another process has its name now."""
        await self._forget([worker], token)

    async def _forget(self, names: list[str], token: str) -> None:
        keys = [self.keys.workers, self.keys.incarnations, self.keys.wake, *map(self.keys.worker, names)]
        await _FORGET.call(self._client, keys, [token, *names])

    async def release(self, lease: Lease) -> bool:
        """Give a partition back. Whether it was still ours."""
        keys = [self.keys.lease(lease.partition), self.keys.assignment, self.keys.record, self.keys.wake]
        return bool(await _RELEASE.call(self._client, keys, [lease.epoch, lease.token, lease.partition]))

    async def lead(self, token: str, ttl_ms: int) -> int:
        """Become or stay leader; the term, 0 when another leads or this is not the job any more."""
        args = [token, ttl_ms, self.keys.record, self.job.uid]
        return int(await _LEAD.call(self._client, [self.keys.leader, self.keys.term], args))

    async def assign(self, term: int, token: str, transitions: list[Transition]) -> bool:
        """Write assignments, each with a new epoch. Whether we still lead."""
        keys = [self.keys.leader, self.keys.record, self.keys.epochs, self.keys.assignment]
        keys += [self.keys.lease(t.partition) for t in transitions]
        args: list[Any] = [f"{term}:{token}"]
        for t in transitions:
            args += [t.partition, t.worker, t.token]
        return bool(await _ASSIGN.call(self._client, keys, args))

    async def resign(self, term: int, token: str) -> None:
        """Give leadership up, if it is still ours."""
        await _RESIGN.call(self._client, [self.keys.leader], [f"{term}:{token}"])

    async def leader(self) -> str:
        """``term:token`` of whoever leads; empty when nobody does."""
        return text_of(await self._client.get(self.keys.leader) or b"")

    async def ask_to_deploy(self, token: str) -> bool:
        """Ask the coordinators to stand aside for the deployment ``token``. Whether this is still the job, and
        its plan."""
        args = [self.job.uid, token, self.job.fingerprint]
        return bool(await _ASK.call(self._client, [self.keys.record, self.keys.wake], args))

    async def set_phase(self, term: int, token: str, phase: str, deploy: str) -> bool:
        """Say, as the leader, where a deployment is; both empty end it. Whether we still lead, and it is still the job."""
        keys = [self.keys.leader, self.keys.record, self.keys.wake]
        args = [f"{term}:{token}", self.job.uid, self.job.fingerprint, phase, deploy]
        return bool(await _PHASE.call(self._client, keys, args))

    async def set_rates(self, term: int, token: str, rates: str) -> bool:
        """Say, as the leader, how many items a second the sources may bring in. Whether we still lead, and it is still the
        job."""
        args = [f"{term}:{token}", self.job.uid, self.job.fingerprint, rates]
        return bool(await _RATES.call(self._client, [self.keys.leader, self.keys.record], args))

    async def resume(self) -> None:
        """Let a failed job run again."""
        await _RESUME.call(self._client, [self.keys.record], [self.job.uid])

    async def ended(self) -> int:
        """How many tasks have ended."""
        return int(await self._client.scard(self.keys.ended))

    async def fail(self, lease: Lease, error: str) -> bool:
        """Say for the owner of a partition that the job failed. False when ``lease`` is over: then it did not."""
        keys = [self.keys.record, self.keys.wake, self.keys.ended]
        args = [self.job.uid, "failed", error, 0, self.job.fingerprint]
        args += [self.keys.lease(lease.partition), lease.epoch, lease.token]
        return int(await _CONCLUDE.call(self._client, keys, args)) >= 0

    async def conclude(self, state: str, error: str = "", ended: int = 0) -> bool:
        """End the running job as ``finished`` (when ``ended`` tasks have) or ``failed``. Whether this call did it."""
        keys = [self.keys.record, self.keys.wake, self.keys.ended]
        args = [self.job.uid, state, error, ended, self.job.fingerprint]
        return bool(await _CONCLUDE.call(self._client, keys, args))
