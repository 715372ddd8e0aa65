"""The table of guards that ``scripts/mutate`` takes away one by one fits the code as it is now."""

from __future__ import annotations

from importlib import import_module
from inspect import isfunction
from pathlib import Path
from pkgutil import iter_modules

import pytest
from tools import mutations
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


def test_every_part_of_the_table_is_in_it_and_in_the_docs() -> None:
    modules = [import_module(f"tools.mutations.{found.name}") for found in iter_modules(mutations.__path__)]
    made = [
        mutation
        for module in modules
        for make in vars(module).values()
        if isfunction(make) and make.__annotations__.get("return") == "list[Mutation]"
        for mutation in make()
    ]
    assert {one.guard for one in made} == {one.guard for one in MUTATIONS}
    rows = (ROOT / "docs" / "reliability.md").read_text().partition("| without this guard |")[2].partition("\n\n")[0]
    told = [row.split(" | ")[0].removeprefix("| ") for row in rows.splitlines()[2:]]
    assert sorted(told) == sorted(one.guard for one in MUTATIONS)
