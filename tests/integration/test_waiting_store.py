"""A store that is dead: ``mdp run`` and ``mdp status`` say what for the job waits."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

from tools.jobs import APPS, PATIENCE, ROOT, run_mdp, wait_until

WAITS = "waits: task store/0 and 1 more: store: connection refused"


def test_a_job_says_what_it_waits_for_and_goes_on(tmp_path: Path) -> None:
    err, there, data = tmp_path / "err", tmp_path / "there", tmp_path / "data"
    given = ["--workers", "1", "--partitions", "2", "--data-dir", str(data)]
    given += ["--set", f"output={tmp_path / 'out'}", "--set", f"there={there}"]
    with err.open("wb") as sink:
        running = subprocess.Popen(
            [sys.executable, "-m", "market_data_pipeline.cli", "run", str(APPS / "waiting_job.py"), *given],
            stdout=sink, stderr=sink, cwd=ROOT,
        )  # fmt: skip
    try:
        wait_until(
            lambda: f"\n{WAITS}\n" in err.read_text() or running.poll() is not None, "the run to say what it waits for"
        )
        look = re.search(r"mdp status (--redis-url \S+ --job \S+)", err.read_text())
        assert look is not None, err.read_text()
        assert WAITS in re.sub(r"\s+", " ", run_mdp("status", *look[1].split()).stdout)
        troubles = json.loads(run_mdp("status", "--json", *look[1].split()).stdout)["troubles"]
        assert troubles == [{"task": "store/0", "text": "store: connection refused", "tasks": 2}]
        there.touch()
        assert running.wait(PATIENCE) == 0, err.read_text()
    finally:
        if running.poll() is None:
            running.send_signal(signal.SIGINT)
            running.wait(PATIENCE)
    assert "items out           2,000" in err.read_text()
    logged = (data / "logs" / "w1.log").read_text()
    assert logged.count("nothing is lost, trying again") == 1


def test_a_job_whose_store_stays_dead_fails_when_it_was_tried_as_often_as_it_says(tmp_path: Path) -> None:
    values = {"output": tmp_path / "out", "there": tmp_path / "never", "attempts": 4}
    given = [text for name, value in values.items() for text in ("--set", f"{name}={value}")]
    ended = run_mdp("run", str(APPS / "waiting_job.py"), "--workers", "1", "--partitions", "1", *given)
    assert ended.returncode == 1
    assert "task store/0: store: connection refused; node 'store' was tried 4 times in a row" in ended.stderr
