"""Every case of ``cases/*.yaml``, in every way it can be played."""

from __future__ import annotations

import pytest

from .case import Case, read_all
from .play import Variant, play, variants_of

CASES = read_all()


@pytest.mark.parametrize(
    ("case", "variant"),
    [pytest.param(c, v, id=f"{c.file.removesuffix('.yaml')}: {c.name} [{v}]") for c in CASES for v in variants_of(c)],
)
def test_case(case: Case, variant: Variant) -> None:
    play(case, variant)  # raises Mismatch, an AssertionError


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 40
    assert len(list(variants_of(CASES[0]))) >= 10
