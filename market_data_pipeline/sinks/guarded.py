"""A circuit breaker before a sink: a store that fails again and again is left alone for a while."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from market_data_pipeline.circuit import LEVELS, CircuitBreaker, CircuitRule, Ticket
from market_data_pipeline.clock import SYSTEM_CLOCK, Clock
from market_data_pipeline.durations import positive_duration
from market_data_pipeline.errors import ConfigError, SinkError
from market_data_pipeline.frame import Frame
from market_data_pipeline.given import check_given
from market_data_pipeline.sinks.base import Sink, SinkContext

CIRCUIT = "sink"
"""How the gauge ``circuit_state`` calls the circuit."""


class _Circuit:
    """What all tasks of a process share: the breaker, and why it opened."""

    def __init__(self, rule: CircuitRule) -> None:
        self.breaker = CircuitBreaker(rule)
        self.why = ""


class GuardedSink(Sink):
    """``sink`` behind a circuit breaker, which all tasks of this process share: after too many failures (``circuit``, default:
    at least half of 5 or more within a minute) the store is not asked for ``open_for`` (30 s), then by one task first.

    **Guarantee**, units, what is retried and what becomes of bad input: as ``sink`` says. While the circuit is open, ``open``
    and every step end at once with ``SinkError`` (``circuit open for 30 s: ...``, with the last error), which the worker
    answers as any other: nothing is lost, the task tries again. So a store that is coming back is not run down by all tasks
    at once, and no task spends its time in the store's timeouts.

    A step with a ``write`` that ends (``prepare``) is a success; one without says nothing, as the store may not have been
    asked. Any error of ``open``, ``write``, ``prepare`` or ``committed`` is a failure and comes out as it was raised; that
    ``open`` works says nothing of writing, so it is no success. What is cancelled says nothing. ``check``, ``destination``
    and ``others`` ask the store as ever. The state is the gauge ``circuit_state``. Raises ``ConfigError`` for what is no
    sink and no rule."""

    def __init__(
        self,
        sink: Sink,
        circuit: CircuitRule = CircuitRule(),  # noqa: B008 - frozen
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        check_given(sink, Sink, "sink", "sink")
        check_given(circuit, CircuitRule, "circuit", "CircuitRule(...)")
        if isinstance(sink, GuardedSink):
            raise ConfigError("sink: a GuardedSink needs no other one around it")
        self.sink, self.circuit = sink, circuit
        self._clock = clock
        self._circuit = _Circuit(circuit)
        self._ctx = SinkContext("")
        self._step: Ticket | None = None
        self._shown = -1.0
        self.__dict__["accepts"] = sink.accepts  # of the class elsewhere; here of what is inside
        self.one_process = sink.one_process
        self._pass_on_reading()

    def fresh(self) -> Self:
        """Has its own ``sink``, and the one circuit."""
        made = copy.copy(self)
        made.sink = self.sink.fresh()
        made._pass_on_reading()
        return made

    def _pass_on_reading(self) -> None:
        """A store that can be asked how full it is still can; no other one seems to."""
        reading = getattr(self.sink, "reading", None)
        if reading is not None:
            self.__dict__["reading"] = reading

    def destination(self) -> str:
        return self.sink.destination()

    def others(self) -> list[str]:
        return self.sink.others()

    def check(self) -> None:
        self.sink.check()

    def due(self) -> bool:
        self._show()
        return self.sink.due()

    async def open(self, ctx: SinkContext, state: Any | None) -> None:
        self._ctx, self._shown = ctx, -1.0
        ticket = self._admitted()
        with self._judged(ticket):
            await self.sink.open(ctx, state)
        self._circuit.breaker.given_up(ticket)

    async def write(self, frames: Sequence[Frame]) -> None:
        self._step = self._step or self._admitted()
        with self._judged(self._step):
            await self.sink.write(frames)

    async def prepare(self, ended: bool) -> Any | None:
        wrote, ticket = self._step is not None, self._step or self._admitted()
        with self._judged(ticket):
            prepared = await self.sink.prepare(ended)
        self._step = None
        if wrote:
            self._circuit.breaker.succeeded(ticket, self._clock.monotonic())
        else:
            self._circuit.breaker.given_up(ticket)
        self._show()
        return prepared

    async def committed(self) -> None:
        """The step has been allowed already. That this works, too, is no second success."""
        ticket = self._circuit.breaker.allow(self._clock.monotonic())
        with self._judged(ticket):
            await self.sink.committed()
        if ticket is not None:
            self._circuit.breaker.given_up(ticket)

    async def close(self) -> None:
        self._give_up(self._step)
        await self.sink.close()

    def _admitted(self) -> Ticket:
        now, breaker = self._clock.monotonic(), self._circuit.breaker
        ticket = breaker.allow(now)
        self._show()
        if ticket is None:
            state = "half-open, another step is being tried"
            if breaker.state(now) == "open":  # not how long it still is: one text, so that it is logged once
                state = f"open for {positive_duration(self.circuit.open_for, 'open_for') / 1e9:g} s"
            raise SinkError(f"{self.destination() or type(self.sink).__name__}: circuit {state}: {self._circuit.why}")
        return ticket

    @contextmanager
    def _judged(self, ticket: Ticket | None) -> Iterator[None]:
        """An error inside is a failure."""
        try:
            yield
        except Exception as error:
            self._step = None
            if ticket is not None:
                self._circuit.why = str(error) or type(error).__name__
                self._circuit.breaker.failed(ticket, self._clock.monotonic())
            self._show()
            raise
        except BaseException:
            self._give_up(ticket)
            raise

    def _give_up(self, ticket: Ticket | None) -> None:
        self._step = None
        if ticket is not None:
            self._circuit.breaker.given_up(ticket)

    def _show(self) -> None:
        level = LEVELS[self._circuit.breaker.state(self._clock.monotonic())]
        if level != self._shown:
            self._shown = level
            self._ctx.gauge("circuit_state", CIRCUIT, level)
