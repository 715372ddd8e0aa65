"""The invariants: each looks at the evidence of a round and says what is wrong. An empty answer means it holds."""

from __future__ import annotations

import json
import math
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from tools.oracle import BarKey

from chaos.oracle import INTERVAL, Expected
from chaos.watch import Seen

DRAIN_SECONDS = 30.0
_SHOWN = 5


class Noted(NamedTuple):
    """An accepted commit. It was made between ``since`` and ``until`` (unix seconds)."""

    task: str
    parent: str
    id: str
    since: float
    until: float


@dataclass
class Evidence:
    """All that a round left behind. ``rollbacks``: when the server went back behind what it had acknowledged."""

    topology: str
    output: Path
    expected: Expected
    seen: Seen
    commits: Sequence[Noted]
    rollbacks: Sequence[tuple[float, float]]
    state: str
    error: str
    drained: float
    exits: Sequence[str]
    counts: Mapping[str, Mapping[str, int]]
    dead_letters: Sequence[Mapping[str, Any]]
    streams: Mapping[str, int]
    stream_bytes: Mapping[str, int]
    fields: Mapping[str, Mapping[str, bytes]]
    """Per task the stored state, unsealed."""
    drain_seconds: float = DRAIN_SECONDS
    """How long the job may take behind the last fault."""


def finished(e: Evidence) -> list[str]:
    return [] if e.state == "finished" else [f"the job is {e.state or 'gone'}: {e.error}"]


def exits(e: Evidence) -> list[str]:
    """Nobody died but of what we did."""
    return list(e.exits)


def bars_equal_the_oracle(e: Evidence) -> list[str]:
    if e.topology == "diamond":
        joined = list(_lines(e.output / "bars"))
        wrong = [f"{name}: {what}" for name in ("left", "right") for what in _compare(e, _sides(joined, name))]
    else:
        wrong = _compare(e, _lines(e.output / "bars"))
    if e.topology == "fan-out":
        wrong += [f"table: {what}" for what in _compare(e, _table(e.output / "bars.db"))]
    return wrong


def _lines(folder: Path) -> Iterable[dict[str, Any]]:
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            yield json.loads(line)


def _table(path: Path) -> Iterable[dict[str, Any]]:
    with closing(sqlite3.connect(path)) as database:
        for row in database.execute(f"SELECT {', '.join(_BAR)} FROM bars"):
            yield dict(zip(_BAR, row, strict=True))


_BAR = ("symbol", "ts_open", "ts_close", "open", "high", "low", "close", "volume", "vwap", "trade_count")
"""The first fields of a bar: those that the oracle knows."""


def _sides(joined: Iterable[dict[str, Any]], name: str) -> Iterable[dict[str, Any]]:
    for pair in joined:
        yield dict(zip(_BAR, pair[name], strict=False))


def _compare(e: Evidence, bars: Iterable[dict[str, Any]]) -> list[str]:
    wrong: list[str] = []
    found: dict[BarKey, dict[str, Any]] = {}
    for bar in bars:
        key = (bar["symbol"], bar["ts_open"])
        if key in found:
            wrong.append(f"bar {key} is there twice")
        found[key] = bar
    missing, surplus = e.expected.bars.keys() - found.keys(), found.keys() - e.expected.bars.keys()
    wrong += [f"{len(missing)} bars are missing, first {min(missing)}"] if missing else []
    wrong += [f"{len(surplus)} bars too many, first {min(surplus)}"] if surplus else []
    for key in e.expected.bars.keys() & found.keys():
        wrong += _differences(key, e.expected.bars[key], found[key])
    return wrong if e.expected.bars else ["no bar was expected: the round proves nothing"]


