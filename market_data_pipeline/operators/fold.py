"""A user's own aggregation.

===================================================================== ======================================
``Fold(initial, step)``                                               of items with price 10, 13
===================================================================== ======================================
``Fold(0, lambda n, item: n + 1)``                                    2
``Fold(list, lambda prices, item: [*prices, item.price])``            ``[10, 13]``
===================================================================== ======================================
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import Array
from market_data_pipeline.operators.aggregations import Aggregation, Layout, Pairs, State


@dataclass(frozen=True)
class Fold(Aggregation):
    """A state of your own: ``initial``, then ``step(state, item)`` for each item (as a row) in order of arrival.

    ``initial`` is plain data (copied for each window) or a function that makes it; states are plain data too: None, bool, int,
    float, str, bytes, records, and lists, tuples and dicts of these. ``merge(a, b)`` is the state of all items of two sessions
    that became one, ``a`` being the earlier; :class:`Session` windows need it. An item on which ``step`` raises is rejected
    and not part of the window; of several folds none takes it. A state that cannot be written is rejected at the next
    commit, and the window begins anew.
    """

    initial: Any
    step: Callable[[Any, Any], Any]
    merge_states: Callable[[Any, Any], Any] | None
    layout: ClassVar[Layout] = {"value": ("O", None)}
    foreign: ClassVar[bool] = True

    def __init__(
        self, initial: Any, step: Callable[[Any, Any], Any], merge: Callable[[Any, Any], Any] | None = None
    ) -> None:
        for what, fn in (("step", step), ("merge", merge)):
            if not callable(fn) and (what == "step" or fn is not None):
                raise ConfigError(f"{what}: {fn!r} is not a function")
        object.__setattr__(self, "initial", initial)
        object.__setattr__(self, "step", step)
        object.__setattr__(self, "merge_states", merge)

    def made_with(self) -> dict[str, Any]:
        """The argument that is kept under another name, as its own is a method here."""
        return {"merge": self.merge_states}

    def fresh(self) -> Any:
        return self.initial() if callable(self.initial) else copy.deepcopy(self.initial)

    def add(self, state: State, pairs: Pairs) -> None:
        """Nothing: :func:`fold` does it, for all folds at once."""

    def merge(self, state: State, into: int, other: int) -> None:
        assert self.merge_states is not None
        state["value"][into] = self.merge_states(state["value"][into], state["value"][other])

    def result(self, state: State, slots: Array) -> list[Any]:
        return [copy.deepcopy(value) for value in state["value"][slots]]

    def dump(self, value: Any) -> Any:
        return _dump(value)

    def load(self, value: Any) -> Any:
        return _load(value)


def fold(folds: list[tuple[Fold, State]], pairs: Pairs, failed: Callable[[Any, Exception], None]) -> Pairs:
    """Take ``pairs`` into all ``folds``; those whose item made none of the functions raise. ``failed`` is told once of each
    item that did."""
    good = np.ones(len(pairs), bool)
    told: set[int] = set()
    rows, columns = pairs.batch.rows, [(one.step, state["value"]) for one, state in folds]
    for number, (slot, at) in enumerate(zip(pairs.slots.tolist(), pairs.at.tolist(), strict=True)):
        try:
            made = [step(values[slot], rows[at]) for step, values in columns]
        except Exception as error:  # a user's function may raise anything
            good[number] = False
            if at not in told:
                told.add(at)
                failed(rows[at], error)
            continue
        for (_, values), value in zip(columns, made, strict=True):
            values[slot] = value
    return pairs if good.all() else pairs.only(good)


_TUPLE = "__tuple__"


def _dump(value: Any) -> Any:
    """``value`` with its tuples marked: they come back from the wire as lists."""
    if type(value) is tuple:
        return {_TUPLE: [_dump(part) for part in value]}
    if isinstance(value, list):
        return [_dump(part) for part in value]
    return {key: _dump(part) for key, part in value.items()} if isinstance(value, dict) else value


def _load(value: Any) -> Any:
    if isinstance(value, list):
        return [_load(part) for part in value]
    if isinstance(value, dict):
        return (
            tuple(_load(value[_TUPLE])) if value.keys() == {_TUPLE} else {k: _load(part) for k, part in value.items()}
        )
    return value
