"""The README's program and commands as printed, with the scripts that are installed, in a folder as a clone is."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tools.jobs import PATIENCE, ROOT
from tools.oracle import written_bars

README = (ROOT / "README.md").read_text()
PROGRAM, COMMANDS = (
    re.findall(rf"```{kind}\n(.*?)```", README.partition("## Ten lines")[2], re.DOTALL)[0] for kind in ("python", "sh")
)


def test_the_ten_lines_run_beside_the_projects_own_source(tmp_path: Path) -> None:
    (tmp_path / "my_bars.py").write_text(PROGRAM)
    (tmp_path / "market_data_pipeline").symlink_to(ROOT / "market_data_pipeline")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    lines = [shlex.split(line, comments=True) for line in COMMANDS.splitlines()]
    assert [line[:2] for line in lines] == [["mdp", "run"], ["mdp", "run"], ["mdp", "plan"]]
    said = []
    for script, *arguments in lines:
        done = subprocess.run(
            [Path(sys.executable).with_name(script), *arguments],
            cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=2 * PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stdout + done.stderr)
    for output, summary in zip(("out", "bars"), said, strict=False):
        dropped = re.findall(r"duplicates dropped +([\d,]+)", summary)[0]
        once = 1_000_000 - int(dropped.replace(",", ""))
        assert sum(bar["trade_count"] for bar in written_bars(tmp_path / output).values()) == once < 1_000_000
    assert said[2].startswith("my-bars  P=8  plan ")
