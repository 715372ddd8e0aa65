"""What sources, operators and sinks have in common: a pristine instance in the Dag is a template.

``fresh()`` makes the instance that one task uses; ``config()`` says, as plain data, what it was made with, so that two
processes can compare the plans they compiled.
"""

from __future__ import annotations

import copy
import functools
import inspect
import zlib
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import PurePath
from typing import Any, Self


class Component:
    """Base of Source, Operator and Sink."""

    def fresh(self) -> Self:
        """A new instance with the same configuration and no state. By default a deep copy of the template."""
        return copy.deepcopy(self)

    def config(self) -> dict[str, Any]:
        """The configuration as plain data; by default each ``__init__`` parameter kept under its own name."""
        names = [name for name in inspect.signature(type(self).__init__).parameters if name != "self"]
        return {name: describe(getattr(self, name)) for name in names if hasattr(self, name)}


def describe(value: Any) -> Any:
    """``value`` as plain data that is equal in two processes running the same program."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = [describe(item) for item in value]
        return sorted(items, key=repr) if isinstance(value, set | frozenset) else items
    if isinstance(value, Component):
        return {"type": type_name(value), **value.config()}
    if isinstance(value, functools.partial):
        return {"partial": describe(value.func), "args": describe(value.args), "kwargs": describe(value.keywords)}
    if callable(value):
        return describe_function(value)
    return type_name(value)


def type_name(value: Any) -> str:
    cls = type(value)
    return f"{cls.__module__}.{cls.__qualname__}"


def describe_function(fn: Callable[..., Any]) -> str:
    """``module.qualname#crc`` where crc covers bytecode and plain constants, so that an edited lambda shows."""
    name = f"{getattr(fn, '__module__', '')}.{getattr(fn, '__qualname__', type_name(fn))}"
    code = getattr(fn, "__code__", None)
    if code is None:
        return name
    plain = [c for c in code.co_consts if c is None or isinstance(c, bool | int | float | str | bytes)]
    closed = [describe(cell.cell_contents) for cell in fn.__closure__ or ()] if inspect.isfunction(fn) else []
    crc = zlib.crc32(repr((code.co_code, plain, code.co_names, closed)).encode())
    return f"{name}#{crc:08x}"
