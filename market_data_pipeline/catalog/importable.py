"""Naming functions and classes so that another process can import them: ``module:qualname``.

What a script defines that runs as ``python bars.py`` is in the module ``__main__``, which is another one in every process.
Others import it as ``python -m`` would name it, or, where it was started as a file, by the file's stem with its folder on
``sys.path``: so a program that is named as a file is loaded, too. The script is imported once more for that, with
``__name__`` being that name, so what it runs must stand under ``if __name__ == "__main__":`` (as with ``multiprocessing``).
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import sysconfig
from collections.abc import Iterable
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

from market_data_pipeline.errors import ConfigError

MAIN = "__main__"
MAINS = (MAIN, "__mp_main__")
"""What the script's module is called: also by ``multiprocessing`` in a process that it spawned."""
_LOCAL = "<locals>"
_PACKAGE = __name__.partition(".")[0]
_GUARD = 'let what it runs stand under `if __name__ == "__main__":`'
_importing: ContextVar[bool] = ContextVar("_importing", default=False)


class Unnameable(Exception):
    """Why another process cannot import something: ``is a lambda``."""


class Unguarded(ConfigError):
    """A script that starts worker processes runs again when they import it."""


def check_runs_once() -> None:
    """Raises :class:`Unguarded` in a script that is being imported because of what it defines: it would run for ever."""
    if _importing.get():
        raise Unguarded(f"other processes import this program by its name, and then it runs once more: {_GUARD}")


def import_name(thing: Any) -> str:
    """``module:qualname`` of a function or class. Raises :class:`Unnameable` where importing that would give something else,
    and ``ConfigError`` where the script that runs cannot be imported."""
    if isinstance(thing, functools.partial):
        raise Unnameable("is a functools.partial")
    if inspect.ismethod(thing) and not isinstance(thing.__self__, type):
        raise Unnameable(f"is a method of an object ({type(thing.__self__).__name__})")
    owner = getattr(thing, "__objclass__", thing)  # of a method of a builtin class, which names no module itself
    module, path = getattr(owner, "__module__", None), getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(path, str):
        raise Unnameable(f"is a {type(thing).__name__} without a name")
    if path.endswith("<lambda>"):
        raise Unnameable("is a lambda")
    if _LOCAL in path:
        raise Unnameable(f"is local to a function ({path.replace(f'.{_LOCAL}', '')})")
    if module in MAINS:
        return f"{main_name()}:{path}"
    found = _found(module, path)
    if found is not thing and found != thing:
        raise Unnameable(f"is not what {module}:{path} is")
    return f"{module}:{path}"


def main_name() -> str:
    """The name by which other processes import the script that runs, which is imported by it here, too. Raises
    :class:`Unnameable` where there is no such file, ``ConfigError`` where importing it goes wrong."""
    main = sys.modules[MAIN]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        name: str = spec.name
    elif file is not None and Path(file).is_file():  # it is '<stdin>' otherwise
        name = Path(file).stem
        folder = str(Path(file).resolve().parent)
        if folder not in sys.path:
            sys.path.insert(0, folder)
    else:
        raise Unnameable("is defined in a session that no file holds")
    module = sys.modules.get(name) or _imported_again(name)
    there = getattr(module, "__file__", None)
    if file is None or there is None or not Path(there).samefile(file):
        raise Unnameable(f"is defined in {file}, and importing {name!r} gives {there or 'another module'}")
    return name


def _imported_again(name: str) -> ModuleType:
    token = _importing.set(True)
    try:
        return importlib.import_module(name)
    except Unguarded as error:
        raise error.with_traceback(None) from None  # it says all; where the script ran again does not help
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"other processes import this program as {name!r}, and that raised {type(error).__name__}: {error}; {_GUARD}"
        ) from error
    finally:
        _importing.reset(token)


def _found(module: str, path: str) -> Any:
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise Unnameable(f"is not found as {module}:{path} ({type(error).__name__}: {error})") from error
    return found


def search_path(modules: Iterable[str]) -> list[str]:
    """The folders in which a process of its own must look besides the usual ones to find ``modules`` and what they import: none
    where Python and its installed packages have them all, else those in which this process looks, too."""
    needed = [folder for folder in map(_folder_of, modules) if folder is not None]
    if not needed:
        return []
    here = [Path(entry).absolute() for entry in sys.path]
    folders = [folder for folder in here if folder.is_dir() and not _is_usual(folder)]
    return [str(folder) for folder in dict.fromkeys([*folders, *sorted(needed)])]


def _folder_of(module: str) -> Path | None:
    """Where ``module`` is found; ``None`` for Python's own, installed packages, and this one, which loads documents."""
    name = module.partition(".")[0]
    top = None if name == _PACKAGE else sys.modules.get(name)
    places = list(getattr(top, "__path__", ())) or [getattr(top, "__file__", None)]
    if not isinstance(places[0], str):
        return None
    folder = Path(places[0]).absolute().parent
    return None if _is_usual(folder) else folder


def _is_usual(folder: Path) -> bool:
    usual = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(folder.resolve().is_relative_to(one) for one in usual)
