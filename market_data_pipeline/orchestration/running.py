"""A run under way, wherever it runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from market_data_pipeline.durations import Duration, wall_duration
from market_data_pipeline.errors import ConfigError, MdpError
from market_data_pipeline.orchestration.run_status import RunState, RunStatus

log = logging.getLogger(__name__)

STOP_TIMEOUT = "30s"
"""How long a run that is asked to stop may take, unless its caller says otherwise."""


class Place(Protocol):
    """Something runs here, once."""

    @property
    def where(self) -> str:
        """For people."""

    async def run(self) -> bool:
        """Until the end; whether it was stopped before that. Raises what failed."""

    def stop(self, at_once: bool = False) -> None:
        """Ask it to end. ``at_once``: it is about to be cancelled."""

    def status(self, name: str, state: RunState, error: str) -> RunStatus:
        """How far it is."""


class Running:
    """A run under way, as :meth:`PipelineRuntime.start` gives it: wait for it, stop it, look at it. It goes on whether or not
    anybody waits. What is awaited here belongs to the event loop that started it, and raises ``ConfigError`` in another one;
    :meth:`cut`, :meth:`interrupt` and :meth:`status` can be called from anywhere, a signal's handler and other threads too."""

    def __init__(self, name: str, place: Place, over: Callable[[Running], None]) -> None:
        self.name = name
        self._place, self._over = place, over
        self._asked = False
        self._cut = ""
        self._waited = False
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(place.run(), name=f"run {name}")
        self._task.add_done_callback(self._ended)

    @property
    def done(self) -> bool:
        """Whether it is over."""
        return self._task.done()

    def status(self) -> RunStatus:
        """How it is doing."""
        state, error = self._outcome()
        return self._place.status(self.name, state, error)

    async def wait(self) -> RunStatus:
        """Until it is over; its last status, also where it was stopped. Raises what failed: the error of the node as it was
        raised (in this process), :class:`JobFailed` (over processes), ``ConfigError`` and ``StoreUnavailable`` for what could
        not start. Being cancelled while waiting does not end the run."""
        self._check_loop()
        self._waited = True
        await self._over_within(None)
        error = None if self._task.cancelled() else self._task.exception()
        if error is not None:
            raise error
        return self.status()

    async def stop(self, timeout: Duration = STOP_TIMEOUT) -> RunStatus:
        """Politely: in this process the sources end and what they have read is worked off; over processes the commits under way
        end, and the job can go on later where its server keeps it. What has not ended after ``timeout`` is cancelled, and
        the status says so. Returns the last status, and raises nothing of what failed."""
        seconds = wall_duration(timeout, "timeout") / 1e9
        self._check_loop()
        self._asked = True
        self._place.stop()
        if not await self._over_within(seconds):
            self._cut = f"cut short: it had not ended {timeout} after it was asked to stop"
            await self.cancel()
        return self.status()

    async def cancel(self) -> RunStatus:
        """At once: nodes are cancelled, worker processes killed. Returns the last status."""
        self._check_loop()
        self._cancel()
        await self._over_within(None)
        return self.status()

    def cut(self) -> None:
        """As :meth:`cancel`, without waiting for it."""
        self._from_anywhere(self._cancel)

    def interrupt(self) -> None:
        """Without waiting: as :meth:`stop`, and once it was asked to stop, as :meth:`cancel`; again, for a node that went on
        all the same."""
        self._from_anywhere(self._interrupt)

    async def _over_within(self, seconds: float | None) -> bool:
        if not self._task.done():  # one that is over may be another loop's
            await asyncio.wait({self._task}, timeout=seconds)
        return self._task.done()

    def _from_anywhere(self, ask: Callable[[], None]) -> None:
        """The loop may be asleep, or another thread's."""
        if not self._task.done() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(ask)

    def _check_loop(self) -> None:
        """Raises ``ConfigError`` in another event loop: nobody would wake it."""
        if not self._task.done() and asyncio.get_running_loop() is not self._loop:
            raise ConfigError(
                f"run {self.name!r} belongs to the event loop that started it, and this is another one: use"
                " asyncio.run_coroutine_threadsafe(runtime.stop(), that_loop), and likewise for what else is awaited"
            )

    def _interrupt(self) -> None:
        if self._asked:
            self._cancel(insisting=True)
        self._asked = True
        self._place.stop()

    def _cancel(self, insisting: bool = False) -> None:
        """Once, unless ``insisting``: another time would reach those that clean up."""
        if not self._task.done():
            self._cut = self._cut or "cut short: it was cancelled"
            self._place.stop(at_once=True)
            if insisting or not self._task.cancelling():
                self._task.cancel()

    def _outcome(self) -> tuple[RunState, str]:
        if not self._task.done():
            return "running", ""
        if self._task.cancelled():
            return "stopped", self._cut or "cut short: it was cancelled"
        error = self._task.exception()
        if error is not None:
            return "failed", str(error) if isinstance(error, MdpError) else f"{type(error).__name__}: {error}"
        return ("stopped" if self._task.result() else "finished"), ""

    def _ended(self, task: asyncio.Task[bool]) -> None:
        self._over(self)
        state, error = self._outcome()
        if state == "failed" and not self._waited:
            log.warning("run %r failed before anybody waited for it: %s", self.name, error)
