"""The short series of chaos rounds, as ``scripts/chaos --short`` runs it: every kind of fault, every topology."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from chaos.command import short_rounds
from tools.jobs import PATIENCE, ROOT

NAMES = [f"{plan.topology}-{plan.server}-{plan.partitions}" for plan in short_rounds()]


@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_nothing_is_lost_and_nothing_is_there_twice(number: int, tmp_path: Path) -> None:
    which = ["--short", "--round", str(number)]
    done = subprocess.run(
        [sys.executable, "scripts/chaos", *which, "--keep", str(tmp_path), "--drain", str(PATIENCE)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "verdict: all invariants hold" in done.stdout
