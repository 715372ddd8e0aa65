"""ConditionMask against the definition, trade by trade."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import Columns, columns_from_rows
from market_data_pipeline.operators.base import OperatorContext
from market_data_pipeline.operators.conditions import ConditionMask
from market_data_pipeline.records import Trade


def no(letter: str) -> Callable[[str], bool]:
    return lambda conditions: letter not in conditions


def trades(*conditions: str) -> Columns:
    rows = [Trade("A", n, 0, 1.0, 1.0, "", n, text) for n, text in enumerate(conditions)]
    return columns_from_rows(rows)[0]


def chosen(mask: ConditionMask, items: Columns, ctx: OperatorContext) -> list[tuple[int, bool, bool]]:
    selected = mask.select(items, ctx)
    n = len(selected.items)
    prices = [True] * n if selected.prices is None else selected.prices.tolist()
    volumes = [True] * n if selected.volumes is None else selected.volumes.tolist()
    return list(zip(selected.items.array("ts_event").tolist(), prices, volumes, strict=True))


@given(
    st.lists(st.lists(st.sampled_from(["", "I", "Q", "IQ", "X"]), min_size=1, max_size=9), max_size=4),
    st.sampled_from([None, no("I")]),
    st.sampled_from([None, no("Q")]),
)
@settings(derandomize=True, max_examples=200, deadline=None)
def test_every_trade_is_taken_for_what_its_conditions_say(frames: list[list[str]], ohlc: Any, volume: Any) -> None:
    mask, ctx, ignored = ConditionMask(ohlc, volume), OperatorContext("bars"), 0
    for frame in frames:
        expected = []
        for n, text in enumerate(frame):
            price, size = ohlc is None or ohlc(text), volume is None or volume(text)
            ignored += not (price or size)
            if price or size:
                expected.append((n, price, size))
        assert chosen(mask, trades(*frame), ctx) == expected
    assert ctx.counts["ignored"] == ignored


def test_trades_without_the_column_have_no_conditions() -> None:
    items = Columns("", {"ts_event": trades("", "").array("ts_event")})
    ctx = OperatorContext("bars")
    assert chosen(ConditionMask(lambda c: c != "", None), items, ctx) == [(0, False, True), (1, False, True)]
    assert chosen(ConditionMask(lambda c: c == "", None), items, ctx) == [(0, True, True), (1, True, True)]


def test_a_predicate_is_asked_once_for_each_string() -> None:
    asked: list[str] = []

    def updates(conditions: str) -> int:
        asked.append(conditions)
        return len(conditions)

    mask, items = ConditionMask(updates), trades("a", "", "a", "a", "")
    ctx = OperatorContext("bars")
    for _ in range(3):
        assert [price for _, price, _ in chosen(mask, items, ctx)] == [True, False, True, True, False]
    assert asked == ["a", ""]


def test_conditions_on_which_a_predicate_raises_cost_only_their_trades() -> None:
    ctx = OperatorContext("bars")
    mask = ConditionMask(lambda c: {"": True, "I": False}[c])
    assert chosen(mask, trades("", "odd", "I", "odd"), ctx) == [(0, True, True), (2, False, True)]
    assert [letter.item.trade_id for letter in ctx.dead_letters] == [1, 3]
    assert ctx.dead_letters[0].reason == "KeyError: 'odd'"
    kept = trades("odd", "").take(slice(1, 2))
    assert chosen(mask, kept, ctx) == [(1, True, True)]


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(ConfigError, match="updates_volume: 'I' is not a function"):
        ConditionMask(None, "I")  # type: ignore[arg-type]
