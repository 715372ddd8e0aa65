"""The ends of a Dag in one process: its sources and sinks, begun anew where their nodes' ``Retries`` say so.

Over processes a sink that fails is tried for ever where nothing else is said, because the job's state is safe on the server and
a store that comes back is the usual case. Here nothing is safe: whoever started the run waits for it, and is told the first
error, unless the node has ``Retries``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from market_data_pipeline.clock import Clock
from market_data_pipeline.component import awaited
from market_data_pipeline.dag.graph import Node
from market_data_pipeline.errors import MdpError, SinkError, SourceError, StoreUnavailable
from market_data_pipeline.frame import Frame
from market_data_pipeline.runtime.chain import Chain
from market_data_pipeline.runtime.refusals import Refusals
from market_data_pipeline.sinks.base import Sink, SinkContext
from market_data_pipeline.sources.base import Batch, Source, SourceContext, checked_batch

log = logging.getLogger(__name__)


async def _pause(node: Node, error: MdpError, failures: int, clock: Clock) -> None:
    """Wait before the next try behind so many failures in a row. Raises ``error`` where there is none, and says in it how many
    there were."""
    delay = None if node.retries is None else node.retries.delay(failures)
    if delay is None:
        if node.retries is not None:  # in the one that was raised: whoever waits may know its class
            error.args = (f"{error}; node {node.name!r} was tried {failures} times in a row",)
        raise error
    log.warning("node %s: %s; trying again in %g s", node.name, error, delay)
    await clock.sleep(delay)


class LocalSource:
    """The source of ``node``. Each :meth:`read` goes on at the position behind the last batch, in a new instance where the one
    before raised ``SourceError``."""

    def __init__(self, node: Node, template: Source, ctx: SourceContext) -> None:
        self._node, self._template, self._ctx = node, template, ctx
        self._source = template.fresh()
        self._position: Any | None = None
        self._begun = self._open = False
        self.opened = False
        """Whether it has ever been open; before, its silence says nothing."""

    async def read(self) -> Batch | None:
        """The next batch, ``None`` at the end; the source is opened where it is not. Raises the last error when it was tried
        often enough."""
        failures = 0
        while True:
            try:
                if not self._open:
                    self._begun = True
                    await awaited(self._node.name, self._source.open, self._ctx, self._position)
                    self._open = self.opened = True
                made = await awaited(self._node.name, self._source.read)
                batch = checked_batch(self._node.name, self._source, made)
            except SourceError as error:
                failures += 1
                await _pause(self._node, error, failures, self._ctx.clock)
                await self._renew()
                continue
            if batch is not None:
                self._position = batch.position
            return batch

    async def _renew(self) -> None:
        with suppress(SourceError):
            await awaited(self._node.name, self._source.close)
        self._source, self._begun, self._open = self._template.fresh(), False, False

    async def close(self) -> None:
        """Close what was opened, or was about to be."""
        if self._begun:
            await awaited(self._node.name, self._source.close)


class LocalSink:
    """The sink of ``node``. There is no commit behind it: what it has prepared counts as committed. ``context`` is made anew
    for each instance, as its generation must grow."""

    def __init__(
        self,
        node: Node,
        template: Sink,
        chain: Chain,
        refusals: Refusals,
        clock: Clock,
        context: Callable[[], SinkContext],
    ) -> None:
        self._node, self._template, self._chain, self._refusals = node, template, chain, refusals
        self._clock, self._context = clock, context
        self.sink = template.fresh()
        """The instance at work."""
        self._state: Any | None = None
        self._open = False
        self._failures = 0
        """In a row, without a step that succeeded."""

    @property
    def reading(self) -> Callable[[], Any] | None:
        """That of the instance at work, where it has one."""
        return getattr(self.sink, "reading", None)

    async def open(self) -> None:
        """Raises the last error when it was tried often enough."""
        while not self._open:
            try:
                await self._opened()
            except (SinkError, StoreUnavailable) as error:
                await self._begin_anew(error)

    async def store(self, frames: list[Frame], ended: bool) -> None:
        """One step: write, prepare, publish. Where it fails, and is to be tried again, a new instance goes on behind the last
        step that was prepared. Raises ``OperatorFailed`` where an item was refused that must not be lost."""
        counts = dict(self._chain.counts()[self._node.name]) if self._node.retries is not None else {}
        prepared = done = False
        while not done:
            try:
                if not self._open:
                    await self._opened()
                    done = prepared  # what was prepared and not published, opening has published
                if not prepared:
                    if frames:
                        await awaited(self._node.name, self.sink.write, frames)
                        self._refusals.check()
                    self._state = await awaited(self._node.name, self.sink.prepare, ended)
                    prepared = True
                    self._refusals.check()
                if not done:
                    await awaited(self._node.name, self.sink.committed)
                    done = True
            except (SinkError, StoreUnavailable) as error:
                await self._begin_anew(error)
                if not prepared:
                    self._refusals.undo(self._node.name, counts)
        self._failures = 0

    async def _opened(self) -> None:
        await awaited(self._node.name, self.sink.open, self._context(), self._state)
        self._open = True

    async def _begin_anew(self, error: MdpError) -> None:
        self._failures += 1
        await _pause(self._node, error, self._failures, self._clock)
        with suppress(SinkError, StoreUnavailable):
            await awaited(self._node.name, self.sink.close)
        self.sink, self._open = self._template.fresh(), False

    async def close(self) -> None:
        await awaited(self._node.name, self.sink.close)
