"""Finding the user's program: ``path.py[:attr]`` or ``module[:attr]``; attr is a Dag, a Pipeline, or a function of one. Or a
file that declares one: ``path.yaml``, ``path.yml``, ``path.json``.

Every process of a job imports the program by that name and compiles it again: code never travels.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from market_data_pipeline.catalog.load import SUFFIXES, load_file
from market_data_pipeline.catalog.neighbours import first_on_path, imports_of, strangers
from market_data_pipeline.catalog.shapes import NO_PATH
from market_data_pipeline.dag.graph import Dag
from market_data_pipeline.dag.pipeline import Pipeline
from market_data_pipeline.errors import ConfigError, MdpError
from market_data_pipeline.hints import nearest
from market_data_pipeline.wrong_values import why

DEFAULT_ATTRIBUTES = ("pipeline", "dag", "app")


def load_app(app: str, values: Mapping[str, str]) -> Dag:
    """The validated Dag of ``app``; ``values`` fill the function's or the file's parameters. Raises ``ConfigError``."""
    if app.endswith(SUFFIXES):
        return load_file(app, values)
    target = _find(app)
    if callable(target) and not isinstance(target, Dag | Pipeline):
        arguments = _arguments(app, target, values)
        result = _call(app, target, arguments)
    else:
        if values:
            raise ConfigError(f"{app}: takes no parameters, so {next(iter(values))}=... has nowhere to go")
        result = target
    if isinstance(result, Pipeline):
        return result.build()
    if not isinstance(result, Dag):
        raise ConfigError(f"{app}: gives a {type(result).__name__}; needed: a Dag, a Pipeline, or a function of one")
    result.validate()
    return result


def _find(app: str) -> Any:
    name, colon, attribute = app.rpartition(":") if ":" in app else (app, "", "")
    if name.endswith(SUFFIXES):
        raise ConfigError(f"app {app!r}: a file declares one Dag, so there is no {attribute!r} to choose: write {name}")
    module = _load_file(name) if name.endswith(".py") else _load_module(name)
    if colon:
        if not hasattr(module, attribute):
            hint = nearest(attribute, [n for n in vars(module) if not n.startswith("_")])
            raise ConfigError(f"app {app!r}: {name} has no {attribute!r}{hint}")
        return getattr(module, attribute)
    for attribute in DEFAULT_ATTRIBUTES:
        if hasattr(module, attribute):
            return getattr(module, attribute)
    raise ConfigError(f"app {app!r}: {name} has none of {', '.join(DEFAULT_ATTRIBUTES)}; say which with {name}:NAME")


def _load_file(name: str) -> types.ModuleType:
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"app {name!r}: no such file")
    folder = path.resolve().parent
    first_on_path(folder)
    if others := list(strangers(imports_of(path), folder)):
        raise ConfigError(f"app {name!r}: {others[0]}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(path.stem)
    if before is None or _is_of(before, path):  # the one before it, where this process loads it once more
        sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        if sys.modules.get(path.stem) is module:  # it is not whole
            del sys.modules[path.stem]
        if isinstance(error, MdpError) or not isinstance(error, Exception | SystemExit):
            raise
        raise ConfigError(f"app {name!r}: importing it raised {_told(error, str(path))}") from error
    return module


def _is_of(module: types.ModuleType, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve() == path.resolve()


def _load_module(name: str) -> types.ModuleType:
    _check_module(name)
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise ConfigError(f"app {name!r}: no such module (a file is named with its .py)") from None
        raise ConfigError(f"app {name!r}: importing it raised {error}") from error
    except MdpError:
        raise
    except (Exception, SystemExit) as error:  # a program may end itself; this process goes on
        raise ConfigError(f"app {name!r}: importing it raised {type(error).__name__}: {error}") from error


def _check_module(name: str) -> None:
    """Raises ``ConfigError`` for what can be no module's name, with what may have been meant."""
    path = Path(name)
    if path.is_file():
        raise ConfigError(f"app {name!r}: a program is a file that ends in .py, {', '.join(SUFFIXES)}")
    if all(part.isidentifier() for part in name.split(".")):
        return
    if path.is_dir():
        raise ConfigError(f"app {name!r}: it is a folder; name a file in it")
    there = [f"{name}{ending}" for ending in (".py", *SUFFIXES) if Path(f"{name}{ending}").is_file()]
    hint = f"; did you mean {there[0]!r}?" if there else ""
    raise ConfigError(f"app {name!r}: there is no such file, and no module can have this name{hint}")


def _arguments(app: str, fn: Callable[..., Any], values: Mapping[str, str]) -> dict[str, Any]:
    parameters = inspect.signature(fn).parameters
    try:
        hints = typing.get_type_hints(fn)
    except NameError as error:
        raise ConfigError(f"{app}: annotation cannot be resolved: {error}") from error
    for name in values:
        if name not in parameters:
            hint = nearest(name, parameters) or ";"
            raise ConfigError(f"{name}: {app} has no such parameter{hint} it takes: {', '.join(parameters) or 'none'}")
    arguments: dict[str, Any] = {}
    for name, parameter in parameters.items():
        hint_type = hints.get(name, str)
        if name in values:
            arguments[name] = _convert(name, values[name], hint_type)
        elif parameter.default is inspect.Parameter.empty:
            if not _allows_none(hint_type):
                raise ConfigError(f"{app} needs a value for {name!r}: --set {name}=..., or values={{{name!r}: ...}}")
            arguments[name] = None
    return arguments


def _convert(name: str, text: str, hint: Any) -> Any:
    if not text and Path in _alternatives(hint):
        raise ConfigError(f"parameter {name}: {NO_PATH}")
    try:
        return TypeAdapter(hint).validate_python(text)
    except ValidationError as error:
        kinds = [kind for kind in _alternatives(hint) if kind is not type(None)]
        if all(typing.get_origin(kind) is typing.Literal for kind in kinds):
            allowed = ", ".join(str(value) for kind in kinds for value in typing.get_args(kind))
            raise ConfigError(f"parameter {name}={text}: {text!r} is not allowed; one of: {allowed}") from None
        said = dict.fromkeys(why(one) for one in error.errors() if one["type"] != "none_required")
        raise ConfigError(f"parameter {name}={text}: {', or '.join(said)}") from None


def _alternatives(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _allows_none(hint: Any) -> bool:
    return hint is type(None) or type(None) in typing.get_args(hint)


def _call(app: str, fn: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    if inspect.iscoroutinefunction(fn):
        raise ConfigError(f"{app}: {fn.__name__} is async; needed: a plain function of a Dag or a Pipeline")
    try:
        return fn(**arguments)
    except MdpError:
        raise
    except (Exception, SystemExit) as error:
        file = getattr(getattr(fn, "__code__", None), "co_filename", "")
        raise ConfigError(f"{app}: {fn.__name__}() raised {_told(error, file)}") from error


def _told(error: BaseException, file: str) -> str:
    """What a program raised, with the last of its own lines in ``file``, and what may have been meant by a name that is not
    there: Python itself says so only in a traceback."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    at = f" (line {lines[-1]})" if lines else ""
    hint = nearest(error.name or "", dir(error.obj)) if isinstance(error, AttributeError) else ""
    return f"{type(error).__name__}{at}: {error}{hint}"


def parse_sets(sets: tuple[str, ...]) -> dict[str, str]:
    """``("a=1", "b=x")`` as a dict. Raises ``ConfigError`` for one without ``=``."""
    values = {}
    for item in sets:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {item!r}: write name=value")
        values[name] = value
    return values
