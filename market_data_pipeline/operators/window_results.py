"""What windows emit: one flat item per window and key.

``{<key field>: ..., "ts_open": ..., "ts_close": ..., "revision": ..., "is_final": ..., <name>: <aggregation>, ...}``. Where all
values of a frame are of one kind per column (ints, floats, bools or texts) they come out as columns, otherwise as dicts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from market_data_pipeline.frame import Array, Column, Columns, Dictionary, Frame, Items
from market_data_pipeline.records import MAX_TIME, MIN_TIME


@dataclass
class Emission:
    """Results of n windows: ``values`` holds, of each aggregation, an array or a list of n values."""

    keys: list[Any]
    opens: Array
    closes: Array
    revision: Array
    final: Array
    values: list[Array | list[Any]]
    retracted: Array | None = None

    def ordered(self, order: Array) -> Emission:
        """The same in another order."""
        at = order.tolist()
        return Emission(
            [self.keys[i] for i in at],
            self.opens[order],
            self.closes[order],
            self.revision[order],
            self.final[order],
            [part[order] if isinstance(part, np.ndarray) else [part[i] for i in at] for part in self.values],
            None if self.retracted is None else self.retracted[order],
        )


def joined(parts: Sequence[Emission]) -> Emission:
    """One behind the other, of windows that take nothing back."""
    return Emission(
        [key for part in parts for key in part.keys],
        np.concatenate([part.opens for part in parts]),
        np.concatenate([part.closes for part in parts]),
        np.concatenate([part.revision for part in parts]),
        np.concatenate([part.final for part in parts]),
        [_join(column) for column in zip(*(part.values for part in parts), strict=True)],
    )


def _join(parts: Sequence[Array | list[Any]]) -> Array | list[Any]:
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    return np.concatenate(arrays) if len(arrays) == len(parts) else [value for part in parts for value in part]


Shape = Callable[[Emission], Items]
"""Makes items of results."""


class FlatItems:
    """The usual :data:`Shape`. ``key_names``: the names under which the key (or the parts of a tuple) comes out."""

    def __init__(self, key_names: tuple[str, ...], parts: bool, names: Iterable[str]) -> None:
        self._key_names, self._parts, self._names = key_names, parts, list(names)

    def __call__(self, results: Emission) -> Items:
        data: dict[str, Array | list[Any]] = {}
        for at, name in enumerate(self._key_names):
            data[name] = [key[at] for key in results.keys] if self._parts else results.keys
        data |= {"ts_open": results.opens, "ts_close": results.closes}
        data |= {"revision": results.revision, "is_final": results.final}
        if results.retracted is not None:
            data["retracted"] = results.retracted
        data |= dict(zip(self._names, results.values, strict=True))
        columns = {name: _column(values) for name, values in data.items()}
        made = {name: column for name, column in columns.items() if column is not None}
        if len(made) == len(columns):
            return Columns("", made)
        lists = [values.tolist() if isinstance(values, np.ndarray) else values for values in data.values()]
        return [dict(zip(data, row, strict=True)) for row in zip(*lists, strict=True)]


def _column(values: Array | list[Any]) -> Column | None:
    if isinstance(values, np.ndarray):
        return values
    kinds = set(map(type, values))
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is str:
        return Dictionary.encode(values)
    if kind is int and all(MIN_TIME <= value <= MAX_TIME for value in values):
        return np.array(values, np.int64)
    return np.array(values, np.float64 if kind is float else bool) if kind in (float, bool) else None


def frames(parts: Iterable[Emission], shape: Shape) -> list[Frame]:
    """One frame for each of ``parts`` that has results."""
    return [Frame(shape(part)) for part in parts if len(part.keys)]
