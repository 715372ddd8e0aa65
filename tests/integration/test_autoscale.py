"""The scaling signal of real jobs: what a slow sink and what a slow operator ask for, and who answers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from tools.jobs import APPS, Job, job, wait_until

from market_data_pipeline.store.embedded import EmbeddedServer

ENV = {
    "MDP_PARTITIONS": "4", "MDP_FRAME_ITEMS": "64", "MDP_CHANNEL_CAPACITY": "32", "MDP_COMMIT_FRAMES": "4",
    "MDP_LEASE_TTL_MS": "5000",  # a worker that a busy machine takes for dead would be another test
}  # fmt: skip
LOW = 8
ENOUGH = 50
"""Answers, of two processes."""


def scale(running: Job, query: str = "", name: str = "coordinator") -> dict[str, Any] | None:
    """The answer; None while there is none."""
    status, text = running.ask(name, "/api/scale" + query)
    assert status in (200, 503), text
    return dict(json.loads(text)) if status == 200 else None


def refusal(running: Job, query: str) -> tuple[int, str]:
    return running.ask("coordinator", "/api/scale" + query)


def start(running: Job, workers: int) -> None:
    running.start("coordinator", "--min-workers", str(workers))
    for n in range(workers):
        running.start(f"w{n}")


def full(running: Job) -> bool:
    """Whether the backlog would ask for all the workers that there may be."""
    answer = scale(running, "?target=4")
    return answer is not None and answer["backlog_frames"] >= 4 * LOW and answer["workers"] > 0


def test_a_slow_sink_never_asks_for_more_workers_than_run(server: EmbeddedServer, tmp_path: Path, logs: Path) -> None:
    given = ["--set", f"output={tmp_path / 'table'}", "--set", "slow=sink"]
    with job(server.url, APPS / "scaling_job.py", logs, *given, env=ENV) as running:
        start(running, 2)
        wait_until(running.leads, "the first coordinator to lead")
        running.start("coordinator-2")
        wait_until(lambda: scale(running, "", "coordinator-2"), "the standby to answer")
        answers: list[dict[str, Any]] = []
        seen: list[dict[str, Any]] = []
        """Those of a time at which the backlog would ask for more."""

        def look() -> bool:
            both = scale(running, "?target=4"), scale(running, "?target=4&stage=outside", "coordinator-2")
            answers.extend(answer for answer in both if answer is not None)
            seen[:] = [answer for answer in answers if answer["backlog_frames"] >= 4 * LOW]
            time.sleep(0.2)  # the answers follow what was seen over seconds
            return len(seen) >= ENOUGH

        wait_until(look, "the streams to be full for some seconds")
        assert all(answer["sink_bound"] for answer in seen)
        assert all(answer["scale_frames"] <= 4 * 2 for answer in seen)
        assert all(answer["desired_replicas"] <= max(1, answer["workers"]) for answer in answers)
        assert {answer["stage"] for answer in seen} == {None, "outside"}, "leader and standby answer"
        for line in (
            "mdp_coordinator_leader 0.0", "mdp_scale_sink_bound 1.0", 'mdp_scale_backlog_frames{stage="outside"}'
        ):  # fmt: skip
            wait_until(lambda line=line: line in running.http("coordinator-2", "/metrics"), line)


def test_a_slow_operator_asks_for_more(server: EmbeddedServer, tmp_path: Path, logs: Path) -> None:
    given = ["--set", f"output={tmp_path / 'table'}", "--set", "slow=operator"]
    with job(server.url, APPS / "scaling_job.py", logs, *given, env=ENV) as running:
        start(running, 1)

        def asks() -> dict[str, Any] | None:
            answer = scale(running, "?target=4") if full(running) else None
            return answer if answer is not None and answer["desired_replicas"] == 4 else None

        answer = wait_until(asks, "the operator to ask for more")
        assert (answer["workers"], answer["partitions"], answer["sink_bound"]) == (1, 4, False)
        assert answer["scale_frames"] == answer["backlog_frames"]
        told = wait_until(lambda: (found := scale(running)) and found["items_per_second"] and found, "items to move")
        assert told["drain_seconds"] == pytest.approx(told["backlog_items"] / told["items_per_second"])
        assert 0 < told["backlog_items"] <= told["backlog_frames"] * 64
        assert 0.25 <= told["hot_partition_share"] <= 1
        assert refusal(running, "?goal=4") == (400, "unknown parameter 'goal'; there are: stage, target\n")
        assert refusal(running, "?target=x")[0] == refusal(running, "?target=1&target=2")[0] == 400
        assert refusal(running, "?stage=bars") == (404, "no stage 'bars'; there are: map\n")
        channel = running.status()["channels"][0]
        assert 0 < channel["items"] <= 64 * sum(channel["lengths"].values())
