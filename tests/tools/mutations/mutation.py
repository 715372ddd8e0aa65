"""What a guard of the table is, and names that several parts of the table use."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

STORE = "tests/unit/store/"
GUARD_TESTS = (STORE + "test_store_guards.py",)
COMMIT_TESTS = (STORE + "test_store_commit.py",)
LUA = "market_data_pipeline/store/scripts/"


class Mutation(NamedTuple):
    guard: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def occurrences(root: Path, mutation: Mutation) -> int:
    """How often the guard's text is in its file."""
    return (root / mutation.file).read_text().count(mutation.old)
