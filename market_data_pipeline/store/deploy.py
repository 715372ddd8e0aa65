"""A deployment: another plan for a job that runs, with its state.

The deployment leads the job while it is under way (the coordinators stand aside), so that nobody assigns partitions. In this
order: ``drain`` where the new plan would not understand frames in flight (sources rest, until the streams in question are
empty); ``stop`` (every task commits, seals its sinks, and gives its partition back); then the records are read, made into
those of the new plan (``runtime/migration.py``), staged under keys of their own, and exchanged by one script, which checks that
nothing was committed since. Whatever fails before that script leaves the job as it was. A deployment that dies is noticed by
the coordinators, when its leadership has run out, and undone.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Collection, Sized
from contextlib import suppress
from functools import partial
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from market_data_pipeline.clock import SYSTEM_CLOCK, Clock
from market_data_pipeline.dag.change import Choice, PlanChange, compare, obstacles
from market_data_pipeline.dag.plan import Plan, TaskId, plan_from_dict
from market_data_pipeline.errors import ConfigError, StoreUnavailable
from market_data_pipeline.frame import END
from market_data_pipeline.packing import pack, seal, unpack, unseal
from market_data_pipeline.runtime.chain import node_of_field
from market_data_pipeline.runtime.contract import new_commit_id
from market_data_pipeline.runtime.migration import NewRecord, Stored, holding, migrate, silenced
from market_data_pipeline.runtime.outputs import OUTBOX
from market_data_pipeline.store.client import Script, cancel_and_wait, text_of, until_done
from market_data_pipeline.store.control import Control, JobInfo, Owner, Transition

_SWAP = Script("swap", "allow-oom")
_POLL = 0.05
_CHUNK = 500
_STAGED_MS = 24 * 3600 * 1000


class NotYet(Exception):
    """Something is still under way; the message says what."""


class Deployment:
    """Gives the job ``job`` the plan ``new``. ``stateful``: the nodes of the new program that keep anything between steps."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        job: JobInfo,
        new: Plan,
        choice: Choice,
        stateful: Collection[str],
        lease_ttl_ms: int = 3000,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._client, self._control, self._clock = client, Control(client, job), clock
        self._old: Plan = plan_from_dict(json.loads(job.plan))
        self._new, self._stateful, self._ttl_ms = new, frozenset(stateful), lease_ttl_ms
        self.change: PlanChange = compare(self._old, new, choice)
        self._token, self._term = secrets.token_hex(16), 0
        self._phase = ""
        self._staged: dict[TaskId, bool] = {}
        self._former: dict[int, Owner] = {}
        self._alone_since: float | None = None

    async def refusals(self) -> list[str]:
        """Why this cannot be deployed, as things are now; empty when it can."""
        records, _ = await self._records()
        return self._obstacles(records, await self._state_fields())

    async def run(self, timeout: float, say: Callable[[str], None]) -> None:
        """Do it, in about ``timeout`` seconds at most. ``say`` is told of every step. Raises ``ConfigError`` when it is refused
        or could not be done in time; the job then goes on with the old plan."""
        deadline = self._clock.monotonic() + timeout
        alive = asyncio.create_task(self._keep_leading(), name="deployment")
        try:
            await self._lead(deadline)
            while True:
                try:
                    await self._advance(say)
                    return
                except NotYet as reason:
                    if self._clock.monotonic() >= deadline:
                        raise ConfigError(f"{reason}; not done in {timeout:g} s, the job keeps its plan") from None
                await self._clock.sleep(_POLL)
        finally:
            await cancel_and_wait(alive)
            with suppress(RedisError, OSError):  # what went wrong before says more; leadership runs out, and keys go
                await self._clean_up()

    async def _clean_up(self) -> None:
        if self._term:
            await self._control.set_phase(self._term, self._token, "", "")  # refused where the plan was exchanged
            await self._control.resign(self._term, self._token)
        for task in self._staged:
            await self._client.unlink(*self._staged_keys(task))

    async def _keep_leading(self) -> None:
        """Staging a large state may take longer than leadership lasts."""
        while True:
            await self._clock.sleep(self._ttl_ms / 4000)
            if self._term:
                self._term = await self._control.lead(self._token, self._ttl_ms) or self._term

    async def _lead(self, deadline: float) -> None:
        if not await self._control.ask_to_deploy(self._token):
            raise ConfigError(f"job {self._control.job.name!r} was removed, replaced, or given another plan")
        while not self._term:
            self._term = await self._control.lead(self._token, self._ttl_ms)
            if not self._term and self._clock.monotonic() >= deadline:
                raise ConfigError("the coordinator did not stand aside in time; is another deployment under way?")
            await self._clock.sleep(_POLL)
        now = await self._control.now()
        if now.fingerprint != self._control.job.fingerprint or now.state == "finished":
            raise ConfigError(
                f"the job is {now.state} with plan {now.fingerprint}; there is nothing to exchange any more"
            )

    async def _advance(self, say: Callable[[str], None]) -> None:
        """One look, and what follows from it; returns when the plan was exchanged. Raises ``NotYet``."""
        if not self._phase:
            await self._enter("drain" if self.change.drained else "stop", say)
        if self._phase == "drain":
            await self._give_out()
            await self._check_drained()
            await self._check_sent(self._migrated((await self._records())[0]), await self._state_fields())
            await self._enter("stop", say)
        await self._check_given_back()
        records, commits = await self._records()
        fields = await self._state_fields()
        refused = self._obstacles(records, fields)
        if refused:
            raise ConfigError("; ".join(refused))
        new = self._migrated(records)
        try:
            await self._check_drained()
            await self._check_sent(new, fields)
        except NotYet:
            await self._enter("drain", say)
            raise
        await self._check_sealed(records, say)
        say("exchanging the plan")
        await self._stage(new)
        await self._swap(new, commits)

    def _migrated(self, records: dict[TaskId, Stored]) -> list[NewRecord]:
        return migrate(self._old, self._new, self.change, records, self._token[:8])

    async def _enter(self, phase: str, say: Callable[[str], None]) -> None:
        if phase == "stop":
            self._former = await self._control.assignment()
        if not await self._control.set_phase(self._term, self._token, phase, self._token):
            raise ConfigError("leadership was lost meanwhile; try again")
        self._phase = phase
        say("draining: sources rest" if phase == "drain" else "stopping every task at a commit")

    async def _living(self) -> dict[str, str]:
        """Token -> name of the workers that live."""
        return {beat.token: name for name, beat in (await self._control.workers()).items()}

    async def _alone(self) -> bool:
        """Whether nobody will work off what is in flight: no worker has lived for a lease's time, or the job does not run."""
        if await self._living():
            self._alone_since = None
            return False
        if self._alone_since is None:
            self._alone_since = self._clock.monotonic()
        waited = self._clock.monotonic() - self._alone_since
        return waited >= self._ttl_ms / 1000 or (await self._control.now()).state != "running"

    async def _check_given_back(self) -> None:
        living = await self._living()
        held = sorted(p for p, owner in (await self._control.assignment()).items() if owner.token in living)
        if held:
            raise NotYet(f"partitions {held} have not been given back")

    async def _give_out(self) -> None:
        """Give the partitions that nobody has to those who had them before, or to whoever lives: no coordinator does it while
        we lead, and what is to be drained needs an owner."""
        living, owners = await self._living(), await self._control.assignment()
        free = [p for p in range(self._old.partitions) if p not in owners or owners[p].token not in living]
        if not free or not living:
            return
        tokens = sorted(living, key=lambda token: living[token])
        again = []
        for number, partition in enumerate(free):
            former = self._former.get(partition)
            token = former.token if former is not None and former.token in living else tokens[number % len(tokens)]
            again.append(Transition(partition, living[token], token))
        await self._control.assign(self._term, self._token, again)

    async def _check_sent(self, new: list[NewRecord], fields: dict[TaskId, list[str]]) -> None:
        full = await self._full_outboxes(new, fields)
        if full:
            await self._wait_for(f"task {full[0]} has results that it could not send yet")

    async def _wait_for(self, what: str) -> None:
        """Something is in flight: raises ``NotYet``, or ``ConfigError`` where nobody is there for it."""
        if await self._alone():
            raise ConfigError(
                f"{what}, and no worker is there to work it off: start some, with the old program, or change nothing there"
            )
        raise NotYet(what)

    async def _check_sealed(self, records: dict[TaskId, Stored], say: Callable[[str], None]) -> None:
        """A sink that goes on as it was repeats what its last owner left half done; another one does not know of it."""
        owners = await self._control.assignment()
        found: list[str] = []
        for task, stored in records.items():
            died = owners[task.partition].token if task.partition in owners else ""
            for name, state in stored.meta.get("sinks", {}).items():
                half_done = died or name in stored.meta.get("unsealed", ())
                if state is not None and name not in self.change.same and half_done:
                    found.append(f"sink {name!r}, partition {task.partition}")
        if found and await self._living() and (await self._control.now()).state == "running":
            raise ConfigError(
                f"{found[0]}: its worker could not stop politely, and what it wrote last may not be published; let the job go"
                " on, and deploy again"
            )
        if found:
            say(f"what their last worker wrote may not be published, nobody gave it back: {'; '.join(found)}")

    async def _check_drained(self) -> None:
        streams = self._drained_streams()
        pipe = self._client.pipeline(transaction=False)
        for stream in streams:
            pipe.xlen(stream)
        for stream, length in zip(streams, await pipe.execute() if streams else [], strict=True):
            if length:
                await self._wait_for(f"{length} frames wait in {stream}")

    def _drained_streams(self) -> list[str]:
        edges = [edge for edge in self._old.channels if edge.name in self.change.drained]
        keys = self._control.keys
        return [keys.stream(e, p) for e in edges for p in self._old.readers(e)]

    async def _records(self) -> tuple[dict[TaskId, Stored], dict[TaskId, str]]:
        """What every task has committed, and its commit id."""
        tasks = list(self._old.tasks())
        pipe = self._client.pipeline(transaction=False)
        for task in tasks:
            pipe.hmget(self._control.keys.task(task), ["commit", "meta", "ended"])
        records, commits = dict[TaskId, Stored](), dict[TaskId, str]()
        for task, (commit, meta, ended) in zip(tasks, await pipe.execute(), strict=True):
            if commit is None:
                raise StoreUnavailable(f"task {task}: its record is missing on the server")
            records[task] = Stored(unpack(unseal(meta, f"task {task}, meta")) if meta else {}, ended == b"1")
            commits[task] = text_of(commit)
        return records, commits

    async def _state_fields(self) -> dict[TaskId, list[str]]:
        """The names of the fields that every task has stored."""
        tasks = list(self._old.tasks())
        pipe = self._client.pipeline(transaction=False)
        for task in tasks:
            pipe.hkeys(self._control.keys.state(task))
        return {task: list(map(text_of, names)) for task, names in zip(tasks, await pipe.execute(), strict=True)}

    def _obstacles(self, records: dict[TaskId, Stored], fields: dict[TaskId, list[str]]) -> list[str]:
        nodes = {
            task: frozenset(node_of_field(name) for name in names if not name.startswith(OUTBOX))
            for task, names in fields.items()
        }
        held = holding(records, nodes) | (self._stateful & set(self.change.changed))
        ended = [task for task, stored in records.items() if stored.ended or stored.meta.get("watermark") == END]
        found = obstacles(self._old, self._new, self.change, held, ended)
        return found or [
            f"subgraph {name!r} of the new plan has ended already, and would have to tell its readers so on a new channel"
            for name in silenced(self._old, self._new, self.change, self._migrated(records))
        ]

    async def _full_outboxes(self, new: list[NewRecord], fields: dict[TaskId, list[str]]) -> list[TaskId]:
        """The tasks with something in their outbox that the new plan would not know how to send."""
        staying = {record.task for record in new if record.stays}
        found = []
        for task, stored in fields.items():
            names = [name for name in stored if name.startswith(OUTBOX)]
            waiting = bool(names)
            if names and task in staying:
                blobs: list[Any] = await self._client.hmget(self._control.keys.state(task), names)
                channels = {unpack(unseal(blob, f"task {task}, outbox"))[0] for blob in blobs if blob is not None}
                waiting = not channels.isdisjoint(self.change.drained)
            found += [task] if waiting else []
        return found

    def _staged_keys(self, task: TaskId) -> tuple[str, str]:
        """Where the record and the state of ``task`` are made, apart from what any other deployment makes: one that lost its
        leadership may not know it yet."""
        keys, life = self._control.keys, self._token[:16]
        return keys.staged_task(task, life), keys.staged_state(task, life)

    async def _stage(self, new: list[NewRecord]) -> None:
        """Make all records, and the states that do not stay; ``_staged`` says of which tasks there is a state. What a dead
        deployment leaves behind goes by itself."""
        for record in new:
            at, state_at = self._staged_keys(record.task)
            self._staged[record.task] = False
            await self._client.unlink(at, state_at)
            fields: dict[Any, Any] = {
                "commit": new_commit_id(),
                "meta": seal(pack(record.meta)) if record.meta else b"",
                "ended": int(record.ended),
            }
            await self._client.hset(at, mapping=fields)
            await self._client.pexpire(at, _STAGED_MS)
            for former, nodes in [] if record.stays else record.sources:
                self._staged[record.task] |= await self._copy_state(former, frozenset(nodes), state_at)

    async def _copy_state(self, former: TaskId, nodes: frozenset[str], target: str) -> bool:
        """Whether there was any."""
        stored = await self._client.hgetall(self._control.keys.state(former))
        taken = [(name, blob) for name, blob in stored.items() if node_of_field(text_of(name)) in nodes]
        for start in range(0, len(taken), _CHUNK):
            await self._client.hset(target, mapping=dict(taken[start : start + _CHUNK]))
        await self._client.pexpire(target, _STAGED_MS)
        return bool(taken)

    async def _swap(self, new: list[NewRecord], commits: dict[TaskId, str]) -> None:
        keys, job = self._control.keys, self._control.job
        staying = {record.task for record in new if record.stays}
        moved = [task for task, has_state in self._staged.items() if has_state]
        old = list(self._old.tasks())
        gone = [keys.task(task) for task in old] + [keys.state(task) for task in old if task not in staying]
        streams = self._drained_streams()
        gone += streams
        leases = [keys.lease(partition) for partition in range(self._old.partitions)]
        ended = [str(record.task) for record in new if record.ended]
        names = [keys.leader, keys.record, keys.wake, keys.ended, keys.assignment, *map(keys.task, old)]
        names += [key for record in new for key in (self._staged_keys(record.task)[0], keys.task(record.task))]
        names += [key for task in moved for key in (self._staged_keys(task)[1], keys.state(task))]
        names += [*gone, *streams, *leases]
        args: list[Any] = [f"{self._term}:{self._token}", job.uid, job.fingerprint, self._new.to_json()]
        groups: list[Sized] = [old, new, moved, gone, streams, leases, ended]
        args += [self._new.fingerprint, *map(len, groups)]
        args += [*(commits[task] for task in old), *ended]
        send = partial(_SWAP.call, self._client, names, args)  # sent again, it is refused: then we look
        status, *detail = [text_of(part) for part in await until_done(send, "exchanging the plan")]
        if status in ("JOB", "LEADER"):
            now = await self._control.now()
            status = "OK" if (now.uid, now.fingerprint) == (job.uid, self._new.fingerprint) else status
        if status in ("MOVED", "FRAMES"):
            raise NotYet(f"something was committed meanwhile ({', '.join(detail)})")
        if status != "OK":
            raise ConfigError("leadership was lost, or the job was replaced meanwhile; try again")
        self._staged = {}
