"""Which provider brings each symbol now: what the rules of ``routes.py`` decide over time. No clock, no I/O.

============================================ ======================================================================
of the symbol's provider, and the others      then
============================================ ======================================================================
unfit for ``fail_after``, another one is fit  to the best that is fit; of equal ones to the one with the fewest symbols
unfit, and no other one is fit                stays
fit; a better one fit for ``recover_after``   to that one
fit; in its level another one, fit for        as many symbols go there as it needs to be even; first those that it had
``recover_after``, has fewer symbols          at the beginning
============================================ ======================================================================

A provider is fit for a symbol from the answer to its subscription until its connection breaks, it refuses the symbol, or it is
quiet. At the beginning each symbol is with the first provider of its best level; where several share that, with one after the
other.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from market_data_pipeline.sources.feed_health import Feed
from market_data_pipeline.sources.routes import Ranking, RouteRule

STARTING, REFUSED, QUIET = "starting", "refused", "quiet"
"""Why a provider is unfit for a symbol, beside the events of feeds (``disconnected``, ``suspended``, ``failed``)."""
RECOVERED, EVEN = "recovered", "even"
"""Why a symbol goes to a provider though the one it had is fit."""


class Switch(NamedTuple):
    """``symbol`` is brought by ``new`` from now on. ``why``: what is wrong with ``old``, or one of :data:`RECOVERED` and
    :data:`EVEN`."""

    symbol: str
    old: str
    new: str
    why: str


class _Fitness:
    """Of a provider, for a symbol. ``reason``: ``""`` where it is fit."""

    __slots__ = ("reason", "refused", "since")

    def __init__(self, since: float) -> None:
        self.reason, self.since, self.refused = STARTING, since, False


class _Line:
    """What is known of a feed. ``up_since``: infinite while it brings nothing."""

    def __init__(self, feed: Feed) -> None:
        self.feed, self.others = feed, list[_Line]()
        self.brought, self.up_since = -math.inf, math.inf
        self.busy = self.quiet = False

    def is_silent(self, now: float, seconds: float) -> bool:
        return not self.busy and now - max(self.brought, self.up_since) >= seconds


class _Group:
    """Symbols with one ranking."""

    def __init__(self, ranking: Ranking) -> None:
        self.ranking = ranking
        self.level = {name: at for at, level in enumerate(ranking) for name in level}
        self.symbols: list[str] = []
        self.loads: Counter[str] = Counter()
        self.home: dict[str, str] = {}


class Routing:
    """``rankings``: of each symbol, as ``rule`` has it. ``feeds``: the connections; each provider of a ranking has one with
    that symbol. ``offset``: which of several that share takes the first symbol. Every ``now`` is monotonic seconds."""

    def __init__(
        self, rule: RouteRule, rankings: Mapping[str, Ranking], feeds: Sequence[Feed], now: float, offset: int = 0
    ) -> None:
        self._fail_after, self._recover_after, self._stale_after = rule.times
        self._lines = {feed.name: _Line(feed) for feed in feeds}
        self._feed_of = {(feed.provider, symbol): feed.name for feed in feeds for symbol in feed.symbols}
        self._groups: dict[str, _Group] = {}
        self._assigned: dict[str, str] = {}
        self._fitness: dict[str, dict[str, _Fitness]] = {}
        self._open: dict[str, None] = {}
        self.touched: dict[str, None] = {}
        """Symbols of which something has changed; for who looks at them to clear."""
        self._begin(rankings, now, offset)
        groups = dict.fromkeys(self._groups.values())
        self._shared = [group for group in groups if any(len(level) > 1 for level in group.ranking)]
        for line in self._lines.values():
            mine = set(line.feed.symbols)
            line.others = [
                other
                for other in self._lines.values()
                if other.feed.provider != line.feed.provider and mine.intersection(other.feed.symbols)
            ]

    def _begin(self, rankings: Mapping[str, Ranking], now: float, offset: int) -> None:
        groups: dict[Ranking, _Group] = {}
        for symbol, ranking in rankings.items():
            group = groups.setdefault(ranking, _Group(ranking))
            first = ranking[0][(len(group.symbols) + offset) % len(ranking[0])]
            group.symbols.append(symbol)
            group.loads[first] += 1
            group.home[symbol] = self._assigned[symbol] = first
            self._groups[symbol] = group
            self._fitness[symbol] = {name: _Fitness(now) for level in ranking for name in level}
            self._open[symbol] = self.touched[symbol] = None

    # What is asked

    @property
    def symbols(self) -> Iterable[str]:
        return self._assigned.keys()

    def assignment(self, symbol: str) -> str:
        """The provider whose symbol it is now."""
        return self._assigned[symbol]

    def has(self, symbol: str, provider: str) -> bool:
        """Whether ``provider`` may bring ``symbol``."""
        return provider in self._fitness.get(symbol, ())

    def heard(self, symbol: str, provider: str) -> float:
        """When the connection that has ``symbol`` last brought something of any symbol."""
        return self._lines[self._feed_of[provider, symbol]].brought

    def loads(self) -> dict[str, int]:
        """How many symbols each provider has now; those that may have some have 0."""
        counts = Counter(self._assigned.values())
        return {line.feed.provider: counts[line.feed.provider] for line in self._lines.values()}

    def reason(self, symbol: str, provider: str) -> str:
        """Why ``provider`` is unfit for ``symbol``; ``""`` where it is fit."""
        return self._fitness[symbol][provider].reason

    def since(self, symbol: str, provider: str) -> float:
        """From when on ``provider`` is fit, or unfit, for ``symbol``."""
        return self._fitness[symbol][provider].since

    def best(self, symbol: str, fit_since: float = -math.inf) -> str | None:
        """The provider that would be taken for ``symbol`` if there were no waiting; ``None`` where none is fit, or none was so
        since ``fit_since``, where that is a time."""
        return self._best(symbol, self._groups[symbol].ranking, fit_since)

    def is_needed(self, feed: Feed, now: float) -> bool:
        """Whether a feed that may rest must be connected: its provider has one of its symbols, or is better than who has it,
        or who has it is unfit, or brings nothing."""
        return any(self._needs(symbol, feed.provider, now) for symbol in feed.symbols)

    def is_settled(self, feed: Feed, now: float) -> bool:
        """Whether those that have the symbols of ``feed`` have been as they are for ``recover_after``."""
        return all(now - self.since(symbol, self._assigned[symbol]) >= self._recover_after for symbol in feed.symbols)

    def _needs(self, symbol: str, provider: str, now: float) -> bool:
        level, present = self._groups[symbol].level, self._assigned[symbol]
        if level[provider] <= level[present]:
            return True
        fitness = self._fitness[symbol][present]
        if fitness.reason:
            return fitness.reason != STARTING or now - fitness.since >= self._fail_after
        line = self._lines[self._feed_of[present, symbol]]
        return self._stale_after > 0 and line.is_silent(now, self._stale_after)

    # What happens

    def fit(self, feed: str, symbols: Iterable[str], now: float) -> None:
        """``feed`` serves ``symbols`` from now on."""
        line = self._lines[feed]
        line.up_since = now
        for symbol in symbols:
            fitness = self._fitness[symbol][line.feed.provider]
            if fitness.reason and not fitness.refused:
                fitness.reason, fitness.since = "", now
                self._open[symbol] = self.touched[symbol] = None

    def refused(self, feed: str, symbol: str, now: float) -> None:
        """Nothing will come of ``symbol`` from this connection."""
        self._fitness[symbol][self._lines[feed].feed.provider].refused = True
        self._unfit(feed, symbol, REFUSED, now)

    def lost(self, feed: str, why: str, now: float) -> None:
        """``feed`` brings nothing any more."""
        line = self._lines[feed]
        line.up_since, line.quiet = math.inf, False
        for symbol in line.feed.symbols:
            self._fitness[symbol][line.feed.provider].refused = False
            self._unfit(feed, symbol, why, now)

    def brought(self, feed: str, now: float) -> None:
        """A live record came."""
        line = self._lines[feed]
        line.brought = now
        if line.quiet:
            line.quiet = False
            self.fit(feed, [s for s in line.feed.symbols if self.reason(s, line.feed.provider) == QUIET], now)

    def delivering(self, feed: str, busy: bool) -> None:
        """Whether what ``feed`` brought waits to be taken: then it is not read on, which is not its fault."""
        self._lines[feed].busy = busy

    def _unfit(self, feed: str, symbol: str, why: str, now: float) -> None:
        fitness = self._fitness[symbol][self._lines[feed].feed.provider]
        if not fitness.reason:
            fitness.since = now
        fitness.reason = why
        self._open[symbol] = self.touched[symbol] = None

    # What is decided

    def decide(self, now: float) -> list[Switch]:
        """Time has gone on."""
        if self._stale_after > 0:
            for line in self._lines.values():
                self._look_for_silence(line, now)
        switches = [switch for symbol in list(self._open) if (switch := self._decide(symbol, now)) is not None]
        for group in self._shared:
            for level in group.ranking:
                for name in level:
                    switches += self._even(group, level, name, now)
        return switches

    def _look_for_silence(self, line: _Line, now: float) -> None:
        if line.quiet or not line.is_silent(now, self._stale_after):
            return
        if any(now - other.brought < self._stale_after for other in line.others):
            line.quiet = True
            for symbol in line.feed.symbols:
                if not self.reason(symbol, line.feed.provider):
                    self._unfit(line.feed.name, symbol, QUIET, now)

    def _decide(self, symbol: str, now: float) -> Switch | None:
        """``None`` where ``symbol`` stays. It stays open while time alone may change that."""
        present, group = self._assigned[symbol], self._groups[symbol]
        fitness = self._fitness[symbol][present]
        if fitness.reason and now - fitness.since >= self._fail_after:
            to = self._best(symbol, group.ranking, -math.inf)
            return None if to is None else self._move(symbol, to, fitness.reason)
        better = group.ranking[: group.level[present]]
        to = self._best(symbol, better, now - self._recover_after)
        if to is not None:
            return self._move(symbol, to, RECOVERED)
        if not fitness.reason and self._best(symbol, better, -math.inf) is None:
            del self._open[symbol]
        return None

    def _best(self, symbol: str, levels: Ranking, fit_since: float) -> str | None:
        """The best that is fit, and was so since ``fit_since`` where that is a time."""
        group, fitness = self._groups[symbol], self._fitness[symbol]
        for level in levels:
            found = [
                name
                for name in level
                if not fitness[name].reason and (fit_since == -math.inf or fitness[name].since <= fit_since)
            ]
            if found:
                return min(found, key=lambda name: group.loads[name])
        return None

    def _even(self, group: _Group, level: Sequence[str], to: str, now: float) -> Iterator[Switch]:
        """Symbols that go to ``to``, so that none of its level has two more."""
        loads = group.loads
        if max(loads[name] for name in level) - loads[to] < 2:
            return
        movable: dict[str, list[str]] = {name: [] for name in level if name != to}
        for symbol in sorted(group.symbols, key=lambda symbol: group.home[symbol] == to):
            fitness = self._fitness[symbol][to]
            if self._assigned[symbol] in movable and not fitness.reason and now - fitness.since >= self._recover_after:
                movable[self._assigned[symbol]].append(symbol)
        while donors := [name for name, symbols in movable.items() if symbols and loads[name] - loads[to] >= 2]:
            first = max(donors, key=lambda name: (loads[name], group.home[movable[name][-1]] == to))
            yield self._move(movable[first].pop(), to, EVEN)

    def _move(self, symbol: str, to: str, why: str) -> Switch:
        old, loads = self._assigned[symbol], self._groups[symbol].loads
        loads[old] -= 1
        loads[to] += 1
        self._assigned[symbol] = to
        self._open[symbol] = self.touched[symbol] = None
        return Switch(symbol, old, to, why)
