"""Every bench runs with tiny sizes and prints tables, and nothing else, to standard output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHES = Path(__file__).resolve().parents[2] / "scripts" / "bench"
SCRIPTS = sorted(path.name for path in BENCHES.iterdir() if path.is_file() and not path.suffix)
COLUMNS = {
    "idle": [2],
    "main_job": [7],
    "operators": [6, 5],
    "peers": [5],
    "record": [2],
    "rows": [6],
    "scale": [6, 4, 3, 5],
    "sinks": [3],
    "upgrade": [5],
}
"""Columns of each table of a bench that is listed here; another one prints one table of at least two."""


@pytest.mark.parametrize("name", SCRIPTS)
def test_smoke(name: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- bench:idle -->\nas it was\n<!-- /bench:idle -->\n")
    extra = ["--page", str(page)] if name == "record" else []
    done = subprocess.run(
        [sys.executable, BENCHES / name, "--smoke", *extra], capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    tables = [block.split("\n") for block in done.stdout.rstrip("\n").split("\n\n")]
    lengths = []
    for header, separator, *rows in tables:
        cells = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in (header, separator, *rows)]
        assert all(line.startswith("| ") and line.endswith(" |") for line in (header, separator, *rows)), done.stdout
        assert rows, done.stdout
        assert set(cells[1]) == {"---"}
        assert {len(row) for row in cells} == {len(cells[0])}
        lengths.append(len(cells[0]))
    assert lengths == COLUMNS.get(name, lengths[:1])
    assert min(lengths) >= 2
    assert page.read_text() == "<!-- bench:idle -->\nas it was\n<!-- /bench:idle -->\n"


def test_benches_are_found_and_can_be_executed() -> None:
    assert COLUMNS.keys() <= set(SCRIPTS)
    assert all(os.access(BENCHES / name, os.X_OK) for name in SCRIPTS)
