"""Sinks and write coordinators of other packages, by their methods: objects with ``write``, or with ``submit_many``."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Literal, Self, get_args
from weakref import WeakValueDictionary

from market_data_pipeline.clock import SYSTEM_CLOCK, Clock
from market_data_pipeline.durations import Duration, positive_duration
from market_data_pipeline.errors import ConfigError, MdpError, SinkError
from market_data_pipeline.extras import Given, awaited
from market_data_pipeline.feedback import StoreReading
from market_data_pipeline.frame import Frame, to_rows
from market_data_pipeline.sinks.base import Sink, SinkContext

Settle = Literal["restart", "queue"]

_LOOK_SECONDS = (0.001, 0.05)
"""Between two looks at a queue that empties: the first pause behind none, then twice as long each, and the longest."""


class _Outside(Sink):
    """What both have in common: the object, and what it takes."""

    accepts: ClassVar[Literal["rows"]] = "rows"
    _given: Given
    make: Callable[[Any], Any] | None
    _object: Any = None

    def destination(self) -> str:
        return self._given.factory or f"a {self._given.config()}"

    def fresh(self) -> Self:
        """Has the object that was given, or will have one of its own."""
        return copy.copy(self)

    def _taken(self, frames: Sequence[Frame], ctx: SinkContext) -> list[Any]:
        """The items, as the object wants them; one that cannot be made so is refused, and its neighbours are not."""
        taken: list[Any] = []
        for frame in frames:
            for item in to_rows(frame.items):
                try:
                    taken.append(item if self.make is None else self.make(item))
                except Exception as error:  # a user's function may raise anything
                    ctx.reject(item, str(error) if isinstance(error, MdpError) else f"{type(error).__name__}: {error}")
        return taken

    @asynccontextmanager
    async def _explained(self, doing: str) -> AsyncIterator[None]:
        """What others raise is the outside's, and can be tried again; what we raise says itself whose it is."""
        try:
            yield
        except MdpError:
            raise
        except Exception as error:
            raise SinkError(f"{self.destination()}: {doing}: {type(error).__name__}: {error}") from error


class OutsideSink(_Outside):
    """``sink``: any object with ``write(list)``, and perhaps ``flush()`` and ``close()``, coroutines or not (one that is not
    must not block); or ``factory``: ``"module:name"`` of a class or a function (``async`` too) without arguments that makes
    one for each task, which is the way for jobs over processes. Nothing has to be inherited.

    ``make``: makes of an item what ``write`` takes, for example ``lambda bar: as_dto(bar, TheirBar)``; default: our records as
    they are (times in ns UTC, prices and sizes in the venue's units).

    Guarantee: at least once. Before each commit ``flush()`` is awaited; when it returns (without a ``flush``: when ``write``
    returns), all must be durable. After a crash what was not committed is written again. Where the object replaces what has
    the same key (an upsert by symbol and time, say), that is exactly once by key. Whatever it raises is a ``SinkError``: the
    task waits and begins behind its last commit. An item for which ``make`` raises goes where the node's ``on_error`` says; an
    object that refuses a whole list for one item's sake stops its task. ``close()`` is called when a task is done with the
    object; one that was given is shared by all tasks of its process, and must bear being used behind that. Raises
    ``ConfigError`` where the object has no ``write``, or the package is missing."""

    def __init__(self, sink: Any = None, *, factory: str = "", make: Callable[[Any], Any] | None = None) -> None:
        self.sink, self.factory, self.make = sink, factory, make
        self._given = Given("OutsideSink", sink, factory, ("write",), ("flush", "close"))

    def config(self) -> dict[str, Any]:
        return {**super().config(), "sink": self._given.config()}

    async def open(self, ctx: SinkContext, state: Any | None) -> None:
        self._ctx = ctx
        async with self._explained("making it"):
            self._object = await self._given.made()

    async def write(self, frames: Sequence[Frame]) -> None:
        items = self._taken(frames, self._ctx)
        if items:
            async with self._explained("write"):
                await awaited(self._object.write(items))

    async def prepare(self, ended: bool) -> Any | None:
        if callable(getattr(self._object, "flush", None)):
            async with self._explained("flush"):
                await awaited(self._object.flush())
        return None

    async def close(self) -> None:
        found, self._object = self._object, None
        if found is not None and callable(getattr(found, "close", None)):
            async with self._explained("close"):
                await awaited(found.close())


