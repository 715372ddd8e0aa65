"""Hashes of keys: the same for a row and for its columns, different for different keys."""

from typing import Any

import mmh3
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.frame import Columns, Dictionary, columns_from_rows
from market_data_pipeline.operators.hashing import (
    hash_columns,
    hash_content,
    hash_content_columns,
    hash_row,
    hash_value,
)
from market_data_pipeline.records import Trade

TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
TIMES = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats()
TRADES = st.builds(
    Trade, TEXT, TIMES, TIMES, FLOATS, FLOATS, st.sampled_from(["", "buy", "sell"]), st.one_of(TIMES, TEXT),
    TEXT, TEXT, st.one_of(TIMES, TEXT),
)  # fmt: skip
FIELDS = st.lists(st.sampled_from(Trade._fields), min_size=1, max_size=7, unique=True)
MASK = 2**64 - 1


def splitmix(state: int) -> int:
    """splitmix64 as published by Steele, Lea and Flood (2014)."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(TRADES, min_size=1, max_size=20), FIELDS)
def test_hashes_of_rows_equal_hashes_of_columns(items: list[Trade], fields: list[str]) -> None:
    made, bad = columns_from_rows(items)
    assert bad == []
    hashes, keyed = hash_columns(made, fields)
    of_rows = [hash_row(item, fields) for item in items]
    assert [h if k else None for h, k in zip(hashes.tolist(), keyed.tolist(), strict=True)] == of_rows


@pytest.mark.parametrize("dtype", ["<i8", "<i4", "|i1", "<u2", "<u4", "|u1", "|b1", "<f8", "<f4"])
def test_every_column_type_hashes_like_its_rows(dtype: str) -> None:
    made = Columns("", {"x": np.array([0, 1, 1, 0], dtype=dtype)})
    hashes, keyed = hash_columns(made, ["x"])
    assert keyed.all()
    assert hashes.tolist() == [hash_row(row, ["x"]) for row in made.rows()]


def test_names_that_no_row_uses_do_not_matter() -> None:
    one = Columns("", {"s": Dictionary(np.array([1, 0], np.uint32), ("a", "b"))})
    other = Columns("", {"s": Dictionary(np.array([3, 2], np.uint8), ("", "x", "a", "b"))})
    for hashes, keyed in (hash_columns(one, ["s"]), hash_columns(other, ["s"])):
        assert keyed.tolist() == [True, True]
        assert hashes.tolist() == [hash_row({"s": "b"}, ["s"]), hash_row({"s": "a"}, ["s"])]


def test_the_functions_are_the_ones_that_are_documented() -> None:
    assert hash_value("AAPL") == mmh3.hash64("AAPL", 0, signed=False)[0]
    assert hash_value(0) == splitmix(0) == 0xE220A8397B1DCDAF  # first output of splitmix64 from seed 0
    assert hash_value(-1) == splitmix(MASK)
    assert hash_value(1.0) == splitmix(0x3FF0000000000000)
    assert hash_row({"a": 7}, ["a"]) == splitmix(hash_value(7))
    first = splitmix(hash_value(7))
    assert hash_row({"a": 7, "b": "x"}, ["a", "b"]) == splitmix((first * 0x9E3779B97F4A7C15 + hash_value("x")) & MASK)


@pytest.mark.parametrize("item", [{}, {"a": None}, {"a": ""}, 5, None, Trade("A", 1, 2, 3.0, 4.0)])
def test_no_key(item: Any) -> None:
    assert hash_row(item, ["a"]) is None


def test_an_absent_column_means_no_row_has_a_key() -> None:
    made, _ = columns_from_rows([Trade("A", 1, 2, 3.0, 4.0)] * 3)
    assert hash_columns(made, ["symbol", "venue"])[1].tolist() == [False] * 3


def test_zero_and_false_are_keys() -> None:
    assert hash_row({"a": 0}, ["a"]) is not None
    assert hash_row({"a": False}, ["a"]) is not None


def test_types_and_positions_tell_keys_apart() -> None:
    values: list[Any] = [1, "1", 1.0, 2, "2", -1, "", "a", b"a", (1,), "aa"]
    assert len({hash_value(value) for value in values}) == len(values)
    pairs = [{"a": a, "b": b} for a in (0, 1, 2, "x") for b in (0, 1, 2, "x")]
    assert len({hash_row(pair, ["a", "b"]) for pair in pairs}) == len(pairs)


def test_no_collisions_among_dense_keys() -> None:
    n = 200_000
    made = Columns(
        "",
        {
            "symbol": Dictionary(np.arange(n, dtype=np.uint32) % 500, tuple(f"S{i}" for i in range(500))),
            "trade_id": np.arange(n, dtype=np.int64) // 500,
        },
    )
    hashes, keyed = hash_columns(made, ["symbol", "trade_id"])
    assert keyed.all()
    assert len(np.unique(hashes)) == n


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(TRADES, min_size=1, max_size=20), st.sampled_from([None, (), ("price", "side", "conditions"), ("venue",)])
)
def test_contents_of_rows_equal_contents_of_columns(items: list[Trade], only: tuple[str, ...] | None) -> None:
    made, _ = columns_from_rows(items)
    contents = hash_content_columns(made, only, {"ts_recv"})
    assert contents.dtype == np.uint32
    assert contents.tolist() == [hash_content(item, only, {"ts_recv"}) for item in items]
    assert contents.all()


def test_the_content_is_the_documented_sum() -> None:
    low, high = mmh3.hash64("price", 0, signed=False)
    there = mmh3.hash64("price", 1, signed=False)[0]
    word = 0x3FF8000000000000  # 1.5
    content = (word * low + (word >> 32) * high + there & MASK) >> 32
    assert hash_content({"price": 1.5, "x": 1}, ("price",)) == content
    low, high = mmh3.hash64("s", 0, signed=False)
    there = mmh3.hash64("s", 1, signed=False)[0]
    word = mmh3.hash64("A", 0, signed=False)[0]
    assert hash_content({"s": "A"}, None) == (word * low + (word >> 32) * high + there & MASK) >> 32


def test_contents_differ_where_one_or_two_numbers_do() -> None:
    values = np.unique(np.concatenate([np.arange(64.0), 2.0 ** np.arange(-96, 96), np.arange(100, 196) + 0.01]))
    a, b = (part.ravel() for part in np.meshgrid(values, values))
    for name in ("size", "ts_event"):
        contents = hash_content_columns(Columns("", {"price": a, name: b}), None)
        assert len(a) - len(np.unique(contents)) < 5  # of 119,716 pairs 1.7 are expected to share 32 bits
