"""Rows read exactly: prices and sizes as the text that was sent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.decimals import decimal_float
from market_data_pipeline.errors import RecordError
from market_data_pipeline.records import Trade
from market_data_pipeline.sources.rows import RowParser

EXACT = RowParser("trade", None, "ns", "A", exact=True)
PLAIN = RowParser("trade", None, "ns", "A")
DECIMALS = st.from_regex(r"\A[+-]?([0-9]{1,30}(\.[0-9]{0,30})?|\.[0-9]{1,30})([eE][+-]?[0-9]{1,2})?\Z")


def row(price: Any) -> dict[str, Any]:
    return {"ts_event": 5, "price": price, "size": "1"}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(DECIMALS)
def test_text_stays_as_it_was_sent(text: str) -> None:
    trade = EXACT.parse(row(text))
    assert trade == Trade("A", 5, 0, text, "1")  # type: ignore[arg-type]
    assert PLAIN.parse(row(text)).price == float(text) == decimal_float(text)


def test_an_int_becomes_its_digits_and_a_float_stays_one() -> None:
    assert EXACT.parse(row(10**25)).price == "1" + "0" * 25
    assert EXACT.parse(row(0.1)).price == 0.1


@pytest.mark.parametrize(
    "value",
    ["nan", "inf", "-Infinity", "1_0", " 1", "1 ", "0x1", "1e999", "1,5", "١", "--1", ".", True, [1], float("nan")],
)
def test_what_is_no_finite_decimal_names_field_and_value(value: Any) -> None:
    with pytest.raises(RecordError, match=r"^price: .* is not a finite number"):
        EXACT.parse(row(value))


def test_the_usual_way_gives_floats() -> None:
    assert PLAIN.parse(row("1.10")) == Trade("A", 5, 0, 1.1, 1.0)
