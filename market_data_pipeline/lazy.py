"""Public names of a package that are loaded when first used; the package's stub is the one list of them.

``__init__.pyi`` beside ``__init__.py`` has a line ``from module import Name as Name`` for each name. Type checkers and editors
read it, and so does :func:`attach` when the package is imported. lazy_loader's ``attach_stub`` does the same, but takes only
names from below the package itself, and :mod:`market_data_pipeline.orchestration` hands on names of its neighbours.
"""

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def attach(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` (sorted) of ``package``, whose ``__init__.py`` is ``file``."""
    stub = ast.parse(Path(file).with_suffix(".pyi").read_bytes())
    imports = [statement for statement in stub.body if isinstance(statement, ast.ImportFrom)]
    homes = {alias.name: str(statement.module) for statement in imports for alias in statement.names}
    names = sorted(homes)

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return load, lambda: names, names