def _differences(key: BarKey, expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    wrong = [] if found["ts_close"] == key[1] + INTERVAL else [f"bar {key}: ts_close {found['ts_close']}"]
    for name, value in expected.items():
        if not math.isclose(found[name], value, rel_tol=1e-9):
            wrong.append(f"bar {key}: {name} is {found[name]} instead of {value}")
    return wrong


def order_is_kept(e: Evidence) -> list[str]:
    """Per symbol: bars by time; and where trades are forwarded, exactly the feed's order."""
    wrong: list[str] = []
    last: dict[str, int] = {}
    for bar in _lines(e.output / "bars"):
        if bar["ts_open"] <= last.get(bar["symbol"], -1):
            wrong.append(f"{bar['symbol']}: bar {bar['ts_open']} after {last[bar['symbol']]}")
        last[bar["symbol"]] = bar["ts_open"]
    if e.topology == "fan-out":
        forwarded: dict[str, list[int]] = defaultdict(list)
        for trade in _lines(e.output / "trades"):
            forwarded[trade["symbol"]].append(trade["trade_id"])
        for symbol, expected in e.expected.forwarded.items():
            if forwarded[symbol] != expected:
                wrong.append(f"{symbol}: {_first_difference(forwarded[symbol], expected)}")
        wrong += [f"{symbol} was never sent" for symbol in forwarded.keys() - e.expected.forwarded.keys()]
    return wrong


def _first_difference(found: Sequence[int], expected: Sequence[int]) -> str:
    at = next(
        (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), min(len(found), len(expected))
    )
    return (
        f"{len(found)} trades instead of {len(expected)}; at {at}: {list(found[at : at + 3])} instead of"
        f" {list(expected[at : at + 3])}"
    )


def everything_is_accounted_for(e: Evidence) -> list[str]:
    """Items in = duplicates + late + dead letters + what the bars hold; at the end, and in every snapshot on the way."""
    wrong = list(e.seen.broken.get("accounted", []))
    if e.seen.accounts < 3:
        wrong.append(f"only {e.seen.accounts} snapshots were taken: the round proves nothing")
    branches = ("left", "right") if e.topology == "diamond" else ("bars",)
    x = e.expected
    killed, kept = len(x.killed), x.items - x.duplicates - len(x.killed)
    wanted = {
        ("dedupe", "in"): x.items,
        ("dedupe", "duplicate"): x.duplicates,
        ("dedupe", "out"): kept,
        ("dedupe", "dead_letter"): killed,
        ("check", "dead_letter"): len(x.raised),
        ("files", "in"): len(x.bars),
        **{(branch, "in"): kept - len(x.raised) for branch in branches},
        **{(branch, "late"): x.late for branch in branches},
        **{(branch, "out"): len(x.bars) for branch in branches},
    }
    for (node, name), value in wanted.items():
        found = e.counts.get(node, {}).get(name, 0)
        if found != value:
            wrong.append(f"{node}: {name} is {found} instead of {value}")
    sources = sum(e.counts.get(name, {}).get("out", 0) for name in ("source", "slow"))
    return wrong + ([] if sources == x.items else [f"the sources sent {sources} items instead of {x.items}"])


def only_poison_is_dead_lettered(e: Evidence) -> list[str]:
    found = Counter(_trade_id(letter) for letter in e.dead_letters)
    expected = Counter([*e.expected.raised, *e.expected.killed])
    wrong = [f"{trade} is not among the dead letters" for trade in (expected - found).elements()]
    return wrong + [f"{trade} is a dead letter: {_reason(e, trade)}" for trade in (found - expected).elements()]


def _trade_id(letter: Mapping[str, Any]) -> Any:
    item = letter["item"]
    return item.trade_id if hasattr(item, "trade_id") else str(item)[:100]


def _reason(e: Evidence, trade: Any) -> str:
    return next(str(letter["reason"]) for letter in e.dead_letters if _trade_id(letter) == trade)


def never_above_capacity(e: Evidence) -> list[str]:
    wrong = list(e.seen.broken.get("capacity", []))
    return wrong if e.seen.looks >= 20 else [*wrong, f"only {e.seen.looks} looks were taken: the round proves nothing"]


def watermarks_never_go_back(e: Evidence) -> list[str]:
    return list(e.seen.broken.get("watermarks", []))


def one_child_per_commit(e: Evidence) -> list[str]:
    """Of one parent there is one accepted child; a second one only where the server had forgotten the first."""
    if not e.commits:
        return ["no commit was noted: the round proves nothing"]
    children: dict[tuple[str, str], dict[str, Noted]] = defaultdict(dict)
    for commit in e.commits:
        children[commit.task, commit.parent].setdefault(commit.id, commit)
    wrong = []
    for (task, parent), found in children.items():
        ordered = sorted(found.values(), key=lambda commit: commit.until)
        for earlier, later in pairwise(ordered):
            since, until = min(earlier.since, later.since), max(earlier.until, later.until)
            if not any(start <= until and end >= since for start, end in e.rollbacks):
                wrong.append(f"{task}: {earlier.id} and {later.id} are both children of {parent}")
    return wrong


def nothing_is_left_behind(e: Evidence) -> list[str]:
    wrong = [f"{stream}: {length} frames" for stream, length in e.streams.items() if length]
    wrong += [f"{stream}: {size} bytes are counted" for stream, size in e.stream_bytes.items() if size]
    return wrong if e.streams else ["there were no streams: the round proves nothing"]


def final_state_equals_the_oracle(e: Evidence) -> list[str]:
    """Every distinct trade is remembered once, no bar is open, no half waits for its other half, nothing is unsent."""
    wrong: list[str] = []
    keys: Counter[bytes] = Counter()
    for task, fields in e.fields.items():
        for name, blob in fields.items():
            node, _, key = name.partition("\x1f")
            if node == "dedupe":
                keys.update(_hashes(blob))
            elif not key.startswith(("names:", "symbols:")):  # what bars keep of each symbol for good
                wrong.append(f"{task}: {name!r} is left over")
    twice = sum(count - 1 for count in keys.values())
    wrong += [f"{twice} trades are remembered twice"] if twice else []
    if len(keys) != e.expected.keys:
        wrong.append(f"{len(keys)} trades are remembered instead of {e.expected.keys}")
    return wrong


def _hashes(blob: bytes) -> Iterable[bytes]:
    return (blob[i : i + 8] for i in range(0, len(blob), 8))


def drained_in_time(e: Evidence) -> list[str]:
    within = e.drained <= e.drain_seconds
    return [] if within else [f"drained {e.drained:.1f} s after the last fault, not within {e.drain_seconds:g} s"]


INVARIANTS: dict[str, Callable[[Evidence], list[str]]] = {
    "the job finishes": finished,
    "nobody dies but of the faults": exits,
    "final bars equal the oracle's": bars_equal_the_oracle,
    "final state equals the oracle's": final_state_equals_the_oracle,
    "order per symbol is kept": order_is_kept,
    "every input is accounted for": everything_is_accounted_for,
    "the dead letters hold the poison and nothing else": only_poison_is_dead_lettered,
    "no stream was ever above its capacity": never_above_capacity,
    "one accepted child per parent commit": one_child_per_commit,
    "watermarks never go back": watermarks_never_go_back,
    "no frame is left behind": nothing_is_left_behind,
    "drained in time after the last fault": drained_in_time,
}


def judge(evidence: Evidence) -> dict[str, list[str]]:
    """What is wrong, by invariant; the first few of each, and how many more."""
    results = {}
    for name, invariant in INVARIANTS.items():
        wrong = invariant(evidence)
        more = [f"... and {len(wrong) - _SHOWN} more"] if len(wrong) > _SHOWN else []
        results[name] = wrong[:_SHOWN] + more
    return results
