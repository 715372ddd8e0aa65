"""What a place in a document wants: plain data in, the value that a component is given out, or one sentence why not.

Shapes stand in annotations of pydantic models, so that all mistakes of a document come out together, each with its place.
What is written in the document itself is taken strictly (``"5"`` is text and no number); what was filled in from outside,
where all is text, becomes what its place wants. Nothing is converted without need: a whole number stays one where any number
will do, as it does in a program, so that file and program compile to one plan.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, SecretStr, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from market_data_pipeline.catalog.filling import Filled
from market_data_pipeline.durations import signed_duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.hints import nearest

NO_PATH = "an empty path is none; write . for the folder this runs in"
"""``Path("")`` is this folder, and a shell's unset variable gives it unasked."""
FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
"""``module:qualname``."""
UNKNOWN = "unknown"
"""The type of an error that is a key, and not its value."""
_MOST_SHOWN = 60


class Shape(ABC):
    """What one place wants. ``words``: that, for people."""

    @property
    @abstractmethod
    def words(self) -> str: ...

    @abstractmethod
    def accepts(self, value: Any) -> bool:
        """Whether ``value`` looks like what this shape is for, so that its mistakes are told in this shape's terms."""

    def take(self, value: Any) -> Any:
        """What the component gets. Raises ``PydanticCustomError``, or a ``ValidationError`` with places inside ``value``."""
        if not self.accepts(value):
            raise refused(f"{shown(value)} is not {self.words}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.take)


@dataclass(frozen=True)
class Anything(Shape):
    """Any plain data, as it is. ``{value: "module:Class", with: {...}}`` in it is made by ``make``."""

    make: Callable[[Mapping[str, Any]], Any]
    words = "anything"

    def accepts(self, value: Any) -> bool:
        return True

    def take(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            named = value.get("value")
            if value.keys() <= {"value", "with"} and isinstance(named, str) and FUNCTION.fullmatch(named):
                return self.make(value)
            return {key: self.take(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.take(item) for item in value]
        return str(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Raw(Shape):
    """A mapping or list that is looked at later."""

    kinds: tuple[type[Any], ...]
    what: str

    @property
    def words(self) -> str:
        return self.what

    def accepts(self, value: Any) -> bool:
        return isinstance(value, self.kinds)


@dataclass(frozen=True)
class Nothing(Shape):
    words = "null"

    def accepts(self, value: Any) -> bool:
        return value is None


@dataclass(frozen=True)
class Fixed(Shape):
    """One of some values."""

    values: tuple[Any, ...]

    @property
    def words(self) -> str:
        return f"one of {', '.join(map(repr, self.values))}"

    def accepts(self, value: Any) -> bool:
        return self._found(value) is not None

    def take(self, value: Any) -> Any:
        found = self._found(value)
        if found is None:
            raise refused(self.refusal(value))
        return found[0]

    def refusal(self, value: Any) -> str:
        allowed = ", ".join(map(repr, self.values))
        near = nearest(value, [one for one in self.values if isinstance(one, str)]) if isinstance(value, str) else ""
        return f"{shown(value)} is not allowed; allowed: {allowed}{near}"

    def _found(self, value: Any) -> tuple[Any] | None:
        given = isinstance(value, Filled) and value.given
        for one in self.values:
            if (one == value and isinstance(value, type(one))) or (given and str(one) == value):
                return (one,)
        return None


@dataclass(frozen=True)
class Number(Shape):
    """``bool``, ``int`` or ``float``. A whole number is also what a place for a float wants, and stays whole."""

    kind: type[Any]

    @property
    def words(self) -> str:
        return {bool: "true or false", int: "a whole number", float: "a number"}[self.kind]

    def accepts(self, value: Any) -> bool:
        if isinstance(value, Filled) and value.given:
            try:
                TypeAdapter(self.kind).validate_python(str(value))
            except ValidationError:
                return False
            return True
        if self.kind is bool or isinstance(value, bool):
            return self.kind is bool and isinstance(value, bool)
        return isinstance(value, int | float if self.kind is float else int)

    def take(self, value: Any) -> Any:
        value = super().take(value)
        return TypeAdapter(self.kind).validate_python(str(value)) if isinstance(value, Filled) else value


@dataclass(frozen=True)
class Words(Shape):
    """Text."""

    words = "text"

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str)

    def take(self, value: Any) -> Any:
        if isinstance(value, bool | int | float):
            raise refused(f"{shown(value)} is not text; write it in quotes")
        return str(super().take(value))


@dataclass(frozen=True)
class Name(Shape):
    """Text that matches ``pattern`` as a whole."""

    pattern: re.Pattern[str]

    @property
    def words(self) -> str:
        return f"text that matches {self.pattern.pattern}"

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and self.pattern.fullmatch(value) is not None

    def take(self, value: Any) -> Any:
        return str(super().take(value))


@dataclass(frozen=True)
class Location(Shape):
    """A path: ``made`` of text."""

    made: Callable[[str], PurePath | str]
    words = "a path"

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str)

    def take(self, value: Any) -> Any:
        text = str(super().take(value))
        if not text:
            raise refused(NO_PATH)
        return self.made(text)


@dataclass(frozen=True)
class Hidden(Shape):
    """Text that nothing shows. ``always``: whatever the text is; else only what came from the environment."""

    always: bool = True
    words = "text"

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and (self.always or (isinstance(value, Filled) and value.secret))

    def take(self, value: Any) -> Any:
        if not self.accepts(value):  # which may be a secret that was not quoted
            raise refused(f"{shown(value) if isinstance(value, dict | list) or value is None else 'this'} is not text")
        return SecretStr(str(value))


@dataclass(frozen=True)
class Span(Shape):
    """A duration, kept as it is written."""

    words = "a duration such as '1s', '250ms' or '5m'"

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str | int) and not isinstance(value, bool)

    def take(self, value: Any) -> Any:
        value = super().take(value)
        try:
            signed_duration(value, "")
        except (ConfigError, ValueError):  # ValueError: more digits than Python takes
            raise refused(f"{shown(value)} is not {self.words}") from None
        return str(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Function(Shape):
    """What ``module:qualname`` names, as ``find`` finds it."""

    find: Callable[[str], Any]
    words = "a function, written 'module:name'"

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str) and FUNCTION.fullmatch(value) is not None

    def take(self, value: Any) -> Any:
        try:
            found = self.find(str(super().take(value)))
        except ConfigError as error:
            raise refused(str(error)) from None
        if not callable(found):
            raise refused(f"{value} is a {type(found).__name__}; needed: {self.words}")
        return found


@dataclass(frozen=True)
class Native(Shape):
    """What pydantic makes of text or a number: dates, decimals, enumerations. ``takes``: of which."""

    kind: Any

    @property
    def words(self) -> str:
        return f"a {getattr(self.kind, '__name__', self.kind)}"

    def accepts(self, value: Any) -> bool:
        return isinstance(value, str | int | float) and not isinstance(value, bool)

    def take(self, value: Any) -> Any:
        try:
            return self.adapter.validate_python(str(value) if isinstance(value, str) else value)
        except ValidationError as error:
            raise refused(f"{shown(value)} is not {self.words}: {error.errors()[0]['msg']}") from None

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.kind)


