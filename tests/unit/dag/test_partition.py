"""Partitioning: mmh3 of the key, modulo P, in order, the same for rows and columns."""

from typing import Any

import mmh3
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.dag.partition import partition_of, split_by_key
from market_data_pipeline.frame import Columns, Dictionary, Items, columns_from_rows, to_rows
from market_data_pipeline.records import Trade

FAST = settings(max_examples=80, deadline=None, derandomize=True)
TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
PARTITIONS = st.sampled_from([1, 2, 3, 7, 64, 255, 256, 257, 4096])


def trades(symbols: list[str]) -> list[Trade]:
    return [Trade(symbol, i, 0, float(i), 1.0, "", f"t{i}") for i, symbol in enumerate(symbols)]


def columns(items: list[Any]) -> Columns:
    made, bad = columns_from_rows(items)
    assert bad == []
    return made


def expected(items: list[Any], keys: list[str], partitions: int) -> dict[int, list[Any]]:
    parts: dict[int, list[Any]] = {}
    for item, key in zip(items, keys, strict=True):
        parts.setdefault(mmh3.hash(key, 0, signed=False) % partitions, []).append(item)
    return parts


def as_rows(parts: dict[int, Items]) -> dict[int, list[Any]]:
    return {partition: to_rows(items) for partition, items in parts.items()}


@FAST
@given(TEXT, PARTITIONS)
def test_the_partition_of_a_symbol_is_its_hash_modulo_p(symbol: str, partitions: int) -> None:
    assert partition_of(symbol, partitions) == mmh3.hash(symbol, 0, signed=False) % partitions


def test_the_hash_is_fixed_for_ever() -> None:
    assert [partition_of(symbol, 4096) for symbol in ("AAPL", "BTC-USD", "")] == [
        mmh3.hash(symbol, seed=0, signed=False) % 4096 for symbol in ("AAPL", "BTC-USD", "")
    ]
    assert mmh3.hash("foo", 0, signed=False) == 4138058784  # published test vector of MurmurHash3 x86 32


@FAST
@given(st.lists(TEXT, min_size=1, max_size=40), PARTITIONS, st.booleans())
def test_split_keeps_order_and_loses_nothing(symbols: list[str], partitions: int, as_columns: bool) -> None:
    items = trades(symbols)
    parts, bad = split_by_key(columns(items) if as_columns else items, "symbol", partitions)
    assert bad == []
    assert as_rows(parts) == expected(items, symbols, partitions)
    assert all(isinstance(part, Columns) == as_columns for part in parts.values())


@FAST
@given(st.lists(st.one_of(st.integers(-(2**63), 2**63 - 1), TEXT), min_size=1, max_size=30), PARTITIONS)
def test_keys_that_are_no_strings_hash_by_their_text(ids: list[int | str], partitions: int) -> None:
    items = [Trade("A", i, 0, 1.0, 1.0, "", identity) for i, identity in enumerate(ids)]
    oracle = expected(items, [str(identity) for identity in ids], partitions)
    for batch in (items, columns(items)):
        parts, bad = split_by_key(batch, "trade_id", partitions)
        assert bad == []
        assert as_rows(parts) == oracle


def test_each_part_of_columns_carries_only_its_own_names() -> None:
    items = trades([f"S{i % 50}" for i in range(500)])
    parts, _ = split_by_key(columns(items), "symbol", 4)
    for partition, part in parts.items():
        assert isinstance(part, Columns)
        names = part.dictionary("symbol").names
        assert {partition_of(name, 4) for name in names} == {partition}
        assert set(part.dictionary("symbol").tolist()) == set(names)


def test_other_dictionary_columns_are_split_too() -> None:
    venues = Dictionary(np.array([0, 1, 0, 1], np.uint32), ("X", "Y"))
    made = Columns("", {"symbol": Dictionary.encode(["A", "B", "C", "A"]), "venue": venues})
    parts, _ = split_by_key(made, "symbol", 8)
    rows = [row for part in as_rows(parts).values() for row in part]
    assert sorted(rows, key=str) == sorted(made.rows(), key=str)


def test_dicts_split_and_items_without_the_key_are_handed_back() -> None:
    items = [{"symbol": "A"}, {"other": 1}, {"symbol": "B"}, 17, None]
    parts, bad = split_by_key(items, "symbol", 16)
    assert as_rows(parts) == expected([items[0], items[2]], ["A", "B"], 16)
    assert [item for item, _ in bad] == [items[1], 17, None]
    assert {reason for _, reason in bad} == {"no field 'symbol' to partition by"}


def test_columns_without_the_key_are_handed_back_as_rows() -> None:
    items = trades(["A", "B"])
    parts, bad = split_by_key(columns(items), "symbl", 4)
    assert parts == {}
    assert bad == [(item, "no field 'symbl' to partition by; did you mean 'symbol'?") for item in items]


@pytest.mark.parametrize("as_columns", [False, True])
def test_with_one_partition_nothing_is_looked_at(as_columns: bool) -> None:
    items: Items = columns(trades(["A"])) if as_columns else [17, {"no": "key"}]
    parts, bad = split_by_key(items, "symbol", 1)
    assert bad == []
    assert parts[0] is items


def test_nothing_splits_into_nothing() -> None:
    empty = columns(trades(["A"])).take(slice(0, 0))
    batches: list[Items] = [[], empty]
    for items in batches:
        for partitions in (1, 5):
            assert split_by_key(items, "symbol", partitions) == ({}, [])


@pytest.mark.parametrize("conditions", [[""] * 5, ["", "@", "", "F", "@"]])
def test_an_optional_field_that_the_columns_leave_out_is_a_key_all_the_same(conditions: list[str]) -> None:
    items = [trade._replace(conditions=c) for trade, c in zip(trades(list("abcde")), conditions, strict=True)]
    from_columns, bad = split_by_key(columns(items), "conditions", 7)
    from_rows, _ = split_by_key(items, "conditions", 7)
    assert bad == []
    assert {p: to_rows(part) for p, part in from_columns.items()} == from_rows
