"""What is made per list of names: once for each tuple, bounded, and never another tuple's."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_data_pipeline.names import PerNames


def test_it_is_made_once_for_a_tuple() -> None:
    made: list[tuple[str, ...]] = []
    count = PerNames(lambda names: made.append(names) or len(made))
    one, two = tuple("ab"), tuple("ab")
    assert [count(one), count(one), count(two), count(one)] == [1, 1, 2, 1]
    assert len(made) == 2


def test_those_used_last_are_kept() -> None:
    calls: list[str] = []
    first = PerNames(lambda names: calls.append(names[0]) or names[0], limit=12)
    lists = [tuple(f"{letter}xy") for letter in "abc"]
    for names in (*lists, lists[0], tuple("dxy"), lists[0], lists[1]):
        assert first(names) == names[0]
    assert "".join(calls) == "abcdb", "b was the one used longest ago"


def test_a_list_larger_than_the_limit_is_still_remembered() -> None:
    calls: list[int] = []
    size = PerNames(lambda names: calls.append(len(names)) or len(names), limit=3)
    large = tuple(str(i) for i in range(10))
    assert [size(large), size(large)] == [10, 10]
    assert calls == [10]


def test_what_cannot_be_made_is_not_remembered() -> None:
    strict = PerNames(lambda names: int(names[0]))
    bad = ("x",)
    for _ in range(2):
        with pytest.raises(ValueError, match="invalid literal"):
            strict(bad)
    assert strict(("7",)) == 7


@given(st.lists(st.lists(st.text(max_size=2), min_size=1, max_size=3), max_size=60))
def test_a_tuple_whose_place_in_memory_is_used_again_gets_its_own(lists: list[list[str]]) -> None:
    joined = PerNames("".join, limit=8)
    for names in lists:
        fresh = tuple(names)
        assert joined(fresh) == "".join(names)
        del fresh
        gc.collect(0)
