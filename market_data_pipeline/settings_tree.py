"""The settings' tree as names: what each leaf is called in the environment, in a file and on the command line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from market_data_pipeline.hints import nearest_or_all

Path = tuple[str, ...]
"""A leaf's place: ``("partitions",)``, ``("orchestrator", "mode")``."""
PREFIX, DELIMITER = "MDP_", "__"


@dataclass(frozen=True)
class Leaf:
    """One setting."""

    path: Path
    field: FieldInfo

    @property
    def name(self) -> str:
        """For people: ``orchestrator.mode``."""
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        """In the environment: ``MDP_ORCHESTRATOR__MODE``."""
        return PREFIX + DELIMITER.join(self.path).upper()

    @property
    def secret(self) -> bool:
        """Whether its value is never shown."""
        return SecretStr in (self.field.annotation, *get_args(self.field.annotation))


def leaves(model: type[BaseModel], above: Path = ()) -> Iterator[Leaf]:
    """Every setting of ``model``, groups taken apart, in order of declaration."""
    for name, field in model.model_fields.items():
        path = (*above, name)
        group = _group(field)
        if group is None:
            yield Leaf(path, field)
        else:
            yield from leaves(group, path)


def _group(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def value_at(tree: BaseModel, path: Path) -> Any:
    """The value of the leaf at ``path``."""
    value: Any = tree
    for name in path:
        value = getattr(value, name)
    return value


def unknown(model: type[BaseModel], values: Any, above: Path = ()) -> Iterator[tuple[Path, str]]:
    """What of ``values`` (mappings within mappings) is no setting of ``model``: its place, and why, in a few words."""
    for key, value in values.items():
        path = (*above, str(key))
        field = model.model_fields.get(key)
        if field is None:
            yield path, no_such_setting(model, str(key))
            continue
        group = _group(field)
        if group is not None and not isinstance(value, dict):
            yield path, f"is a group: write its settings below it ({', '.join(group.model_fields)})"
        elif group is not None:
            yield from unknown(group, value, path)


def no_such_setting(model: type[BaseModel], name: str) -> str:
    """What is meant by ``name``, which is none of ``model``: what stands in a group, the nearest name, or one of all."""
    if any(leaf.name == name for leaf in leaves(model)):
        above, _, last = name.rpartition(".")
        return f"a setting of a group stands below it: write {above}: {{{last}: ...}}"
    return f"there is no such setting; {nearest_or_all(name, model.model_fields)}"


def unknown_variables(model: type[BaseModel], names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names of the environment that look like settings and are none, each with the nearest that is one."""
    known = [leaf.variable for leaf in leaves(model)]
    for name in sorted(names):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            near = get_close_matches(name.upper(), known, 1)
            yield name, near[0] if near else ""
