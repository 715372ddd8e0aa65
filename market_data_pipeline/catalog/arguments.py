"""What a component takes, as its signature says it: names, types, defaults; and what its docstring says in short."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable
from contextlib import suppress
from dataclasses import is_dataclass
from datetime import timedelta
from typing import Any, Literal, NamedTuple, get_args, get_origin

from market_data_pipeline.catalog.registry import Factory
from market_data_pipeline.clock import Clock
from market_data_pipeline.durations import Duration

REQUIRED = inspect.Parameter.empty
"""The default of an argument that must be given."""
_DURATION = frozenset(get_args(Duration))


class Argument(NamedTuple):
    """An argument of a component. ``hint``: its type, or the text of it where that cannot be resolved. ``many``: it is
    ``*name``, which a document gives as a list. ``positional``: it need not be named."""

    name: str
    hint: Any
    default: Any
    many: bool = False
    positional: bool = False

    @property
    def required(self) -> bool:
        return self.default is REQUIRED and not self.many


def arguments_of(factory: Factory) -> tuple[Argument, ...]:
    """What ``factory`` takes, in its order, without what is for tests alone. Raises ``ValueError`` or ``TypeError`` where that
    cannot be found out."""
    signature = inspect.signature(factory)
    try:
        hints = _hints(factory)
    except Exception:  # an annotation may be anything; as text it still says something
        hints = {}
        with suppress(Exception):
            signature = inspect.signature(factory, eval_str=True)
    hints = {**_hints_apart(factory, signature), **hints}
    found = (
        Argument(
            one.name,
            hints.get(one.name, one.annotation),
            one.default,
            one.kind is one.VAR_POSITIONAL,
            one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD),
        )
        for one in signature.parameters.values()
        if one.kind is not one.VAR_KEYWORD
    )
    return tuple(one for one in found if one.hint is not Clock and Clock not in get_args(one.hint))


def _hints(factory: Factory) -> dict[str, Any]:
    if not isinstance(factory, type):
        return typing.get_type_hints(factory if inspect.isroutine(factory) else type(factory).__call__)
    init: Any = inspect.getattr_static(factory, "__init__")
    if init is object.__init__:
        return typing.get_type_hints(factory)
    try:
        return typing.get_type_hints(init)
    except NameError:  # a dataclass's, whose fields come from other modules
        return typing.get_type_hints(factory)


def _hints_apart(factory: Factory, signature: inspect.Signature) -> dict[str, Any]:
    """Those types that stand there as text and can be resolved, each by itself: one that cannot says nothing of the others."""
    made_by: Any = inspect.getattr_static(factory, "__init__") if isinstance(factory, type) else factory
    names = getattr(inspect.unwrap(made_by), "__globals__", {})
    found: dict[str, Any] = {}

    def alone() -> None: ...

    for one in signature.parameters.values():
        if isinstance(one.annotation, str):
            alone.__annotations__ = {one.name: one.annotation}
            with suppress(Exception):
                found |= typing.get_type_hints(alone, names)
    return found


def takes_duration(hint: Any) -> bool:
    """Whether a duration is among what ``hint`` allows."""
    return set(get_args(hint)) >= _DURATION


def type_text(hint: Any) -> str:
    """A type as people read it: ``Duration | None``, ``'left' | 'right'``, ``Sequence[str]``, ``function``."""
    if hint is REQUIRED or hint is Any:
        return "any"
    if hint is None or hint is types.NoneType:
        return "None"
    if isinstance(hint, str):
        return hint
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " | ".join(map(repr, inner))
    if origin in (typing.Union, types.UnionType):
        return _union_text(inner)
    if hint is Callable or origin is Callable or origin is type(Callable):
        return "function"
    return _plain_text(hint, origin, inner)


def argument_type(argument: Argument) -> str:
    """Its type as people read it; of ``*name`` the list that a document gives."""
    text = type_text(argument.hint)
    return f"list[{text}]" if argument.many else text


def _union_text(members: tuple[Any, ...]) -> str:
    texts = []
    if set(members) >= _DURATION:
        texts.append("Duration")
        members = tuple(one for one in members if one not in _DURATION)
    rest = [type_text(one) for one in members if one is not types.NoneType]
    return " | ".join(dict.fromkeys([*texts, *rest, *(["None"] if types.NoneType in members else [])]))


def _plain_text(hint: Any, origin: Any, inner: tuple[Any, ...]) -> str:
    if origin is None:
        return str(getattr(hint, "__name__", hint))
    name = getattr(origin, "__name__", str(origin))
    return f"{name}[{', '.join('...' if one is Ellipsis else type_text(one) for one in inner)}]"


def default_text(argument: Argument) -> str:
    """The default as one would write it; empty where the argument must be given."""
    if argument.many:
        return "[]"
    return "" if argument.required else _value_text(argument.default)


def _value_text(value: Any) -> str:
    if isinstance(value, timedelta) or not callable(value):
        return repr(value)
    return str(getattr(value, "__qualname__", repr(value)))


def docstring(factory: Factory) -> str:
    """The whole docstring without indentation and marks of reStructuredText; empty where there is none."""
    text = inspect.cleandoc(getattr(factory, "__doc__", None) or "")
    if is_dataclass(factory) and text.startswith(f"{getattr(factory, '__name__', '')}("):
        return ""  # a dataclass that has none of its own is given its signature
    text = re.sub(r":mod:`~?([^`]*)`", r"\1", text)  # the last part of it leads nowhere
    text = re.sub(r":\w+:`~?([^`]*)`", lambda role: role[1].rpartition(".")[2], text)
    return text.replace("``", "`")


def summary(factory: Factory) -> str:
    """The first sentence of the docstring, on one line."""
    first = " ".join(docstring(factory).partition("\n\n")[0].split())
    sentence = re.match(r".*?[.!?](?=\s+[A-Z`]|$)", first)
    return sentence[0] if sentence else first
