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
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.frame import Columns, Frame, to_rows
from market_data_pipeline.operators.base import Operator


def apply(
    fn: Callable[[Any], Any], items: list[Any], failed: Callable[[Any, Exception], None]
) -> list[tuple[Any, Any]]:
    """``(item, fn(item))`` for each item that did not raise; ``failed`` is told of the others."""
    done: list[tuple[Any, Any]] = []
    start = 0
    while start < len(items):
        try:
            for start in range(start, len(items)):  # noqa: B020 - goes on behind the item that raised
                item = items[start]
                done.append((item, fn(item)))
            break
        except Exception as error:  # a user's function may raise anything
            failed(items[start], error)
            start += 1
    return done


def check_function(fn: Any, what: str) -> None:
    """Raises ``ConfigError`` unless ``fn`` can be called and gives its result at once."""
    if not callable(fn):
        raise ConfigError(f"{what}: {fn!r} is not a function")
    if inspect.iscoroutinefunction(fn):
        raise ConfigError(f"{what}: {fn.__name__} is async; use it in a coroutine node, with {what}_async")


class Map(Operator):
    """``fn(item)`` for each item."""

    accepts: ClassVar[Literal["rows"]] = "rows"

    def __init__(self, fn: Callable[[Any], Any]) -> None:
        check_function(fn, "map")
        self.fn = fn

    def process(self, frame: Frame) -> Iterable[Frame]:
        items = to_rows(frame.items)
        return (Frame([result for _, result in apply(self.fn, items, self.ctx.failed)]),)


class FlatMap(Operator):
    """Every element of the iterable ``fn(item)``, for each item."""

    accepts: ClassVar[Literal["rows"]] = "rows"

    def __init__(self, fn: Callable[[Any], Iterable[Any]]) -> None:
        check_function(fn, "flat_map")
        self.fn = fn

    def process(self, frame: Frame) -> Iterable[Frame]:
        expanded = apply(self._expand, to_rows(frame.items), self.ctx.failed)
        return (Frame([element for _, elements in expanded for element in elements]),)

    def _expand(self, item: Any) -> list[Any]:
        return list(self.fn(item))


class Filter(Operator):
    """Only the items for which ``predicate(item)`` is true."""

    accepts: ClassVar[Literal["rows"]] = "rows"

    def __init__(self, predicate: Callable[[Any], Any]) -> None:
        check_function(predicate, "filter")
        self.predicate = predicate

    def process(self, frame: Frame) -> Iterable[Frame]:
        items = to_rows(frame.items)
        return (Frame([item for item, keep in apply(self.predicate, items, self.ctx.failed) if keep]),)


class MapColumns(Operator):
    """``fn(columns)`` for each frame: numpy work on whole columns. Returns columns of any length."""

    accepts: ClassVar[Literal["columns"]] = "columns"

    def __init__(self, fn: Callable[[Columns], Columns]) -> None:
        check_function(fn, "map_columns")
        self.fn = fn

    def process(self, frame: Frame) -> Iterable[Frame]:
        assert isinstance(frame.items, Columns)
        return (Frame(self.fn(frame.items)),)
