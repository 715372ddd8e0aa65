"""The task of a fused subgraph: reads streams or a source, steps the chain, feeds sinks and streams."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import Any

from market_data_pipeline.budget import Budget, BudgetRule
from market_data_pipeline.clock import SYSTEM_CLOCK, Clock
from market_data_pipeline.codec import decode
from market_data_pipeline.component import awaited
from market_data_pipeline.dag.graph import Dag
from market_data_pipeline.dag.plan import Plan, TaskId
from market_data_pipeline.errors import CodecError
from market_data_pipeline.faults import fault_point
from market_data_pipeline.feedback import StoreFeedback
from market_data_pipeline.frame import NO_MARK, Frame, join_items, slice_items, to_rows
from market_data_pipeline.operators.async_map import all_of
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.runtime.chain import SOURCE_INPUT, Chain, StepOutput, input_key
from market_data_pipeline.runtime.contract import Consumed, Entry, Limits, Meta, Stream, TaskStore, entry_name
from market_data_pipeline.runtime.incoming import Incoming, together
from market_data_pipeline.runtime.intake import Intake
from market_data_pipeline.runtime.latency import LatencyHistogram
from market_data_pipeline.runtime.observe import TaskObserver
from market_data_pipeline.runtime.outputs import OUTBOX
from market_data_pipeline.runtime.pace import Pace
from market_data_pipeline.runtime.progress import SourceWatermark
from market_data_pipeline.runtime.refusals import Refusals
from market_data_pipeline.runtime.suspicion import POISON, place_of
from market_data_pipeline.runtime.task import GivenUp, Task, consumed_of, counts_of
from market_data_pipeline.sinks.base import Sink, SinkContext, asked_of
from market_data_pipeline.sources.base import Batch, Source, SourceContext

log = logging.getLogger(__name__)

_TARGETS, _MOST_COMMIT_ITEMS = 16, 4
"""A source that feeds more than so many partitions reads more for a commit, else their frames would be tiny; at most so many
times as much."""


class ChainTask(Task):
    """Runs one :class:`Chain`. ``sink_context`` goes to its sinks, ``budget`` to its source."""

    def __init__(  # noqa: PLR0913 - what a task has, and what its sources and sinks are given
        self,
        plan: Plan,
        dag: Dag,
        task: TaskId,
        store: TaskStore,
        limits: Limits,
        observer: TaskObserver,
        sink_context: SinkContext,
        clock: Clock = SYSTEM_CLOCK,
        *,
        budget: Callable[[str, BudgetRule], Budget] | None = None,
    ) -> None:
        super().__init__(plan, dag, task, store, limits, observer, clock)
        self._sink_context, self._budget = sink_context, budget
        self._origins = {
            (edge.name, task.partition): frozenset(plan.origins(edge, task.partition)) for edge in self.inputs.values()
        }
        self._pace = Pace()
        self._sinks: dict[str, Sink] = {}
        self._stores: dict[str, StoreFeedback] = {}

    def stores(self) -> Mapping[str, StoreFeedback]:
        return self._stores

    def obey(self, rates: Mapping[str, float]) -> None:
        """A source's tasks share its rate evenly."""
        for name in self.subgraph.nodes:
            if self.plan.node[name].kind == "source":
                rate, tasks = rates.get(name), len(self.plan.partitions_of(self.subgraph))
                self._pace.set(None if rate is None else rate / tasks, self.clock.monotonic())

    async def _open(self, meta: Meta) -> None:
        self._sinks = {}
        self._intake: Intake | None = None
        self._chain = Chain(self.plan, self.subgraph, self.dag, self.id.partition)
        self._refusals = Refusals(self._chain)
        outbox = {name: blob for name, blob in self._state.items() if name.startswith(OUTBOX)}
        state = {name: blob for name, blob in self._state.items() if name not in outbox}
        self.absorbs = self._chain.absorbs and bool(self.outputs.streams)
        outputs = self.plan.outputs(self.subgraph)
        widest = max((len(self.plan.targets(edge, self.id.partition)) for edge in outputs), default=1)
        self._enough = self.limits.commit_items * min(_MOST_COMMIT_ITEMS, max(1, widest // _TARGETS))
        self._waits = any(self._chain.waiting(edge.dst) is not None for edge in self.inputs.values())
        self._chain.restore(state, meta.get("marks", {}), meta.get("counts", {}))
        self.observer.restored(self._chain.counts())
        self.outputs.restore(outbox)
        self.outputs.restore_marks(meta.get("out_marks", {}), meta.get("out_idle", ()))
        self._latency = LatencyHistogram(meta.get("latency"))
        self._position = meta.get("position")
        self._sink_states: dict[str, Any] = meta.get("sinks", {})
        self._lives: dict[str, str] = meta.get("lives", {})
        self._unsealed: set[str] = set(meta.get("unsealed", ()))
        for name in self.subgraph.nodes:
            fn = self.dag.nodes[name].fn
            if isinstance(fn, Sink):
                self._sinks[name] = sink = fn.fresh()
                self.calling = name
                await awaited(name, sink.open, self._context_of(name), self._sink_states.get(name))
                self.calling = ""
                if (asked := asked_of(sink)) is not None:
                    self._stores[name] = asked
            elif isinstance(fn, Source):
                await self._open_source(name, fn, meta)

    def _context_of(self, name: str) -> SinkContext:
        reject, counted = self._refusals.of(name), self._counter_of(name)
        job = self._lives.get(name) or self._sink_context.job
        return self._sink_context._replace(
            node=name, job=job, generation=self.generation, reject=reject, counted=counted,
            gauge=partial(self.observer.gauge, name),
        )  # fmt: skip

    def _counter_of(self, name: str) -> Callable[[str, int], None]:
        counts = self._chain.counts()[name]

        def count(event: str, n: int = 1) -> None:
            counts[event] += n

        return count

    async def _open_source(self, name: str, template: Source, meta: Meta) -> None:
        watermark = SourceWatermark(template.max_delay, template.idle_after, template.live)
        watermark.mark = meta.get("source_mark", NO_MARK)
        self._intake = Intake(self, name, template.fresh(), watermark, self._enough, self._pace)
        partitions = self.plan.partitions if self.subgraph.home is None else 1
        partition = self.id.partition if self.subgraph.home is None else 0

        def trouble(text: str) -> None:
            self.source_waits_for = text

        gauge = partial(self.observer.gauge, name)
        context = SourceContext(
            name, partition, partitions, self.clock, self._counter_of(name), trouble, gauge, self._budget
        )
        await self._intake.open(context, self._position)

    async def _close(self) -> None:
        self._stores = {}
        async with AsyncExitStack() as stack:  # each, also where another one raises
            for name, sink in self._sinks.items():
                stack.push_async_callback(awaited, name, sink.close)
            if self._intake is not None:
                await self._intake.close()
            self.source_waits_for = ""

    async def _work(self) -> bool:
        while not self.stopping:
            if self._chain.ended:
                await self.finish(self._meta_now())
                return True
            if self.outputs.waiting:  # a flush larger than a commit: nothing is read before it is out
                with self.flow.step():
                    await self.commit(self._meta_now(), {})
                continue
            if self._intake is not None and self.resting:
                await self._intake.rest()
            elif self._intake is not None:
                await self._step_source(self._intake)
            else:
                await self._step_streams()
        await self._leave()
        return False

    async def _leave(self) -> None:
        """Seal the sinks, so that what they hold is visible while nobody owns the task."""
        if self._sinks:
            await self._commit_step(self._chain.take(), seal=True)

    async def _step_streams(self) -> None:
        marks, due = self.outputs.marks_due(self.clock.monotonic()), self._due()
        found = {} if due == 0.0 else await self.read(timeout=1.0 if due is None else due)
        with self.flow.step():
            await self._work_off(found, marks is not None)

    async def _work_off(self, found: dict[Stream, list[Entry]], marks_are_due: bool) -> None:
        letters: list[DeadLetter] = []
        await self._set_now()
        incoming = self._decoded(found, letters)
        if self._waits:
            incoming = iter(await self._prepared(list(incoming)))
        if self.suspicion.marking:
            for edge, unit, origin, frame in incoming:
                await self._feed_marked(edge.dst, input_key(edge, origin), unit, frame, letters)
        else:
            for group in together(incoming, self.limits.frame_items):
                frames = [(input_key(edge, origin), frame) for edge, _, origin, frame in group]
                self._chain.feed_together(group[0].edge.dst, frames)
        self._chain.tick(self.clock.time_ns())
        if found or marks_are_due or not self._chain.untouched or any(sink.due() for sink in self._sinks.values()):
            await self._commit_step(self._chain.take(), consumed_of(found), letters)

    def _due(self) -> float | None:
        """Seconds until a mark must be sent or an operator woken; ``None`` when neither is wanted."""
        due = self.outputs.marks_due(self.clock.monotonic())
        wake = self._chain.wake_at()
        if wake is None:
            return due
        until = max(0.0, (wake - self.clock.time_ns()) / 1e9)
        return until if due is None else min(due, until)

    async def _set_now(self) -> None:
        if self.gate.pressed:  # only a task that absorbs comes here so; without a commit nobody else looks
            await self.gate.look({})
        pressed = self.gate.pressed
        self._chain.set_now(self.clock.time_ns(), pressed)
        self.outputs.hold_marks = pressed

    def _decoded(self, found: dict[Stream, list[Entry]], letters: list[DeadLetter]) -> Iterator[Incoming]:
        """What the entries hold, one after another; those that hold nothing good become ``letters``."""
        for stream, entries in found.items():
            edge = self.inputs[stream]
            for entry in entries:
                try:
                    origin, frame = decode(entry.blob, 2 * self.limits.frame_bytes)
                    if origin not in self._origins[stream]:
                        raise CodecError(f"origin {origin!r} does not write to this stream")
                except CodecError as error:
                    where = entry_name(stream, entry)
                    letters.append(DeadLetter(edge.dst, f"bad frame: {error}", entry.blob[:10_000], where))
                    self._chain.counts()[edge.dst]["dead_letter"] += 1
                    continue
                self.flow.used[stream[0]] += len(frame.items)
                yield Incoming(edge, entry_name(stream, entry), origin, frame)

    async def _prepared(self, frames: list[Incoming]) -> list[Incoming]:
        """``frames`` as the operators that wait for the outside have prepared them, all of a step side by side. When the task
        is to stop meanwhile, the step is given up: the next owner does it again."""

        async def prepare(incoming: Incoming) -> Incoming:
            waiting = self._chain.waiting(incoming.edge.dst)
            if waiting is None or not len(incoming.frame.items):
                return incoming
            return incoming._replace(frame=await waiting.prepare(incoming.frame._replace(port=incoming.edge.input)))

        with self.flow.outside():
            prepared = await self.interruptible(all_of(map(prepare, frames)))
        if prepared is None:
            self.check_reload()
            raise GivenUp
        return prepared

    async def _feed_marked(self, node: str, key: str, unit: str, frame: Frame, letters: list[DeadLetter]) -> None:
        """Feed a frame at which processes died, in ranges that the next owner can tell apart."""
        async with self.store.marking:
            await self._feed_ranges(node, key, unit, frame, letters)

    async def _feed_ranges(self, node: str, key: str, unit: str, frame: Frame, letters: list[DeadLetter]) -> None:
        for part in self.suspicion.ranges(unit, len(frame.items)):
            items = slice_items(frame.items, part.start, part.stop)
            if part.poison:
                letters += [DeadLetter(node, POISON, item, f"{unit} item {part.start}") for item in to_rows(items)]
                self._chain.counts()[node].update(("in", "dead_letter"))
                log.error("task %s: %s, %s item %d; it goes to the dead letters", self.id, POISON, unit, part.start)
                continue
            await self.mark(place_of(unit, part))
            self._chain.feed(node, key, Frame(items, NO_MARK, frame.born))
        await self.mark(f"{unit} end")
        self._chain.feed(node, key, Frame([], frame.mark, frame.born))
        await self.mark("")

    async def _step_source(self, intake: Intake) -> None:
        await self.ask_about_deaths()
        gathered = await intake.gather(self._due())
        with self.flow.step():
            await self._bring_in(intake, *gathered)

    async def _bring_in(self, intake: Intake, batches: list[Batch], born: int, ended: bool) -> None:
        name, watermark = intake.node, intake.watermark
        letters: list[DeadLetter] = []
        for batch in batches:
            for letter in batch.rejected:
                self._chain.reject(name, letter)
        await self._set_now()
        for batch in batches:  # before the mark that the items bring, which is for all outputs
            for port, items in batch.outputs.items():
                self._chain.feed_output(name, port, items, born)
        for items in join_items(batch.items for batch in batches):
            frame = Frame(items, watermark.observe(items), born)
            if self.suspicion.marking:
                await self._feed_marked(name, SOURCE_INPUT, "batch", frame, letters)
            else:
                self._chain.feed(name, SOURCE_INPUT, frame)
        if batches:
            self._position = batches[-1].position
            watermark.heard(self.clock.monotonic())
        now = self.clock.time_ns()
        mark = watermark.end() if ended else watermark.silence(self.clock.monotonic(), now)
        if mark is not None:
            self._chain.feed(name, SOURCE_INPUT, Frame([], mark))
        self._chain.tick(now)
        if batches or ended or self._due() == 0.0 or not self._chain.untouched:
            await self._commit_step(self._chain.take(), dead_letters=letters)

    async def _commit_step(
        self,
        output: StepOutput,
        consumed: list[Consumed] | None = None,
        dead_letters: list[DeadLetter] | None = None,
        seal: bool = False,
    ) -> None:
        letters = (dead_letters or []) + output.dead_letters
        fault_point("after-process")
        now = self.clock.monotonic()
        unsent = self.outputs.add(output.frames, output.marks, output.born, now, output.idle, output.ended)
        for letter in unsent:
            self._chain.counts()[letter.node]["dead_letter"] += 1
        spent = await self._write_sinks(output, seal or self._chain.ended)
        state = self._chain.snapshot()
        refused = self._chain.take_letters()
        await self.commit(self._meta_now(), state, consumed or [], letters + unsent + refused)
        done = self.clock.time_ns()
        for name, seconds in spent.items():
            fault_point("before-publish")
            self.check_lease()
            began = self.clock.monotonic()
            with self._outside_of(name):
                await awaited(name, self._sinks[name].committed)
            self.observer.stored(name, seconds + self.clock.monotonic() - began)
            fault_point("after-publish")
            for frame in output.sinks.get(name, []):
                if frame.born:
                    self._latency.record(done - frame.born, len(frame.items))
                    self.observer.latency(done - frame.born)
        self.observer.counted(self._chain.counts(), self._chain.watermark())

    async def _write_sinks(self, output: StepOutput, seal: bool) -> dict[str, float]:
        """The sinks that have something in this commit, and the seconds it has taken them so far."""
        spent: dict[str, float] = {}
        for name, sink in self._sinks.items():
            frames, began = output.sinks.get(name, []), self.clock.monotonic()
            if frames:
                fault_point("before-sink-write")
                self.check_lease()
                with self._outside_of(name):
                    await awaited(name, sink.write, frames)
                fault_point("after-sink-write")
            if frames or seal or sink.due():
                fault_point("before-sink-prepare")
                self.check_lease()
                with self._outside_of(name):
                    self._sink_states[name] = await awaited(name, sink.prepare, seal)
                self._unsealed.add(name)
                if seal or self._sink_states[name] is None:
                    self._unsealed.discard(name)
                fault_point("after-sink-prepare")
                spent[name] = self.clock.monotonic() - began
        return spent

    @contextmanager
    def _outside_of(self, sink: str) -> Iterator[None]:
        """``sink`` is called: whose error it is, if one comes out, is known; what it refused counts when it is back."""
        self.calling = sink
        with self.flow.outside():
            yield
        self.calling = ""
        self._refusals.check()

    def _meta_now(self) -> Meta:
        meta: Meta = {
            "marks": self._chain.marks(),
            "counts": counts_of(self._chain.counts()),
            "watermark": self._chain.watermark(),
        }
        if self._sinks:
            meta["sinks"] = self._sink_states
            meta["latency"] = self._latency.packed()
            meta["generation"] = self.generation
            if self._lives:
                meta["lives"] = self._lives
            if self._unsealed:
                meta["unsealed"] = sorted(self._unsealed)
        if self._intake is not None:
            meta["position"] = self._position
            meta["source_mark"] = self._intake.watermark.mark
        if self.outputs.streams:
            meta["out_marks"] = self.outputs.marks()
            meta["out_idle"] = self.outputs.idle()
        return meta
