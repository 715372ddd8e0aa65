"""The table of guards that ``scripts/mutate`` takes away one by one fits the code as it is now."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.mutations import MUTATIONS, Mutation, occurrences

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.guard)
def test_the_guard_is_found_exactly_once(mutation: Mutation) -> None:
    assert occurrences(ROOT, mutation) == 1
    assert mutation.old != mutation.new
    assert mutation.tests
    assert all((ROOT / test.partition("::")[0]).exists() for test in mutation.tests)


def test_every_guard_has_a_name_of_its_own() -> None:
    names = [mutation.guard for mutation in MUTATIONS]
    assert sorted(set(names)) == sorted(names)
