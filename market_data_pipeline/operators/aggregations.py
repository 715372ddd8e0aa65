"""What is computed of the items of a window.

================================ ===================== ==================================================================
aggregation                      of 10 x 1, 13 x 2     result
================================ ===================== ==================================================================
``Count()``                      2                     int
``Sum("size")``                  3.0                   float
``Min("price")``, ``Max(...)``   10.0, 13.0            float
``First("price")``, ``Last``     10.0, 13.0            the value as it came, of the smallest or largest event time
``Mean("price")``                11.5                  float
``Vwap("price", "size")``        12.0                  float; NaN where the sizes sum up to 0
``Std("price")``                 1.5                   float; NaN where there are not more than ``ddof`` items
``Quantile("price", 0.5)``       11.5                  float (:mod:`~market_data_pipeline.operators.quantile`)
``ItemList()``                   both items            list of the items in order of arrival
``Fold(0, lambda n, item: ...)`` the last state        whatever ``step`` returned (:mod:`~market_data_pipeline.operators.fold`)
================================ ===================== ==================================================================

All windows and keys of a task stand in one table, one slot each; an aggregation's state is a few columns of it. ``add`` takes
a whole frame, and does to each slot exactly what a loop over its items in order of arrival would do (sums by ``np.add.at``,
which is unbuffered, and not by partial sums of frames): so results are the same to the last bit for any batching, for rows
and columns. Two states are only merged where an item bridges two sessions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import Array, Dictionary
from market_data_pipeline.operators.window_input import Batch
from market_data_pipeline.packing import portable
from market_data_pipeline.records import MAX_TIME, MIN_TIME

State = Mapping[str, Array]
"""An aggregation's columns of the table, by name."""
Layout = Mapping[str, tuple[str, Any]]
"""Type (``O``: any object) and initial value of each column."""


class Pairs:
    """Item ``at[i]`` of ``batch`` belongs to slot ``slots[i]``; in order of arrival."""

    def __init__(self, batch: Batch, at: Array, slots: Array) -> None:
        self.batch, self.at, self.slots = batch, at, slots

    def __len__(self) -> int:
        return len(self.at)

    def numbers(self, name: str) -> Array:
        return self.batch.numbers[name][self.at]

    @cached_property
    def ts(self) -> Array:
        return self.batch.ts[self.at]

    def scalars(self, name: str, which: Array) -> list[Any]:
        """The field's values of the pairs ``which``, as Python objects."""
        column = self.batch.scalars[name]
        index = self.at[which]
        return (
            column.take(index).tolist() if isinstance(column, Dictionary) else cast("list[Any]", column[index].tolist())
        )

    @cached_property
    def ends(self) -> tuple[Array, Array]:
        """Of each slot the pair with the smallest time (of equal ones the first), and the one with the largest (the last)."""
        order = np.lexsort((self.ts, self.slots))
        slots = self.slots[order]
        changes = slots[1:] != slots[:-1]
        return order[np.concatenate(([True], changes))], order[np.concatenate((changes, [True]))]

    def only(self, good: Array) -> Pairs:
        return Pairs(self.batch, self.at[good], self.slots[good])


class Aggregation(ABC):
    """One value per window and key. Instances are plain values (dataclasses); all state is in the table."""

    layout: ClassVar[Layout]
    foreign: ClassVar[bool] = False
    """Whether its state holds what a user's program made, which may be something that cannot be written."""

    @property
    def numbers(self) -> tuple[str, ...]:
        """The fields that must be finite numbers; items in which one is not are rejected."""
        return ()

    @property
    def scalars(self) -> tuple[str, ...]:
        """The fields that must be numbers, bools, text or bytes."""
        return ()

    @abstractmethod
    def add(self, state: State, pairs: Pairs) -> None:
        """Take the items of ``pairs`` into their slots, in order."""

    @abstractmethod
    def merge(self, state: State, into: int, other: int) -> None:
        """Make slot ``into`` the state of both; every item of one is at another time than every item of the other."""

    @abstractmethod
    def result(self, state: State, slots: Array) -> Array | list[Any]:
        """The values of ``slots``."""

    def fresh(self) -> Any:
        """The initial value of an object column."""
        raise NotImplementedError(type(self).__name__)

    def dump(self, value: Any) -> Any:
        """An object column's value as plain data."""
        return value

    def load(self, value: Any) -> Any:
        """The reverse of :meth:`dump`."""
        return value

    def repair(self, value: Any) -> tuple[Any, list[tuple[Any, str]]]:
        """What goes on in place of a ``value`` that cannot be written, and what of it is rejected, with reasons (the whole of
        it, where nothing is named)."""
        return self.fresh(), []


