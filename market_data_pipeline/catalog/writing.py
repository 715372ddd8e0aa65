"""Values as plain data, so that a document can hold them: how :mod:`~market_data_pipeline.catalog.dump` writes them down.

=============================================== ===================================================================
value                                           in a document
=============================================== ===================================================================
None, bool, numbers, text; lists, mappings      themselves; ``${`` in a text becomes ``$${``
Path, Decimal, date, time, Enum; tuple, set     text, the enumeration's value; a list: where the annotation says so
function, class                                 ``module:qualname``
component, provider, registered value           ``{kind: name, with: {...}}``, or ``module:Class`` for the name
dataclass, NamedTuple that the annotation names a mapping of its fields
another dataclass                               ``{value: module:Class, with: {...}}``
SecretStr, an address that holds a password     ``${env:MDP_PIPELINE_SECRET_1}``
=============================================== ===================================================================

Everything else is refused, and so is what would come back as something else (a tuple where the annotation says ``Any``).
"""

from __future__ import annotations

import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, get_args, get_origin
from urllib.parse import urlsplit

import numpy as np
from pydantic import BaseModel, SecretStr

from market_data_pipeline.catalog.arguments import REQUIRED, Argument, arguments_of, takes_duration
from market_data_pipeline.catalog.importable import Unnameable, import_name
from market_data_pipeline.catalog.nested import Fields
from market_data_pipeline.catalog.parameters import shape_of
from market_data_pipeline.catalog.registry import ComponentKind, registry
from market_data_pipeline.durations import duration_text, parse_duration
from market_data_pipeline.operators.base import Operator
from market_data_pipeline.sinks.base import Sink
from market_data_pipeline.sources.base import Source

SECRET = "MDP_PIPELINE_SECRET_"
"""How the variables of the environment begin that hold a document's secrets."""
_WAY_OUT = "define it with a name in a module, or run the program by its name (path.py[:attr]) instead"
_KINDS: dict[ComponentKind, type[Any]] = {"source": Source, "operator": Operator, "sink": Sink}


class Unwritable(Exception):
    """What of a node cannot be written down, and why."""


