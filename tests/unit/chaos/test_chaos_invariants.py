"""Each invariant holds for a good round, and is violated by the one thing it is there to find."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chaos.invariants import INVARIANTS, Evidence, Noted, judge
from chaos.oracle import INTERVAL, expect
from chaos.watch import Seen

START = 1_767_364_200_000_000_000
BAR = ("symbol", "ts_open", "ts_close", "open", "high", "low", "close", "volume", "vwap", "trade_count")


def trade(number: int, symbol: str = "A", ts: int | None = None) -> dict[str, Any]:
    ts_event = START + number * 1_000_000_000 if ts is None else ts
    return {"symbol": symbol, "ts_event": ts_event, "price": 100.0 + number, "size": 1.0, "trade_id": number}


ROWS = [trade(n, "AB"[n % 2]) for n in range(20)] + [trade(3, "B"), trade(100, "A", START - 90_000_000_000)]


def write_bars(e: Evidence, bars: list[dict[str, Any]]) -> None:
    folder = e.output / "bars"
    folder.mkdir(parents=True, exist_ok=True)
    if e.topology == "diamond":
        pairs = [[bar[name] for name in BAR] for bar in bars]
        bars = [{"symbol": p[0], "ts_open": p[1], "left": p, "right": p} for p in pairs]
    (folder / "bars-p0-0.jsonl").write_text("".join(json.dumps(bar) + "\n" for bar in bars))


def all_bars(e: Evidence) -> list[dict[str, Any]]:
    return [
        {"symbol": symbol, "ts_open": start, "ts_close": start + INTERVAL, **bar}
        for (symbol, start), bar in sorted(e.expected.bars.items(), key=lambda item: item[0][1])
    ]


def write_trades(e: Evidence, forwarded: dict[str, list[int]]) -> None:
    folder = e.output / "trades"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"symbol": symbol, "trade_id": n}) + "\n" for symbol, ids in forwarded.items() for n in ids]
    (folder / "trades-p0-0.jsonl").write_text("".join(lines))


def write_table(e: Evidence, bars: list[dict[str, Any]]) -> None:
    with closing(sqlite3.connect(e.output / "bars.db")) as database, database:
        database.execute("DROP TABLE IF EXISTS bars")
        database.execute(f"CREATE TABLE bars ({', '.join(BAR)})")
        rows = [[bar[name] for name in BAR] for bar in bars]
        database.executemany(f"INSERT INTO bars VALUES ({', '.join('?' * len(BAR))})", rows)


def good(folder: Path, topology: str = "linear") -> Evidence:
    """The evidence of a round in which all went well."""
    x = expect([ROWS], (), ())
    branches = ("left", "right") if topology == "diamond" else ("bars",)
    kept = x.items - x.duplicates
    counts = {
        "source": {"out": x.items},
        "dedupe": {"in": x.items, "duplicate": x.duplicates, "out": kept},
        **{branch: {"in": kept, "late": x.late, "out": len(x.bars)} for branch in branches},
        "files": {"in": len(x.bars)},
    }
    commits = [Noted("dedupe/0", f"c{n}", f"c{n + 1}", float(n), float(n + 1)) for n in range(9)]
    hashes = b"".join(n.to_bytes(8, "little") for n in range(x.keys))
    evidence = Evidence(
        topology, folder, x, Seen(looks=100, accounts=10, servers=1), commits, [], "finished", "", 0.5, [], counts, [],
        {"q:0": 0}, {"q:0": 0}, {"dedupe/0": {"dedupe\x1f0": hashes, "bars\x1fnames:0": b"x", "bars\x1fsymbols:0": b"x"}},
    )  # fmt: skip
    write_bars(evidence, all_bars(evidence))
    if topology == "fan-out":
        write_trades(evidence, x.forwarded)
        write_table(evidence, all_bars(evidence))
    return evidence


def test_the_oracle_knows_duplicates_and_late_items() -> None:
    x = expect([ROWS], (), ())
    assert (x.items, x.duplicates, x.late, x.keys) == (22, 1, 1, 21)
    assert x.forwarded["A"][-1] == 100
    assert sum(bar["trade_count"] for bar in x.bars.values()) == 20


def test_the_oracle_knows_poison() -> None:
    x = expect([ROWS], raises={4}, kills={7})
    assert (x.raised, x.killed, x.keys) == ([4], [7], 20)
    assert sum(bar["trade_count"] for bar in x.bars.values()) == 18


@pytest.mark.parametrize("topology", ["linear", "diamond", "fan-in", "fan-out"])
def test_a_good_round_violates_nothing(tmp_path: Path, topology: str) -> None:
    assert {name: found for name, found in judge(good(tmp_path, topology)).items() if found} == {}


def _counts(e: Evidence, node: str, **changed: int) -> Evidence:
    return replace(e, counts={**e.counts, node: {**e.counts[node], **changed}})


def _seen(e: Evidence, invariant: str) -> Evidence:
    e.seen.violated(invariant, "something")
    return e


def _without_bar(e: Evidence) -> Evidence:
    write_bars(e, all_bars(e)[1:])
    return e


def _bar_twice(e: Evidence) -> Evidence:
    write_bars(e, [*all_bars(e), all_bars(e)[-1]])
    return e


def _bar_changed(e: Evidence) -> Evidence:
    first, *rest = all_bars(e)
    write_bars(e, [{**first, "volume": first["volume"] + 1}, *rest])
    return e


def _bar_too_many(e: Evidence) -> Evidence:
    write_bars(e, [*all_bars(e), {**all_bars(e)[-1], "ts_open": START * 2, "ts_close": START * 2 + INTERVAL}])
    return e


def _bars_reversed(e: Evidence) -> Evidence:
    write_bars(e, all_bars(e)[::-1])
    return e


def _fields(e: Evidence, task: str, name: str, blob: bytes) -> Evidence:
    return replace(e, fields={**e.fields, task: {**e.fields.get(task, {}), name: blob}})


TWINS = [Noted("t/0", "p", "a", 1.0, 2.0), Noted("t/0", "p", "b", 3.0, 4.0)]

BROKEN: list[tuple[str, Callable[[Evidence], Evidence]]] = [
    ("the job finishes", lambda e: replace(e, state="failed", error="boom")),
    ("the job finishes", lambda e: replace(e, state="running")),
    ("nobody dies but of the faults", lambda e: replace(e, exits=["w1 ended with 1"])),
    ("final bars equal the oracle's", _without_bar),
    ("final bars equal the oracle's", _bar_twice),
    ("final bars equal the oracle's", _bar_changed),
    ("final bars equal the oracle's", _bar_too_many),
    ("final state equals the oracle's", lambda e: _fields(e, "dedupe/1", "dedupe\x1f0", b"\0" * 8)),
    ("final state equals the oracle's", lambda e: _fields(e, "dedupe/1", "dedupe\x1f0", b"\xff" * 8)),
    ("final state equals the oracle's", lambda e: replace(e, fields={})),
    ("final state equals the oracle's", lambda e: _fields(e, "bars/0", "bars\x1f77", b"an open bar")),
    ("final state equals the oracle's", lambda e: _fields(e, "source/0", "\x1eoutbox:0", b"unsent")),
    ("order per symbol is kept", _bars_reversed),
    ("every input is accounted for", lambda e: _counts(e, "dedupe", **{"in": 21})),
    ("every input is accounted for", lambda e: _counts(e, "dedupe", duplicate=0)),
    ("every input is accounted for", lambda e: _counts(e, "bars", late=0)),
    ("every input is accounted for", lambda e: _counts(e, "source", out=23)),
    ("every input is accounted for", lambda e: _seen(e, "accounted")),
    ("every input is accounted for", lambda e: replace(e, seen=replace(e.seen, accounts=0))),
    ("the dead letters hold the poison and nothing else", lambda e: replace(e, dead_letters=[{"item": "x", "reason": "y"}])),
    ("no stream was ever above its capacity", lambda e: _seen(e, "capacity")),
    ("no stream was ever above its capacity", lambda e: replace(e, seen=Seen())),
    ("one accepted child per parent commit", lambda e: replace(e, commits=TWINS)),
    ("one accepted child per parent commit", lambda e: replace(e, commits=TWINS, rollbacks=[(5.0, 6.0)])),
    ("one accepted child per parent commit", lambda e: replace(e, commits=[])),
    ("watermarks never go back", lambda e: _seen(e, "watermarks")),
    ("no frame is left behind", lambda e: replace(e, streams={"q:0": 1})),
    ("no frame is left behind", lambda e: replace(e, stream_bytes={"q:0": 12})),
    ("no frame is left behind", lambda e: replace(e, streams={})),
    ("drained in time after the last fault", lambda e: replace(e, drained=31.0)),
    ("drained in time after the last fault", lambda e: replace(e, drained=2.0, drain_seconds=1.0)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "breaking"), BROKEN, ids=range(len(BROKEN)))
def test_each_invariant_finds_what_it_is_for(
    tmp_path: Path, name: str, breaking: Callable[[Evidence], Evidence]
) -> None:
    assert INVARIANTS[name](breaking(good(tmp_path)))


def test_every_invariant_was_seen_to_fail() -> None:
    assert {name for name, _ in BROKEN} == set(INVARIANTS)


def test_a_missing_dead_letter_is_found(tmp_path: Path) -> None:
    e = good(tmp_path)
    e.expected.raised.append(4)
    assert INVARIANTS["the dead letters hold the poison and nothing else"](e) == ["4 is not among the dead letters"]


def test_a_rollback_in_between_allows_a_second_child(tmp_path: Path) -> None:
    e = replace(good(tmp_path), commits=TWINS, rollbacks=[(2.5, 2.7)])
    assert INVARIANTS["one accepted child per parent commit"](e) == []


def test_forwarded_trades_must_be_in_the_order_of_the_feed(tmp_path: Path) -> None:
    e = good(tmp_path, "fan-out")
    write_trades(e, {**e.expected.forwarded, "A": e.expected.forwarded["A"][::-1]})
    (wrong,) = INVARIANTS["order per symbol is kept"](e)
    assert wrong.startswith("A: 11 trades instead of 11; at 0: [100, 18, 16]")


def test_a_wrong_table_is_found(tmp_path: Path) -> None:
    e = good(tmp_path, "fan-out")
    write_table(e, all_bars(e)[1:])
    (wrong,) = INVARIANTS["final bars equal the oracle's"](e)
    assert wrong.startswith("table: 1 bars are missing")
