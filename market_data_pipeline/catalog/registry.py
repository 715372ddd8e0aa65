"""Components by name: those that come with the project, those of installed packages, and those that a program adds.

A package adds one by an entry point, in its ``pyproject.toml``::

    [project.entry-points."market_data_pipeline.sources"]
    my_feed = "my_package.feeds:MyFeed"

Groups: ``market_data_pipeline.sources``, ``.operators``, ``.sinks``, ``.providers``, and ``.values`` for what components are
made of (aggregations, windows). What is wrong with a package is told when its component is asked for, and not before: programs
that do not use it go on. A name that two give is refused with both origins: which of them a program means must not depend on
the order in which packages were installed.
"""

from __future__ import annotations

import importlib
import re
import typing
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.metadata import EntryPoint, distributions
from typing import Any, Literal, NamedTuple, get_args

from market_data_pipeline.catalog.builtin import BUILTIN
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.hints import nearest_or_all
from market_data_pipeline.operators.base import Operator
from market_data_pipeline.sinks.base import Sink
from market_data_pipeline.sources.base import Source

ComponentKind = Literal["source", "operator", "sink", "provider", "value"]
KINDS: tuple[ComponentKind, ...] = get_args(ComponentKind)
Factory = Callable[..., Any]
"""A class, or a function with an annotated result, that makes the component from keyword arguments."""

_PACKAGE = __name__.partition(".")[0]
_BASES: dict[str, type[Any]] = {"source": Source, "operator": Operator, "sink": Sink}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


class Entry(NamedTuple):
    """A component that is known by name. ``target`` is ``module:qualname``, or what a program added itself."""

    kind: ComponentKind
    name: str
    target: str | Factory
    origin: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} (from {self.origin})"


class Registry:
    """The components of one process. ``found``: entry points of installed packages; by default those that there are."""

    def __init__(self, found: Iterable[EntryPoint] | None = None) -> None:
        self._entries: dict[tuple[ComponentKind, str], list[Entry]] = {}
        for kind in KINDS:
            for name, target in BUILTIN[kind].items():
                self._enter(Entry(kind, name, f"{_PACKAGE}.{target}", "market-data-pipeline"))
        kind_of = {f"{_PACKAGE}.{kind}s": kind for kind in KINDS}
        for point in _installed() if found is None else found:
            if point.group in kind_of:
                origin = f"{point.dist.name} {point.dist.version}" if point.dist else "an entry point"
                target = point.value.partition("[")[0].strip()  # behind it extras may be named
                self._enter(Entry(kind_of[point.group], point.name, target, f"{origin} ({target})"))

    def add(self, kind: ComponentKind, name: str, factory: Factory) -> None:
        """Make ``factory`` known, in this process. Raises ``ConfigError`` for a name that is there already or not allowed,
        and for what makes no such component."""
        if kind not in KINDS:
            raise ConfigError(f"kind: {kind!r} is not allowed; one of: {', '.join(KINDS)}")
        entry = Entry(kind, name, factory, f"{getattr(factory, '__module__', '?')}.{_called(factory)}")
        _check_name(entry)
        _check_type(entry, factory)
        _check_alone([*self._entries.get((kind, name), ()), entry])
        self._enter(entry)

    def _enter(self, entry: Entry) -> None:
        self._entries.setdefault((entry.kind, entry.name), []).append(entry)

    def names(self, kind: ComponentKind) -> list[str]:
        """All names of ``kind``, sorted."""
        return sorted(name for of, name in self._entries if of == kind)

    def entries(self) -> list[Entry]:
        """All that is known, by kind and name; a name that two give stands there twice."""
        return [entry for kind in KINDS for name in self.names(kind) for entry in self._entries[kind, name]]

    def get(self, kind: ComponentKind, name: str) -> Factory:
        """What makes the component ``name``. Raises ``ConfigError``: with the nearest name where there is none of this name,
        with its origin where it cannot be imported, makes something else, or is not the only one."""
        entries = self._entries.get((kind, name))
        if entries is None:
            raise ConfigError(f"no {kind} {name!r}{self.hint(kind, name)}")
        _check_alone(entries)
        (entry,) = entries
        if not isinstance(entry.target, str):
            return entry.target
        _check_name(entry)
        factory = imported(entry.target, str(entry))
        _check_type(entry, factory)
        return factory  # type: ignore[no-any-return]

    def hint(self, kind: ComponentKind, name: str) -> str:
        """What may have been meant, for the end of an error."""
        others = [f"{'an' if of == 'operator' else 'a'} {of}" for of in KINDS if name in self.names(of)]
        if others:
            return f"; {name!r} is {' and '.join(others)}"
        return f"; {nearest_or_all(name, self.names(kind))}"

    def name_of(self, kind: ComponentKind, component: object) -> str | None:
        """The name under which every process finds the class of ``component``; ``None`` where there is none: not known, known
        because this program added it, or a name that two give or that is not allowed."""
        cls = type(component)
        wanted = f"{cls.__module__}:{cls.__qualname__}"
        for (of, name), entries in self._entries.items():
            if of == kind and [entry.target for entry in entries] == [wanted] and _NAME.fullmatch(name):
                return name
        return None


