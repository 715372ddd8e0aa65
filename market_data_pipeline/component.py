"""What sources, operators and sinks have in common: a pristine instance in the Dag is a template.

``fresh()`` makes the instance that one task uses; ``config()`` says, as plain data, what it was made with, so that two
processes can compare the plans they compiled.
"""

from __future__ import annotations

import copy
import functools
import inspect
import operator
import types
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, ParamSpec, Self, TypeVar

import numpy as np

from market_data_pipeline.errors import ConfigError

P = ParamSpec("P")
T = TypeVar("T")

_GETTERS = (operator.attrgetter, operator.itemgetter, operator.methodcaller)
_NO_STATE = ("__dict__", "__weakref__")


async def awaited(node: str, method: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """``await method(*args)``, of anybody's component. Raises ``ConfigError`` where that cannot be awaited."""
    made: Any = method(*args, **kwargs)
    if not inspect.isawaitable(made):
        name = getattr(method, "__qualname__", repr(method))
        raise ConfigError(f"node {node!r}: {name} gave {made!r:.100}; write it as an 'async def' that returns")
    return await made  # type: ignore[no-any-return]


class Component:
    """Base of Source, Operator and Sink."""

    def fresh(self) -> Self:
        """A new instance with the same configuration and no state. By default a deep copy of the template."""
        return copy.deepcopy(self)

    def config(self) -> dict[str, Any]:
        """The configuration as plain data; by default each ``__init__`` parameter kept under its own name."""
        names = [name for name in inspect.signature(type(self).__init__).parameters if name != "self"]
        return {name: describe(getattr(self, name)) for name in names if hasattr(self, name)}


def describe(value: Any, seen: frozenset[int] = frozenset()) -> Any:
    """``value`` as plain data that is equal in two processes running the same program. ``seen``: ids of the functions
    around it, so that one that refers to itself ends."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Component):
        return {"type": type_name(value), **value.config()}
    if isinstance(value, functools.partial):
        parts = {"partial": value.func, "args": value.args, "kwargs": value.keywords}
        return {name: describe(part, seen) for name, part in parts.items()}
    if isinstance(value, Mapping):
        return {str(key): describe(item, seen) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item, seen) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((describe(item, seen) for item in value), key=repr)
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type_name(value), **{f.name: describe(getattr(value, f.name), seen) for f in fields(value)}}
    return _describe_scalar(value, seen)


def _describe_scalar(value: Any, seen: frozenset[int]) -> Any:
    if isinstance(value, Enum):
        return f"{type_name(value)}.{value.name}"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, PurePath | Decimal | date | time):
        return str(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    return describe_function(value, seen) if callable(value) else type_name(value)


def type_name(value: Any) -> str:
    cls = type(value)
    return f"{cls.__module__}.{cls.__qualname__}"


def describe_function(fn: Callable[..., Any], seen: frozenset[int] = frozenset()) -> str:
    """``module.qualname#crc`` where crc covers bytecode, constants, defaults and closure, so that an edit shows. Of an object
    that can be called, or whose method this is, crc covers what it holds: fields, attributes; what of them is no plain data, by
    its type."""
    name = f"{getattr(fn, '__module__', '')}.{getattr(fn, '__qualname__', type_name(fn))}"
    code = getattr(fn, "__code__", None)
    if id(fn) in seen:
        return name
    seen |= {id(fn)}
    owner = _owner(fn, seen)
    if code is None:
        held = _held(fn)
        parts = [describe(held, seen)] if held else []
        return f"{name}#{_crc(parts + owner)}" if parts + owner else name
    closed = [describe(_content(cell), seen) for cell in getattr(fn, "__closure__", None) or ()]
    defaults = describe([getattr(fn, "__defaults__", None), getattr(fn, "__kwdefaults__", None)], seen)
    return f"{name}#{_crc((_code(code), closed, defaults, *owner))}"


def _crc(described: Any) -> str:
    return f"{zlib.crc32(repr(described).encode('utf-8', 'surrogatepass')):08x}"


def _held(fn: Any) -> Any:
    """What an object holds whose class has a ``__call__``; nothing where ``fn`` is none, or holds nothing."""
    if isinstance(fn, _GETTERS):
        text = repr(fn)  # what else it could say would be of this process only
        return "" if " at 0x" in text or "{" in text else text
    if isinstance(fn, type) or not isinstance(getattr(type(fn), "__call__", None), types.FunctionType):  # noqa: B004
        return None
    return _attributes(fn)


def _attributes(value: Any) -> dict[str, Any]:
    """What an object keeps, in slots and otherwise."""
    slots = [name for cls in type(value).__mro__ for name in _names(vars(cls).get("__slots__", ()))]
    held = {name: getattr(value, name) for name in slots if name not in _NO_STATE and hasattr(value, name)}
    return {**held, **getattr(value, "__dict__", {})}


def _owner(fn: Any, seen: frozenset[int]) -> list[Any]:
    """What the object is, and holds, whose method ``fn`` is; empty where it is none, or of the class that its name says."""
    owner = getattr(fn, "__self__", None)
    if owner is None or isinstance(owner, types.ModuleType) or id(owner) in seen:
        return []
    if isinstance(owner, type):
        named = str(getattr(fn, "__qualname__", "")).startswith(f"{owner.__qualname__}.")
        return [] if named else [f"{owner.__module__}.{owner.__qualname__}"]
    if isinstance(owner, Component):  # its method may be among its own arguments, and they say what it is
        return [type_name(owner)]
    if callable(owner):
        return [describe(owner, seen)]
    seen |= {id(owner)}
    said = describe(owner, seen)
    return [said, describe(_attributes(owner), seen)] if said == type_name(owner) else [said]


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _code(code: types.CodeType) -> list[Any]:
    """What of a code object is the program's, and not the file's: no line numbers, no file names."""
    return [code.co_code.hex(), list(code.co_names), [_constant(value) for value in code.co_consts]]


def _constant(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        return _code(value)
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)