@dataclass(frozen=True)
class Count(Aggregation):
    """How many items."""

    layout: ClassVar[Layout] = {"n": ("<i8", 0)}

    def add(self, state: State, pairs: Pairs) -> None:
        np.add.at(state["n"], pairs.slots, 1)

    def merge(self, state: State, into: int, other: int) -> None:
        state["n"][into] += state["n"][other]

    def result(self, state: State, slots: Array) -> Array:
        return state["n"][slots]


@dataclass(frozen=True)
class _OfNumber(Aggregation):
    field: str

    @property
    def numbers(self) -> tuple[str, ...]:
        return (self.field,)


class Sum(_OfNumber):
    """The sum of ``field``, added in order of arrival."""

    layout: ClassVar[Layout] = {"sum": ("<f8", 0.0)}

    def add(self, state: State, pairs: Pairs) -> None:
        np.add.at(state["sum"], pairs.slots, pairs.numbers(self.field))

    def merge(self, state: State, into: int, other: int) -> None:
        state["sum"][into] += state["sum"][other]

    def result(self, state: State, slots: Array) -> Array:
        return state["sum"][slots]


class Min(_OfNumber):
    """The smallest ``field``."""

    layout: ClassVar[Layout] = {"min": ("<f8", np.inf)}

    def add(self, state: State, pairs: Pairs) -> None:
        np.minimum.at(state["min"], pairs.slots, pairs.numbers(self.field))

    def merge(self, state: State, into: int, other: int) -> None:
        state["min"][into] = min(state["min"][into], state["min"][other])

    def result(self, state: State, slots: Array) -> Array:
        return state["min"][slots]


class Max(_OfNumber):
    """The largest ``field``."""

    layout: ClassVar[Layout] = {"max": ("<f8", -np.inf)}

    def add(self, state: State, pairs: Pairs) -> None:
        np.maximum.at(state["max"], pairs.slots, pairs.numbers(self.field))

    def merge(self, state: State, into: int, other: int) -> None:
        state["max"][into] = max(state["max"][into], state["max"][other])

    def result(self, state: State, slots: Array) -> Array:
        return state["max"][slots]


class Mean(_OfNumber):
    """The arithmetic mean of ``field``: the sum in order of arrival, by the count."""

    layout: ClassVar[Layout] = {"sum": ("<f8", 0.0), "n": ("<i8", 0)}

    def add(self, state: State, pairs: Pairs) -> None:
        np.add.at(state["sum"], pairs.slots, pairs.numbers(self.field))
        np.add.at(state["n"], pairs.slots, 1)

    def merge(self, state: State, into: int, other: int) -> None:
        state["sum"][into] += state["sum"][other]
        state["n"][into] += state["n"][other]

    def result(self, state: State, slots: Array) -> Array:
        mean: Array = state["sum"][slots] / state["n"][slots]
        return mean


@dataclass(frozen=True)
class Vwap(Aggregation):
    """The mean of ``price`` weighted by ``size``: sum(price * size) / sum(size); NaN where the sizes sum up to 0."""

    price: str = "price"
    size: str = "size"
    layout: ClassVar[Layout] = {"notional": ("<f8", 0.0), "volume": ("<f8", 0.0)}

    @property
    def numbers(self) -> tuple[str, ...]:
        return (self.price, self.size)

    def add(self, state: State, pairs: Pairs) -> None:
        size = pairs.numbers(self.size)
        np.add.at(state["notional"], pairs.slots, pairs.numbers(self.price) * size)
        np.add.at(state["volume"], pairs.slots, size)

    def merge(self, state: State, into: int, other: int) -> None:
        for column in state.values():
            column[into] += column[other]

    def result(self, state: State, slots: Array) -> Array:
        volume = state["volume"][slots]
        return np.where(volume != 0, state["notional"][slots] / np.where(volume != 0, volume, 1.0), np.nan)