class _Shared:
    """What all that use one coordinator share, whichever sinks they are: how many they are, and whose turn it is. While one of
    them empties it, nobody hands it more. It keeps the coordinator, so that its id stays its own."""

    def __init__(self, coordinator: Any) -> None:
        self.coordinator, self.users = coordinator, 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn = asyncio.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    @property
    def turn(self) -> asyncio.Lock:
        """In another event loop nobody uses it any more."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._turn, self.users = loop, asyncio.Lock(), 0
        return self._turn


_SHARED: WeakValueDictionary[int, _Shared] = WeakValueDictionary()


def _shared_by_users_of(coordinator: Any) -> _Shared:
    """Made with the first of them; nobody else shares what a factory makes."""
    if coordinator is None:
        return _Shared(None)
    shared = _SHARED.get(id(coordinator))
    if shared is None:
        shared = _SHARED[id(coordinator)] = _Shared(coordinator)
    return shared


class CoordinatedSink(_Outside):
    """``coordinator``: any object that queues what it is given and writes it by itself, with ``start()``,
    ``stop(drain=True)``, ``submit_many(list)`` and ``health()``, which says ``queue_size`` and ``capacity`` (attributes or
    keys; ``workers_alive``, where it says that); or ``factory``: ``"module:name"`` of a class or a function (``async`` too)
    without arguments that makes one for each task, which is the way for jobs over processes. Nothing has to be inherited. It
    is started with the first task that uses it and stopped with the last one, whichever sink that is of. ``make``: as for
    :class:`OutsideSink`.

    Guarantee: at least once, as far as the coordinator itself keeps what it takes. Nothing is committed that only its memory
    has: before each commit its queue is empty, within ``timeout`` (default 30 s), and what its workers hold beside that is
    written. ``settle``: how one knows. ``"restart"`` (default): it is stopped with ``stop(drain=True)``, which ends when its
    workers have written all, and started again. ``"queue"``: an empty queue is enough; only for one that counts an item
    in ``queue_size`` until it is written. After a crash what was not committed is handed over again; exactly once by key where
    the store replaces what has the same key. What the coordinator drops, or gives up after retries of its own, is lost, because
    it does not say so here: let its queue block or raise, and let it try for ever.

    Whatever it raises, a queue that is not empty in time, or no worker alive, is a ``SinkError``: the task waits and begins
    behind its last commit. An item for which ``make`` raises goes where the node's ``on_error`` says.

    ``high`` and ``low``: shares of its capacity (defaults 0.8 and 0.5) from which its feedback (:meth:`reading`) slows sources
    down and lets them go on. Large steps (a ``batch`` before it) make emptying it cheap. Raises ``ConfigError``."""

    def __init__(
        self,
        coordinator: Any = None,
        *,
        factory: str = "",
        make: Callable[[Any], Any] | None = None,
        settle: Settle = "restart",
        timeout: Duration = "30s",
        high: float = 0.8,
        low: float = 0.5,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.coordinator, self.factory, self.make, self.settle = coordinator, factory, make, settle
        self.timeout, self.high, self.low = positive_duration(timeout, "timeout"), high, low
        self._clock = clock
        if settle not in get_args(Settle):
            raise ConfigError(f"settle: {settle!r:.100} is not allowed; one of: {', '.join(get_args(Settle))}")
        if not 0 <= low < high <= 1:
            raise ConfigError(f"high={high!r}, low={low!r}: needed: 0 <= low < high <= 1")
        needed = ("start", "stop", "submit_many", "health")
        self._given = Given("CoordinatedSink", coordinator, factory, needed)
        self._shared = _shared_by_users_of(coordinator)

    def config(self) -> dict[str, Any]:
        return {**super().config(), "coordinator": self._given.config()}

    def fresh(self) -> Self:
        made = super().fresh()
        made._shared = _shared_by_users_of(self.coordinator)
        return made

    async def open(self, ctx: SinkContext, state: Any | None) -> None:
        self._ctx = ctx
        async with self._explained("start"), self._shared.turn:
            found = await self._given.made()
            if not self._shared.users:
                await awaited(found.start())
            self._shared.users += 1
            self._object, self._handed_over = found, False

    async def write(self, frames: Sequence[Frame]) -> None:
        items = self._taken(frames, self._ctx)
        if items:
            self._handed_over = True
            async with self._explained("submit_many"), self._shared.turn, self._in_time("it takes nothing more"):
                await awaited(self._object.submit_many(items))

    async def prepare(self, ended: bool) -> Any | None:
        if self._handed_over:
            async with self._explained("emptying it"), self._shared.turn, self._in_time("its queue is not empty"):
                pause = 0.0
                while await self._waiting() > 0:
                    await self._clock.sleep(pause)
                    pause = min(max(2 * pause, _LOOK_SECONDS[0]), _LOOK_SECONDS[1])
                if self.settle == "restart":
                    await self._restart()
            self._handed_over = False
        return None

    async def _restart(self) -> None:
        try:
            await awaited(self._object.stop(drain=True))
            left = await self._waiting(alive=False)
        finally:
            await awaited(self._object.start())  # others may use it too
        if left > 0:
            raise SinkError(f"{self.destination()}: stop(drain=True) left {left:g} items in its queue")

    @asynccontextmanager
    async def _in_time(self, why: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self.timeout / 1e9) as scope:
                yield
        except TimeoutError as error:
            if not scope.expired():  # its own
                raise
            raise SinkError(f"{self.destination()}: {why} after {self.timeout / 1e9:g} s") from error

    async def _waiting(self, alive: bool = True) -> float:
        health = await awaited(self._object.health())
        if alive and _said(health, "workers_alive", 1) == 0:
            raise SinkError(f"{self.destination()}: none of its workers is alive")
        return _said(health, "queue_size")

    async def reading(self) -> StoreReading | None:
        """How full its queue is, in items; ``None`` while it is not open, or before it has a capacity."""
        if self._object is None:
            return None
        health = await awaited(self._object.health())
        capacity = _said(health, "capacity")
        if capacity <= 0:
            return None
        return StoreReading(_said(health, "queue_size"), self.high * capacity, self.low * capacity)

    async def close(self) -> None:
        """Without waiting for what is in its queue: that is committed, or comes again."""
        found, self._object = self._object, None
        if found is None:
            return
        async with self._explained("stop"), self._shared.turn:
            self._shared.users -= 1
            if not self._shared.users:
                await awaited(found.stop(drain=False))


def _said(health: Any, name: str, default: float | None = None) -> float:
    value = health.get(name) if isinstance(health, Mapping) else getattr(health, name, None)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SinkError(f"health() of the coordinator says {name}={value!r:.100}; a number is needed")
    return value
