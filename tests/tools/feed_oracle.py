"""What must hold of any course of a world of live feeds, without the code under test: each thing that does not, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from market_data_pipeline.durations import wall_duration
from market_data_pipeline.records import Gap, Quote, Trade
from tests.tools.feed_plan import Plan
from tests.tools.feed_venue import START
from tests.tools.feed_world import Happened, Life, owner

_AFTER = {
    "connected": ("new", "away", "suspended"),
    "disconnected": ("new", "connected", "quiet"),
    "quiet": ("connected",),
    "resumed": ("quiet",),
    "suspended": ("new", "away"),
}
"""In which states of a feed an event may come."""
_STATE = {"disconnected": "away", "resumed": "connected"}


def number_of(record: Trade | Quote) -> int:
    return int(record.price if isinstance(record, Trade) else record.bid)


def wrongs(happened: Happened) -> list[str]:
    plan, found = happened.plan, list(happened.wire.told)
    for partition, seat in enumerate(happened.seats):
        own = [symbol for symbol in plan.symbols if owner(plan, symbol) == partition]
        for life in seat.lives:
            found += _of_life(happened, life, own)
        found += _counted(seat.lives[-1])
        if plan.way in ("one", "merged") and plan.overload == "block":
            found += _not_once(happened, seat.lives[-1], own)
        for symbol in own:
            for kind in plan.kinds:
                found += _of_symbol(happened, seat.lives, kind, symbol)
    return found


def _of_life(happened: Happened, life: Life, own: list[str]) -> Iterator[str]:
    """Times of arrival, symbols of others, the order of events, gaps behind a restart."""
    strangers = {item.symbol for item in life.items}.difference(own)
    if strangers:
        yield f"symbols of another partition: {strangers}"
    if not own and life.items:
        yield "records, and no symbols"
    times = [item.ts_recv for item in life.items if not isinstance(item, Gap)]
    if any(second <= first for first, second in pairwise(times)):
        yield "times of arrival do not grow"
    states: dict[str, str] = {}
    for event in life.events:
        if event.symbol or event.event == "switched":
            continue
        if states.get(event.feed, "new") not in _AFTER.get(event.event, (states.get(event.feed, "new"),)):
            yield f"feed {event.feed}: {event.event} while {states.get(event.feed, 'new')}"
        states[event.feed] = _STATE.get(event.event, event.event)
    if life.position is not None:
        leading = _leading(happened.plan)
        for symbol in own:
            mine = [one for one in life.items if _is(one, symbol, leading) or _is(one, symbol, Gap)]
            first = next((one for one in mine if isinstance(one, Gap) or one.phase == "live"), None)
            if first is not None and not isinstance(first, Gap):
                yield f"{symbol}: no gap behind a restart, before {first}"
    yield from _falsely_quiet(happened, life, own)


def _falsely_quiet(happened: Happened, life: Life, own: list[str]) -> Iterator[str]:
    """That something had come, long enough before the process stood still last, and could be read."""
    plan = happened.plan
    quiet_after = wall_duration(str(plan.settings["quiet_after"]), "quiet_after") / 1e9
    if plan.same_venue or plan.per_connection or plan.is_slow:  # else a feed's name says what its connection has
        return
    for event in life.events:
        if event.event != "quiet":
            continue
        now = (event.ts_event - START) / 1e9
        now = next((begin for begin, end in happened.stood if begin <= now <= end + 1e-6), now)
        name = event.feed.partition("@")[0]
        for at in (at for symbol in own for at in happened.wire.pushed[name, symbol]):
            if now - quiet_after + 0.01 < at < now - quiet_after / 2 - 0.01:
                yield f"{event}: something came {now - at:.3f} s before"


def _counted(life: Life) -> Iterator[str]:
    events = Counter(event.event for event in life.events)
    for name in (*_AFTER, "switched"):
        if events[name] != life.counts[name] and len(life.events) < 900:
            yield f"counted {life.counts[name]} {name}, told {events[name]}"


def _not_once(happened: Happened, life: Life, own: list[str]) -> Iterator[str]:
    """Without a router each record that was handed out passes once."""
    handed = Counter(_key(one) for one in happened.wire.handed[life.handed :] if one.symbol in own)
    came = Counter(_key(one) for one in life.items if not isinstance(one, Gap))
    if handed != came:
        yield f"handed out, and did not pass: {[*(handed - came)][:5]}; passed, and was not: {[*(came - handed)][:5]}"


def _key(record: Trade | Quote) -> tuple[str, str, int]:
    return type(record).__name__, record.symbol, number_of(record)


def _of_symbol(happened: Happened, lives: list[Life], kind: str, symbol: str) -> Iterator[str]:
    plan, type_ = happened.plan, Trade if kind == "trade" else Quote
    leads = type_ is _leading(plan)
    stream = [
        one for life in lives for one in life.items if _is(one, symbol, type_) or (leads and _is(one, symbol, Gap))
    ]
    records = [one for one in stream if not isinstance(one, Gap)]
    is_whole = type_ is Trade or plan.overload != "conflate"
    seen = {number_of(one) for one in records}
    if records and max(seen) != happened.numbers[kind, symbol]:
        yield f"{kind} {symbol}: ends with {max(seen)}, not {happened.numbers[kind, symbol]}"
    if not records:
        yield f"{kind} {symbol}: nothing came"
    if plan.way != "merged":
        yield from _disordered(f"{kind} {symbol}", records, once=plan.way == "one")
    if not leads:
        return
    gaps = [one for one in stream if isinstance(one, Gap)]
    told = {number for gap in gaps if gap.missing for number in range(gap.first, gap.last + 1)}
    live = {number_of(one) for one in records if one.phase == "live"}
    if plan.way != "merged" and told & live:  # of several feeds at once one may lag
        yield f"{kind} {symbol}: told to be missing, and came: {sorted(told & live)[:5]}"
    if is_whole and (silent := sorted(_holes(stream, plan.snapshot) - told - seen)):
        yield f"{kind} {symbol}: missing, and not told: {silent[:5]} ({len(silent)})"
    if gaps and _needs_no_gap(plan, lives):
        yield f"{kind} {symbol}: nothing is missing, and told: {gaps[:3]}"


def _disordered(name: str, records: list[Any], once: bool) -> Iterator[str]:
    """What is new is behind all that came before; with one feed everything that is live is new."""
    newest, seen, live = 0, set[int](), set[int]()
    for record in records:
        number = number_of(record)
        if record.phase == "live" and number < newest and (once or number not in seen):
            yield f"{name}: {number} behind {newest}"
            return
        if once and number in live and record.phase == "live":
            yield f"{name}: {number} twice"
        seen.add(number)
        if record.phase == "live":
            live.add(number)
            newest = max(newest, number)


def _holes(stream: Iterable[Any], history: int) -> set[int]:
    """Numbers that live records leave out, with no gap of unknown size where that is seen. What a snapshot of at most
    ``history`` records has recovered comes in front of the gap."""
    holes, newest, unknown = dict[int, int](), 0, False
    for at, one in enumerate(stream):
        if isinstance(one, Gap) and not one.missing:
            unknown = True
            holes = {number: seen for number, seen in holes.items() if seen < at - history}
        elif not isinstance(one, Gap) and one.phase == "live" and (number := number_of(one)) > newest:
            if newest and not unknown:
                holes.update(dict.fromkeys(range(newest + 1, number), at))
            newest, unknown = number, False
    return set(holes)


def _needs_no_gap(plan: Plan, lives: list[Life]) -> bool:
    if len(lives) > 1 or plan.begun or plan.settings["give_up_after"] is not None or plan.standstills:
        return False
    if plan.way == "merged":
        return bool(plan.steady)
    return not plan.cuts and not plan.refusals and plan.times["stale_after"] is None and plan.keeps > 5


def _leading(plan: Plan) -> type[Any]:
    return Trade if "trade" in plan.kinds else Quote


def _is(item: Any, symbol: str, type_: type[Any]) -> bool:
    return type(item) is type_ and bool(item.symbol == symbol)
