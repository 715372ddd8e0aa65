"""Settings in a file, for a job over real processes: flags of ``mdp run`` are stronger in its children, too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tools.jobs import ROOT, run_mdp


def test_children_follow_the_file_and_the_flags_of_their_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Children that read the file again would compile another plan (P = 5), and lose the capacity if they read nothing."""
    file = tmp_path / "mdp.toml"
    file.write_text('partitions = 5\nchannel_capacity = 40\njob = "from-the-file"\n[orchestrator]\nmode = "pipeline"\n')
    monkeypatch.setenv("MDP_CONFIG", str(file))
    monkeypatch.setenv("MDP_CHANNEL_CAPACITY", "50")
    given = ["--set", f"output={tmp_path / 'out'}", "--set", "items=20000", "--partitions", "2", "--json"]
    done = run_mdp("run", str(ROOT / "examples" / "bars.py"), *given)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["job"], summary["state"], summary["partitions"]) == ("from-the-file", "finished", 2)
    assert summary["items_in"] == 20_000
    assert {channel["capacity"] for channel in summary["channels"]} == {40}