@dataclass(frozen=True)
class Std(Aggregation):
    """The standard deviation of ``field`` with ``n - ddof`` in the denominator; NaN for ``ddof`` items and fewer.

    Numerically stable: items are added by the recurrence of Welford (Technometrics 4, 1962), states merged as in Chan, Golub
    and LeVeque ("Updating formulae and a pairwise algorithm for computing sample variances", 1979).
    """

    field: str
    ddof: int = 0
    layout: ClassVar[Layout] = {"n": ("<i8", 0), "mean": ("<f8", 0.0), "m2": ("<f8", 0.0)}

    def __post_init__(self) -> None:
        if type(self.ddof) is not int or self.ddof < 0:
            raise ConfigError(f"ddof: {self.ddof!r} is not allowed; an int of at least 0")

    @property
    def numbers(self) -> tuple[str, ...]:
        return (self.field,)

    def add(self, state: State, pairs: Pairs) -> None:
        touched, local = np.unique(pairs.slots, return_inverse=True)
        n, mean, m2 = (state[name][touched].tolist() for name in ("n", "mean", "m2"))
        for at, value in zip(local.tolist(), pairs.numbers(self.field).tolist(), strict=True):
            n[at] += 1
            before = value - mean[at]
            mean[at] += before / n[at]
            m2[at] += before * (value - mean[at])
        state["n"][touched], state["mean"][touched], state["m2"][touched] = n, mean, m2

    def merge(self, state: State, into: int, other: int) -> None:
        n, more = int(state["n"][into]), int(state["n"][other])
        if not more:
            return
        apart = float(state["mean"][other] - state["mean"][into])
        total = n + more
        state["mean"][into] += apart * more / total
        state["m2"][into] += state["m2"][other] + apart * apart * n * more / total
        state["n"][into] = total

    def result(self, state: State, slots: Array) -> Array:
        free = state["n"][slots] - self.ddof
        return np.where(free > 0, np.sqrt(state["m2"][slots] / np.where(free > 0, free, 1)), np.nan)


@dataclass(frozen=True)
class _End(Aggregation):
    """What :class:`First` and :class:`Last` share."""

    field: str

    @property
    def scalars(self) -> tuple[str, ...]:
        return (self.field,)

    def fresh(self) -> Any:
        return None

    def result(self, state: State, slots: Array) -> list[Any]:
        return list(state["value"][slots])


class First(_End):
    """``field`` of the item with the smallest event time; of equal times the one that came first."""

    layout: ClassVar[Layout] = {"ts": ("<i8", MAX_TIME), "value": ("O", None)}

    def add(self, state: State, pairs: Pairs) -> None:
        first = pairs.ends[0]
        _replace(state, pairs, first[pairs.ts[first] < state["ts"][pairs.slots[first]]], self.field)

    def merge(self, state: State, into: int, other: int) -> None:
        if state["ts"][other] < state["ts"][into]:
            state["ts"][into], state["value"][into] = state["ts"][other], state["value"][other]


class Last(_End):
    """``field`` of the item with the largest event time; of equal times the one that came last."""

    layout: ClassVar[Layout] = {"ts": ("<i8", MIN_TIME), "value": ("O", None)}

    def add(self, state: State, pairs: Pairs) -> None:
        last = pairs.ends[1]
        _replace(state, pairs, last[pairs.ts[last] >= state["ts"][pairs.slots[last]]], self.field)

    def merge(self, state: State, into: int, other: int) -> None:
        if state["ts"][other] > state["ts"][into]:
            state["ts"][into], state["value"][into] = state["ts"][other], state["value"][other]


def _replace(state: State, pairs: Pairs, which: Array, name: str) -> None:
    slots = pairs.slots[which]
    state["ts"][slots] = pairs.ts[which]
    values = np.empty(len(slots), object)
    values[:] = pairs.scalars(name, which)
    state["value"][slots] = values


@dataclass(frozen=True)
class ItemList(Aggregation):
    """The items themselves, in order of arrival (where two sessions became one, those of the earlier session first).

    State is all items of all open windows. Items that cannot be written are rejected at the next commit.
    """

    layout: ClassVar[Layout] = {"items": ("O", None)}
    foreign: ClassVar[bool] = True

    def fresh(self) -> list[Any]:
        return []

    def add(self, state: State, pairs: Pairs) -> None:
        rows, lists = pairs.batch.rows, state["items"]
        for slot, at in zip(pairs.slots.tolist(), pairs.at.tolist(), strict=True):
            lists[slot].append(rows[at])

    def merge(self, state: State, into: int, other: int) -> None:
        state["items"][into] += state["items"][other]

    def result(self, state: State, slots: Array) -> list[Any]:
        return [list(items) for items in state["items"][slots]]

    def repair(self, value: Any) -> tuple[Any, list[tuple[Any, str]]]:
        good, bad = portable(value)
        return good, list(bad)
