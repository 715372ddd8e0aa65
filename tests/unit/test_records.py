"""Records: fields, tables of kinds, and the one way to read a field."""

import pytest

from market_data_pipeline.records import (
    COLUMN_TYPES,
    KINDS,
    RECORDS,
    ROW_RECORDS,
    SIDE_CODES,
    SIDES,
    Bar,
    Quote,
    Trade,
    Window,
    field,
)


def test_records_are_equal_by_value_and_immutable() -> None:
    a, b = Trade("A", 1, 2, 3.0, 4.0, "buy", 7), Trade("A", 1, 2, 3.0, 4.0, "buy", 7)
    assert a == b
    assert a is not b
    with pytest.raises(AttributeError):
        a.price = 9.0  # type: ignore[misc]


def test_optional_fields_of_a_trade_default_to_unknown() -> None:
    trade = Trade("A", 1, 2, 3.0, 4.0)
    assert (trade.side, trade.trade_id) == ("", "")


@pytest.mark.parametrize("cls", [Trade, Quote, Bar])
def test_every_field_of_a_columnar_record_has_a_column_type(cls: type) -> None:
    assert [name for name in cls._fields if name not in COLUMN_TYPES] == []  # type: ignore[attr-defined]


def test_kinds_and_records_are_inverse() -> None:
    assert {kind: KINDS[cls] for kind, cls in RECORDS.items()} == {"trade": "trade", "quote": "quote", "bar": "bar"}
    assert set(ROW_RECORDS) - set(RECORDS) == {"window", "gap", "feed"}
    assert ROW_RECORDS["window"] is Window


def test_side_codes_are_positions_in_sides() -> None:
    assert [SIDE_CODES[side] for side in ("", "buy", "sell")] == [0, 1, 2]
    assert len(SIDES) == len(SIDE_CODES) == 3


def test_field_reads_attributes_of_records_and_keys_of_dicts() -> None:
    assert field(Trade("A", 1, 2, 3.0, 4.0), "price") == 3.0
    assert field({"price": 5.0}, "price") == 5.0
    assert field({"keys": "mine"}, "keys") == "mine"


def test_an_absent_field_raises() -> None:
    with pytest.raises(KeyError):
        field({"a": 1}, "b")
    with pytest.raises(AttributeError):
        field(Trade("A", 1, 2, 3.0, 4.0), "nope")
