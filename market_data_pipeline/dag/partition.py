"""Which partition a key belongs to: ``mmh3.hash(key, seed=0, signed=False) % P``, once per distinct symbol."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, NamedTuple

import mmh3
import numpy as np

from market_data_pipeline.frame import Array, Columns, Dictionary, Items
from market_data_pipeline.hints import nearest_or_all
from market_data_pipeline.names import Names, PerNames
from market_data_pipeline.records import SIDES, field


def partition_of(key: str, partitions: int) -> int:
    """The partition of ``key``, hashed as UTF-8 (``surrogatepass``: mmh3 itself would crash on a lone surrogate)."""
    return mmh3.hash(key.encode("utf-8", "surrogatepass"), 0, False) % partitions


def key_text(value: Any) -> str:
    """The text by which any key is hashed."""
    return value if isinstance(value, str) else str(value)


class _Split(NamedTuple):
    """For one dictionary's names: each name's partition and its code there, and each partition's own names."""

    partition: Array
    code: Array
    names: tuple[tuple[str, ...], ...]


@lru_cache
def _splitter(partitions: int) -> PerNames[_Split]:
    return PerNames(partial(_split_names, partitions))


def _split_names(partitions: int, names: Names) -> _Split:
    split: list[list[str]] = [[] for _ in range(partitions)]
    partition = np.empty(len(names), np.uint16)
    code = np.empty(len(names), np.uint32)
    for i, name in enumerate(names):
        p = partition_of(key_text(name), partitions)
        partition[i], code[i] = p, len(split[p])
        split[p].append(name)
    return _Split(partition, code, tuple(map(tuple, split)))


def split_by_key(items: Items, key: str, partitions: int) -> tuple[dict[int, Items], list[tuple[Any, str]]]:
    """``items`` by the partition of their field ``key``, order kept; and items that have no such field, with the reason.

    With one partition nothing is looked at and everything belongs to partition 0.
    """
    if partitions == 1:
        return ({0: items} if len(items) else {}), []
    if isinstance(items, Columns):
        if key not in items.data:
            items = items.completed()  # an optional field is left out where all items have its default
        if key not in items.data:
            reason = f"no field {key!r} to partition by; {nearest_or_all(key, items.data)}"
            return {}, [(item, reason) for item in items.rows()]
        return _split_columns(items, key, partitions), []
    parts: dict[int, Items] = {}
    bad: list[tuple[Any, str]] = []
    for item in items:
        try:
            value = field(item, key)
        except (KeyError, AttributeError, TypeError):
            bad.append((item, f"no field {key!r} to partition by"))
            continue
        part = parts.setdefault(partition_of(key_text(value), partitions), [])
        assert isinstance(part, list)
        part.append(item)
    return parts, bad


def _split_columns(items: Columns, key: str, partitions: int) -> dict[int, Items]:
    column = items.data[key]
    if isinstance(column, Dictionary):
        split = _splitter(partitions)(column.names)
        row_partition = split.partition[column.codes]
    else:
        split = None
        values: list[Any] = column.tolist()
        if key == "side" and column.dtype == np.int8:
            values = [SIDES[code] for code in values]
        hashes = (partition_of(key_text(value), partitions) for value in values)
        row_partition = np.fromiter(hashes, np.uint16, len(column))
    # numpy sorts 8- and 16-bit integers by radix: linear, and stable as the order of arrival must be
    narrow = row_partition.astype(np.uint8) if partitions <= 256 else row_partition
    order = np.argsort(narrow, kind="stable")
    bounds = np.searchsorted(row_partition[order], np.arange(partitions + 1))
    data = {name: c.take(order) if isinstance(c, Dictionary) else c[order] for name, c in items.data.items()}
    parts: dict[int, Items] = {}
    for p in range(partitions):
        start, stop = int(bounds[p]), int(bounds[p + 1])
        if start < stop:
            parts[p] = _slice(items.kind, data, key, slice(start, stop), split, p)
    return parts


def _slice(kind: str, data: dict[str, Any], key: str, rows: slice, split: _Split | None, partition: int) -> Columns:
    part = {
        name: column.take(rows) if isinstance(column, Dictionary) else column[rows] for name, column in data.items()
    }
    if split is not None:
        part[key] = Dictionary(split.code[part[key].codes], split.names[partition])
    return Columns(kind, part)
