"""A slow sink fills its stream up to the levels, not over the capacity; the producer pauses and goes on."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from tools.jobs import APPS, job, run_mdp, wait_until

from market_data_pipeline.store.embedded import EmbeddedServer

CAPACITY = 16
SETTINGS = {"MDP_CHANNEL_CAPACITY": str(CAPACITY), "MDP_COMMIT_FRAMES": "4", "MDP_FRAME_ITEMS": "100"}


def crossings(metrics: str) -> dict[str, float]:
    lines = [line for line in metrics.splitlines() if line.startswith("mdp_channel_crossings_total")]
    return {line.split('level="')[1].split('"')[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


def test_capacity_is_never_exceeded_and_levels_fire_with_hysteresis(
    server: EmbeddedServer, tmp_path: Path, logs: Path
) -> None:
    given = ["--set", f"output={tmp_path / 'out'}", "--set", "items=60000", "--set", "delay=0.03"]
    with job(server.url, APPS / "slow_sink.py", logs, *given, env=SETTINGS) as running:
        running.start("coordinator", "--partitions", "1", "--min-workers", "1")
        running.start("w0")
        seen: list[int] = []

        def look() -> bool:
            seen.extend(running.streams().values())
            return running.state() == "finished"

        metrics = ""

        def watch() -> bool:
            nonlocal metrics
            if running.state() == "running" and seen:
                with suppress(OSError):  # it finished since
                    metrics = running.http("w0", "/metrics")
            return look()

        wait_until(watch, "the job to finish")
        highs, lows = crossings(metrics).get("high", 0), crossings(metrics).get("low", 0)
    assert max(seen) <= CAPACITY
    assert max(seen) >= CAPACITY * 3 // 4, "the slow sink never filled its stream: nothing was tested"
    assert highs >= 2
    assert 0 <= highs - lows <= 1, "each crossing of high is followed by one of low"
    assert highs < 60000 / 100 / 4, "a crossing per commit would be no hysteresis"
    assert "mdp_paused_seconds_total" in metrics
    lines = sum(len(path.read_text().splitlines()) for path in (tmp_path / "out").glob("*.jsonl"))
    assert lines == 60_000


def test_an_edges_own_capacity_holds_and_is_what_everybody_shows(
    server: EmbeddedServer, tmp_path: Path, logs: Path
) -> None:
    """The settings would allow four times as much."""
    gate = tmp_path / "gate"
    given = ["output", tmp_path / "out"], ["items", 15_000], ["delay", 0], ["capacity", CAPACITY], ["gate", gate]
    flags = [text for name, value in given for text in ("--set", f"{name}={value}")]
    settings = SETTINGS | {"MDP_CHANNEL_CAPACITY": str(4 * CAPACITY)}
    with job(server.url, APPS / "slow_sink.py", logs, *flags, env=settings) as running:
        running.start("coordinator", "--partitions", "1", "--min-workers", "1")
        running.start("w0")
        seen: list[int] = []

        def watch() -> bool:
            seen.extend(running.streams().values())
            return running.state() == "finished"

        wait_until(lambda: watch() or max(seen, default=0) >= CAPACITY * 3 // 4, "the stream to be full")
        for process in ("coordinator", "w0"):
            line = f'mdp_channel_capacity{{channel="source.files"}} {CAPACITY:.1f}'
            wait_until(
                lambda process=process, line=line: line in running.http(process, "/metrics"), f"{process}: {line}"
            )
        gate.touch()
        wait_until(watch, "the job to finish")
    assert CAPACITY * 3 // 4 <= max(seen) <= CAPACITY
    lines = sum(len(path.read_text().splitlines()) for path in (tmp_path / "out").glob("*.jsonl"))
    assert lines == 15_000


def test_a_capacity_that_a_commit_could_not_fit_in_is_refused(tmp_path: Path) -> None:
    refused = run_mdp(
        "run", str(APPS / "slow_sink.py"), "--set", f"output={tmp_path}", "--set", "items=1", "--set", "delay=0",
        env={"MDP_CHANNEL_CAPACITY": "16"},
    )  # fmt: skip
    assert refused.returncode == 2
    assert "channel_capacity=16 must be at least twice commit_frames=16" in refused.stderr
