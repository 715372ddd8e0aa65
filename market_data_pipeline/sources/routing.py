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

Of several kinds of records the first is the leading one: whose it is, that one's the symbol is. All kinds are where that is,
but for what a provider refuses: that kind goes by the same table, alone. The rest stays, also where the leading kind goes.
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


Item = tuple[str, str]
"""A symbol, and a kind of its records (``trade``, ``quote``)."""


class Switch(NamedTuple):
    """``symbol``, its leading kind, is brought by ``new`` from now on. ``why``: what is wrong with ``old``, or one of
    :data:`RECOVERED` and :data:`EVEN`."""

    symbol: str
    old: str
    new: str
    why: str


class _Fitness:
    """Of a provider, for a kind of a symbol. ``reason``: ``""`` where it is fit."""

    __slots__ = ("reason", "refused", "since")

    def __init__(self, since: float) -> None:
        self.reason, self.since, self.refused = STARTING, since, False


class _Line:
    """What is known of a feed. ``up_since``: infinite while it brings nothing. ``busy_since``: when what waits to be
    taken came. ``unread_since``, ``free_since``: from when on it was not read on as it came, and until when."""

    def __init__(self, feed: Feed) -> None:
        self.feed, self.others = feed, list[_Line]()
        self.brought, self.up_since = -math.inf, math.inf
        self.busy = self.quiet = False
        self.busy_since, self.unread_since, self.free_since = 0.0, math.inf, -math.inf

    def is_silent(self, now: float, seconds: float) -> bool:
        return not self.busy and now - max(self.brought, self.up_since) >= seconds

    def read_until(self, now: float, catch_up: float) -> float:
        at = self.busy_since if self.busy else now
        until = self.unread_since if at - self.free_since < catch_up else math.inf
        return min(until, at) if self.busy else until


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
    that symbol. ``offset``: which of several that share takes the first symbol. ``kinds``: those of each symbol, the
    leading one first. ``catch_up``: seconds in which a feed that had to wait brings what came meanwhile. Every ``now`` is
    monotonic seconds."""

    def __init__(
        self,
        rule: RouteRule,
        rankings: Mapping[str, Ranking],
        feeds: Sequence[Feed],
        now: float,
        *,
        offset: int = 0,
        kinds: Sequence[str] = ("trade",),
        catch_up: float = 0.0,
    ) -> None:
        self._kinds, self._leading, self._catch_up = tuple(kinds), kinds[0], catch_up
        self._fail_after, self._recover_after, self._stale_after = rule.times
        self._lines = {feed.name: _Line(feed) for feed in feeds}
        self._feed_of = {(feed.provider, symbol): feed.name for feed in feeds for symbol in feed.symbols}
        self._groups: dict[str, _Group] = {}
        self._assigned: dict[Item, str] = {}
        self._fitness: dict[Item, dict[str, _Fitness]] = {}
        self._open: dict[Item, None] = {}
        self.touched: dict[Item, None] = {}
        """Of what something has changed; for who looks at it to clear."""
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
            group.home[symbol] = first
            self._groups[symbol] = group
            for item in self._items([symbol]):
                self._assigned[item] = first
                self._fitness[item] = {name: _Fitness(now) for level in ranking for name in level}
                self._open[item] = self.touched[item] = None

    def _items(self, symbols: Iterable[str]) -> Iterator[Item]:
        return ((symbol, kind) for symbol in symbols for kind in self._kinds)

    # What is asked

    @property
    def items(self) -> Iterable[Item]:
        return self._assigned.keys()

    def assignment(self, symbol: str) -> str:
        """The provider whose symbol it is now."""
        return self._assigned[symbol, self._leading]

    def provider(self, item: Item) -> str:
        """The provider that is to bring ``item`` now."""
        return self._assigned[item]

    def has(self, item: Item, provider: str) -> bool:
        """Whether ``provider`` may bring ``item``."""
        return provider in self._fitness.get(item, ())

    def heard(self, symbol: str, provider: str) -> float:
        """When the connection that has ``symbol`` last brought something of any symbol."""
        return self._lines[self._feed_of[provider, symbol]].brought

    def read_until(self, symbol: str, provider: str, now: float) -> float:
        """Up to when all has been read that the connection brought that has ``symbol``; infinite where it is read on as it
        comes."""
        return self._lines[self._feed_of[provider, symbol]].read_until(now, self._catch_up)

    def loads(self) -> dict[str, int]:
        """How many symbols each provider has now; those that may have some have 0."""
        counts = Counter(self._assigned[symbol, self._leading] for symbol in self._groups)
        return {line.feed.provider: counts[line.feed.provider] for line in self._lines.values()}

    def reason(self, item: Item, provider: str) -> str:
        """Why ``provider`` is unfit for ``item``; ``""`` where it is fit."""
        return self._fitness[item][provider].reason

    def since(self, item: Item, provider: str) -> float:
        """From when on ``provider`` is fit, or unfit, for ``item``."""
        return self._fitness[item][provider].since

    def best(self, item: Item, fit_since: float = -math.inf) -> str | None:
        """The provider that would be taken for ``item`` if there were no waiting; ``None`` where none is fit, or none was so
        since ``fit_since``, where that is a time."""
        return self._best(item, self._groups[item[0]].ranking, fit_since)

    def quiet(self, item: Item) -> str | None:
        """The best of those that are quiet for ``item``, and nothing worse."""
        fitness = self._fitness[item]
        return next(
            (name for level in self._groups[item[0]].ranking for name in level if fitness[name].reason == QUIET), None
        )

    def is_needed(self, feed: Feed, now: float) -> bool:
        """Whether a feed that may rest must be connected: its provider has one of its symbols, or is better than who has it,
        or who has it is unfit, or brings nothing."""
        return any(self._needs(item, feed.provider, now) for item in self._items(feed.symbols))

    def is_settled(self, feed: Feed, now: float) -> bool:
        """Whether those that have the symbols of ``feed`` have been as they are for ``recover_after``."""
        items = self._items(feed.symbols)
        return all(now - self.since(item, self._assigned[item]) >= self._recover_after for item in items)

    def _needs(self, item: Item, provider: str, now: float) -> bool:
        level, present = self._groups[item[0]].level, self._assigned[item]
        if level[provider] <= level[present]:
            return True
        fitness = self._fitness[item][present]
        if fitness.reason:
            return fitness.reason != STARTING or now - fitness.since >= self._fail_after
        line = self._lines[self._feed_of[present, item[0]]]
        return self._stale_after > 0 and line.is_silent(now, self._stale_after)

    # What happens

    def fit(self, feed: str, items: Iterable[Item], now: float) -> None:
        """``feed`` serves ``items`` from now on."""
        line = self._lines[feed]
        line.up_since = now
        for item in items:
            fitness = self._fitness[item][line.feed.provider]
            if fitness.reason and not fitness.refused:
                fitness.reason, fitness.since = "", now
                self._open[item] = self.touched[item] = None

    def refused(self, feed: str, item: Item, now: float) -> None:
        """Nothing will come of ``item`` from this connection."""
        self._fitness[item][self._lines[feed].feed.provider].refused = True
        self._unfit(feed, item, REFUSED, now)

    def lost(self, feed: str, why: str, now: float) -> None:
        """``feed`` brings nothing any more."""
        line = self._lines[feed]
        line.up_since, line.quiet = math.inf, False
        for item in self._items(line.feed.symbols):
            self._fitness[item][line.feed.provider].refused = False
            self._unfit(feed, item, why, now)

    def brought(self, feed: str, now: float) -> None:
        """A live record came."""
        line = self._lines[feed]
        line.brought = now
        if line.quiet:
            line.quiet = False
            items = self._items(line.feed.symbols)
            self.fit(feed, [item for item in items if self.reason(item, line.feed.provider) == QUIET], now)

    def delivering(self, feed: str, now: float) -> None:
        """What ``feed`` brought waits to be taken: so long it is not read on, which is not its fault."""
        line = self._lines[feed]
        line.busy, line.busy_since = True, now

    def delivered(self, feed: str, now: float, *, waited: bool) -> None:
        """It was taken, and ``waited`` for that."""
        line = self._lines[feed]
        if waited:
            line.unread_since = line.read_until(now, self._catch_up)
            line.free_since = now
        line.busy = False

    def _unfit(self, feed: str, item: Item, why: str, now: float) -> None:
        fitness = self._fitness[item][self._lines[feed].feed.provider]
        if not fitness.reason:
            fitness.since = now
        fitness.reason = why
        self._open[item] = self.touched[item] = None

    # What is decided

    def decide(self, now: float) -> list[Switch]:
        """Time has gone on."""
        if self._stale_after > 0:
            for line in self._lines.values():
                self._look_for_silence(line, now)
        leading = [item for item in self._open if item[1] == self._leading]
        switches = [switch for item in leading if (switch := self._decide(item, now)) is not None]
        for group in self._shared:
            for level in group.ranking:
                for name in level:
                    switches += self._even(group, level, name, now)
        for item in [item for item in self._open if item[1] != self._leading]:
            self._decide(item, now)  # behind the leading kind, which it is to be with
        return switches

    def _look_for_silence(self, line: _Line, now: float) -> None:
        if line.quiet or not line.is_silent(now, self._stale_after):
            return
        if any(now - other.brought < self._stale_after for other in line.others):
            line.quiet = True
            for item in self._items(line.feed.symbols):
                if not self.reason(item, line.feed.provider):
                    self._unfit(line.feed.name, item, QUIET, now)

    def _decide(self, item: Item, now: float) -> Switch | None:
        """``None`` where ``item`` stays. It stays open while time alone may change that."""
        present, group = self._assigned[item], self._groups[item[0]]
        fitness = self._fitness[item][present]
        if fitness.reason and now - fitness.since >= self._fail_after:
            to = self._best(item, group.ranking, -math.inf)
            return None if to is None else self._move(item, to, fitness.reason)
        better = (*group.ranking[: group.level[present]], *self._beside(item))
        to = self._best(item, better, now - self._recover_after)
        if to is not None:
            return self._move(item, to, RECOVERED)
        if not fitness.reason and self._best(item, better, -math.inf) is None:
            del self._open[item]
        return None

    def _beside(self, item: Item) -> Ranking:
        """Who brings the leading kind, where that is another one of the same level, and not because of a refusal."""
        symbol, present = item[0], self._assigned[item]
        lead, level = self.assignment(symbol), self._groups[symbol].level
        is_split = self._fitness[symbol, self._leading][present].refused
        return () if lead == present or level[lead] != level[present] or is_split else ((lead,),)

    def _best(self, item: Item, levels: Ranking, fit_since: float) -> str | None:
        """The best that is fit, and was so since ``fit_since`` where that is a time. Of equal ones that of the leading kind."""
        group, fitness, lead = self._groups[item[0]], self._fitness[item], self.assignment(item[0])
        for level in levels:
            found = [
                name
                for name in level
                if not fitness[name].reason and (fit_since == -math.inf or fitness[name].since <= fit_since)
            ]
            if found:
                return min(found, key=lambda name: (name != lead, group.loads[name]))
        return None

    def _even(self, group: _Group, level: Sequence[str], to: str, now: float) -> Iterator[Switch]:
        """Symbols that go to ``to``, so that none of its level has two more."""
        loads = group.loads
        if max(loads[name] for name in level) - loads[to] < 2:
            return
        movable: dict[str, list[str]] = {name: [] for name in level if name != to}
        for symbol in sorted(group.symbols, key=lambda symbol: group.home[symbol] == to):
            fitness, present = self._fitness[symbol, self._leading][to], self.assignment(symbol)
            if present in movable and not fitness.reason and now - fitness.since >= self._recover_after:
                movable[present].append(symbol)
        while donors := [name for name, symbols in movable.items() if symbols and loads[name] - loads[to] >= 2]:
            first = max(donors, key=lambda name: (loads[name], group.home[movable[name][-1]] == to))
            yield self._move((movable[first].pop(), self._leading), to, EVEN)

    def _move(self, item: Item, to: str, why: str) -> Switch:
        (symbol, kind), old = item, self._assigned[item]
        self._assigned[item] = to
        self._open[item] = self.touched[item] = None
        if kind == self._leading:
            loads = self._groups[symbol].loads
            loads[old] -= 1
            loads[to] += 1
            self._open.update(dict.fromkeys(self._items([symbol])))
        return Switch(symbol, old, to, why)
