"""The JSON schema (2020-12) of a document, for editors: all components that are known, with their arguments.

It is made from what the loader checks with: the components' signatures. What no schema can say (which node an edge may lead
to, whether a function can be imported) only ``mdp validate`` finds.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from market_data_pipeline.catalog.arguments import REQUIRED, docstring, summary
from market_data_pipeline.catalog.document import STEPS, Document, Step
from market_data_pipeline.catalog.nested import Fields, Nested, OneOf
from market_data_pipeline.catalog.parameters import accepted_by
from market_data_pipeline.catalog.registry import ComponentKind, Factory, registry
from market_data_pipeline.catalog.shapes import (
    FUNCTION,
    Fixed,
    Function,
    Hidden,
    Items,
    Location,
    Name,
    Native,
    Nothing,
    Number,
    Raw,
    Row,
    Shape,
    Span,
    Table,
    Words,
)
from market_data_pipeline.errors import ConfigError

Schema = dict[str, Any]
_NAMED: Schema = {"type": "string", "pattern": f"^{FUNCTION.pattern}$"}
_SPAN = r"^\s*-?\d+(\.\d+)?\s*(ns|us|ms|s|m|h|d)\s*$"
_FILLED: Schema = {"$ref": "#/$defs/parameter"}


def document_schema() -> Schema:
    """The schema of a whole file, as plain data; the same for the same packages."""
    schemas = _Schemas()
    node = schemas.node()
    nodes = {"type": "array", "minItems": 1, "items": node}
    properties: Schema = {name: {"description": field.description} for name, field in Document.model_fields.items()}
    properties["name"] |= {"type": "string"}
    properties["parameters"] |= {"type": ["object", "null"]}
    properties["nodes"] |= nodes
    parameter = {"type": "string", "pattern": r"\$\{[^{}]*\}", "description": "A parameter, or ${env:NAME}."}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A pipeline of market-data-pipeline",
        "type": "object",
        "properties": properties,
        "required": ["name", "nodes"],
        "additionalProperties": False,
        "$defs": {"parameter": parameter, **dict(sorted(schemas.parts.items()))},
    }


class _Schemas:
    """The schemas that others refer to, by name."""

    def __init__(self) -> None:
        self.parts: dict[str, Schema] = {}
        self._factories: dict[tuple[ComponentKind, str], Factory | None] = {}
        for entry in registry().entries():
            try:
                factory = registry().get(entry.kind, entry.name)
                accepted_by(factory)
                self._factories[entry.kind, entry.name] = factory
            except ConfigError:  # an extra that is not installed, say: the name is known, its arguments are not
                self._factories[entry.kind, entry.name] = None

    def node(self) -> Schema:
        properties: Schema = {}
        for name, field in Step.model_fields.items():
            shape = next(one for one in field.metadata if isinstance(one, Shape))
            properties[field.alias or name] = {"description": field.description, **self.of(shape)}
        branches: list[Schema] = []
        for kind in STEPS:
            if kind == "coroutine":
                properties[kind] = {"description": properties[kind]["description"], **_NAMED}
                continue
            names = [name for of, name in self._factories if of == kind]
            properties[kind] = {"description": properties[kind]["description"], **self._names(kind, names)}
            branches += [self._branch(kind, name) for name in names]
        one = {"oneOf": [{"required": [kind]} for kind in STEPS]}
        return {"type": "object", "properties": properties, "additionalProperties": False, **one, "allOf": branches}

    def of(self, shape: Shape) -> Schema:
        """The schema of what ``shape`` takes; everywhere it may be a parameter instead."""
        options = [self._bare(member) for member in (shape.members if isinstance(shape, OneOf) else (shape,))]
        if not any(option == {} or (option.get("type") == "string" and "pattern" not in option) for option in options):
            options.append(_FILLED)
        return options[0] if len(options) == 1 else {"anyOf": options}

    def _bare(self, shape: Shape) -> Schema:  # noqa: PLR0912 - a table of shapes
        match shape:
            case Nothing():
                return {"type": "null"}
            case Fixed(values):
                return {"enum": list(values)}
            case Number(kind):
                return {"type": {bool: "boolean", int: "integer", float: "number"}[kind]}
            case Name(pattern):
                return {"type": "string", "pattern": f"^{pattern.pattern}$"}
            case Words() | Hidden():
                return {"type": "string"}
            case Location():
                return {"type": "string", "minLength": 1}
            case Span():
                return {"anyOf": [{"type": "string", "pattern": _SPAN}, {"type": "integer"}]}
            case Function():
                return dict(_NAMED)
            case Native():
                return {"type": ["string", "number"]}
            case Items(_, item):
                return {"type": "array", "items": self.of(item)}
            case Row(items):
                some = [self.of(item) for item in items]
                return {"type": "array", "prefixItems": some, "minItems": len(some), "maxItems": len(some)}
            case Table():
                return self._table(shape)
            case Fields(cls):
                return self._part(f"fields.{cls.__module__}.{cls.__qualname__}", cls)
            case Nested():
                return self._nested(shape)
            case Raw():
                return {"type": ["object", "null"]}
            case _:
                return {}

    def _table(self, shape: Table) -> Schema:
        table: Schema = {"type": "object", "additionalProperties": self.of(shape.value)}
        pair = self._bare(Row((shape.key, shape.value)))
        return table if isinstance(shape.key, Words) else {"anyOf": [table, {"type": "array", "items": pair}]}

    def _nested(self, shape: Nested) -> Schema:
        """Those components that are what the place wants; any other is named ``module:Class``."""
        name = f"{shape.kind}.{'-'.join(base.__qualname__ for base in shape.bases)}"
        if name not in self.parts:
            part = self.parts[name] = {}
            fitting = [
                of
                for (kind, of), factory in self._factories.items()
                if kind == shape.kind and makes(factory, shape.bases)
            ]
            part["type"] = "object"
            part["properties"] = {shape.kind: self._names(shape.kind, fitting), "with": {"type": ["object", "null"]}}
            part["required"] = [shape.kind]
            part["additionalProperties"] = False
            if fitting:
                part["allOf"] = [self._branch(shape.kind, one) for one in fitting]
        return {"$ref": f"#/$defs/{name}"}

    def _names(self, kind: ComponentKind, names: list[str]) -> Schema:
        known = [{"const": name, **_described(self._factories[kind, name])} for name in names]
        return {"anyOf": [*known, _NAMED, _FILLED]}

    def _branch(self, kind: ComponentKind, name: str) -> Schema:
        """What stands in ``with``, where ``kind`` is ``name``."""
        chosen: Schema = {"properties": {kind: {"const": name}}, "required": [kind]}
        factory = self._factories[kind, name]
        if factory is None:
            return {"if": chosen, "then": True}
        then: Schema = {"properties": {"with": self._part(f"with.{kind}.{name}", factory, left_out=True)}}
        if "required" in self.parts[f"with.{kind}.{name}"]:
            then["required"] = ["with"]
        return {"if": chosen, "then": then}

    def _part(self, name: str, factory: Factory, left_out: bool = False) -> Schema:
        """The arguments of ``factory``, kept under ``name``. ``left_out``: where none is needed, nothing may stand there."""
        if name not in self.parts:
            part = self.parts[name] = {}
            accepted = accepted_by(factory)
            text = " ".join(docstring(factory).split())
            needed = [one.name for one in accepted.arguments if one.required]
            part |= {"type": ["object", "null"] if left_out and not needed else "object", **_described(factory)}
            part["properties"] = {
                one.name: {
                    "title": one.name,
                    "description": _meaning(one.name, text) or accepted.shapes[one.name].words,
                    **_default(one.default),
                    **self.of(accepted.shapes[one.name]),
                }
                for one in accepted.arguments
            }
            part |= {"required": needed} if needed else {}
            part["additionalProperties"] = False
        return {"$ref": f"#/$defs/{name}"}


def makes(factory: Factory | None, bases: tuple[type[Any], ...]) -> bool:
    """Whether what ``factory`` makes is one of ``bases``; true where nobody can say."""
    made = factory if factory is None or isinstance(factory, type) else typing.get_type_hints(factory).get("return")
    if not isinstance(made, type):
        return True
    try:
        return issubclass(made, bases)
    except TypeError:  # a protocol with attributes cannot be asked for
        return True


def _described(factory: Factory | None) -> Schema:
    text = summary(factory) if factory is not None else ""
    return {"description": text} if text else {}


def _meaning(argument: str, text: str) -> str:
    """What a docstring says of an argument: behind its name and a colon, else the sentence that names it."""
    found = re.search(rf"`{argument}`[^.;:`]{{0,40}}: (.+?)(?=[.;](\s|$)|$)", text)
    if found is None:
        found = re.search(rf"(?:^|(?<=\. ))([^.]*`{argument}`.*?)(?=\.(\s|$)|$)", text)
    return found[1] if found else ""


def _default(value: Any) -> Schema:
    if value is REQUIRED:
        return {}
    try:
        return {"default": _plain(value)}
    except TypeError:  # what no document can hold
        return {}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "_asdict"):
        return {name: _plain(item) for name, item in value._asdict().items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    raise TypeError(value)
