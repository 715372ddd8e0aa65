"""DagRuntime: a whole Dag in this process, without a server.

The Dag is compiled for one partition. Operators joined by edges are fused and call each other directly; coroutine nodes
(and edges with ``boundary=True``) are joined by in-memory channels. Everything runs concurrently until it ends; a node
that fails cancels the rest and its error comes out as it was raised. A source or sink with ``Retries`` is begun anew first
(``local_ends.py``).
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from market_data_pipeline.budget import in_process
from market_data_pipeline.channels.base import Watermark
from market_data_pipeline.channels.memory import Channel
from market_data_pipeline.clock import SYSTEM_CLOCK, Clock
from market_data_pipeline.dag.graph import Dag
from market_data_pipeline.dag.options import ChannelOptions
from market_data_pipeline.dag.pipeline import Pipeline
from market_data_pipeline.dag.plan import PlanEdge, Subgraph
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import ChannelClosed, ConfigError
from market_data_pipeline.frame import END, IDLE, NO_MARK, Frame, Items, to_rows
from market_data_pipeline.given import check_numbers
from market_data_pipeline.operators.async_map import all_of
from market_data_pipeline.operators.base import AsyncOperator, DeadLetter
from market_data_pipeline.runtime.cancellation import cancel_once, told_apart
from market_data_pipeline.runtime.chain import SOURCE_INPUT, Chain, StepOutput, input_key
from market_data_pipeline.runtime.local_ends import LocalSink, LocalSource
from market_data_pipeline.runtime.progress import SourceWatermark
from market_data_pipeline.runtime.refusals import Refusals
from market_data_pipeline.runtime.store_hold import StoreHold
from market_data_pipeline.sinks.base import Sink, SinkContext
from market_data_pipeline.sources.base import Batch, Source, SourceContext

_MANY = 1024
_LONGEST_WAIT = 1.0
_HELD_SECONDS = 0.05
_LETTERS_KEPT = 10_000
"""Dead letters of a run that are kept, the first ones; further ones are only counted: a run may last for months."""


@dataclass(frozen=True)
class RunConfig:
    """How a Dag runs in one process. Capacities and levels are those of the channels between coroutine nodes, in items; an edge
    with ``ChannelOptions`` has its own.

    ``max_concurrency`` bounds how many nodes run at once; a Dag with more is refused, because nodes wait for each other.
    """

    channel_capacity: int = 2048
    high_watermark_pct: float = 0.75
    low_watermark_pct: float = 0.25
    max_concurrency: int = 64

    def __post_init__(self) -> None:
        check_numbers(self, "channel_capacity", "max_concurrency")
        check_numbers(self, "high_watermark_pct", "low_watermark_pct", whole=False)
        if self.channel_capacity < 1:
            raise ConfigError(f"channel_capacity: {self.channel_capacity} must be at least 1")
        if self.max_concurrency < 1:
            raise ConfigError(f"max_concurrency: {self.max_concurrency} must be at least 1")
        self.levels()

    def levels(self) -> Watermark:
        """The levels in items. Raises ``ConfigError``."""
        return Watermark.of(self.channel_capacity, self.high_watermark_pct, self.low_watermark_pct)


class RunResult(NamedTuple):
    """How many nodes were started, ran to their end, were cancelled, failed."""

    started: int = 0
    completed: int = 0
    cancelled: int = 0
    failed: int = 0


class DagRuntime:
    """Runs ``dag`` (or a pipeline) once. ``result`` holds the counts also after a failure; ``counts`` the counters of sources,
    operators and sinks by node, as they grow; ``dead_letters`` the first 10,000 items that could not be used (``counts`` has
    all of them, as ``dead_letter``); ``cut`` whether :meth:`stop` ended a node before its own end."""

    def __init__(self, dag: Dag | Pipeline, config: RunConfig | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        self.dag = dag = dag.build() if isinstance(dag, Pipeline) else dag
        self.config = config or RunConfig()
        self.clock = clock
        self.budgets = in_process(clock)
        self.plan = compile_dag(dag, 1, fuse=True)
        self.result = RunResult()
        self.counts: dict[str, Counter[str]] = {}
        self.dead_letters: list[DeadLetter] = []
        self._channels = {edge.name: self._channel(edge) for edge in self.plan.channels}
        self.cut, self._stop = False, asyncio.Event()
        self._errors: list[BaseException] = []
        self.stores = StoreHold(self.plan, dag, clock)
        self.run_id = secrets.token_hex(4)
        if len(self.plan.nodes) > self.config.max_concurrency:
            raise ConfigError(
                f"dag {dag.name!r} has {len(self.plan.nodes)} nodes, max_concurrency is {self.config.max_concurrency};"
                " nodes wait for each other, so all must run at once: raise it"
            )

    def _channel(self, edge: PlanEdge) -> Channel[Any]:
        own, config = edge.channel or ChannelOptions(), self.config
        capacity = own.capacity or config.channel_capacity
        levels = own.levels or Watermark.of(capacity, config.high_watermark_pct, config.low_watermark_pct)
        try:
            return Channel(capacity, levels)
        except ConfigError as error:
            raise ConfigError(f"edge {edge.src} -> {edge.dst}: {error}") from None

    async def start(self) -> RunResult:
        """Run all nodes until they end. Returns the counts; raises the first error a node raised."""
        self.asked = asyncio.create_task(self._stop.wait())
        jobs = {
            asyncio.create_task(self._run(subgraph), name=subgraph.name): subgraph for subgraph in self.plan.subgraphs
        }
        self.result = RunResult(started=len(self.plan.nodes))
        try:
            await asyncio.wait(jobs, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for job in (*jobs, self.asked):
                cancel_once(job)
            try:
                await asyncio.gather(*jobs, self.asked, return_exceptions=True)
            finally:  # cancelled meanwhile: all have ended, too
                self._close_channels()
                self.result = self._tally(jobs)
                await self.stores.close()
        if self._errors:
            raise self._errors[0]
        return self.result

    def stop(self) -> None:
        """Ask the sources to end; what they have read is processed to the end. A coroutine node without inputs, which nobody
        else would end, is cancelled at once, as a source would be, and its outputs are closed; those with inputs end when these
        do. One that goes on all the same is not ended by this: cancel :meth:`start`."""
        self._stop.set()

    def _tally(self, jobs: dict[asyncio.Task[None], Subgraph]) -> RunResult:
        tally: Counter[str] = Counter()
        for job, subgraph in jobs.items():
            error = None if job.cancelled() else job.exception()
            outcome = "cancelled" if job.cancelled() else "failed" if error else "completed"
            if isinstance(error, ChannelClosed) and error is not self._errors[0]:
                outcome = "cancelled"  # its neighbour failed first and closed the channel
            if outcome == "failed":  # the node that raised failed; those fused with it were cancelled
                tally["failed"] += 1
                tally["cancelled"] += len(subgraph.nodes) - 1
            else:
                tally[outcome] += len(subgraph.nodes)
        return RunResult(len(self.plan.nodes), tally["completed"], tally["cancelled"], tally["failed"])

    def _close_channels(self) -> None:
        for channel in self._channels.values():
            channel.close()

    async def _run(self, subgraph: Subgraph) -> None:
        node = self.dag.nodes[subgraph.nodes[0]]
        try:
            with told_apart(f"node {', '.join(subgraph.nodes)}"):
                if node.kind == "coroutine":
                    await self._run_coroutine(subgraph, node.fn)  # type: ignore[arg-type]
                else:
                    await _LocalTask(self, subgraph).run()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # SystemExit, too, where the loop survives it: this is no run that has finished
            self._errors.append(error)  # in order of time: the first is the cause
            raise

    async def _run_coroutine(self, subgraph: Subgraph, fn: Callable[..., Awaitable[None]]) -> None:
        name = subgraph.nodes[0]
        in_ch = {edge.src: self._channels[edge.name] for edge in self.plan.edges if edge.dst == name}
        out_ch = {edge.dst: self._channels[edge.name] for edge in self.plan.edges if edge.src == name}
        try:
            await (fn(in_ch, out_ch) if in_ch else self._until_stopped(fn(in_ch, out_ch)))
            for channel in out_ch.values():
                channel.close()
            for channel in in_ch.values():  # what it did not want must not block its producers
                async for _ in channel:
                    pass
        finally:
            for channel in (*out_ch.values(), *in_ch.values()):
                channel.close()

    async def _until_stopped(self, work: Awaitable[None]) -> None:
        """A coroutine node without inputs: ended by :meth:`stop`."""
        job = asyncio.ensure_future(work)
        try:
            await asyncio.wait({job, self.asked}, return_when=asyncio.FIRST_COMPLETED)
            self.cut |= not job.done()
        finally:
            cancel_once(job)
            await asyncio.gather(job, return_exceptions=True)
        if not (job.cancelled() and self.stopping):
            job.result()

    def channel(self, edge: PlanEdge) -> Channel[Any]:
        """The in-memory channel of ``edge``."""
        return self._channels[edge.name]

    @property
    def stopping(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stop.is_set()


class _LocalTask:
    """One fused subgraph: reads its source or channels, steps the chain, feeds channels and sinks."""

    def __init__(self, runtime: DagRuntime, subgraph: Subgraph) -> None:
        self.runtime = runtime
        self.plan = runtime.plan
        self.subgraph = subgraph
        self.chain = Chain(self.plan, subgraph, runtime.dag, 0)
        self.outputs = {edge.name: edge for edge in self.plan.outputs(subgraph)}
        self.lock = asyncio.Lock()
        self.refusals = Refusals(self.chain)
        self.sinks: dict[str, LocalSink] = {}
        self._generation = 0

    def _sink_context(self, name: str) -> SinkContext:
        self._generation = max(self._generation + 1, self.runtime.clock.time_ns() // 1000)
        reject, counted = self.refusals.of(name), self._counter_of(name)
        return SinkContext(name, self.runtime.run_id, generation=self._generation, reject=reject, counted=counted)

    def _sink(self, name: str, template: Sink) -> LocalSink:
        node, clock = self.runtime.dag.nodes[name], self.runtime.clock
        return LocalSink(node, template, self.chain, self.refusals, clock, partial(self._sink_context, name))

    async def run(self) -> None:
        nodes = self.runtime.dag.nodes
        try:
            for name in self.subgraph.nodes:
                fn = nodes[name].fn
                if isinstance(fn, Sink):
                    self.sinks[name] = self._sink(name, fn)
                    await self.sinks[name].open()
            self.runtime.stores.opened(self.sinks)
            source = nodes[self.subgraph.nodes[0]].fn
            if isinstance(source, Source):
                await self._pump_source(self.subgraph.nodes[0], source)
            else:
                async with asyncio.TaskGroup() as group:
                    for edge in self.plan.inputs(self.subgraph):
                        group.create_task(self._pumped(edge))
        except BaseExceptionGroup as group_error:
            raise group_error.exceptions[0] from None
        finally:
            for edge in (*self.outputs.values(), *self.plan.inputs(self.subgraph)):
                self.runtime.channel(edge).close()
            self.runtime.stores.closed(self.sinks)
            async with AsyncExitStack() as stack:  # each, also where another one raises
                for sink in reversed(self.sinks.values()):
                    stack.push_async_callback(sink.close)

    async def _pump_source(self, name: str, template: Source) -> None:
        watermark = SourceWatermark(template.max_delay, template.idle_after, template.live)
        clock = self.runtime.clock
        counted, budget = self._counter_of(name), self.runtime.budgets.of
        context = SourceContext(name, clock=clock, counted=counted, budget=budget)
        source = LocalSource(self.runtime.dag.nodes[name], template, context)
        reading: asyncio.Task[Batch | None] | None = None
        try:
            watermark.heard(clock.monotonic())
            while not self.runtime.stopping:
                reading = reading or asyncio.create_task(self._read(name, source, watermark))
                if not reading.done():
                    patience = self._patience(watermark.patience(clock.monotonic()))
                    waited = {reading, self.runtime.asked}
                    await asyncio.wait(waited, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    if not source.opened:
                        watermark.heard(clock.monotonic())
                    mark = watermark.silence(clock.monotonic(), clock.time_ns())
                    await self._step(name, SOURCE_INPUT, Frame([], NO_MARK if mark is None else mark))
                    continue
                batch, reading = reading.result(), None
                if batch is None:
                    break
                watermark.heard(clock.monotonic())
                frame = Frame(batch.items, watermark.observe(batch.items), clock.time_ns())
                for letter in batch.rejected:
                    self.chain.reject(name, letter)
                await self._step(name, SOURCE_INPUT, frame, batch.outputs)
                await asyncio.sleep(0)
            else:
                self.runtime.cut = True
            await self._step(name, SOURCE_INPUT, Frame([], watermark.end()))
        finally:
            if reading is not None:
                cancel_once(reading)
                await asyncio.gather(reading, return_exceptions=True)
            await source.close()

    async def _read(self, name: str, source: LocalSource, watermark: SourceWatermark) -> Batch | None:
        """The next batch, as soon as no store behind the source is too full; its silence is ours until then."""
        clock = self.runtime.clock
        while self.runtime.stores.holds(name) and not self.runtime.stopping:
            watermark.heard(clock.monotonic())
            await clock.sleep(_HELD_SECONDS)
        return await source.read()

    def _patience(self, most: float) -> float:
        """Seconds to wait, so that an operator is woken in time."""
        wake = self.chain.wake_at()
        return most if wake is None else min(most, max(0.0, (wake - self.runtime.clock.time_ns()) / 1e9))

    async def _pumped(self, edge: PlanEdge) -> None:
        with told_apart(f"node {', '.join(self.subgraph.nodes)}"):  # a group of tasks overlooks what is cancelled
            await self._pump(edge)

    async def _pump(self, edge: PlanEdge) -> None:
        channel = self.runtime.channel(edge)
        key = input_key(edge, self.plan.origins(edge, 0)[0])
        watermark = SourceWatermark(0)
        while True:
            try:
                async with asyncio.timeout(self._patience(_LONGEST_WAIT)):
                    taken = await channel.get_many(_MANY)
            except TimeoutError:
                await self._step(edge.dst, key, Frame([]))
                continue
            except ChannelClosed:
                await self._step(edge.dst, key, Frame([], END))
                return
            frames = _as_frames(taken, watermark, self.runtime.clock)
            waiting = self.chain.waiting(edge.dst)
            if waiting is not None:
                frames = await all_of(_prepared(waiting, frame._replace(port=edge.input)) for frame in frames)
            for frame in frames:
                await self._step(edge.dst, key, frame)

    def _counter_of(self, name: str) -> Callable[[str, int], None]:
        counts = self.chain.counts()[name]

        def count(event: str, n: int = 1) -> None:
            counts[event] += n

        return count

    async def _step(self, node: str, key: str, frame: Frame, further: Mapping[str, Items] | None = None) -> None:
        """Feed ``frame``, and what a source has for its ``further`` outputs."""
        async with self.lock:
            now = self.runtime.clock.time_ns()
            self.chain.set_now(now)
            for port, items in (further or {}).items():  # before the mark, which is for all outputs
                self.chain.feed_output(node, port, items, frame.born)
            self.chain.feed(node, key, frame)
            self.chain.tick(now)
            output = self.chain.take()
            self.runtime.counts.update(self.chain.counts())
            self._keep(output.dead_letters)
            await self._write_sinks(output)
            for name, edge in self.outputs.items():
                await self._send(edge, output.frames.get(name, []), output.marks.get(name, NO_MARK))
                if output.idle.get(name):
                    await self._send(edge, [], IDLE)

    def _keep(self, letters: list[DeadLetter]) -> None:
        kept = self.runtime.dead_letters
        kept += letters[: _LETTERS_KEPT - len(kept)]

    async def _write_sinks(self, output: StepOutput) -> None:
        ended = self.chain.ended
        for name, sink in self.sinks.items():
            frames = output.sinks.get(name, [])
            if frames or ended:
                await sink.store(frames, ended)
        self._keep(self.chain.take_letters())

    async def _send(self, edge: PlanEdge, batches: list[Items], mark: int) -> None:
        channel = self.runtime.channel(edge)
        if self.runtime.dag.nodes[edge.dst].kind == "coroutine":
            for items in batches:
                for item in to_rows(items):
                    await channel.put(item)
        elif batches or mark not in (NO_MARK, END):
            for items in batches or [[]]:
                await channel.put(Frame(items, mark if items is (batches or [items])[-1] else NO_MARK))


def _as_frames(taken: list[Any], watermark: SourceWatermark, clock: Clock) -> list[Frame]:
    """Frames from an operator as they are; items that a coroutine node put become one frame with an event-time mark."""
    if isinstance(taken[0], Frame):
        return taken
    return [Frame(taken, watermark.observe(taken), clock.time_ns())]


async def _prepared(waiting: AsyncOperator, frame: Frame) -> Frame:
    return await waiting.prepare(frame) if len(frame.items) else frame
