"""Optional packages: imported when they are used, with one line that says how to install a missing one; and objects of packages
that are not ours, known by their methods."""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Sequence
from typing import Any

from market_data_pipeline.errors import ConfigError
from market_data_pipeline.hints import nearest


def extra(module: str, name: str, what: str) -> Any:
    """The module ``module``, which the extra ``name`` brings, for ``what`` (a connector's name, say). Raises ``ConfigError``
    where it cannot be imported: with what is missing, or, where it is there and does not work (too old, without a library of
    the system), with what it says."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # what is not ours may do anything when it is imported
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        said = " ".join(f"importing it raised {type(error).__name__}: {error}".split())
        why = f"{missing} is missing" if missing else said
        raise ConfigError(
            f"{what} needs the extra {name} ({why}): pip install 'market-data-pipeline[{name}]'"
        ) from error


OUTSIDE_PACKAGES = ("market_data_core", "market_data_store", "market_data_ibkr")
"""Packages that a user may have, and that no registry has."""


async def awaited(value: Any) -> Any:
    """``value``, or what it comes to where it has to be waited for."""
    return await value if inspect.isawaitable(value) else value


def outside(target: str) -> Any:
    """What ``module:name`` names, in a package that is not ours: imported now. Raises ``ConfigError``."""
    module, colon, path = target.partition(":")
    if not (colon and module and path):
        raise ConfigError(f"factory: {target!r:.100} is not written 'module:name'")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise _not_there(module, error.name or module) from error
    except Exception as error:
        raise ConfigError(f"factory: importing {module} raised {type(error).__name__}: {error}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"factory: {module} has no {path!r}{nearest(part, dir(found))}")
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(f"factory: {target} is a {_type_name(found)}; a class or a function is needed")
    return found


def _not_there(module: str, missing: str) -> ConfigError:
    package = missing.partition(".")[0]
    if package in OUTSIDE_PACKAGES:
        return ConfigError(
            f"factory: the package {package} is not installed, and it is not on the registry: install it from where you have"
            " it; or name another factory, any object with the same methods will do"
        )
    if package == module.partition(".")[0]:
        return ConfigError(f"factory: there is no module {missing}; it is looked for as an import of this program's")
    return ConfigError(f"factory: {module} cannot be imported, because it needs {missing}, which is not installed")


class Given:
    """An object of another package, by what it can do: ``one`` itself, or ``factory`` (``module:name`` of a class or a
    function, ``async`` too, that takes no arguments), called where the object is needed: in the process and the event loop
    that use it.

    ``needed``: the methods it must have; ``used``: those that are called where it has them. ``any_of``: one of ``needed`` is
    enough. Raises ``ConfigError``, which begins with ``what`` for people (``OutsideSink``)."""

    def __init__(
        self,
        what: str,
        one: Any,
        factory: str,
        needed: Sequence[str],
        used: Sequence[str] = (),
        *,
        any_of: bool = False,
    ) -> None:
        self.what, self.one, self.factory = what, one, factory
        self.needed, self.used, self.any_of = tuple(needed), tuple(used), any_of
        if (one is None) == (not factory):
            raise ConfigError(f"{what}: needed is either the object, or factory='module:name' that makes it")
        if isinstance(one, type | str):
            raise ConfigError(
                f"{what}: {one!r:.100} is no object yet; give one, or factory='module:name' that makes it"
            )
        self._make = outside(factory) if factory else None
        self.known = one if one is not None else self._promised()
        """The object, or the class of what the factory makes; ``None`` where only making one would tell."""
        if self.known is not None:
            self._check(self.known)

    def __deepcopy__(self, memo: dict[int, Any]) -> Given:
        return self  # an object that was given is one for all that use it; a factory makes more

    def _promised(self) -> type[Any] | None:
        if isinstance(self._make, type):
            return self._make
        try:
            promised = typing.get_type_hints(self._make).get("return")
        except (TypeError, NameError):  # not annotated in a way that can be read
            return None
        plain = isinstance(promised, type) and promised not in (object, Any, type(None))  # any object
        return promised if plain and not getattr(promised, "_is_protocol", False) else None

    def has(self, method: str) -> bool:
        """Whether the object has ``method``, as far as is known before one is made."""
        return self.known is None or callable(getattr(self.known, method, None))

    def _check(self, found: Any) -> None:
        missing = [name for name in self.needed if not callable(getattr(found, name, None))]
        if not missing or (self.any_of and len(missing) < len(self.needed)):
            return
        name = f"{found.__module__}.{found.__qualname__}" if isinstance(found, type) else _type_name(found)
        needed = (" or " if self.any_of else ", ").join(self.needed)
        used = f"; called where there: {', '.join(self.used)}" if self.used else ""
        raise ConfigError(
            f"{self.what}: a {name} has no method {(' or ' if self.any_of else ', ').join(missing)}; needed: {needed}{used}"
        )

    async def made(self) -> Any:
        """The object that was given, or a new one. Raises ``ConfigError`` where it lacks a method; what the factory raises."""
        if self._make is None:
            return self.one
        found = await awaited(self._make())
        self._check(found)
        return found

    def config(self) -> str | None:
        """The type of the object that was given, for a plan; a factory is its text."""
        return None if self.one is None else _type_name(self.one)


def _type_name(found: Any) -> str:
    return f"{type(found).__module__}.{type(found).__qualname__}"
