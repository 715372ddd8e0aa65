"""Logs read in step: event time never runs ahead of what a log that is behind still holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from market_data_pipeline.sources.lanes import Lanes


def lanes(most: int = 100, merge: bool = True) -> Lanes[str]:
    return Lanes(["a", "b"], merge, most)


def add(found: Lanes[str], name: str, *times: int | None) -> None:
    for time in times:
        found.add(name, f"{name}{time}", f"behind {name}{time}", time)


def test_what_is_behind_is_waited_for() -> None:
    found = lanes()
    add(found, "a", 1, 5, 9)
    assert found.take(10).items == [], "b may be behind"
    add(found, "b", 2, 3)
    assert found.take(10).items == ["a1", "b2", "b3"]
    found.caught_up("b")
    taken = found.take(10)
    assert taken.items == ["a5", "a9"]
    assert taken.places == {"a": "behind a9"}
    assert found.empty


def test_a_lanes_own_order_stays() -> None:
    found = lanes()
    add(found, "a", 5, 1, 9)
    add(found, "b", 3, 6)
    found.caught_up("b")
    assert found.take(10).items == ["b3", "a5", "a1", "b6", "a9"]


def test_items_without_time_hold_nobody_up_and_keep_their_place() -> None:
    found = lanes()
    add(found, "a", None, 4, None)
    add(found, "b", 7)
    assert found.take(10).items == ["aNone", "a4", "aNone"]


def test_a_limit_cuts_the_merged_order() -> None:
    found = lanes()
    add(found, "a", 1, 3, 5)
    add(found, "b", 2, 4, 6)
    assert found.take(3).items == ["a1", "b2", "a3"]
    assert found.take(3).items == ["b4", "a5"]


def test_without_merging_all_is_handed_out() -> None:
    found = lanes(merge=False)
    add(found, "a", 9, 1)
    assert found.take(10).items == ["a9", "a1"]


def test_a_lane_that_holds_too_much_is_full() -> None:
    found = lanes(most=2)
    add(found, "a", 1)
    assert not found.full("a")
    add(found, "a", 2)
    assert found.full("a")


@given(
    st.lists(st.lists(st.integers(0, 50), max_size=20).map(sorted), min_size=1, max_size=4),
    st.data(),
)
def test_sorted_lanes_come_out_sorted_each_item_once(times: list[list[int]], data: st.DataObject) -> None:
    names = range(len(times))
    found: Lanes[int] = Lanes(names, True, 100)
    left = {name: list(times[name]) for name in names}
    got: list[tuple[int, int]] = []
    while any(left.values()):
        name = data.draw(st.sampled_from([name for name in names if left[name]]))
        time = left[name].pop(0)
        found.add(name, (time, name), time, time)
        for empty in names:
            if not left[empty]:
                found.caught_up(empty)
        got += found.take(data.draw(st.integers(1, 5))).items
    while not found.empty:
        got += found.take(3).items
    assert [time for time, _ in got] == sorted(time for lane in times for time in lane)
    for name in names:
        assert [time for time, lane in got if lane == name] == times[name]
