"""map, filter, flat_map: a user's function on each item, without state.

======== ==================== ==============================
operator input                output
======== ==================== ==============================
Map      ``1, 2, 3`` (``x*2``) ``2, 4, 6``
Filter   ``1, 2, 3`` (``x>1``) ``2, 3``
FlatMap  ``"ab", "c"`` (list)  ``"a", "b", "c"``
======== ==================== ==============================

An item on which the function raises goes where the node's ``on_error`` says; its neighbours go on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from operator import length_hint
from typing import Any, ClassVar, Literal

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import Columns, Frame, to_rows
from market_data_pipeline.operators.base import Operator
from market_data_pipeline.operators.field_names import kept


def _each(items: list[Any], work: Callable[[Iterator[Any]], None], failed: Callable[[Any, Exception], None]) -> None:
    """``work`` goes through ``items``. Where it raises, ``failed`` is told the item, and it goes on with those behind."""
    rest = iter(items)
    while True:
        try:
            return work(rest)
        except Exception as error:  # a user's function may raise anything
            failed(items[len(items) - length_hint(rest) - 1], error)


def apply(
    fn: Callable[[Any], Any], items: list[Any], failed: Callable[[Any, Exception], None]
) -> list[tuple[Any, Any]]:
    """``(item, fn(item))`` for each item that did not raise; ``failed`` is told of the others."""
    done: list[tuple[Any, Any]] = []

    def work(rest: Iterator[Any]) -> None:
        for item in rest:
            done.append((item, fn(item)))

    _each(items, work, failed)
    return done


def check_function(fn: Any, what: str) -> None:
    """Raises ``ConfigError`` unless ``fn`` can be called and gives its result at once."""
    if not callable(fn):
        raise ConfigError(f"{what}: {fn!r} is not a function")
    if inspect.iscoroutinefunction(fn):
        raise ConfigError(
            f"{what}: {fn.__name__} is async, and {what} calls plain functions: map_async (AsyncMap) awaits one"
        )


class Map(Operator):
    """``fn(item)`` for each item."""

    accepts: ClassVar[Literal["rows"]] = "rows"

    def __init__(self, fn: Callable[[Any], Any]) -> None:
        check_function(fn, "map")
        self.fn = fn

    def process(self, frame: Frame) -> Iterable[Frame]:
        fn = self.fn
        done: list[Any] = []

        def work(rest: Iterator[Any]) -> None:
            for item in rest:
                done.append(fn(item))

        _each(to_rows(frame.items), work, self.ctx.failed)
        return (Frame(done),)


class FlatMap(Operator):
    """Every element of the iterable ``fn(item)``, for each item."""

    accepts: ClassVar[Literal["rows"]] = "rows"

    def __init__(self, fn: Callable[[Any], Iterable[Any]]) -> None:
        check_function(fn, "flat_map")
        self.fn = fn

    def process(self, frame: Frame) -> Iterable[Frame]:
        fn = self.fn
        done: list[Any] = []

        def work(rest: Iterator[Any]) -> None:
            for item in rest:
                done.extend(list(fn(item)))  # a list first: an iterable that raises half way gives nothing

        _each(to_rows(frame.items), work, self.ctx.failed)
        return (Frame(done),)


class Filter(Operator):
    """Only the items for which ``predicate(item)`` is true."""

    accepts: ClassVar[Literal["rows"]] = "rows"

    def __init__(self, predicate: Callable[[Any], Any]) -> None:
        check_function(predicate, "filter")
        self.predicate = predicate

    fields_given = kept

    def process(self, frame: Frame) -> Iterable[Frame]:
        predicate = self.predicate
        done: list[Any] = []

        def work(rest: Iterator[Any]) -> None:
            for item in rest:
                if predicate(item):
                    done.append(item)

        _each(to_rows(frame.items), work, self.ctx.failed)
        return (Frame(done),)


class MapColumns(Operator):
    """``fn(columns)`` for each frame: numpy work on whole columns. Returns columns of any length."""

    accepts: ClassVar[Literal["columns"]] = "columns"

    def __init__(self, fn: Callable[[Columns], Columns]) -> None:
        check_function(fn, "map_columns")
        self.fn = fn

    def process(self, frame: Frame) -> Iterable[Frame]:
        assert isinstance(frame.items, Columns)
        return (Frame(self.fn(frame.items)),)