class Writing:
    """Writes values down, and keeps what a document must not hold: ``secrets`` by variable; ``modules``: those that it names.

    ``readable``: durations as text."""

    def __init__(self, readable: bool = False) -> None:
        self.readable = readable
        self.secrets: dict[str, str] = {}
        self.modules: set[str] = set()

    def component(self, kind: ComponentKind, component: object, at: str = "", named: bool = True) -> dict[str, Any]:
        """``{kind: name}``, and ``with`` what it was made with, where that is not as by default. ``named``: by the name that it
        has in the registry, if it has one."""
        cls = type(component)
        known = registry().name_of(kind, component) if named else None
        name = known or self._import_name(cls, f"its {at + ': the ' if at else ''}class")
        if known:
            self.modules.add(cls.__module__)
        arguments = self.arguments(component, at)
        return {kind: name, "with": arguments} if arguments else {kind: name}

    def arguments(self, made: object, at: str = "") -> dict[str, Any]:
        """What ``made`` was made with, where that is not as by default. Raises :class:`Unwritable`."""
        cls = type(made)
        told: Mapping[str, Any] = made.made_with() if hasattr(cls, "made_with") else {}  # type: ignore[attr-defined]
        written: dict[str, Any] = {}
        for argument in arguments_of(cls):
            place = f"{at}.{argument.name}" if at else f"argument {argument.name}"
            if argument.name not in told and not hasattr(made, argument.name):
                raise Unwritable(
                    f"its {place} is not kept: {cls.__qualname__} has no attribute {argument.name!r}. Keep it under that name,"
                    " give the class a method made_with(), or run the program by its name (path.py[:attr]) instead"
                )
            value = told[argument.name] if argument.name in told else getattr(made, argument.name)
            if not self._is_default(argument, value):
                hint = Sequence[argument.hint] if argument.many else argument.hint  # type: ignore[name-defined]
                written[argument.name] = self.value(value, hint, place)
        return written

    def _is_default(self, argument: Argument, value: Any) -> bool:
        if argument.many:
            return not value
        default = argument.default
        if self.readable and _is_span(value, argument.hint) and isinstance(default, str):
            return bool(parse_duration(default) == value)
        return type(value) is type(default) and bool(value == default)

    def function(self, fn: Any, at: str = "function") -> str:
        """``module:qualname``. Raises :class:`Unwritable`."""
        return self._import_name(fn, f"its {at}")

    def _import_name(self, thing: Any, what: str) -> str:
        try:
            name = import_name(thing)
        except Unnameable as error:
            raise Unwritable(f"{what} {error}, which another process cannot import: {_WAY_OUT}") from error
        self.modules.add(name.partition(":")[0])
        return name

    def value(self, value: Any, hint: Any = REQUIRED, at: str = "") -> Any:
        """``value`` as plain data; ``hint``: what the annotation of its place says. Raises :class:`Unwritable`."""
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | int | float):
            return self._number(value, hint, at)
        if isinstance(value, Enum):
            _check_said(value, hint, at)
            return self.value(value.value, Any, at)
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, SecretStr):
            _check_said(value, hint, at)
            return self._secret(value.get_secret_value())
        if isinstance(value, PurePath | Decimal | date | time):
            _check_said(value, hint, at)
            return self.text(str(value))
        if isinstance(value, timedelta):
            raise Unwritable(
                f"its {at} is a timedelta; a document holds a duration as text ('500ms') or int nanoseconds"
            )
        if isinstance(value, Mapping):
            return self._mapping(value, hint, at)
        if isinstance(value, list | tuple | set | frozenset) and not hasattr(value, "_fields"):
            return self._items(value, hint, at)
        return self._object(value, hint, at)

    def text(self, text: str) -> str:
        """``text`` with what a document takes for its own signs marked, or hidden where it is an address with a password."""
        if "@" in text and _has_password(text):
            return self._secret(text)
        return text.replace("${", "$${")

    def _number(self, value: Any, hint: Any, at: str) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            raise Unwritable(f"its {at} is {value}, which no document can hold")
        if self.readable and _is_span(value, hint) and value:
            return duration_text(value) if value > 0 else f"-{duration_text(-value)}"
        return value

    def _secret(self, secret: str) -> str:
        variables = {held: variable for variable, held in self.secrets.items()}
        variable = variables.get(secret) or f"{SECRET}{len(self.secrets) + 1}"
        self.secrets[variable] = secret
        return f"${{env:{variable}}}"

    def _mapping(self, value: Mapping[Any, Any], hint: Any, at: str) -> Any:
        of_key, of_value = _inner(hint, Mapping, 2)
        written = [
            (self.value(key, of_key, f"{at}: its key {key!r}"), self.value(item, of_value, f"{at}.{key}"))
            for key, item in value.items()
        ]
        if all(isinstance(key, str) for key in value):
            return {key: item for key, (_, item) in zip(value, written, strict=True)}
        return [list(pair) for pair in written]

    def _items(self, value: Any, hint: Any, at: str) -> list[Any]:
        if not isinstance(value, list):
            _check_said(value, hint, at)
        items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        inner = [one for one in _members(hint) if get_origin(one) is tuple and get_args(one)[-1] is not Ellipsis]
        hints = get_args(inner[0]) if inner else [_inner(hint, Iterable, 1)[0]] * len(items)
        return [
            self.value(item, of, f"{at}[{number}]") for number, (item, of) in enumerate(zip(items, hints, strict=True))
        ]

    def _object(self, value: Any, hint: Any, at: str) -> Any:
        kind = _kind_of(value)
        if kind is not None:
            return self.component(kind, value, at, named=kind != "value" or not _says_nothing(hint))
        cls = type(value)
        if _is_plain(cls, hint):
            return self.arguments(value, at)
        if is_dataclass(cls) or isinstance(value, BaseModel) or hasattr(cls, "_fields") or hasattr(cls, "made_with"):
            return self.component("value", value, at)
        if isinstance(value, type) or callable(value):
            _check_said(value, hint, at)
            return self._import_name(value, f"its {at}")
        raise Unwritable(
            f"its {at} is a {cls.__qualname__}, which no document can hold: make it a dataclass, or run the program by its name"
            " (path.py[:attr]) instead"
        )


def _kind_of(value: Any) -> ComponentKind | None:
    if isinstance(value, type):
        return None
    for kind, base in _KINDS.items():
        if isinstance(value, base):
            return kind
    if all(callable(getattr(value, name, None)) for name in ("connect", "check")):
        return "provider"
    return "value" if registry().name_of("value", value) else None


def _has_password(text: str) -> bool:
    try:
        return urlsplit(text).password is not None
    except ValueError:
        return False


def _is_span(value: Any, hint: Any) -> bool:
    return type(value) is int and takes_duration(hint)


def _members(hint: Any) -> tuple[Any, ...]:
    """What a union allows; else the hint itself."""
    inner = get_args(hint)
    return inner if get_origin(hint) in (typing.Union, type(int | str)) else (hint,)


def _is_plain(cls: type[Any], hint: Any) -> bool:
    """Whether loading makes a ``cls`` of a mapping of its fields where ``hint`` stands."""
    shape = shape_of(hint)
    return any(isinstance(one, Fields) and one.cls is cls for one in getattr(shape, "members", (shape,)))


def _inner(hint: Any, of: type[Any], count: int) -> tuple[Any, ...]:
    """The hints of what is inside a container: of the member of ``hint`` that is one."""
    for one in _members(hint):
        origin, inner = get_origin(one), get_args(one)
        if isinstance(origin, type) and issubclass(origin, of) and len(inner) >= count:
            return inner[:count]
    return (Any,) * count


def _check_said(value: Any, hint: Any, at: str) -> None:
    """Raises :class:`Unwritable` where ``hint`` says nothing: then nobody makes ``value`` of plain data again."""
    if _says_nothing(hint):
        kind = "function" if callable(value) else type(value).__name__
        raise Unwritable(
            f"its {at} is a {kind}, which its annotation does not say, so it would come back as plain data: annotate it,"
            " or run the program by its name (path.py[:attr]) instead"
        )


def _says_nothing(hint: Any) -> bool:
    return all(one in (Any, object, REQUIRED) for one in _members(hint))
