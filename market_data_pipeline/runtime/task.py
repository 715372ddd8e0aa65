"""A task: read, step, commit, for ever.

One commit makes a step durable: frames appended to the outputs, state, the consumed inputs, dead letters. A refusal that
says "the store knows something else" makes the task throw its memory away and load again; a fence ends it.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Awaitable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from market_data_pipeline.clock import SYSTEM_CLOCK, Clock
from market_data_pipeline.dag.graph import Dag
from market_data_pipeline.dag.plan import Plan, Subgraph, TaskId
from market_data_pipeline.errors import SourceError, StaleTask
from market_data_pipeline.faults import fault_point, note_commit
from market_data_pipeline.feedback import StoreFeedback
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.packing import pack, unpack
from market_data_pipeline.runtime.cancellation import told_apart
from market_data_pipeline.runtime.channel_limits import channel_limits
from market_data_pipeline.runtime.contract import (
    MAX_ENTRIES,
    CommitRequest,
    Consumed,
    Entry,
    Limits,
    Meta,
    Stream,
    StreamsFull,
    TaskRecord,
    TaskStore,
    new_commit_id,
)
from market_data_pipeline.runtime.flow import Flow, TaskFlow
from market_data_pipeline.runtime.gate import Gate
from market_data_pipeline.runtime.observe import TaskObserver
from market_data_pipeline.runtime.outputs import Outputs
from market_data_pipeline.runtime.suspicion import Suspicion

log = logging.getLogger(__name__)

T = TypeVar("T")

_READ_TIMEOUT = 1.0
_OBSTACLE_SECONDS = 0.5
_LETTERS_FULL = "the dead letters are full; read them with 'mdp dlq', then 'mdp dlq --clear'"
_MEMORY_FULL = "the server's memory is full (maxmemory); nothing new comes in until what is there was worked off"


class Task:
    """What all tasks share: loading, reading with cursors, committing with backpressure, stopping politely."""

    def __init__(
        self,
        plan: Plan,
        dag: Dag,
        task: TaskId,
        store: TaskStore,
        limits: Limits,
        observer: TaskObserver,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.plan, self.dag, self.id, self.store = plan, dag, task, store
        self.limits, self.observer, self.clock = limits, observer, clock
        self.subgraph: Subgraph = next(s for s in plan.subgraphs if s.name == task.subgraph)
        self.inputs = {(edge.name, task.partition): edge for edge in plan.inputs(self.subgraph)}
        mine = (*plan.inputs(self.subgraph), *plan.outputs(self.subgraph))
        self.channels = {edge.name: channel_limits(edge, limits) for edge in mine}
        self.absorbs = False
        """Whether it reads on while its outputs are above their high level: an operator keeps what comes to itself."""
        self.suspicion = Suspicion(MAX_ENTRIES * max(1, len(self.inputs)))
        self.resting = False
        """Whether a source is to bring nothing new for now; streams are worked off as ever."""
        self.waits_for = ""
        """The error after which the task is to be run again; over with its next commit, or when nothing is there to be done."""
        self.source_waits_for = ""
        """What its source says that it waits for."""
        self.calling = ""
        """The sink whose outside is called now, or whose call raised what ended :meth:`run`; empty otherwise."""
        self.progress = 0
        """How many commits have used input; who counts failures in a row begins anew when it grows."""
        self._stopping = False
        self._reload = False
        self._scopes: set[asyncio.Timeout] = set()

    def stop(self) -> None:
        """Ask the task to finish its step, commit, and return. A step that finds no room is given up: nothing of it
        is durable, the next owner does it again."""
        self._stopping = True
        self.interrupt()

    def reload(self) -> None:
        """Ask the task to throw its memory away and load again: the server is not the one it was."""
        self._reload = True
        self.interrupt()

    def obey(self, rates: Mapping[str, float]) -> None:
        """From now on these sources bring in so many items a second at most, in all their tasks; the others, all they have."""

    def stores(self) -> Mapping[str, StoreFeedback]:
        """Who can be asked now how the store of a sink is, by node."""
        return {}

    def interrupt(self) -> None:
        """Cut short whatever the task waits for in :meth:`interruptible`."""
        for scope in self._scopes:
            with suppress(RuntimeError):  # it is over already
                scope.reschedule(asyncio.get_running_loop().time())

    async def interruptible(self, waiting: Awaitable[T]) -> T | None:
        """The result of ``waiting``, or ``None`` when :meth:`stop` or :meth:`reload` cuts it short."""
        if self._stopping or self._reload:
            if isinstance(waiting, Coroutine):
                waiting.close()
            await asyncio.sleep(0)
            return None
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._scopes.add(scope)
                return await waiting
        except TimeoutError:
            return None
        finally:
            self._scopes.discard(scope)

    @property
    def trouble(self) -> str:
        """What of the outside the task waits for after an error; ``""`` when all is well."""
        return self.waits_for or self.source_waits_for

    @property
    def stopping(self) -> bool:
        return self._stopping

    def blamed(self, error: Exception) -> str:
        """The node whose outside raised ``error``, with which :meth:`run` ended; empty where it was none of them (but the job's
        own server, say)."""
        if isinstance(error, SourceError):
            return next((name for name in self.subgraph.nodes if self.plan.node[name].kind == "source"), "")
        return self.calling

    async def run(self) -> bool:
        """Work until the end of input (True) or until stopped (False).

        Raises ``Fenced``, ``JobChanged``, ``LostTask``, ``CorruptState``, or what a node with policy ``fail`` raised;
        ``OperatorFailed`` too where a node is cancelled from within.
        """
        try:
            with told_apart(f"node {', '.join(self.subgraph.nodes)}"):
                return await self._run()
        finally:
            self.observer.rests()

    async def _run(self) -> bool:
        while True:
            self._reload = False
            record = await self.interruptible(self.store.load())
            if record is None:
                if self.stopping:
                    return False
                continue
            self._begin(record)
            try:
                await self._open(self._meta)
                return self.ended or await self._work()
            except GivenUp:
                return False
            except StaleTask as error:
                log.warning("%s; loading again", error)
                self.suspicion.reloaded()
                self.observer.reloaded()
            finally:
                await self._close()

    def _begin(self, record: TaskRecord) -> None:
        self._commit_id = record.commit
        self._meta: Meta = unpack(record.meta) if record.meta else {}
        self._committed_position = self._meta.get("position")
        self._state = record.state
        # the server's clock may go back when another machine takes over: what was committed then says more
        self.generation = max(record.loaded_at, self._meta.get("generation", 0) + 1)
        self.ended = record.ended
        self.calling = ""
        self.cursors: dict[Stream, str] = dict.fromkeys(self.inputs, "0-0")
        self.outputs = Outputs(self.plan, self.subgraph, self.id.partition, str(self.id), self.limits)
        committed = TaskFlow.of(self._meta)
        self.flow = Flow(self.clock, committed)
        self.outputs.sent.update(committed.sent)
        streams = {stream: self.channels[stream[0]] for stream in self.outputs.streams}
        frames = self.limits.commit_frames
        self.gate = Gate(streams, frames, self.store, self.observer, self.clock, lambda: self.stopping)

    @abstractmethod
    async def _open(self, meta: Meta) -> None:
        """Restore from ``self._state`` and ``meta``; open sources and sinks."""

    @abstractmethod
    async def _work(self) -> bool:
        """The loop, until the end (True) or a stop (False)."""

    @abstractmethod
    async def _close(self) -> None:
        """Release what ``_open`` took."""

    async def read(
        self, timeout: float = _READ_TIMEOUT, only: Collection[Stream] | None = None
    ) -> dict[Stream, list[Entry]]:
        """Entries behind the cursors (of all input streams, or ``only`` these), which move; only one entry while the task
        is careful. Raises ``StaleTask`` when a reload was asked for."""
        self.check_reload()
        fault_point("before-read")
        cursors = self.cursors if only is None else {stream: self.cursors[stream] for stream in only}
        found = await self.interruptible(self.store.read(cursors, timeout)) or {}
        if not found:
            self.waits_for = ""
        if found:
            await self.ask_about_deaths()
        if found and self.suspicion.careful:
            stream, entries = next(iter(found.items()))
            found = {stream: entries[:1]}
        for stream, entries in found.items():
            self.cursors[stream] = entries[-1].id
        return found

    async def ask_about_deaths(self) -> None:
        """Learn, before the first step with data, whether processes died where this task is about to begin."""
        if self.suspicion.ask:
            self.suspicion.learned(await self.store.attempt(self._commit_id))
            if self.suspicion.marking:
                log.warning(
                    "task %s: start %d at the same commit; looking for the item", self.id, self.suspicion.starts
                )

    async def mark(self, place: str) -> None:
        """Note on the server where this task is at work; ``""`` when it is past the danger."""
        await self.store.mark(self._commit_id, place)

    def check_lease(self) -> None:
        """Before any write to the outside. Raises ``StaleTask`` when another owner may be at work already."""
        if not self.store.lease_held():
            raise StaleTask(f"task {self.id}: no heartbeat got through for a lease's time, another may be the owner")

    def check_reload(self) -> None:
        """Raises ``StaleTask`` when the server is not the one that was read from."""
        if self._reload:
            raise StaleTask(f"task {self.id}: the server was restarted or replaced")

    async def commit(
        self,
        meta: Meta,
        state: dict[str, bytes | None],
        consumed: Sequence[Consumed] = (),
        dead_letters: Sequence[DeadLetter] = (),
        ended: bool = False,
    ) -> None:
        """Commit one step and whatever queued outputs fit in; waits for room. ``meta`` gets the task's flow."""
        frames, outbox = self.outputs.take()
        last = ended and not self.outputs.waiting
        meta["flow"] = self.flow.saved(self.outputs.sent)
        internal = bool(self.inputs) or ended
        request = CommitRequest(
            self._commit_id, new_commit_id(), pack(meta), last, consumed, frames, state | outbox, dead_letters,
            ingest=not internal, idle=self._is_idle(meta, consumed),
        )  # fmt: skip
        started = self.clock.monotonic()
        fault_point("before-commit")
        lengths = await self._commit_when_there_is_room(request)
        note_commit(str(self.id), request.parent, request.id)
        fault_point("after-commit")
        self._commit_id, self.ended, self.waits_for = request.id, last, ""
        self._committed_position = meta.get("position")
        if not request.idle:
            self.progress += 1
            self.suspicion.committed()
        self.observer.committed(request, lengths, self.clock.monotonic() - started)
        if self.absorbs:
            await self.gate.look(lengths)
        else:
            with self.flow.pause():
                await self.gate.wait(lengths)

    def _is_idle(self, meta: Meta, consumed: Sequence[Consumed]) -> bool:
        if self.inputs:
            return not consumed
        return "position" in meta and meta["position"] == self._committed_position

    async def _commit_when_there_is_room(self, request: CommitRequest) -> dict[Stream, int]:
        told = False
        while True:
            self.check_reload()
            try:
                return await self.store.commit(request)
            except StreamsFull as full:
                if self.stopping:
                    raise GivenUp from None
                obstacle = _LETTERS_FULL if None in full.streams else "" if full.streams else _MEMORY_FULL
                if obstacle and not told:
                    log.warning("task %s waits: %s", self.id, obstacle)
                    told = True
                with self.flow.pause():
                    if obstacle:
                        await self.interruptible(self.clock.sleep(_OBSTACLE_SECONDS))
                    await self.gate.wait_for_room([s for s in full.streams if s is not None])

    async def finish(self, meta: Meta) -> None:
        """Everything was processed and is outside: send what is queued; the last commit says that the task has ended."""
        while not self.ended:
            with self.flow.step():
                await self.commit(meta, {}, ended=True)


class GivenUp(Exception):
    """A step was given up because the task is to stop."""


def consumed_of(found: dict[Stream, list[Entry]]) -> list[Consumed]:
    """What a commit says about entries that were read."""
    return [
        Consumed(stream, entries[0].id, entries[-1].id, len(entries), sum(len(entry.blob) for entry in entries))
        for stream, entries in found.items()
    ]


def counts_of(counts: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Counters as plain data."""
    return {name: dict(counter) for name, counter in counts.items()}
