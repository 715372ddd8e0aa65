"""Marks and watermarks, against plain arithmetic."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.frame import END, NO_MARK, columns_from_rows
from market_data_pipeline.records import Trade
from market_data_pipeline.runtime.progress import MarkMerger, SourceWatermark

quick = settings(derandomize=True, max_examples=200, deadline=None)
updates = st.lists(st.tuples(st.sampled_from("abc"), st.integers(-5, 20) | st.just(END)), max_size=60)


@given(updates)
@quick
def test_the_watermark_is_the_smallest_of_the_largest_marks(steps: list[tuple[str, int]]) -> None:
    merger = MarkMerger("abc")
    best = dict.fromkeys("abc", NO_MARK)
    before = NO_MARK
    for key, mark in steps:
        best[key] = max(best[key], mark)
        advanced = merger.update(key, mark)
        assert merger.watermark == min(best.values())
        assert advanced == (min(best.values()) > before)
        before = merger.watermark


@given(updates, updates)
@quick
def test_a_restored_merger_goes_on_like_the_old_one(first: list[tuple[str, int]], then: list[tuple[str, int]]) -> None:
    old, new = MarkMerger("abc"), MarkMerger("abc")
    for key, mark in first:
        old.update(key, mark)
    saved = old.saved()
    new.restore({**saved, "marks": {**saved["marks"], "gone": 99}})
    assert new.saved() == old.saved()
    for key, mark in then:
        assert new.update(key, mark) == old.update(key, mark)


def test_an_input_that_promised_nothing_holds_the_watermark_back() -> None:
    merger = MarkMerger(["a", "b"])
    merger.restore({"marks": {"a": 7}})
    assert merger.watermark == NO_MARK
    assert merger.update("b", 5)
    assert merger.watermark == 5


@given(st.lists(st.lists(st.integers(0, 1000), max_size=5), max_size=20), st.integers(0, 100), st.booleans())
@quick
def test_source_watermark_is_the_largest_time_less_the_delay(times: list[list[int]], delay: int, rows: bool) -> None:
    watermark = SourceWatermark(delay)
    newest: int | None = None
    for batch in times:
        items = [Trade("A", ts, 0, 1.0, 1.0) for ts in batch]
        newest = max([*batch, *([] if newest is None else [newest])], default=None)
        mark = watermark.observe(items if rows or not items else columns_from_rows(items)[0])
        assert mark == (NO_MARK if newest is None else newest - delay)


def test_no_delay_known_promises_nothing_before_the_end() -> None:
    watermark = SourceWatermark(None)
    assert watermark.observe([Trade("A", 5, 0, 1.0, 1.0)]) == NO_MARK
    assert watermark.end() == END
    assert watermark.observe([Trade("A", 9, 0, 1.0, 1.0)]) == END


def test_items_without_a_time_do_not_move_it() -> None:
    watermark = SourceWatermark(0)
    assert watermark.observe([1, "x", None, {"a": 1}, {"ts_event": "late"}, {"ts_event": 3.5}]) == NO_MARK
    assert watermark.observe([{"ts_event": 4}, 7]) == 4
