"""Pipelines as files, run by coordinator and workers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tools.jobs import ROOT, run_mdp

from market_data_pipeline import DagRuntime
from market_data_pipeline.app import load_app

BESIDE = """
def rounded(trade):
    return {"symbol": trade.symbol, "price": round(trade.price), "trade_id": trade.trade_id}
"""
OWN = """
name: own
parameters: {items: 500, output: }
nodes:
  - {source: synthetic, with: {symbols: 5, items: "${items}"}}
  - {operator: map, key: symbol, with: {fn: "beside_the_file:rounded"}}
  - {sink: json_lines, with: {path: "${env:OUT_OF_OWN}/${output}"}}
"""


def lines(folder: Path) -> list[str]:
    return sorted(line for file in folder.glob("*.jsonl") for line in file.read_text().splitlines())


def test_a_file_and_its_twin_are_one_job(tmp_path: Path) -> None:
    values = {"output": str(tmp_path / "out"), "items": "20000"}
    sets = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
    given = ["--workers", "2", "--data-dir", str(tmp_path / "data"), "--json", *sets]
    done = run_mdp("run", "examples/bars.yaml", *given)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["dead_letters"] == 0
    bars = lines(tmp_path / "out")
    again = run_mdp("run", "examples/bars.py", *given)  # what the file began, the program goes on with: it is finished
    assert again.returncode == 0, again.stderr
    assert lines(tmp_path / "out") == bars
    dag = load_app(str(ROOT / "examples" / "bars.py"), {**values, "output": str(tmp_path / "here")})
    asyncio.run(DagRuntime(dag).start())
    assert lines(tmp_path / "here") == bars
    other = run_mdp("run", "examples/bars.yaml", *given, "--set", "interval=2s")
    assert other.returncode == 2
    assert "plan" in other.stderr


def test_workers_find_what_stands_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "beside_the_file.py").write_text(BESIDE)
    file = tmp_path / "own.yaml"
    file.write_text(OWN)
    done = run_mdp("run", str(file), "--set", "output=out", "--json", env={"OUT_OF_OWN": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in lines(tmp_path / "out")]
    assert sorted(item["trade_id"] for item in found) == list(range(500))
    assert all(isinstance(item["price"], int) for item in found)
