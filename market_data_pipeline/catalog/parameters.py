"""A component's own signature is the list of its arguments: from it comes the pydantic model that checks those of a document.

============================================ ========================================================================
annotation                                   in a document
============================================ ========================================================================
``str``, ``int``, ``float``, ``bool``        text, numbers, ``true`` and ``false``; strictly, see ``shapes.py``
``Literal[...]``                             one of its values
``Duration``                                 ``1s``, ``250ms``, or nanoseconds
``Path``, ``Path | str``                     text
``SecretStr``, ``SecretStr | str``           text (``${env:NAME}``); no message shows it
``list``, ``Sequence``, ``tuple``, ``set``   a list; ``*args`` too, under their own name
``Mapping[str, X]``                          a mapping; where keys are not text, also a list of ``[key, value]``
``Callable[...]``                            ``"module:qualname"``
a dataclass, a NamedTuple                    a mapping of its fields
an aggregation, a window, a provider, ...    ``{value: vwap}``, ``{provider: ccxt, with: {exchange: coinbase}}``
``X | Y``                                    whichever the value looks like
============================================ ========================================================================

Arguments that are for tests alone (a clock) are no arguments of a document.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from collections import abc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from datetime import timedelta
from functools import cache
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import InitErrorDetails, PydanticCustomError

from market_data_pipeline.catalog.arguments import REQUIRED, Argument, arguments_of
from market_data_pipeline.catalog.nested import Fields, Nested, one_of
from market_data_pipeline.catalog.registry import ComponentKind, Factory, imported, registry
from market_data_pipeline.catalog.shapes import (
    FUNCTION,
    UNKNOWN,
    Anything,
    Fixed,
    Function,
    Hidden,
    Items,
    Location,
    Native,
    Nothing,
    Number,
    Row,
    Shape,
    Span,
    Table,
    Words,
    details,
    refused,
)
from market_data_pipeline.errors import ConfigError, MdpError
from market_data_pipeline.hints import nearest

_LISTS: dict[Any, Callable[[Iterable[Any]], Any]] = {
    list: list, abc.Sequence: list, abc.MutableSequence: list, abc.Iterable: list, abc.Collection: list,
    set: set, abc.MutableSet: set, abc.Set: frozenset, frozenset: frozenset,
}  # fmt: skip
_TABLES = (dict, abc.Mapping, abc.MutableMapping)
_DURATION = {str, int, timedelta}
_ARGUMENT = tuple(re.compile(rf"{before}([A-Za-z_]\w*)(: |=)") for before in ("", r"[A-Za-z_]\w*: "))
"""How the message of a component begins that is about an argument; some say their own name first."""
_MOST_TOLD = 100


@dataclass(frozen=True, eq=False)
class Accepted:
    """What a document can give ``factory``. ``model``: its fields have the arguments' names as aliases."""

    factory: Factory
    arguments: tuple[Argument, ...]
    shapes: Mapping[str, Shape]
    model: type[BaseModel]

    def taken(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The values of the arguments in ``given``. Raises ``ValidationError`` with all mistakes."""
        made = checked(self.model, given, "argument")
        return {str(type(made).model_fields[name].alias): getattr(made, name) for name in made.model_fields_set}

    def called(self, values: Mapping[str, Any]) -> Any:
        """What ``factory`` makes of these values."""
        by_name, in_order = dict(values), list[Any]()
        for one in self.arguments:
            if one.positional:
                in_order.append(by_name.pop(one.name, one.default))
            elif one.many:
                in_order += by_name.pop(one.name, ())
        return self.factory(*in_order, **by_name)


@cache
def accepted_by(factory: Factory) -> Accepted:
    """What a document can give it, by its signature. Raises ``ConfigError`` where that cannot be read."""
    try:
        arguments = arguments_of(factory)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the arguments of {_called(factory)} cannot be read: {error}") from error
    shapes: dict[str, Shape] = {}
    fields: dict[str, Any] = {}
    for number, one in enumerate(arguments):
        if isinstance(one.hint, str):
            raise ConfigError(
                f"the argument {one.name} of {_called(factory)} has a type that is not there when it is read: {one.hint};"
                " import it in that module, and not under TYPE_CHECKING alone"
            )
        shape = anything() if one.hint is REQUIRED else shape_of(one.hint)
        shapes[one.name] = Items(tuple, shape) if one.many else shape
        fields[f"p{number}"] = (Annotated[Any, shapes[one.name]], Field(... if one.required else None, alias=one.name))
    model: type[BaseModel] = create_model("Arguments", __config__=ConfigDict(extra="forbid"), **fields)
    return Accepted(factory, arguments, shapes, model)


def made(factory: Factory, given: Mapping[str, Any]) -> Any:
    """What ``factory`` makes of the arguments in a document. Raises ``PydanticCustomError`` or ``ValidationError``, in which
    places begin with an argument's name."""
    try:
        accepted = accepted_by(factory)
    except ConfigError as error:
        raise refused(str(error)) from None
    values = accepted.taken(given)
    try:
        return accepted.called(values)
    except MdpError as error:
        raise _at_argument(str(error), given) from error
    except Exception as error:
        raise refused(f"making it raised {type(error).__name__}: {error}") from error


def takes(kind: str, name: str) -> set[str]:
    """The names of the arguments of the component ``name``; none where it cannot be had."""
    try:
        return {one.name for one in accepted_by(factory_of(kind, name)).arguments}  # type: ignore[arg-type]
    except (ConfigError, PydanticCustomError):
        return set()


def checked(model: type[BaseModel], given: Mapping[str, Any], what: str) -> BaseModel:
    """``given`` as ``model``; ``what`` its keys are. Raises ``ValidationError`` with sentences for people."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        told = [_told(model, one, what) for one in error.errors(include_url=False)[:_MOST_TOLD]]
        raise ValidationError.from_exception_data(what, told) from None


def factory_of(kind: ComponentKind, name: str) -> Factory:
    """What makes the component ``name``: of the registry, or ``module:qualname``. Raises ``PydanticCustomError``."""
    try:
        found: Any = named(name) if ":" in name else registry().get(kind, name)
    except ConfigError as error:
        raise refused(str(error)) from None
    if not callable(found):
        raise refused(f"{name} is a {type(found).__name__}, which makes no {kind}")
    factory: Factory = found
    return factory


def named(target: str) -> Any:
    """What ``module:qualname`` names. Raises ``ConfigError``."""
    if FUNCTION.fullmatch(target) is None:
        raise ConfigError(f"{target!r:.60} is not written 'module:name'")
    module, _, path = target.partition(":")
    try:
        return imported(target, "it cannot be used")
    except SystemExit as error:
        raise ConfigError(f"importing {module} ended with exit code {error.code}") from error
    except ConfigError as error:
        if isinstance(error.__cause__, AttributeError) and module in sys.modules:
            there = [name for name in vars(sys.modules[module]) if not name.startswith("_")]
            raise ConfigError(f"the module {module} has no {path!r}{nearest(path, there)}") from error
        raise


def shape_of(annotation: Any) -> Shape:
    """What an argument with this annotation wants."""
    annotation = _bare(annotation)
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _choice([_bare(member) for member in inner])
    if origin is Literal:
        return Fixed(inner)
    if annotation is None or annotation is type(None):
        return Nothing()
    kind = origin or annotation
    if kind in (abc.Callable, type):
        return Function(named)
    if kind is tuple and inner and inner[-1] is not ...:
        return Row(tuple(shape_of(item) for item in inner))
    if kind is tuple or kind in _LISTS:
        return Items(_LISTS.get(kind, tuple), shape_of(inner[0]) if inner else anything())
    if kind in _TABLES:
        key, value = inner or (str, Any)
        return Table(shape_of(key), shape_of(value))
    if kind is Any or kind is object or not isinstance(kind, type):
        return anything()
    return _of_class(kind)


def anything() -> Shape:
    """The shape of what no annotation says more of."""
    return Anything(Nested((object,), factory_of, made).take)


def _of_class(cls: type[Any]) -> Shape:
    if cls in (bool, int, float):
        return Number(cls)
    if cls is str:
        return Words()
    if issubclass(cls, PurePath):
        return Location(cls)
    if cls is SecretStr:
        return Hidden()
    if "__call__" in vars(cls) and getattr(cls, "_is_protocol", False):
        return Function(named)
    structured = is_dataclass(cls) or issubclass(cls, BaseModel) or (issubclass(cls, tuple) and hasattr(cls, "_fields"))
    nested = Nested((cls,), factory_of, made)
    if structured:
        whole = _registered(cls) or inspect.isabstract(cls)
        return nested if whole else Fields(cls, tuple(inspect.signature(cls).parameters), made, nested)
    if typing.is_typeddict(cls):
        return anything()
    try:
        TypeAdapter(cls)
    except PydanticUserError:
        return nested
    return Native(cls)


def _choice(members: list[Any]) -> Shape:
    duration = set(_DURATION) <= set(members)
    shapes = [shape_of(member) for member in members if not (duration and member in _DURATION)]
    if duration:
        shapes.append(Span())
    if any(isinstance(shape, Anything) for shape in shapes):
        return anything()
    nested = [base for shape in shapes if isinstance(shape, Nested) for base in shape.bases]
    plain = [shape.cls for shape in shapes if isinstance(shape, Fields)]
    if nested or len(plain) > 1:  # which of several it is must be said
        shapes = [shape for shape in shapes if not isinstance(shape, Nested)]
        shapes.append(Nested((*nested, *plain), factory_of, made))
    return one_of(shapes)


def _called(factory: Factory) -> str:
    name = getattr(factory, "__qualname__", None)
    return f"{factory.__module__}:{name}" if name else f"{factory!r:.100}"


def _bare(annotation: Any) -> Any:
    """Without names given to it, and without what ``Annotated`` adds."""
    while True:
        if typing.get_origin(annotation) is Annotated:
            annotation = typing.get_args(annotation)[0]
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        else:
            return annotation


def _registered(cls: type[Any]) -> bool:
    target = f"{cls.__module__}:{cls.__qualname__}"
    return any(entry.target in (target, cls) for entry in registry().entries())


def _told(model: type[BaseModel], one: Any, what: str) -> InitErrorDetails:
    """An error of pydantic's as a sentence."""
    place, why = one["loc"], one["msg"]
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    if len(place) == 1 and one["type"] == "extra_forbidden":
        there = f"there are: {', '.join(fields)}" if fields else "it takes none"
        why = f"there is no {what} {place[0]!r:.60}; {there}{nearest(str(place[0]), list(fields))}"
    elif len(place) == 1 and one["type"] == "missing":
        wanted = next((shape.words for shape in fields[place[0]].metadata if isinstance(shape, Shape)), "a value")
        why = f"this {what} is needed: {wanted}"
    unknown = one["type"] in ("extra_forbidden", UNKNOWN)
    return InitErrorDetails(type=refused(why, unknown), loc=place, input=None)


def _at_argument(message: str, given: Mapping[str, Any]) -> PydanticCustomError | ValidationError:
    """A component's own error, at the argument whose name it begins with."""
    found = next((one for one in (pattern.match(message) for pattern in _ARGUMENT) if one and one[1] in given), None)
    if found is None:
        return refused(message)
    why = message[found.end() :] if found[2] == ": " else message
    return ValidationError.from_exception_data("argument", details(refused(why), (found[1],)))
