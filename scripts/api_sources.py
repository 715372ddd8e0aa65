"""The package's source as scripts/api_docs reads it: definitions, their text, their docstrings. Nothing is imported."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = "market_data_pipeline"


class Module:
    """A module's source: its text, and its definitions and imports by name."""

    def __init__(self, name: str) -> None:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).read_bytes()
        self.name = name
        self.lines = source.split(b"\n")
        self.body = ast.parse(source).body
        self.defined: dict[str, ast.stmt] = {}
        self.imported: dict[str, tuple[str, str]] = {}
        for node in self.body:
            for each in node.body if isinstance(node, ast.If) else [node]:  # if TYPE_CHECKING
                self._note(each)

    def _note(self, node: ast.stmt) -> None:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            self.defined[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for name in target.elts if isinstance(target, ast.Tuple) else [target]:
                    if isinstance(name, ast.Name):
                        self.defined[name.id] = node
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith(PACKAGE):
            self.imported |= {alias.asname or alias.name: (str(node.module), alias.name) for alias in node.names}

    def text(self, node: ast.expr) -> str:
        """The source of ``node`` on one line, as it is written."""
        lines = self.lines[node.lineno - 1 : node.end_lineno]
        lines[-1] = lines[-1][: node.end_col_offset]
        lines[0] = lines[0][node.col_offset :]
        text = " ".join(b" ".join(lines).decode().split())
        return re.sub(r"([(\[]) | ([)\]])|,(?= [)\]])", r"\1\2", text)


@cache
def module_of(name: str) -> Module:
    """The module ``name``, read once."""
    return Module(name)


def defined(module: str, name: str) -> tuple[Module, ast.stmt] | None:
    """Where ``name``, as ``module`` means it, is defined in the package: the module and the statement."""
    there = module_of(module)
    if name in there.defined:
        return there, there.defined[name]
    return defined(*there.imported[name]) if name in there.imported else None


def class_of(cls: type) -> tuple[Module, ast.ClassDef]:
    """Where a class of the package is written."""
    found = defined(cls.__module__, cls.__name__)
    assert found is not None
    assert isinstance(found[1], ast.ClassDef)
    return found[0], found[1]


def docstring(node: ast.AST) -> str:
    """The docstring of a class or function, clean; empty where there is none."""
    documented = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return (ast.get_docstring(node) or "") if isinstance(node, documented) else ""


def behind(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, str]]:
    """The statements of ``body``, each with the string that stands behind it and documents it."""
    for at, node in enumerate(body):
        after = body[at + 1] if at + 1 < len(body) else None
        text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
        yield node, inspect.cleandoc(text) if isinstance(text, str) else ""


def described(node: ast.expr | None) -> str:
    """The description that a field of a model has: ``Field(..., description="...")``."""
    keywords = node.keywords if isinstance(node, ast.Call) else []
    found = [word.value for word in keywords if word.arg == "description"]
    return str(found[0].value) if found and isinstance(found[0], ast.Constant) else ""


def is_outside(cls: type, name: str) -> bool:
    """Whether a library that the class is made with calls this method."""
    return any(hasattr(base, name) for base in cls.__mro__ if not base.__module__.startswith(PACKAGE))


def marks(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """The plain names among its decorators."""
    return {mark.id for mark in node.decorator_list if isinstance(mark, ast.Name)}
