"""The examples in docs/wire-format.md are the bytes that are written, and its tables name every field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from market_data_pipeline.adapters.serialization import JsonDecoder, JsonEncoder, MsgpackDecoder, MsgpackEncoder
from market_data_pipeline.codec import decode, encode
from market_data_pipeline.frame import Frame, columns_from_rows
from market_data_pipeline.records import COLUMN_TYPES, OPTIONAL, RECORDS, ROW_RECORDS, Trade

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "wire-format.md").read_text()
FRAMES, RECORDS_PART = TEXT.split("## Records for other programs")
TRADE = Trade("BTC-USD", 1_700_000_000_123_456_789, 0, 36500.5, 0.25, "buy", 7, venue="cb", phase="snapshot")


def blob(block: str) -> bytes:
    return bytes.fromhex("".join(re.findall(r"^((?:[0-9a-f]{2} )+)", block, re.M)))


def test_the_columns_frame() -> None:
    shown = blob(FRAMES[FRAMES.index("97 01 01") :].split("```")[0])
    items = [Trade("A", 1, 2, 1.5, 3.0, "buy", 7, phase="snapshot"), Trade("B", 2, 3, 2.5, 4.0, "sell", 8)]
    assert shown == encode("x/0", Frame(columns_from_rows(items)[0], 5))
    assert decode(shown).frame.items.rows() == items  # type: ignore[union-attr]


def test_the_messages() -> None:
    plain, as_text = re.findall(r"^(\{.*\})$", RECORDS_PART, re.M)
    packed = blob(RECORDS_PART[RECORDS_PART.index("\n8a ") :].split("```")[0])
    assert plain.encode() == JsonEncoder().encode(TRADE)
    assert as_text.encode() == JsonEncoder(int_as_text=True).encode(TRADE)
    assert packed == MsgpackEncoder().encode(TRADE)
    assert JsonDecoder().decode(plain.encode()) == MsgpackDecoder().decode(packed) == TRADE


@pytest.mark.parametrize("kind", RECORDS)
def test_the_columns_of_each_record_are_named_with_their_types(kind: str) -> None:
    (row,) = re.findall(rf"^\| `{kind}` \| (.*) \|$", FRAMES, re.M)
    needed, optional = row.split("[")
    names = RECORDS[kind]._fields
    last = len(names) - OPTIONAL[kind]
    words = {"dict": "dict", "any": "`<i8` or any", "|i1": r"`\|i1`", "|b1": r"`\|b1`"}
    for part, wanted in ((needed, names[:last]), (optional, names[last:])):
        found = [name for name in re.findall(r"`(\w+)`", part) if name in names]
        assert tuple(found) == wanted
        for name in wanted:
            type_ = words.get(COLUMN_TYPES[name], f"`{COLUMN_TYPES[name]}`")
            assert type_ in part[part.index(f"`{name}`") :]


@pytest.mark.parametrize("kind", ROW_RECORDS)
def test_the_fields_of_each_record_are_named_in_order(kind: str) -> None:
    (row,) = re.findall(rf"^\| `{kind}` \| (.*) \|$", RECORDS_PART, re.M)
    names, defaults = ROW_RECORDS[kind]._fields, ROW_RECORDS[kind]._field_defaults
    for part, wanted in zip(
        row.partition("[")[::2], (names[: len(names) - len(defaults)], tuple(defaults)), strict=True
    ):
        found = [name for name in re.findall(r"`(\w+)`", part) if name in names]
        assert tuple(found) == wanted
