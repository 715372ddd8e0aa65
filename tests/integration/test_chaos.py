"""The short series of chaos rounds, as ``scripts/chaos --short`` runs it: every kind of fault, every topology."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from chaos.command import short_rounds
from chaos.schedule import RoundPlan
from tools.jobs import ROOT

ROUNDS = list(enumerate(short_rounds()))


@pytest.mark.parametrize(("number", "plan"), ROUNDS, ids=[f"{plan.topology}-{plan.server}" for _, plan in ROUNDS])
def test_nothing_is_lost_and_nothing_is_there_twice(number: int, plan: RoundPlan, tmp_path: Path) -> None:
    if plan.server == "redis" and shutil.which("redis-server") is None:
        pytest.skip("no redis-server is installed")
    done = subprocess.run(
        [sys.executable, "scripts/chaos", "--short", "--round", str(number), "--keep", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "verdict: all invariants hold" in done.stdout
