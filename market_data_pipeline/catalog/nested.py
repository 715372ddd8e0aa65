"""Shapes of what is made of several arguments: components inside components, dataclasses, and a choice between shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from market_data_pipeline.catalog.filling import Filled
from market_data_pipeline.catalog.registry import KINDS, ComponentKind, Factory
from market_data_pipeline.catalog.shapes import (
    Fixed,
    Function,
    Hidden,
    Items,
    Location,
    Name,
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
    shown,
)
from market_data_pipeline.hints import nearest
from market_data_pipeline.operators.base import Operator
from market_data_pipeline.sinks.base import Sink
from market_data_pipeline.sources.base import Source
from market_data_pipeline.sources.provider import MarketDataProvider

_KIND_OF: Mapping[type[Any], ComponentKind] = {
    Source: "source", Operator: "operator", Sink: "sink", MarketDataProvider: "provider",
}  # fmt: skip


@dataclass(frozen=True)
class Nested(Shape):
    """``{kind: name, with: {...}}``: a component of its own that is one of ``bases``. ``find`` gives what makes the component
    of a kind and name, ``make`` calls that."""

    bases: tuple[type[Any], ...]
    find: Callable[[ComponentKind, str], Factory]
    make: Callable[[Factory, Mapping[str, Any]], Any]

    @property
    def kind(self) -> ComponentKind:
        """Which kind of component such a thing is."""
        return next((kind for base, kind in _KIND_OF.items() if base in self.bases[0].__mro__), "value")

    @property
    def words(self) -> str:
        return f"{{{self.kind}: NAME, with: {{...}}}}"

    def accepts(self, value: Any) -> bool:
        return isinstance(value, Mapping) and any(kind in value for kind in KINDS) and value.keys() <= {*KINDS, "with"}

    def take(self, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise refused(f"{shown(value)} is not {self.words}")
        for key in value:
            if key not in (self.kind, "with"):
                known = f"there are: {self.kind}, with{nearest(str(key), (self.kind, 'with'))}"
                raise _inside(refused(f"there is no key {key!r} here; {known}", unknown=True), key)
        name, arguments = value.get(self.kind), value.get("with")
        if not isinstance(name, str):
            raise refused(f"the name is needed: {self.words}")
        if arguments is not None and not isinstance(arguments, Mapping):
            raise _inside(refused(f"{shown(arguments)} is not a mapping of arguments"), "with")
        try:
            factory = self.find(self.kind, str(name))
        except PydanticCustomError as error:
            raise _inside(error, self.kind) from None
        try:
            made = self.make(factory, arguments or {})
        except (PydanticCustomError, ValidationError) as error:
            raise _inside(error, "with") from None
        if not self._fits(made):
            wanted = " or ".join(base.__name__ for base in self.bases)
            raise _inside(refused(f"{name!r} is a {type(made).__name__}; needed: {wanted}"), self.kind)
        return made

    def _fits(self, made: Any) -> bool:
        try:
            return isinstance(made, self.bases)
        except TypeError:  # a protocol that cannot be asked for: the component looks itself
            return True


@dataclass(frozen=True)
class Fields(Shape):
    """A mapping of the fields of ``cls``, made by ``make``. ``names``: the fields. A class derived from it is ``nested``."""

    cls: type[Any]
    names: tuple[str, ...]
    make: Callable[[Factory, Mapping[str, Any]], Any]
    nested: Nested

    @property
    def words(self) -> str:
        return f"a mapping of {', '.join(self.names)}"

    def accepts(self, value: Any) -> bool:
        return isinstance(value, Mapping)

    def take(self, value: Any) -> Any:
        if self.nested.accepts(value) and not any(key in self.names for key in value):
            return self.nested.take(value)
        return self.make(self.cls, super().take(value))


@dataclass(frozen=True)
class OneOf(Shape):
    """The first of ``members`` that a value looks like."""

    members: tuple[Shape, ...]

    @property
    def words(self) -> str:
        *others, last = [member.words for member in self.members]
        return f"{', '.join(others)} or {last}"

    def accepts(self, value: Any) -> bool:
        return self._member(value) is not None

    def take(self, value: Any) -> Any:
        member = self._member(value)
        if member is None:
            fixed = [one for member in self.members if isinstance(member, Fixed) for one in member.values]
            near = nearest(value, [str(one) for one in fixed]) if isinstance(value, str) else ""
            raise refused(f"{shown(value)} is not {self.words}{near}")
        return member.take(value)

    def _member(self, value: Any) -> Shape | None:
        if isinstance(value, Filled) and value.given and any(isinstance(m, _TEXTS) for m in self.members):
            value = Filled(value, secret=value.secret)  # it may stay text, so it does
        found = [member for member in self.members if member.accepts(value)]
        fitting = [member for member in found if not isinstance(member, Fields) or value.keys() <= set(member.names)]
        return next(iter(fitting or found), None)


def nested_in(shape: Shape) -> Iterator[Nested]:
    """The components of their own of which ``shape`` may be made, in lists and mappings, too."""
    match shape:
        case Nested():
            yield shape
        case OneOf(members):
            for member in members:
                yield from nested_in(member)
        case Items(_, item):
            yield from nested_in(item)
        case Table():
            yield from nested_in(shape.value)


_TEXTS = Words | Location | Hidden | Span


_ORDER: tuple[type[Shape], ...] = (
    Fixed, Number, Span, Function, Hidden, Name, Words, Location, Native, Row, Items, Nested, Fields, Table, Nothing,
)  # fmt: skip
"""Those that fit fewest values first."""


def one_of(members: Sequence[Shape]) -> Shape:
    """``members`` as one shape."""
    shapes = list(dict.fromkeys(members))
    if _has(shapes, Words) and _has(shapes, Location):  # a path stays as it is written, where it may be text
        shapes = [Location(str), *(shape for shape in shapes if not isinstance(shape, Words | Location))]
    if _has(shapes, Words) and _has(shapes, Hidden):
        others = [shape for shape in shapes if not isinstance(shape, Words | Hidden)]
        plain = all(isinstance(shape, Nothing) for shape in others)
        shapes = [Hidden(), *others] if plain else [Hidden(always=False), Words(), *others]
    shapes.sort(key=lambda shape: _ORDER.index(type(shape)))
    return shapes[0] if len(shapes) == 1 else OneOf(tuple(shapes))


def _has(shapes: Sequence[Shape], kind: type[Shape]) -> bool:
    return any(isinstance(shape, kind) for shape in shapes)


def _inside(error: PydanticCustomError | ValidationError, key: str) -> ValidationError:
    return ValidationError.from_exception_data("document", details(error, (key,)))
