"""How other processes are told of a program: its name as it is, or a document that holds no secret."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from market_data_pipeline import Discard, Pipeline, RedisOutput, Synthetic
from market_data_pipeline.app import load_app
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.orchestration.program import Program

URL = "redis://writer:wMq8hidden@localhost:6379/0"


def test_a_dag_becomes_a_file_for_its_owner_with_secrets_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dag = Pipeline("p").source(Synthetic(symbols=3, items=7)).key_by().bars("5s").sink(RedisOutput(URL)).build()
    told = Program.of(dag).told()
    umask = os.umask(0)
    try:
        there = told.written(tmp_path)
    finally:
        os.umask(umask)
    path = Path(there.app)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "wMq8hidden" not in path.read_text()
    assert any("wMq8hidden" in text for text in there.environment.values())
    for name, text in there.environment.items():
        monkeypatch.setenv(name, text)
    again = load_app(there.app, {})
    assert compile_dag(again, 8).fingerprint == compile_dag(dag, 8).fingerprint
    assert again.name == "p"
    with pytest.raises(FileExistsError):
        told.written(tmp_path)  # nobody else's file is written to


def test_a_name_goes_as_it_is_with_its_values_and_the_path_of_modules(tmp_path: Path) -> None:
    app = tmp_path / "named_program.py"
    app.write_text(
        "from market_data_pipeline import Discard, Pipeline, Synthetic\n"
        "def pipeline(items: int, output: str) -> Pipeline:\n"
        "    return Pipeline('named').source(Synthetic(items=items)).map(lambda t: t).sink(Discard())\n"
    )
    told = Program.of(f"{app}:pipeline", {"items": 5, "output": tmp_path / "out"}).told()
    assert told.written(tmp_path) is told
    assert (told.app, told.sets) == (f"{app}:pipeline", ("items=5", f"output={tmp_path / 'out'}"))
    assert str(tmp_path) in told.environment["PYTHONPATH"].split(os.pathsep)
    sys.path.remove(str(tmp_path))


def test_a_dag_that_cannot_be_written_down_is_refused_with_the_way_out() -> None:
    pipeline = Pipeline("p").source(Synthetic(items=1)).map(lambda item: item, name="same").sink(Discard())
    with pytest.raises(ConfigError, match=r"node 'same'.*lambda.*run the program by its name"):
        Program.of(pipeline).told()
