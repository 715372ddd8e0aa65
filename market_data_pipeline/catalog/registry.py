"""Components by name: those that come with the project, those of installed packages, and those that a program adds.

A package adds one by an entry point, in its ``pyproject.toml``::

    [project.entry-points."market_data_pipeline.sources"]
    my_feed = "my_package.feeds:MyFeed"

Groups: ``market_data_pipeline.sources``, ``.operators``, ``.sinks``, ``.providers``, and ``.values`` for what components are
made of (aggregations, windows). A name that two give is refused with both origins: which of them a program means must not
depend on the order in which packages were installed.
"""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, NamedTuple, get_args

from market_data_pipeline.catalog.builtin import BUILTIN
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.operators.base import Operator
from market_data_pipeline.sinks.base import Sink
from market_data_pipeline.sources.base import Source

ComponentKind = Literal["source", "operator", "sink", "provider", "value"]
KINDS: tuple[ComponentKind, ...] = get_args(ComponentKind)
Factory = Callable[..., Any]
"""A class, or a function with an annotated result, that makes the component from keyword arguments."""

_PACKAGE = __name__.partition(".")[0]
_BASES: dict[str, type[Any]] = {"source": Source, "operator": Operator, "sink": Sink}


class Entry(NamedTuple):
    """A component that is known by name. ``target`` is ``module:qualname``, or what was added itself."""

    kind: ComponentKind
    name: str
    target: str | Factory
    origin: str


class Registry:
    """The components of one process. ``found``: entry points of installed packages; by default those that there are."""

    def __init__(self, found: Iterable[EntryPoint] | None = None) -> None:
        self._entries: dict[tuple[ComponentKind, str], Entry] = {}
        for kind in KINDS:
            for name, target in BUILTIN[kind].items():
                self._enter(Entry(kind, name, f"{_PACKAGE}.{target}", "market-data-pipeline"))
        for kind, point in _points(found):
            origin = f"{point.dist.name} {point.dist.version}" if point.dist else "an entry point"
            self._enter(Entry(kind, point.name, point.value, f"{origin} ({point.value})"))

    def add(self, kind: ComponentKind, name: str, factory: Factory) -> None:
        """Make ``factory`` known. Raises ``ConfigError`` for a name that is there already, or what makes no such component."""
        origin = f"{getattr(factory, '__module__', '?')}.{getattr(factory, '__qualname__', factory)}"
        entry = Entry(kind, name, factory, origin)
        _check_type(entry, factory)
        self._enter(entry)

    def _enter(self, entry: Entry) -> None:
        there = self._entries.get((entry.kind, entry.name))
        if there is not None:
            raise ConfigError(
                f"{entry.kind} {entry.name!r} is there twice: from {there.origin}, and from {entry.origin}; one of them must"
                " have another name"
            )
        self._entries[entry.kind, entry.name] = entry

    def names(self, kind: ComponentKind) -> list[str]:
        """All names of ``kind``, sorted."""
        return sorted(name for of, name in self._entries if of == kind)

    def entries(self) -> list[Entry]:
        """All that is known, by kind and name."""
        return [self._entries[kind, name] for kind in KINDS for name in self.names(kind)]

    def get(self, kind: ComponentKind, name: str) -> Factory:
        """What makes the component ``name``. Raises ``ConfigError``: with the nearest name where there is none of this name,
        with its origin where it cannot be imported or makes something else."""
        entry = self._entries.get((kind, name))
        if entry is None:
            raise ConfigError(f"no {kind} {name!r}{self.hint(kind, name)}")
        if not isinstance(entry.target, str):
            return entry.target
        factory = imported(entry.target, f"{kind} {name!r} (from {entry.origin})")
        _check_type(entry, factory)
        return factory  # type: ignore[no-any-return]

    def hint(self, kind: ComponentKind, name: str) -> str:
        """What may have been meant, for the end of an error."""
        near = get_close_matches(name, self.names(kind), 1)
        if near:
            return f"; did you mean {near[0]!r}?"
        return f"; there are: {', '.join(self.names(kind))}"

    def name_of(self, kind: ComponentKind, component: object) -> str | None:
        """The name under which the class of ``component`` is known; ``None`` where it is not."""
        cls = type(component)
        wanted = f"{cls.__module__}:{cls.__qualname__}"
        for entry in self._entries.values():
            if entry.kind == kind and (entry.target is cls or entry.target == wanted):
                return entry.name
        return None


@cache
def registry() -> Registry:
    """The registry of this process. Raises ``ConfigError`` where two packages give one name."""
    return Registry()


def imported(target: str, what: str) -> Any:
    """What ``module:qualname`` names. Raises ``ConfigError``, in which ``what`` is what it is for."""
    module, _, path = target.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split(".") if path else ():
            found = getattr(found, part)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{what}: importing {target} raised {type(error).__name__}: {error}") from error
    return found


def _points(found: Iterable[EntryPoint] | None) -> Iterator[tuple[ComponentKind, EntryPoint]]:
    given = None if found is None else list(found)
    for kind in KINDS:
        group = f"{_PACKAGE}.{kind}s"
        for point in entry_points(group=group) if given is None else [point for point in given if point.group == group]:
            yield kind, point


def _check_type(entry: Entry, factory: Any) -> None:
    """Raises ``ConfigError`` unless ``factory`` makes what ``entry`` says."""
    made = factory
    if not isinstance(factory, type):
        if not callable(factory):
            raise _wrong(entry, f"{factory!r:.100} is neither a class nor a function")
        made = typing.get_type_hints(factory).get("return")
    base = _BASES.get(entry.kind)
    if base is not None and not (isinstance(made, type) and issubclass(made, base)):
        raise _wrong(entry, f"{_shown(factory)} makes no {base.__name__}")
    if entry.kind == "provider" and not all(callable(getattr(made, name, None)) for name in ("connect", "check")):
        raise _wrong(entry, f"{_shown(factory)} has no methods connect and check, as a MarketDataProvider has")


def _shown(factory: Any) -> str:
    return (
        f"{factory.__module__}.{factory.__qualname__}{'' if isinstance(factory, type) else inspect.signature(factory)}"
    )


def _wrong(entry: Entry, why: str) -> ConfigError:
    return ConfigError(f"{entry.kind} {entry.name!r} (from {entry.origin}): {why}")
