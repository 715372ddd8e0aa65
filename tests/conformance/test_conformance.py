"""Every case of ``cases/*.yaml``, in every way it can be played."""

from __future__ import annotations

import pytest

from .case import Case, read_all
from .play import Mismatch, play, variants_of

CASES = read_all()


@pytest.mark.parametrize("case", [pytest.param(c, id=f"{c.file.removesuffix('.yaml')}: {c.name}") for c in CASES])
def test_case(case: Case) -> None:
    """All ways in one test: a test for each would cost more than to play it."""
    wrong: list[Mismatch] = []
    for variant in variants_of(case):
        try:
            play(case, variant)
        except Mismatch as mismatch:
            wrong.append(mismatch)
    if wrong:
        raise AssertionError(f"in {len(wrong)} ways, of which the first: {wrong[0]}")


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 250
    assert len(list(variants_of(CASES[0]))) >= 10
