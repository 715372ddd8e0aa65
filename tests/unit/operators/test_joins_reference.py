"""The reference join against a plain loop: versions, deletions, late rows, any interleaving, a restart anywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.operator_bench import Bench, as_columns, play

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import NO_MARK, Columns, Dictionary
from market_data_pipeline.operators.joins.reference import ReferenceJoin
from market_data_pipeline.records import Trade

S = 10**9


def trade(symbol: str, ts: int) -> Trade:
    return Trade(symbol, ts, 0, 1.0, 1.0)


def row(symbol: str, ts: int, tick: Any = 1, **more: Any) -> dict[str, Any]:
    return {"symbol": symbol, "ts_event": ts, "tick": tick, **more}


def time_of(item: Any) -> int:
    return int(item["ts_event"] if isinstance(item, dict) else item.ts_event)


def expected(history: list[Any]) -> tuple[list[Any], list[Any], int]:
    """What comes out, the late items, and how many rows were late: whenever the watermark advances, each item that it passes
    is looked up in all rows that have come by then."""
    watermark, came, waiting = NO_MARK, [], []
    out, late, late_rows = [], [], 0
    for move in [*history, 2**63 - 1]:
        if isinstance(move, tuple):
            port, item = move
            if port:
                late_rows += time_of(item) < watermark
                came.append(item)
            else:
                (late if time_of(item) < watermark else waiting).append(item)
            continue
        watermark = max(watermark, move)
        for item in sorted((i for i in waiting if i.ts_event < watermark), key=time_of):
            versions = [r for r in came if r["symbol"] == item.symbol and time_of(r) <= item.ts_event]
            version = max(enumerate(versions), key=lambda v: (time_of(v[1]), v[0]))[1] if versions else {}
            out.append({**item._asdict(), "tick": None if version.get("deleted") else version.get("tick")})
        waiting = [i for i in waiting if i.ts_event >= watermark]
    return out, late, late_rows


SYMBOLS, TIMES = st.sampled_from("AB"), st.integers(-20, 60)
MOVES = st.one_of(
    st.tuples(st.just(""), st.builds(trade, SYMBOLS, TIMES)),
    st.tuples(st.just("reference"), st.builds(row, SYMBOLS, TIMES, st.integers(1, 99), deleted=st.booleans())),
    st.tuples(st.just("reference"), st.builds(row, SYMBOLS, TIMES, st.integers(1, 99))),
    st.integers(-20, 50),
)


@given(
    st.lists(MOVES, max_size=50),
    st.lists(st.booleans(), min_size=1, max_size=5),
    st.booleans(),
    st.sampled_from(["left", "inner"]),
)
@settings(derandomize=True, max_examples=300, deadline=None)
def test_each_item_with_the_version_of_its_time(
    history: list[Any], restarts: list[bool], group: bool, how: str
) -> None:
    bench = Bench(ReferenceJoin(["tick"], how=how, late="side_output"))  # type: ignore[arg-type]
    play(bench, history, ["rows"], restarts, group)
    out, late, late_rows = expected(history)
    assert bench.out == [item for item in out if how == "left" or item["tick"] is not None]
    assert bench.late == late
    counts = {"late": len(late), "late_right": late_rows, "unmatched": sum(item["tick"] is None for item in out)}
    assert bench.counts == {name: n for name, n in counts.items() if n}


def test_the_example_of_the_module() -> None:
    bench = Bench(ReferenceJoin(["tick"]))
    bench.feed([row("A", 0, 1), row("A", 10 * S, 5)], "reference")
    bench.feed(as_columns([trade("A", 4 * S), trade("A", 10 * S), trade("A", 12 * S)]))
    bench.advance(11 * S)
    bench.restart()
    bench.feed([{"symbol": "A", "ts_event": 12 * S, "deleted": True}], "reference")
    bench.end()
    assert [(r["ts_event"] // S, r["tick"]) for r in bench.out] == [(4, 1), (10, 5), (12, None)]
    assert bench.counts == {"unmatched": 1}


def table(symbols: list[str], times: list[int], **fields: Any) -> Columns:
    data = {"symbol": Dictionary.encode(symbols), "ts_event": np.array(times), **fields}
    return Columns("", data)


def test_a_table_of_columns_gives_what_rows_give() -> None:
    columns, rows = Bench(ReferenceJoin(["tick", "market"])), Bench(ReferenceJoin(["tick", "market"]))
    made = table(
        ["A", "B", "A"],
        [1, 2, 8],
        tick=np.array([0.5, 0.1, 0.2]),
        market=Dictionary.encode(["x", "y", "z"]),
        deleted=np.array([False, False, True]),
    )
    for bench, items in ((columns, made), (rows, made.rows())):
        bench.feed(items, "reference")
        bench.feed(as_columns([trade("A", 5), trade("B", 6), trade("A", 9)]))
        bench.advance(6)
        bench.restart()
        bench.end()
    assert columns.out == rows.out
    assert [(r["tick"], r["market"]) for r in columns.out] == [(0.5, "x"), (0.1, "y"), (None, None)]


def test_a_deleted_key_is_not_brought_back_by_a_late_row() -> None:
    bench = Bench(ReferenceJoin(["tick"], how="inner"))
    bench.feed([row("A", 5, deleted=True)], "reference")
    bench.advance(10)
    bench.restart()
    bench.feed([row("A", 4)], "reference")
    bench.feed([trade("A", 12)])
    bench.end()
    assert bench.out == []


def test_without_waiting_items_come_out_at_once_with_what_is_known() -> None:
    bench = Bench(ReferenceJoin(["tick"], wait=False, late="side_output"))
    bench.feed([trade("A", 7)])
    bench.feed([row("A", 5, 1), row("A", 10, 2)], "reference")
    bench.feed(as_columns([trade("A", 12), trade("A", 9)]))
    bench.advance(11)
    bench.restart()
    bench.feed([trade("A", 10), trade("A", 11)])
    assert [(r["ts_event"], r["tick"]) for r in bench.out] == [(7, None), (12, 2), (9, 1), (11, 2)]
    assert bench.late == [trade("A", 10)]
    bench.end()


def test_a_function_gets_the_row() -> None:
    bench = Bench(ReferenceJoin(combine=lambda item, version: (item.symbol, version and version["tick"])))
    bench.feed([row("A", 5, 1), row("B", 5, 1, deleted=1)], "reference")
    bench.advance(6)
    bench.restart()
    bench.feed([trade("A", 7), trade("B", 7)])
    bench.end()
    assert bench.out == [("A", 1), ("B", None)]


def test_mistakes_in_the_arguments() -> None:
    with pytest.raises(ConfigError, match="fields: name at least one field of the right item, or give combine"):
        ReferenceJoin()
    with pytest.raises(ConfigError, match="deleted: '' is not the name of a field"):
        ReferenceJoin(["tick"], deleted="")
