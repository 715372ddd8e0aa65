"""Whose records of a symbol and kind are passed on, and what waits of the others: so that a change between providers loses
nothing that one of them had. No clock, no I/O.

===================================== =============================================================================
its provider                          whose records pass
===================================== =============================================================================
fit                                   its own; what the others bring waits for ``overlap``, then goes
was there, and is away or quiet       another one's that is fit, at once, from behind the last record that was passed
away, and no other one is fit         another one's that is quiet, in the same way
starting                              its own, when they come; what the others bring waits
back, or another one now              that one's, when it has been fit for ``overlap``, from behind the last record
===================================== =============================================================================

**Behind the last record**: where both have the last record's trade id at the same time, what has a larger id; else what is not
earlier (``ts_event``) than the last of its kind. What then comes twice (of one time, or because the other one is behind) is
left to ``dedupe``. A provider that lags is not heard before it has caught up, for ``overlap`` at most.

**Broken off**: what a connection had brought that broke off before is passed on when nobody is left, or who is left was not
there for ``overlap``: then in front of what that one has.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from market_data_pipeline.records import Gap, Quote, Trade
from market_data_pipeline.sources.feed_gaps import number_of
from market_data_pipeline.sources.feed_health import Feed
from market_data_pipeline.sources.routing import QUIET, STARTING, Item, Routing

_KINDS: dict[type[Any], str] = {Trade: "trade", Quote: "quote"}


class Waiting(NamedTuple):
    """A record that waits: the how manyth it is, when it came (monotonic s), and from which feed (``""``: from one that has
    broken off). Or what is told among those that are passed on."""

    number: int
    at: float
    feed: str
    record: Any


class Missed(NamedTuple):
    """Something of ``symbol`` may be missing here."""

    symbol: str


class Renumbered(NamedTuple):
    """Trade ids of ``symbol`` may count something else from here on."""

    symbol: str


class _Memory:
    """What waits of one item from one connection of a provider, and the last live one that went unheard."""

    __slots__ = ("gone", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Waiting] = deque()
        self.gone: Waiting | None = None


class _Voice:
    """Of one symbol and kind: who is passed on, the last record that was, ``whose`` it was, and the memories of the others;
    ``ended``: of connections that broke off. ``behind``: who is passed on has not caught up yet, and ``until`` when that is
    waited for. ``held``: from when on all is kept, because a change waits. ``probe``: a trade, and whose it was, that is looked
    for in what another one brings, to see whether both count the same way."""

    __slots__ = ("behind", "ended", "held", "last", "memories", "probe", "speaker", "until", "whose")

    def __init__(self, speaker: str) -> None:
        self.speaker = self.whose = speaker
        self.last: Any = None
        self.memories: dict[str, _Memory] = {}
        self.ended: dict[str, _Memory] = {}
        self.behind = False
        self.probe: tuple[str, Any] | None = None
        self.until, self.held = 0.0, math.inf


class Standby:
    """``leading``: the kind of records that tell of gaps, and that gap records go with. ``venues``: by provider; those of one
    venue have the same trade ids. ``overlap``, ``keep`` (seconds): how long who is fit must be so before another one that is
    fit makes room for it, and how long a record waits while nothing is wrong. ``most``: records that wait per symbol, kind and
    provider."""

    def __init__(
        self,
        routing: Routing,
        leading: str,
        venues: Mapping[str, str],
        *,
        overlap: float,
        keep: float,
        most: int,
    ) -> None:
        self._routing, self._leading = routing, leading
        self._overlap, self._keep, self._most = overlap, keep, most
        self._strangers = {(a, b) for a in venues for b in venues if venues[a] != venues[b]}
        self._voices = {item: _Voice(routing.provider(item)) for item in routing.items}
        self._items: dict[str, list[Item]] = {}
        for item in self._voices:
            self._items.setdefault(item[0], []).append(item)
        self._open: dict[Item, None] = {}
        self._count = 0

    def speaker(self, item: Item) -> str:
        """The provider whose records of ``item`` pass."""
        return self._voices[item].speaker

    def speaks(self, feed: Feed) -> bool:
        """Whether records of one of the symbols of ``feed`` pass."""
        return any(self.speaker(item) == feed.provider for symbol in feed.symbols for item in self._items[symbol])

    def take(self, provider: str, feed: str, record: Any, now: float) -> bool:
        """Whether ``record`` passes; else it waits, or is not needed."""
        item = record.symbol, _KINDS.get(type(record), self._leading)
        voice = self._voices.get(item)
        if voice is None:  # nobody asked for it: it goes with what was asked for, if anything of the symbol was
            others = self._items.get(record.symbol)
            return others is None or self.speaker(others[0]) == provider
        if self._strangers and (voice.probe is None or voice.probe[0] != provider):
            self._compare(voice, provider, record)
        if provider != voice.speaker:
            if not self._routing.has(item, provider):
                return True
            self._remember(item, voice, provider, feed, record, now)
            return False
        if voice.behind:
            is_waited_for = now < voice.until
            voice.behind = is_waited_for and record.ts_event < voice.last.ts_event
            if is_waited_for and (voice.behind or _is_same(record, voice.last)):
                return False
        if type(record) is not Gap:
            voice.last = record
        return True

    def _compare(self, voice: _Voice, provider: str, record: Any) -> None:
        """Those of which one trade was seen with one id count the same way."""
        if number_of(record) is None:
            return
        if voice.probe is None:
            voice.probe = provider, record
            return
        other, probe = voice.probe
        if (provider, other) in self._strangers:
            if _is_same(record, probe):
                self._strangers -= {(provider, other), (other, provider)}
            elif record.ts_event > probe.ts_event:
                voice.probe = provider, record

    def _remember(self, item: Item, voice: _Voice, provider: str, feed: str, record: Any, now: float) -> None:
        memory = voice.memories.setdefault(provider, _Memory())
        self._count += 1
        memory.waiting.append(Waiting(self._count, now, feed, record))
        if len(memory.waiting) > self._most:
            self._drop(memory)
        self._trim(item, voice, memory, now)

    def _trim(self, item: Item, voice: _Voice, memory: _Memory, now: float) -> None:
        """Let go what had waited long enough while nothing was wrong with who is passed on."""
        wrong = bool(self._routing.reason(item, voice.speaker))
        until = min(self._routing.since(item, voice.speaker) if wrong else now, voice.held)
        until = min(until, self._routing.read_until(item[0], voice.speaker, now))
        while memory.waiting and memory.waiting[0].at < until - self._keep:
            self._drop(memory)

    def _drop(self, memory: _Memory) -> None:
        gone = memory.waiting.popleft()
        if type(gone.record) is not Gap and gone.record.phase == "live":
            memory.gone = gone

    def lost(self, provider: str, symbols: Iterable[str]) -> None:
        """``provider`` has broken off."""
        for item in (item for symbol in symbols for item in self._items.get(symbol, ())):
            voice = self._voices[item]
            memory = voice.memories.pop(provider, None)  # what comes next does not go on from there
            if memory is not None and memory.waiting:
                voice.ended[provider] = memory

    @property
    def is_touched(self) -> bool:
        """Whether :meth:`settle` may change something though no time has gone on."""
        return bool(self._routing.touched)

    def settle(self, now: float) -> list[Waiting]:
        """Change who is passed on where that is due: what is passed on now, in order of arrival as far as the order of each
        symbol allows."""
        self._open.update(self._routing.touched)
        self._routing.touched.clear()
        routing, settled = self._routing, list[Waiting]()
        for item in list(self._open):
            voice = self._voices[item]
            assigned = routing.provider(item)
            if assigned != voice.speaker and not routing.reason(item, assigned):
                voice.held = routing.since(item, assigned)  # also where a look comes so late that nobody has to wait
            to = self._due(item, voice.speaker, now)
            if to is None:
                continue
            if to == assigned or routing.reason(
                item, assigned
            ):  # else it waits until that one has been there for a while
                del self._open[item]
            if to != voice.speaker:
                settled += _in_order(self._change(item, voice, to, now))
            elif routing.reason(item, voice.speaker) not in ("", STARTING):
                settled += _in_order(self._give_out(item, voice, now))
            voice.held = math.inf
        settled.sort(key=lambda waiting: waiting.number)
        return settled

    def _due(self, item: Item, speaker: str, now: float) -> str | None:
        """Who is to be passed on; ``None`` while a change waits."""
        routing = self._routing
        assigned, unfit = routing.provider(item), bool(routing.reason(item, speaker))
        wanted: str | None = assigned
        if why := routing.reason(item, assigned):
            stays = not unfit or (speaker == assigned and why == STARTING)
            wanted = speaker if stays else routing.best(item, now - self._overlap) or routing.best(item)
            if wanted is None:  # that one is quiet says little where nobody else is there
                wanted = speaker if routing.reason(item, speaker) == QUIET else routing.quiet(item) or speaker
        elif assigned != speaker and now - routing.since(item, assigned) < self._overlap:
            # of what the one that is gone had not brought, who has been there all the while may have it
            wanted = (routing.best(item, now - self._overlap) or assigned) if unfit else None
        elif assigned != speaker and not unfit and routing.read_until(item[0], speaker, now) < now:
            wanted = None  # it has more from before that one was there
        return wanted

    def _change(self, item: Item, voice: _Voice, to: str, now: float) -> Iterator[Waiting]:
        memory = voice.memories.pop(to, None) or _Memory()
        self._trim(item, voice, memory, now)
        if self._is_missed(item, voice, memory, to, now):
            yield from self._of_ended(item, voice, now)
            if not _reaches(memory, voice.last):
                yield from self._told(item, Missed(item[0]))
        yield from self._goes_on_with(item, voice, to)
        voice.speaker, voice.until, voice.behind = to, now + self._overlap, voice.last is not None
        yield from self._behind(voice, memory)

    def _goes_on_with(self, item: Item, voice: _Voice, provider: str) -> Iterator[Waiting]:
        if (voice.whose, provider) in self._strangers:
            yield from self._told(item, Renumbered(item[0]))
        voice.whose = provider

    def _told(self, item: Item, what: Missed | Renumbered) -> Iterator[Waiting]:
        if item[1] == self._leading:
            yield Waiting(0, 0.0, "", what)

    def _behind(self, voice: _Voice, memory: _Memory) -> Iterator[Waiting]:
        """What waits behind the last record that was passed on; it is that now."""
        begin = _begin(voice.last, memory.waiting)
        for waiting in memory.waiting:
            if begin is not None and not begin.includes(waiting.record):
                continue
            yield waiting
            voice.behind = False
            if type(waiting.record) is not Gap:
                voice.last = waiting.record

    def _give_out(self, item: Item, voice: _Voice, now: float) -> Iterator[Waiting]:
        """Nobody is there."""
        given = list(self._of_ended(item, voice, now))
        yield from given
        if given:
            yield from self._told(item, Missed(item[0]))
            yield from self._goes_on_with(item, voice, voice.speaker)

    def _of_ended(self, item: Item, voice: _Voice, now: float) -> Iterator[Waiting]:
        """What those had brought that broke off before. It is of no feed any more."""
        ended = sorted(voice.ended.items(), key=lambda one: one[1].waiting[0].number)
        voice.ended = {}
        for provider, memory in ended:
            self._trim(item, voice, memory, now)
            if self._is_gone(item, voice, memory, now) or self._is_apart(voice, memory):
                yield from self._told(item, Missed(item[0]))
            if given := [waiting._replace(feed="") for waiting in self._behind(voice, memory)]:
                yield from self._goes_on_with(item, voice, provider)
                yield from given

    def _is_missed(self, item: Item, voice: _Voice, memory: _Memory, to: str, now: float) -> bool:
        """Whether there may be a hole though ``to`` was there when who was passed on went: it was not for as long as one may
        lag behind the other, or did not keep all."""
        if voice.last is None:
            return False
        is_away = bool(self._routing.reason(item, voice.speaker))
        read = min(now, self._routing.read_until(item[0], voice.speaker, now))
        return (is_away and read - self._routing.since(item, to) < self._overlap) or self._is_gone(
            item, voice, memory, now
        )

    def _is_gone(self, item: Item, voice: _Voice, memory: _Memory, now: float) -> bool:
        """Whether something went that who was passed on may have lacked: it came later than the last of that one, which was
        not heard of (of any symbol) for as long as it may lag, and did not bring it."""
        gone, last = memory.gone, voice.last
        if gone is None or last is None:
            return False
        routing, (symbol, _) = self._routing, item
        heard = min(routing.heard(symbol, voice.speaker), routing.read_until(symbol, voice.speaker, now))
        if gone.at + self._overlap <= heard:
            return False
        return _is_behind(gone.record, last)

    def _is_apart(self, voice: _Voice, memory: _Memory) -> bool:
        """Whether all that ``memory`` had came behind the last record that was passed on: nobody knows what was between."""
        first = memory.gone or next((one for one in memory.waiting if type(one.record) is not Gap), None)
        return voice.last is not None and first is not None and _is_behind(first.record, voice.last)


def _in_order(steps: Iterable[Waiting]) -> Iterator[Waiting]:
    """What is told or passed on behind another one is not sorted before it."""
    number = 0
    for step in steps:
        number = max(number, step.number)
        yield step._replace(number=number)


class _Begin(NamedTuple):
    """Where ``last`` was reached: by its trade id where that counts the same way here, else by time."""

    last: Any
    counts: bool

    def includes(self, record: Any) -> bool:
        if self.counts and (number := number_of(record)) is not None:
            return number > (number_of(self.last) or 0)
        return bool(record.ts_event >= self.last.ts_event)


def _begin(last: Any, waiting: Iterable[Waiting]) -> _Begin | None:
    return None if last is None else _Begin(last, any(_is_same(one.record, last) for one in waiting))


def _is_same(record: Any, last: Any) -> bool:
    """Whether both are one trade."""
    number = number_of(last)
    return number is not None and number_of(record) == number and bool(record.ts_event == last.ts_event)


def _is_behind(record: Any, last: Any) -> bool:
    number, reached = number_of(record), number_of(last)
    if number is not None and reached is not None and number <= reached:
        return False
    return bool(record.ts_event > last.ts_event)


def _reaches(memory: _Memory, last: Any) -> bool:
    """Whether ``memory`` begins so early that nothing can be missing between ``last`` and what it has behind that."""
    first = memory.gone or next((one for one in memory.waiting if getattr(one.record, "phase", "") == "live"), None)
    return first is not None and (first.record.ts_event < last.ts_event or _is_same(first.record, last))
