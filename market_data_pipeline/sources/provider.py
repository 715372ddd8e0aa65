"""What a market data feed is: the protocol between a venue's client and :class:`ProviderSource`.

A provider describes a venue and makes connections. A connection lives from ``connect`` until it breaks; a new one is made after
that, so it carries nothing over. Whether and when to connect again, how fast to subscribe, what to do with what was missed and
with more than can be worked off is the business of ``ProviderSource``, never of a provider.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from market_data_pipeline.errors import ConfigError, MdpError
from market_data_pipeline.records import Gap, Quote, Trade


class Refused(NamedTuple):
    """A venue refuses ``kind`` of ``symbol`` for good, and says so only after it took the subscription. Handed out among the
    records, where :class:`SubscriptionRefused` cannot be raised any more."""

    kind: str
    symbol: str
    reason: str


class Unusable(NamedTuple):
    """What a venue sent and nobody can read, and why. Handed out among the records; it goes to the dead letters."""

    item: Any
    reason: str


FeedRecord = Trade | Quote | Gap | Refused | Unusable
"""What a connection hands out."""


class FeedDown(MdpError):
    """The connection broke, or could not be made; another try may succeed. ``retry_after``: seconds that the venue asks to be
    left alone, 0 where it says nothing."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SubscriptionRefused(MdpError):
    """The venue will never serve this: an unknown symbol, a kind that it does not have, no permission. ``symbols``: those of
    the call that are refused, the others of it are subscribed to; ``()``: the call as a whole failed, and each of its symbols
    is asked for by itself next."""

    def __init__(self, message: str, symbols: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.symbols = tuple(symbols)


class VenueLimits(NamedTuple):
    """How fast a venue lets itself be asked: ``per_second`` connects and subscribe calls, of all tasks, workers and jobs at
    one server together; at most ``symbols_per_call`` symbols in each, and ``symbols`` on one connection in all (0: no limit
    is known), where one of which trades and quotes are asked for counts twice."""

    per_second: float = 10.0
    symbols_per_call: int = 50
    symbols: int = 0


class ConnectionHealth(NamedTuple):
    """``connected`` as the client knows it; ``last_message`` is the monotonic time (s) of the last message of any kind,
    heartbeats too (0.0: none yet)."""

    connected: bool
    last_message: float
    detail: str = ""


class FeedConnection(Protocol):
    """One connection. Every method raises ``FeedDown`` when it is or gets broken."""

    async def subscribe(self, kind: str, symbols: Sequence[str]) -> None:
        """Ask for live ``kind`` (``trade`` or ``quote``) of ``symbols``, at most ``symbols_per_call`` of them. Raises
        ``SubscriptionRefused``. Never called twice at once, but while ``records`` is read."""
        ...

    def records(self) -> AsyncIterator[Sequence[FeedRecord]]:
        """What comes, in order of arrival, as soon as there is something; ends when the feed is over for good. ``symbol`` is as
        it was given to ``subscribe``, ``ts_recv`` the wall time of its arrival (0: now), ``phase`` says what is no live data,
        ``venue`` may be left empty. Called once, before the first ``subscribe``. While it is not read on, nothing should be
        read from the socket: so a slow reader slows the venue down, and memory stays bounded."""
        ...

    def health(self) -> ConnectionHealth:
        """How it is now."""
        ...

    async def close(self) -> None:
        """Give up. ``records`` ends."""
        ...


@runtime_checkable
class MarketDataProvider(Protocol):
    """A venue. ``name`` is the records' ``venue``; ``kinds`` are those it has; ``splittable``: several connections with
    different symbols are allowed, so that each partition subscribes to its own. To be part of a plan's fingerprint it is a
    ``Component`` or a dataclass; secrets are pydantic's ``SecretStr``, which no plan shows. All tasks of a process share one
    object. An attribute ``budget: str`` is optional: whose ``budget`` is the same, or the ``name`` where there is none, share
    one rate. Any object with these attributes and methods will do; nothing has to be inherited."""

    @property
    def name(self) -> str: ...

    @property
    def kinds(self) -> frozenset[str]: ...

    @property
    def splittable(self) -> bool: ...

    @property
    def limits(self) -> VenueLimits: ...

    def check(self, symbols: Sequence[str], kinds: Sequence[str]) -> None:
        """Look without a connection whether this can work. Raises ``ConfigError``."""
        ...

    async def connect(self) -> FeedConnection:
        """A new connection. Raises ``FeedDown``; ``SourceError`` where no further try can succeed (a wrong key, say)."""
        ...


_HAS = ("name", "kinds", "splittable", "limits", "check", "connect")


def check_provider(one: object) -> None:
    """Raises ``ConfigError`` unless ``one`` has what :class:`MarketDataProvider` names."""
    if isinstance(one, type):
        raise ConfigError(f"{one!r:.100} is no provider; give an instance")
    missing = [name for name in _HAS if not hasattr(one, name)]
    if missing:
        raise ConfigError(f"{one!r:.100} is no provider: it has no {', '.join(missing)} (see MarketDataProvider)")
