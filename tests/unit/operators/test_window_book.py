"""Time and count windows against plain lists and polars: any frames, watermarks and restarts, rows and columns."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.window_oracle import NUMERIC, CountOracle, Played, TimeOracle, columns_of

from market_data_pipeline.frame import END, NO_MARK, Frame, to_rows
from market_data_pipeline.operators.aggregations import Count, First, Last, Max, Sum
from market_data_pipeline.operators.base import OperatorContext
from market_data_pipeline.operators.window import WindowAggregate
from market_data_pipeline.operators.window_book import groups, ranks
from market_data_pipeline.operators.windows import CountWindow, Hop, Tumble

PRICES = st.sampled_from([0.1, 0.2, 0.7, 1e16, -3.25, 100.0])
SIZES = st.sampled_from([0.0, 1.0, 0.3, 2.5])


def steps(times: st.SearchStrategy[int]) -> st.SearchStrategy[list[Any]]:
    items = st.lists(st.tuples(st.sampled_from("abc"), times, PRICES, SIZES), min_size=1, max_size=12)
    return st.lists(st.one_of(items, items, st.integers(-35, 35), st.sampled_from(["commit", "restart"])), max_size=20)


LATENESS = st.sampled_from([None, 1, 7, 40])
EARLY = st.tuples(st.sampled_from([None, None, 1, 2, 5]), st.sampled_from([None, None, 1, 3]))


def options(windows: Any, allowed: int | None, early: tuple[int | None, int | None]) -> dict[str, Any]:
    return {
        "windows": windows,
        "late": "drop" if allowed is None else "revise",
        "allowed_lateness": allowed or 0,
        "early_items": early[0],
        "early_every": early[1],
    }


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    steps=steps(st.integers(-30, 30)),
    shape=st.sampled_from([(5, 5, 2), (5, 5, -3), (6, 2, 1), (7, 3, 0), (3, 5, 1), (5, 4, -7)]),
    allowed=LATENESS,
    early=EARLY,
    as_columns=st.booleans(),
    numeric=st.booleans(),
)
def test_any_frames_watermarks_and_restarts_give_the_windows_of_plain_lists(
    steps: list[Any], shape: tuple[int, int, int], allowed: int | None, early: Any, as_columns: bool, numeric: bool
) -> None:
    size, slide, align_to = shape
    windows = Tumble(size, align_to) if size == slide else Hop(size, slide, align_to)
    more = {"aggregations": NUMERIC} if numeric else {}
    oracle = TimeOracle(allowed, *early, size=size, slide=slide, align_to=align_to)
    Played(oracle, **options(windows, allowed, early), **more).play(steps, as_columns)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    steps=steps(st.one_of(st.integers(-30, 30), st.sampled_from([-(2**61), 2**61, 2**62 - 1, -(2**62) + 1]))),
    early=EARLY,
)
def test_windows_may_be_as_far_apart_as_time_goes(steps: list[Any], early: Any) -> None:
    oracle = TimeOracle(7, *early, size=8, slide=4)
    marks = [step * 2**56 if isinstance(step, int) else step for step in steps]
    Played(oracle, **options(Hop(8, 4), 7, early)).play(marks, True)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(steps=steps(st.integers(-30, 30)), n=st.integers(1, 7), as_columns=st.booleans())
def test_count_windows_are_those_of_plain_lists(steps: list[Any], n: int, as_columns: bool) -> None:
    Played(CountOracle(n=n), windows=CountWindow(n)).play(steps, as_columns)


def random_items(n: int, keys: int, seed: int = 3) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    ts = np.cumsum(rng.integers(0, 40, n)) - 5_000
    return [
        {"key": f"k{rng.integers(keys)}", "ts_event": int(t), "price": float(p), "size": 1.0, "n": i}
        for i, (t, p) in enumerate(zip(ts, rng.integers(1, 1000, n) / 8, strict=True))
    ]


def shuffled(items: list[dict[str, Any]], disorder: int, seed: int) -> list[dict[str, Any]]:
    """In another order, nothing more than ``disorder`` behind the largest time before it."""
    rng = np.random.default_rng(seed)
    moved = [(item["ts_event"] + int(rng.integers(0, disorder + 1)), item) for item in items]
    return [item for _, item in sorted(moved, key=lambda pair: pair[0])]


@pytest.mark.parametrize(
    ("windows", "every", "period", "offset"),
    [
        (Tumble(60), 60, 60, 0),
        (Tumble(60, "-13ns"), 60, 60, -13),
        (Hop(60, 20, 7), 20, 60, 7),
        (Hop(20, 50), 50, 20, 0),
    ],
)
@pytest.mark.parametrize("batch", [1, 7, 500, 5000])
def test_any_interleaving_gives_what_polars_gives(
    windows: Any, every: int, period: int, offset: int, batch: int
) -> None:
    items = random_items(3000, 5)
    operator = WindowAggregate(windows, {"n": Count(), "sum": Sum("price"), "high": Max("price")}, key="key")
    operator.open(OperatorContext("w"))
    found: list[dict[str, Any]] = []
    newest = NO_MARK
    mixed = shuffled(items, 100, batch)
    for start in range(0, len(mixed), batch):
        part = mixed[start : start + batch]
        newest = max(newest, *(item["ts_event"] for item in part))
        for frame in [*operator.process(Frame(columns_of(part))), *operator.advance(newest - 100)]:
            found += to_rows(frame.items)
    found += [row for frame in operator.advance(END) for row in to_rows(frame.items)]
    assert operator.ctx.counts["late"] == 0
    frame = pl.DataFrame(items).with_columns(pl.from_epoch("ts_event", time_unit="ns").alias("at")).sort("at")
    expected = (
        frame.group_by_dynamic(
            "at",
            every=f"{every}ns",
            period=f"{period}ns",
            offset=f"{offset}ns",
            group_by="key",
            start_by="window",
            closed="left",
        )
        .agg(pl.len().alias("n"), pl.col("price").sum().alias("sum"), pl.col("price").max().alias("high"))
        .with_columns(pl.col("at").dt.epoch("ns").alias("ts_open"))
    )
    names = ["ts_open", "key", "n", "sum", "high"]
    wanted = sorted(expected.select(names).iter_rows())
    begins = {key: min(start for start, k, *_ in wanted if k == key) for key in {row["key"] for row in found}}
    made = sorted(tuple(row[name] for name in names) for row in found)  # polars has no window before a key's first one
    assert [row for row in made if row[0] >= begins[row[1]]] == wanted
    assert len(made) - len(wanted) <= max(period // every - 1, 0) * len(begins)
    assert all(row["ts_close"] - row["ts_open"] == period and row["is_final"] for row in found)


def test_an_item_in_the_gap_between_windows_is_counted() -> None:
    operator = WindowAggregate(Hop(2, 5), {"n": Count()}, key=None)
    operator.open(OperatorContext("w"))
    list(operator.process(Frame([{"ts_event": ts} for ts in range(5)])))
    assert operator.ctx.counts == {"outside": 3}
    assert [to_rows(f.items) for f in operator.advance(END)] == [
        [{"ts_open": 0, "ts_close": 2, "revision": 0, "is_final": True, "n": 2}]
    ]


def test_late_for_one_window_and_on_time_for_another() -> None:
    operator = WindowAggregate(Hop(10, 5), {"n": Count()}, key=None, late="side_output")
    operator.open(OperatorContext("w"))
    list(operator.advance(10))
    partly, late = {"ts_event": 7}, {"ts_event": 4}
    frames = list(operator.process(Frame([partly, late])))
    assert [(frame.port, frame.items) for frame in frames] == [("late", [late])]
    assert operator.ctx.counts == {"late": 1, "late_partly": 1}
    assert [(r["ts_open"], r["n"]) for f in operator.advance(END) for r in to_rows(f.items)] == [(5, 1)]


def test_ties_go_by_arrival_across_frames_and_within_them() -> None:
    for frames in ([[0, 1], [2, 3]], [[0, 1, 2, 3]], [[0], [1], [2], [3]]):
        operator = WindowAggregate(Tumble("1s"), {"first": First("n"), "last": Last("n")}, key=None)
        operator.open(OperatorContext("w"))
        for part in frames:
            list(operator.process(Frame([{"ts_event": 5, "n": n} for n in part])))
        (row,) = [row for frame in operator.advance(END) for row in to_rows(frame.items)]
        assert (row["first"], row["last"]) == (0, 3)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    pairs=st.lists(st.tuples(st.sampled_from([-(2**61), -2, 0, 1, 5, 2**61]), st.integers(0, 4)), min_size=1),
    codes=st.sampled_from([5, 100_000]),
)
def test_groups_and_ranks_are_those_of_a_dict(pairs: list[tuple[int, int]], codes: int) -> None:
    number, code = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    first, inverse = groups(number, code, codes)
    order = list(dict.fromkeys(pairs))
    assert [pairs[at] for at in first.tolist()] == order
    assert first.tolist() == [pairs.index(pair) for pair in order]
    assert [order[at] for at in inverse.tolist()] == pairs
    assert ranks(inverse).tolist() == [pairs[:at].count(pair) for at, pair in enumerate(pairs)]
