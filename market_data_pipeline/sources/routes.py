"""Which of several providers brings a symbol: the rules. What comes of them over time is decided in ``routing.py``.

A rule ranks the providers of each symbol in levels: a better level first, and in one level those that share the symbols evenly.

============== ======================================================================================================
rule           levels
============== ======================================================================================================
``Failover``   each provider is one, in order: the first is primary, the others are its backups
``Priority``   those that are given; providers that stand in one share
``RoundRobin`` one, of all providers
``BySymbol``   for symbols that match a pattern those named with it, each a level: failover within the pattern
============== ======================================================================================================

All rules are plain data: they stand in a plan's fingerprint and in a document by their fields.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from market_data_pipeline.durations import Duration, parse_duration, wall_duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.hints import nearest_or_all

Ranking = tuple[tuple[str, ...], ...]
"""Names of providers by level, the best first."""
Standby = Literal["hot", "cold"]
_STANDBY: tuple[Standby, ...] = ("hot", "cold")


@dataclass(frozen=True, kw_only=True)
class RouteRule(ABC):
    """What all rules have, as :class:`Failover` says it."""

    fail_after: Duration = "3s"
    recover_after: Duration = "30s"
    stale_after: Duration | None = None

    def __post_init__(self) -> None:
        for name in ("fail_after", "recover_after"):
            wall_duration(getattr(self, name), name, zero=True)
        if self.stale_after is not None:
            wall_duration(self.stale_after, "stale_after")

    @property
    def is_cold(self) -> bool:
        """Whether backups are connected only when they are needed."""
        return False

    @property
    def times(self) -> tuple[float, float, float]:
        """``fail_after``, ``recover_after`` and ``stale_after`` in seconds, 0 for none."""
        stale = 0 if self.stale_after is None else parse_duration(self.stale_after, "stale_after")
        fail, recover = (
            parse_duration(self.fail_after, "fail_after"),
            parse_duration(self.recover_after, "recover_after"),
        )
        return fail / 1e9, recover / 1e9, stale / 1e9

    @abstractmethod
    def ranking(self, symbol: str, providers: Sequence[str]) -> Ranking:
        """Which of ``providers`` may bring ``symbol``. Raises ``ConfigError`` where the rule names others."""


@dataclass(frozen=True, kw_only=True)
class _WithBackups(RouteRule):
    """A rule with providers that have no symbols while all is well."""

    standby: Standby = "hot"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.standby not in _STANDBY:
            raise ConfigError(f"standby: {self.standby!r} is not allowed; one of: {', '.join(_STANDBY)}")

    @property
    def is_cold(self) -> bool:
        return self.standby == "cold"


@dataclass(frozen=True, kw_only=True)
class Failover(_WithBackups):
    """The first provider brings all symbols; the others are its backups, in order.

    A symbol leaves its provider after that was unfit for it for ``fail_after`` (default 3 s): away, left alone after too many
    failures, the symbol refused or not subscribed to yet, or quiet. It goes to a better one, or back into balance, after that
    one was fit for ``recover_after`` (default 30 s) without a break: so one that comes and goes changes nothing.
    ``stale_after``: a provider is quiet that brought no live record for so long, of any of its connection's symbols, while
    another one of theirs brought some; default: never. ``standby``: ``"hot"`` (default), all that may bring a symbol are
    connected and subscribed all the time; ``"cold"``, a backup only from when the present one is unfit (or brings nothing for
    ``stale_after``) until that one was fit for ``recover_after``. Raises ``ConfigError``."""

    def ranking(self, symbol: str, providers: Sequence[str]) -> Ranking:
        return tuple((name,) for name in providers)


@dataclass(frozen=True)
class Priority(_WithBackups):
    """``levels``: names of providers, the most wanted first; those of one level stand in a list, and share its symbols evenly:
    ``["binance", ["coinbase", "kraken"]]``. Each provider must have a level. Further fields as :class:`Failover`
    has them. Raises ``ConfigError``."""

    levels: Sequence[str | Sequence[str]]

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.levels, str) or not self.levels:
            raise ConfigError("levels: names of providers, the most wanted first, for example ['binance', 'coinbase']")
        if not all(_names(level) for level in self.levels):
            raise ConfigError("levels: one of them has no provider")
        named = [name for level in self.levels for name in _names(level)]
        if len(named) != len(set(named)):
            raise ConfigError(f"levels: {max(named, key=named.count)!r} stands there twice")

    def ranking(self, symbol: str, providers: Sequence[str]) -> Ranking:
        levels = tuple(_names(level) for level in self.levels)
        named = _known("levels", (name for level in levels for name in level), providers)
        without = [name for name in providers if name not in named]
        if without:
            raise ConfigError(f"levels: provider {without[0]!r} stands in none of them; each provider needs a level")
        return levels


@dataclass(frozen=True, kw_only=True)
class RoundRobin(RouteRule):
    """Symbols are spread evenly over all providers that are fit. That one fails moves its symbols only; its return moves back
    as many as it needs to be even. All providers are connected and subscribed to all symbols, all the time. Fields as
    :class:`Failover` has them, without ``standby``. Raises ``ConfigError``."""

    def ranking(self, symbol: str, providers: Sequence[str]) -> Ranking:
        return (tuple(providers),)


Choices = Mapping[str, str | Sequence[str]] | Sequence[tuple[str, str | Sequence[str]]]
"""Names of providers by pattern."""


@dataclass(frozen=True)
class BySymbol(_WithBackups):
    """``patterns``: by pattern (``*``, ``?``, ``[abc]``; upper and lower case differ) the provider of symbols that match, or
    several in order of preference: ``{"BTC*": "coinbase", "*": ["kraken", "coinbase"]}``, or a list of such pairs. The first
    pattern that matches counts. ``default``: those for other symbols; ``None``: all providers in their order. A provider is
    asked for its own symbols only. Further fields as :class:`Failover` has them. Raises ``ConfigError``."""

    patterns: Choices
    default: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        given: object = self.patterns
        try:
            pairs = self._pairs()
        except (TypeError, ValueError):
            pairs = []
        if isinstance(given, str) or not pairs or not all(isinstance(pattern, str) for pattern, _ in pairs):
            raise ConfigError(
                "patterns: names of providers by pattern, for example {'BTC*': 'coinbase', '*': 'kraken'}"
            )
        for pattern, names in pairs:
            if not names:
                raise ConfigError(f"patterns: {pattern!r} has no provider")
        if self.default is not None and not self.default:
            raise ConfigError("default: names of providers, or None for all of them")

    def _pairs(self) -> list[tuple[str, tuple[str, ...]]]:
        pairs = self.patterns.items() if isinstance(self.patterns, Mapping) else self.patterns
        return [(pattern, _names(names)) for pattern, names in pairs]

    def ranking(self, symbol: str, providers: Sequence[str]) -> Ranking:
        named = tuple(providers) if self.default is None else _names(self.default)
        _known("default", named, providers)
        for pattern, names in reversed(self._pairs()):
            _known(f"patterns: {pattern!r}", names, providers)
            if fnmatchcase(symbol, pattern):
                named = names
        return tuple((name,) for name in dict.fromkeys(named))


Route = Failover | Priority | RoundRobin | BySymbol


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _known(where: str, names: Iterable[str], providers: Sequence[str]) -> set[str]:
    """``names``. Raises ``ConfigError`` with the nearest where one is no provider's."""
    named = set(names)
    for name in sorted(named.difference(providers), key=str):
        raise ConfigError(f"{where}: no provider {name!r}; {nearest_or_all(str(name), providers)}")
    return named
