"""PipelineRuntime: one runtime for pipelines, Dags and files, in this process or over worker processes.

>>> status = await PipelineRuntime().run_pipeline(pipeline)
>>> async with PipelineRuntime(Distributed(workers=4)) as runtime:
...     bars = runtime.start(pipeline)
...     ticks = runtime.start("ticks.yaml", values={"output": "out"})
...     await bars.wait()
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Self, overload

from market_data_pipeline.catalog.importable import Unguarded, check_runs_once
from market_data_pipeline.clock import SYSTEM_CLOCK, Clock
from market_data_pipeline.dag.graph import Dag
from market_data_pipeline.dag.pipeline import Pipeline
from market_data_pipeline.durations import Duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.given import check_given
from market_data_pipeline.orchestration.places import Distributed, InProcess
from market_data_pipeline.orchestration.program import Program, Runnable
from market_data_pipeline.orchestration.run_status import RunState, RunStatus
from market_data_pipeline.orchestration.running import STOP_TIMEOUT, Running

__all__ = ["Distributed", "InProcess", "PipelineRuntime", "RunState", "RunStatus", "Runnable", "Running"]

_IN_PROCESS = InProcess()
_ENDED_KEPT = 100
"""Runs that are over and of which the last status is kept."""


class PipelineRuntime:
    """Runs pipelines, Dags and programs, several at once, each under a name of its own (by default its Dag's). ``on`` is where:
    :class:`InProcess` (default) or :class:`Distributed`; nothing else differs. ``clock``: of runs in this process.

    In ``async with``, leaving the block, by an exception too, waits for no run to end by itself: it stops what still runs, as
    :meth:`stop` does. The runtime can be used again afterwards."""

    def __init__(self, on: InProcess | Distributed = _IN_PROCESS, clock: Clock = SYSTEM_CLOCK) -> None:
        check_given(on, InProcess | Distributed, "on", "InProcess() or Distributed()")
        self.on, self._clock = on, clock
        self._running: dict[str, Running] = {}
        self._ended: dict[str, RunStatus] = {}

    def create_dag(self, name: str = "dag") -> Dag:
        """An empty Dag, to be given nodes and edges."""
        return Dag(name)

    async def run_pipeline(
        self, pipeline: Pipeline | str | Program, name: str | None = None, *, values: Mapping[str, object] | None = None
    ) -> RunStatus:
        """Run ``pipeline`` (or the program of that name, with ``values`` for its parameters) until it ends or is stopped.
        Returns the last status. Raises what failed, see :meth:`Running.wait`. Cancelled, it cancels the run."""
        return await self._until_ended(pipeline, name, values)

    async def run_dag(
        self, dag: Dag | str | Program, name: str | None = None, *, values: Mapping[str, object] | None = None
    ) -> RunStatus:
        """As :meth:`run_pipeline`, for a Dag."""
        return await self._until_ended(dag, name, values)

    def start(self, what: Runnable, name: str | None = None, *, values: Mapping[str, object] | None = None) -> Running:
        """Start it and return at once; needs a running event loop. ``what``: a Dag, a Pipeline, or the name of a program or
        file, whose parameters ``values`` fill. Raises ``ConfigError`` and ``DagValidationError`` for what can be seen before
        anything runs, and for a name under which something runs."""
        _check_loop(running=True, what="start()", instead="run(...)")
        program = Program.of(what, values)
        name = program.dag.name if name is None else name
        if name in self.running:
            raise ConfigError(
                f"name {name!r}: a run of this name is under way; wait for it or stop it, or give this one another name"
                " (name=...)"
            )
        running = Running(name, self.on.place(program, name, self._clock), self._over)
        self._running[name] = running
        self._ended.pop(name, None)
        return running

    @property
    def running(self) -> Mapping[str, Running]:
        """What runs, by name."""
        return {name: running for name, running in dict(self._running).items() if not running.done}

    async def stop(self, name: str | None = None, timeout: Duration = STOP_TIMEOUT) -> dict[str, RunStatus]:
        """Stop the run ``name``, or all that run, side by side; see :meth:`Running.stop`. Returns the last status of each, and
        raises nothing of what failed. Raises ``ConfigError`` for a name that was never started, and in an event loop that did
        not start them."""
        if name is not None and name not in self.running:
            return {name: self.status(name)}
        chosen = [running for running in self.running.values() if name in (None, running.name)]
        stopped = await asyncio.gather(*(running.stop(timeout) for running in chosen))
        return {status.name: status for status in stopped}

    @overload
    def status(self) -> dict[str, RunStatus]: ...

    @overload
    def status(self, name: str) -> RunStatus: ...

    def status(self, name: str | None = None) -> RunStatus | dict[str, RunStatus]:
        """The status of the run ``name``, or of all by name: those that run, and the last hundred that are over. Raises
        ``ConfigError`` for a name that is not among them."""
        known = dict(self._ended)  # copies: another thread may ask while runs begin and end
        known |= {name: running.status() for name, running in dict(self._running).items()}
        if name is None:
            return known
        if name not in known:
            raise ConfigError(f"no run {name!r}; there are: {', '.join(known) or 'none'}")
        return known[name]

    def run(self, what: Runnable, name: str | None = None, *, values: Mapping[str, object] | None = None) -> RunStatus:
        """For plain scripts, without an event loop: run it until it ends. Ctrl-C (or SIGTERM) stops it politely, a second one
        at once; the status then says ``stopped``. Raises what failed, and ``ConfigError`` where an event loop runs."""
        check_runs_once()
        _check_loop(running=False, what="run()", instead="await run_pipeline(...) or run_dag(...)")
        try:
            return asyncio.run(self._until_interrupted(what, name, values))
        except Unguarded as error:
            raise error.with_traceback(None) from None  # a mistake of the script's, not of anything in here

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.stop()
        finally:  # cancelled meanwhile
            for running in self.running.values():
                running.cut()

    async def _until_ended(self, what: Runnable, name: str | None, values: Mapping[str, object] | None) -> RunStatus:
        running = self.start(what, name, values=values)
        try:
            return await running.wait()
        except asyncio.CancelledError:
            await running.cancel()
            raise

    async def _until_interrupted(
        self, what: Runnable, name: str | None, values: Mapping[str, object] | None
    ) -> RunStatus:
        running = self.start(what, name, values=values)
        with _interrupts(running.interrupt):
            return await running.wait()

    def _over(self, running: Running) -> None:
        if self._running.get(running.name) is running:
            del self._running[running.name]
            self._ended[running.name] = running.status()
            while len(self._ended) > _ENDED_KEPT:
                del self._ended[next(iter(self._ended))]


def _check_loop(*, running: bool, what: str, instead: str) -> None:
    """Raises ``ConfigError`` unless an event loop runs here, or does not, as wanted."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        there = False
    else:
        there = True
    if there and not running:
        raise ConfigError(f"{what} makes an event loop of its own, and one is running here already: use {instead}")
    if running and not there:
        raise ConfigError(f"{what} needs a running event loop, and there is none: use {instead}")


@contextmanager
def _interrupts(interrupt: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM call ``interrupt`` meanwhile; only in the main thread, which alone may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, before = asyncio.get_running_loop(), {}
    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.getsignal(number)
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            if handler is not None:  # it was set by something that is not Python
                signal.signal(number, handler)
