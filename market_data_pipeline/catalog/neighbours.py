"""The modules that stand beside a program or a document, and those that a process has in their stead: it has one of a name."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_OURS = frozenset({"market_data_pipeline", "mdp_coordinator", "mdp_worker"})
"""Who runs a program from a clone of this project has them installed and beside it: the process's are meant."""

_put: set[str] = set()
"""Folders that are on ``sys.path`` because of a program or document."""


def first_on_path(folder: Path) -> None:
    """Put ``folder`` before all others on ``sys.path``, as ``python path.py`` does: a program finds what stands beside it.
    Of those put there before, the ones that are gone are taken off: else a process that loads documents which it has written
    (each in a folder of its own, say) would look for each import in all of them."""
    for gone in [one for one in list(_put) if not Path(one).is_dir()]:
        _put.discard(gone)
        _take_off(gone)
        sys.path_importer_cache.pop(gone, None)
    if str(folder) in sys.path:
        _take_off(str(folder))
    else:
        _put.add(str(folder))
    sys.path.insert(0, str(folder))


def _take_off(folder: str) -> None:
    with suppress(ValueError):  # somebody else did it, in another thread too
        sys.path.remove(folder)


def strangers(names: Iterable[str], folder: Path) -> Iterator[str]:
    """Why each module cannot be had that stands in ``folder`` and is another one in this process already: of ``names``, and of
    the neighbours that these import."""
    seen: set[str] = set()
    going = list(names)
    while going:
        name = going.pop()
        beside = None if name in seen or name in _OURS else _beside(name, folder)
        seen.add(name)
        if beside is None:
            continue
        there = getattr(sys.modules.get(name), "__file__", None)
        if there is None or Path(there).resolve() == beside.resolve():
            going += imports_of(beside)
        else:
            yield (
                f"the module {name} of this process is {there}, and not {beside}: give one of them another name, or load this"
                " file in a process of its own"
            )


def imports_of(file: Path) -> list[str]:
    """The names, up to the first dot, of what a Python file imports anywhere; none of one that cannot be read."""
    try:
        tree = ast.parse(importlib.util.decode_source(file.read_bytes()))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):  # importing it says what is wrong
        return []
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            found.append(node.module)
    return list(dict.fromkeys(name.partition(".")[0] for name in found))


def _beside(name: str, folder: Path) -> Path | None:
    return next((one for one in (folder / f"{name}.py", folder / name / "__init__.py") if one.is_file()), None)
