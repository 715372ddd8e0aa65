"""Providers and sources of other packages, by their methods: objects with ``stream_trades`` or with ``stream``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Self

from market_data_pipeline.adapters.outside import record_of
from market_data_pipeline.budget import HOST, BudgetRule, in_process
from market_data_pipeline.clock import SYSTEM_CLOCK, Clock
from market_data_pipeline.component import Component
from market_data_pipeline.durations import Duration, parse_duration
from market_data_pipeline.errors import ConfigError, MdpError, RecordError, SourceError
from market_data_pipeline.extras import Given, awaited
from market_data_pipeline.operators.base import DeadLetter
from market_data_pipeline.sources.base import Batch, Source, SourceContext, checked_idleness
from market_data_pipeline.sources.outside_streams import METHODS, QUEUE_ITEMS, OutsideConnection, Pump, shown
from market_data_pipeline.sources.provider import FeedDown, VenueLimits
from market_data_pipeline.sources.venue_budget import budget_name

_LIMITS = VenueLimits()


class OutsideProvider(Component):
    """A feed of another package as a provider, for :class:`ProviderSource` and all that it does: ``provider`` is any object
    with ``stream_trades(instruments)`` or ``stream_quotes(instruments)``, which is an async iterable, or a coroutine whose
    result is one. Nothing has to be inherited. ``factory`` instead: ``"module:name"`` of a class or a function (``async`` too)
    without arguments, which is called for each connection; what it made is closed with it (``close()``, where it has that).
    This is the way for jobs over processes, into which no object travels. An object that was given is used again for each
    connection, is shared by all tasks of its process, and is never closed.

    ``name``: the records' venue. Each subscribe call starts one stream; all of a connection are merged in order of arrival,
    with at most 16384 records waiting, then none of them is read on. ``instrument``: makes what the streams are asked with of
    a symbol; default: the symbol itself. Records are read by their fields, see ``adapters/outside.py``: times in ns UTC,
    prices and sizes in the venue's units, ``symbol`` (or ``instrument.symbol``) as that of the instrument. ``kinds``: default:
    those the object has methods for. ``splittable``: each partition may have streams of its own. ``limits``: how fast to ask.

    Guarantee: none of its own, a feed cannot be read again; see ``ProviderSource``. Nothing is retried here. Errors are known
    by their class's name, or a base's: ``PermissionsMissing`` and ``InvalidInstrument`` refuse the symbols of the call (of
    several, each is asked for by itself first); ``PacingViolation`` breaks the connection and says how long to leave it alone
    (``retry_after``, ``retry_after_sec``); any other one (``ConnectionFailed``), and the end of a stream, breaks it. A record
    that cannot be read, or of another symbol than was asked for, goes to the dead letters. Raises ``ConfigError`` where the
    object lacks the methods, or the package is missing."""

    def __init__(
        self,
        provider: Any = None,
        name: str = "outside",
        *,
        factory: str = "",
        kinds: Sequence[str] = (),
        instrument: Callable[[str], Any] | None = None,
        splittable: bool = False,
        limits: VenueLimits = _LIMITS,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.provider, self.factory, self.name, self.instrument = provider, factory, name, instrument
        self.splittable, self.limits, self.clock = splittable, limits, clock
        self._given = Given("OutsideProvider", provider, factory, tuple(METHODS.values()), ("close",), any_of=True)
        if isinstance(kinds, str) or any(kind not in METHODS for kind in kinds):
            raise ConfigError(f"kinds: {kinds!r} is not allowed; some of: {', '.join(METHODS)}")
        for kind in kinds:
            if not self._given.has(METHODS[kind]):
                raise ConfigError(f"kinds: {kind!r} needs the method {METHODS[kind]}, which the object lacks")
        self.kinds = frozenset(kinds or (kind for kind, method in METHODS.items() if self._given.has(method)))

    def __deepcopy__(self, memo: dict[int, Any]) -> OutsideProvider:
        return self  # all tasks of a process share what was given

    def config(self) -> dict[str, Any]:
        own = {name: value for name, value in super().config().items() if name != "clock"}
        return {**own, "provider": self._given.config()}

    def check(self, symbols: Sequence[str], kinds: Sequence[str]) -> None:
        """Raises ``ConfigError`` for a symbol that is no text. Whether the venue has it, only the venue knows."""
        bad = [symbol for symbol in symbols if not isinstance(symbol, str) or not symbol]
        if bad:
            raise ConfigError(f"symbols: {bad[0]!r:.100} is not a symbol")

    async def connect(self) -> OutsideConnection:
        """A connection around the object; streams begin with ``subscribe``. Raises ``FeedDown`` where the factory fails,
        ``SourceError`` where what it made is no provider."""
        try:
            found = await self._given.made()
        except ConfigError as error:
            raise SourceError(str(error)) from error
        except MdpError:
            raise
        except Exception as error:  # a factory of others may raise anything
            raise FeedDown(f"{self.factory}: {type(error).__name__}: {error}") from error
        budgets = HOST.get() or in_process(self.clock)
        budget = budgets.of(budget_name(self), BudgetRule(self.limits.per_second))
        return OutsideConnection(found, self.instrument, budget, self.clock, owned=bool(self.factory))


class OutsideSource(Source):
    """``source``: any object with ``stream()``, an async iterable of items or a coroutine whose result is one, and perhaps
    ``close()``; or ``factory``: ``"module:name"`` of a class or a function (``async`` too) without arguments that makes it,
    which is the way for jobs over processes. Nothing has to be inherited.

    ``convert``: makes of an item what the job gets; default: a ``Trade``, ``Quote`` or ``Bar`` by its fields, see
    ``adapters/outside.py`` (times in ns UTC, prices and sizes in the venue's units). Items for which it raises go where the
    node's ``on_error`` says.

    **Guarantee**: at most once. The stream is begun anew after a restart, and what had come and was not committed is lost.
    ``repeatable``: the stream gives the same items in the same order whenever it is begun; then those that were committed are
    skipped, and it is exactly once. The position is how many items came. An error of the stream is a ``SourceError``: the
    node's ``Retries`` say what comes of it. Its end is the source's end. ``close()`` is called when the task is done with the
    object; one that is given and begun anew must bear ``stream()`` behind that. At most 16384 items wait; then it is not read
    on.

    It runs in one task. ``max_delay`` (default 0; ``None``: nothing is promised before the end), ``idle_after`` and ``live`` as
    every source has them. Raises ``ConfigError`` where the object has no ``stream``, or the package is missing."""

    def __init__(
        self,
        source: Any = None,
        *,
        factory: str = "",
        convert: Callable[[Any], Any] = record_of,
        repeatable: bool = False,
        max_delay: Duration | None = 0,
        idle_after: Duration | None = None,
        live: bool = False,
    ) -> None:
        self.source, self.factory, self.repeatable = source, factory, repeatable
        self.convert = convert
        self._given = Given("OutsideSource", source, factory, ("stream",), ("close",))
        self.max_delay = None if max_delay is None else parse_duration(max_delay, "max_delay")
        self.idle_after, self.live = checked_idleness(idle_after, live), live
        self._pump: Pump | None = None
        self._object: Any = None

    def config(self) -> dict[str, Any]:
        return {**super().config(), "source": self._given.config()}

    def fresh(self) -> Self:
        """Has the object that was given, or will have one of its own."""
        return copy.copy(self)

    async def open(self, ctx: SourceContext, position: Any | None) -> None:
        self._node = ctx.node
        came: int = position or 0
        self._count, self._skip = (0, came) if self.repeatable else (came, 0)
        self._pump = Pump(QUEUE_ITEMS)
        try:
            self._object = await self._given.made()
            self._pump.start(self._pump.follow(await awaited(self._object.stream())))
        except MdpError:
            raise
        except Exception as error:  # others may raise anything
            raise SourceError(f"{self._shown()}: {type(error).__name__}: {error}") from error

    def _shown(self) -> str:
        return self.factory or str(self._given.config())

    async def read(self) -> Batch | None:
        assert self._pump is not None
        found = await self._pump.take()
        if found is None:
            error = self._pump.error
            if error is not None:
                raise SourceError(f"{self._shown()}: {type(error).__name__}: {error}") from error
            return None
        items: list[Any] = []
        rejected: list[DeadLetter] = []
        for item in found:
            self._count += 1
            if self._count <= self._skip:
                continue
            try:
                items.append(self.convert(item))
            except Exception as error:  # a user's function may raise anything
                why = str(error) if isinstance(error, RecordError) else f"{type(error).__name__}: {error}"
                rejected.append(DeadLetter(self._node, why, shown(item), where=f"item {self._count}"))
        return Batch(items, self._count, tuple(rejected))

    async def close(self) -> None:
        if self._pump is not None:
            await self._pump.stop()
        if self._object is not None and hasattr(self._object, "close"):
            await awaited(self._object.close())