@cache
def registry() -> Registry:
    """The registry of this process."""
    return Registry()


def imported(target: str, what: str) -> Any:
    """What ``module:qualname`` names. Raises ``ConfigError``, in which ``what`` is what it is for."""
    module, _, path = target.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split(".") if path else ():
            found = getattr(found, part)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from error
    except (Exception, SystemExit) as error:  # a module may do anything when it is imported
        raise ConfigError(f"{what}: importing {target} raised {type(error).__name__}: {error}") from error
    return found


def _installed() -> Iterator[EntryPoint]:
    """Entry points of all installed packages; of two of one name (as PEP 503 compares them) those of the first on the path,
    which is the one that is imported. A package whose metadata cannot be read has none: it is not this program's business."""
    seen: set[str] = set()
    for package in distributions():
        try:
            name, points = re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower(), list(package.entry_points)
        except Exception:  # said above
            continue
        if name not in seen:
            seen.add(name)
            yield from points


def _check_alone(entries: list[Entry]) -> None:
    if len(entries) > 1:
        origins = ", and from ".join(entry.origin for entry in entries)
        raise ConfigError(
            f"{entries[0].kind} {entries[0].name!r} is there {'twice' if len(entries) == 2 else f'{len(entries)} times'}:"
            f" from {origins}; each must have a name of its own: in a file write module:Class instead of it, or uninstall one"
        )


def _check_name(entry: Entry) -> None:
    if not _NAME.fullmatch(entry.name):
        raise _wrong(entry, f"the name is not allowed; it must match {_NAME.pattern}")


def _check_type(entry: Entry, factory: Any) -> None:
    """Raises ``ConfigError`` unless ``factory`` makes what ``entry`` says."""
    made = factory if isinstance(factory, type) else _made_by(entry, factory)
    base = _BASES.get(entry.kind)
    if base is not None and not (isinstance(made, type) and issubclass(made, base)):
        raise _wrong(entry, f"{_shown(factory)} makes no {base.__name__}")
    if entry.kind == "provider" and not all(callable(getattr(made, name, None)) for name in ("connect", "check")):
        raise _wrong(
            entry, f"{_shown(factory)} makes nothing with methods connect and check, as a MarketDataProvider has"
        )


def _made_by(entry: Entry, factory: Any) -> Any:
    """What a function says that it returns."""
    if not callable(factory):
        raise _wrong(entry, f"{factory!r:.100} is neither a class nor a function")
    try:
        made = typing.get_type_hints(factory).get("return")
    except Exception as error:
        raise _wrong(entry, f"an annotation of {_shown(factory)} raised {type(error).__name__}: {error}") from error
    if made is None and entry.kind != "value":
        raise _wrong(entry, f"{_shown(factory)} does not say what it returns: annotate it")
    return made


def _called(factory: Any) -> str:
    return str(getattr(factory, "__qualname__", None) or f"{factory!r:.100}")


def _shown(factory: Any) -> str:
    name = f"{getattr(factory, '__module__', '?')}.{_called(factory)}"
    return name if isinstance(factory, type) else f"{name}()"


def _wrong(entry: Entry, why: str) -> ConfigError:
    return ConfigError(f"{entry}: {why}")
