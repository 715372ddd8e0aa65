"""A job that failed goes on when it is run again: with the same program, once what was missing is there."""

from __future__ import annotations

import json
from pathlib import Path

from tools.jobs import run_mdp

PROGRAM = """
from pathlib import Path
from market_data_pipeline import JsonLines, Pipeline, Synthetic

def valued(trade):
    rate = float((Path(__file__).parent / "rate.txt").read_text())
    return {"symbol": trade.symbol, "trade_id": trade.trade_id, "value": rate * trade.price}

def pipeline(output: Path):
    trades = Pipeline("valued").source(Synthetic(symbols=5, items=1000)).key_by("symbol")
    return trades.map(valued, on_error="fail").sink(JsonLines(output))
"""


def test_a_failed_job_goes_on_from_its_last_commit(tmp_path: Path) -> None:
    """The launcher took the failure of the run before for one of its own, and ended before the coordinator had begun."""
    (tmp_path / "valued.py").write_text(PROGRAM)
    given = [str(tmp_path / "valued.py"), "--data-dir", str(tmp_path / "data"), "--set", f"output={tmp_path / 'out'}"]
    first = run_mdp("run", *given, "--workers", "1")
    assert (first.returncode, "FileNotFoundError" in first.stderr) == (1, True), first.stderr
    (tmp_path / "rate.txt").write_text("1.5")
    second = run_mdp("run", *given, "--workers", "1")
    assert second.returncode == 0, second.stderr
    assert "job valued had failed (task map/" in second.stderr
    assert "it goes on from its last commit" in second.stderr
    lines = [line for file in (tmp_path / "out").glob("*.jsonl") for line in file.read_text().splitlines()]
    assert sorted(json.loads(line)["trade_id"] for line in lines) == list(range(1000)), "each once"
