"""An item that kills every process that works on it is found, and costs nothing but itself."""

from __future__ import annotations

import json
from pathlib import Path

from tools.jobs import APPS, run_mdp


def test_a_deadly_item_ends_in_the_dead_letters(tmp_path: Path) -> None:
    given = ["--set", f"output={tmp_path / 'out'}", "--workers", "2", "--data-dir", str(tmp_path / "data"), "--json"]
    done = run_mdp("run", str(APPS / "deadly_job.py"), *given)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["dead_letters"] == 1
    written = [
        json.loads(line) for path in (tmp_path / "out").glob("*.jsonl") for line in path.read_text().splitlines()
    ]
    assert sorted(trade["trade_id"] for trade in written) == [n for n in range(40_000) if n != 23_456]
    assert "the process died 3 times at this item" in summary["first_dead_letter"]
    assert 4 <= done.stderr.count("died with signal SIGKILL") <= 7