@dataclass(frozen=True)
class Items(Shape):
    """A list, made into ``container``."""

    container: Callable[[Iterable[Any]], Any]
    item: Shape

    @property
    def words(self) -> str:
        return f"a list, each {self.item.words}" if not isinstance(self.item, Anything) else "a list"

    def accepts(self, value: Any) -> bool:
        return isinstance(value, list)

    def take(self, value: Any) -> Any:
        return self.container(self._adapter.validate_python(super().take(value)))

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(list[Annotated[Any, self.item]])


@dataclass(frozen=True)
class Row(Shape):
    """A list of so many different things, made into a tuple."""

    items: tuple[Shape, ...]

    @property
    def words(self) -> str:
        return f"a list of {len(self.items)}: {', '.join(item.words for item in self.items)}"

    def accepts(self, value: Any) -> bool:
        return isinstance(value, list) and len(value) == len(self.items)

    def take(self, value: Any) -> Any:
        return collected(
            tuple, [((number,), self.items[number], item) for number, item in enumerate(super().take(value))]
        )


@dataclass(frozen=True)
class Table(Shape):
    """A mapping. Where its keys are not text, also a list of ``[key, value]``."""

    key: Shape
    value: Shape

    @property
    def _pairs(self) -> Items:
        return Items(dict, Row((self.key, self.value)))

    @property
    def words(self) -> str:
        pairs = "" if isinstance(self.key, Words) else ", or a list of [key, value]"
        return f"a mapping{pairs}"

    def accepts(self, value: Any) -> bool:
        return isinstance(value, Mapping) or (isinstance(value, list) and not isinstance(self.key, Words))

    def take(self, value: Any) -> Any:
        value = super().take(value)
        if isinstance(value, list):
            return self._pairs.take(value)
        keys = collected(list, [((key,), self.key, Filled(key, given=True)) for key in value])
        items = collected(list, [((key,), self.value, item) for key, item in value.items()])
        return dict(zip(keys, items, strict=True))


def collected(container: Callable[[Iterable[Any]], Any], parts: list[tuple[tuple[Any, ...], Shape, Any]]) -> Any:
    """What the shapes make of the values, or one ``ValidationError`` with all their mistakes."""
    made: list[Any] = []
    wrong: list[InitErrorDetails] = []
    for place, shape, value in parts:
        try:
            made.append(shape.take(value))
        except (PydanticCustomError, ValidationError) as error:
            wrong += details(error, place)
    if wrong:
        raise ValidationError.from_exception_data("document", wrong)
    return container(made)


def details(error: PydanticCustomError | ValidationError, place: tuple[Any, ...]) -> list[InitErrorDetails]:
    """The mistakes of ``error``, inside ``place``."""
    if isinstance(error, PydanticCustomError):
        return [InitErrorDetails(type=error, loc=place, input=None)]
    return [
        InitErrorDetails(type=refused(one["msg"], one["type"] == UNKNOWN), loc=(*place, *one["loc"]), input=None)
        for one in error.errors(include_url=False)
    ]


def refused(why: str, unknown: bool = False) -> PydanticCustomError:
    """A mistake, in one sentence; ``unknown``: it is a key that should not be there."""
    return PydanticCustomError(UNKNOWN if unknown else "refused", "{why}", {"why": why})


def shown(value: Any) -> str:
    """``value`` for a message: short, and no secret."""
    if isinstance(value, Filled) and value.secret:
        return "the value from the environment"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(str(value)) if isinstance(value, str) else repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
