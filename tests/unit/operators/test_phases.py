"""Live trades and history: Dedupe and bars against a plain loop, on made-up items and on recorded ones."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.recorded import DATA

from market_data_pipeline import Dedupe, DollarBars, TickBars, Trade, TradeRules, TumblingBars, VolumeBars
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import END, Columns, Frame, Items, columns_from_rows, to_rows
from market_data_pipeline.operators.base import Operator, OperatorContext
from market_data_pipeline.packing import pack, unpack

RECORDED = DATA / "trades_crypto.jsonl.gz"
ITEMS = st.lists(
    st.builds(
        lambda symbol, number, phase: Trade(symbol, number * 10**8, 0, 1.0, 1.0, "", number, phase=phase),
        st.sampled_from("AB"),
        st.integers(0, 9),
        st.sampled_from(["live", "live", "snapshot"]),
    ),
    max_size=60,
)


def started(operator: Operator) -> Operator:
    operator.open(OperatorContext("node"))
    return operator


def columns(items: list[Any]) -> Items:
    return columns_from_rows(items)[0] if items else []


def passing(items: list[Trade], promote: bool) -> list[Trade]:
    """The first of each key, and the first live one of each key that came only in snapshots."""
    seen: dict[Any, str] = {}
    out = []
    for item in items:
        key = (item.symbol, item.trade_id)
        if key not in seen:
            seen[key] = item.phase
            out.append(item)
        elif promote and seen[key] == "snapshot" and item.phase == "live":
            seen[key] = "live"
            out.append(item)
    return out


@pytest.mark.parametrize("form", [list, columns])
@pytest.mark.parametrize("promote", [True, False])
@settings(max_examples=80, deadline=None, derandomize=True)
@given(items=ITEMS, cuts=st.sets(st.integers(0, 60), max_size=6))
def test_dedupe_against_a_loop_with_a_restart_at_every_cut(
    form: Any, promote: bool, items: list[Trade], cuts: set[int]
) -> None:
    operator, state, out = started(Dedupe("symbol", "trade_id", promote=promote)), dict[str, bytes](), []
    places = [0, *sorted(cut for cut in cuts if 0 < cut < len(items)), len(items)]
    for begin, end in pairwise(places):
        out += [row for frame in operator.process(Frame(form(items[begin:end]))) for row in to_rows(frame.items)]
        state.update({key: blob for key, blob in operator.snapshot().items() if blob is not None})
        counts = operator.ctx.counts
        operator = started(Dedupe("symbol", "trade_id", promote=promote))
        operator.restore(state)
        operator.ctx.counts.update(counts)
    wanted = passing(items, promote)
    assert out == wanted
    counts = operator.ctx.counts
    assert counts["duplicate"] == len(items) - len(wanted)
    assert counts["promoted"] == len(wanted) - len(passing(items, False))
    assert counts["conflict"] == 0


def test_state_that_was_stored_without_marks_promotes_nothing_and_knows_its_keys() -> None:
    items = [Trade("A", n, 0, 1.0, 1.0, "", n) for n in range(200)]
    operator = started(Dedupe("symbol", "trade_id"))
    assert list(operator.process(Frame(items)))
    ((key, blob),) = operator.snapshot().items()
    newest, keys, content, _ = unpack(blob or b"")
    upper = (np.frombuffer(content, np.uint32) | np.uint32(1 << 31)).tobytes()  # one of 32 bits may have this one
    operator = started(Dedupe("symbol", "trade_id"))
    operator.restore({key: pack([newest, keys, upper])})
    assert not any(len(frame.items) for frame in operator.process(Frame(items)))
    assert operator.ctx.counts == {"duplicate": 200}


def recorded() -> list[Trade]:
    with gzip.open(RECORDED, "rt") as file:
        rows = [json.loads(line) for line in file]
    names = ("symbol", "ts_event", "ts_recv", "price", "size", "side", "trade_id", "phase")
    values = [{**{name: row[name] for name in names}, "venue": row["exchange"]} for row in rows]
    return [Trade(**{**row, "price": float(row["price"]), "size": float(row["size"])}) for row in values]


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded trades are not on this machine")
@pytest.mark.parametrize("frame_items", [500, 100_000])
def test_recorded_feeds_lose_no_live_trade_to_their_snapshots(frame_items: int) -> None:
    items = recorded()
    assert Counter(item.phase for item in items)["snapshot"] > 100
    dedupe, bars = started(Dedupe("symbol", "trade_id")), started(TumblingBars("1m"))
    passed: list[Trade] = []
    for begin in range(0, len(items), frame_items):
        for frame in dedupe.process(Frame(columns(items[begin : begin + frame_items]))):
            passed += to_rows(frame.items)
            list(bars.process(frame))
    assert passed == [item for item, key in zip(items, passing_mask(items), strict=True) if key]
    live: dict[Any, Trade] = {}
    for at, item in enumerate(items):
        if item.phase == "live":
            live.setdefault((item.symbol, item.trade_id or at), item)
    made = [row for frame in bars.advance(END) for row in to_rows(frame.items)]
    assert sum(bar.trade_count for bar in made) == len(live)
    volumes: Counter[Any] = Counter()
    for item in live.values():
        volumes[item.symbol, item.ts_event // (60 * 10**9)] += item.size  # type: ignore[assignment]
    assert {(bar.symbol, bar.ts_open // (60 * 10**9)): pytest.approx(bar.volume) for bar in made} == volumes
    assert bars.ctx.counts["not_live"] == len(passed) - len(live)


def passing_mask(items: list[Trade]) -> list[bool]:
    """As :func:`passing`; items without an id all pass."""
    seen: dict[Any, str] = {}
    mask = []
    for item in items:
        key = (item.symbol, item.trade_id)
        before = seen.get(key)
        passes = item.trade_id == "" or before is None or (before == "snapshot" and item.phase == "live")
        if passes:
            seen[key] = item.phase
        mask.append(passes)
    return mask


@pytest.mark.parametrize("phases", [(), ("dead",), "live", ["live"]])
def test_wrong_phases_are_named(phases: Any) -> None:
    makers: list[Any] = [
        lambda p: TradeRules(phases=p),
        lambda p: TickBars(1, phases=p),
        lambda p: VolumeBars(1, phases=p),
    ]
    for make in (*makers, lambda p: DollarBars(1, phases=p)):
        with pytest.raises(ConfigError, match=r"phases: .* is not allowed; None, or a tuple of: live, snapshot"):
            make(phases)
    with pytest.raises(ConfigError, match="promote=1 is not allowed"):
        Dedupe("a", promote=1)  # type: ignore[arg-type]


def test_items_without_a_phase_are_all_live() -> None:
    made = columns([Trade("A", n, 0, 1.0, 1.0) for n in range(5)])
    assert isinstance(made, Columns)
    assert "phase" not in made.data
    bars = started(TickBars(5))
    assert sum(len(frame.items) for frame in bars.process(Frame(made))) == 1
    rows = [{"symbol": "A", "ts_event": n, "price": 1.0, "size": 1.0} for n in range(4)]
    bars = started(TickBars(5))
    assert sum(len(f.items) for f in bars.process(Frame([*rows, {**rows[0], "phase": "snapshot"}, rows[0]]))) == 1
    assert bars.ctx.counts["not_live"] == 1
