"""The HTTP side of worker and coordinator, while a job runs."""

from __future__ import annotations

import json
import urllib.error
from pathlib import Path

import pytest
from tools.jobs import APPS, job, wait_until

from market_data_pipeline.store.embedded import EmbeddedServer

WORKER_METRICS = [
    'mdp_items_in_total{node="dedupe"}',
    'mdp_items_out_total{node="source"}',
    'mdp_duplicate_items_total{node="dedupe"}',
    'mdp_frames_in_total{channel="source.dedupe"}',
    'mdp_frames_out_total{channel="source.dedupe"}',
    'mdp_frame_bytes_out_total{channel="source.dedupe"}',
    'mdp_commits_total{subgraph="dedupe"}',
    'mdp_commit_seconds_count{subgraph="source"}',
    'mdp_channel_length{channel="source.dedupe",partition="0"}',
    'mdp_channel_capacity{channel="source.dedupe"} 64.0',
    'mdp_watermark_lag_seconds{partition="0",subgraph="dedupe"}',
    "mdp_latency_seconds_count",
    "mdp_partitions_owned 8.0",
    'mdp_fenced_commits_total{cause="silent"} 0.0',
]
COORDINATOR_METRICS = [
    "mdp_coordinator_leader 1.0",
    "mdp_workers 1.0",
    "mdp_partitions_unassigned 0.0",
    "mdp_assignments_total 8.0",
    'mdp_channel_capacity{channel="source.dedupe"} 64.0',
]


def value(metrics: str, name: str) -> float:
    return next(float(line.rsplit(" ", 1)[1]) for line in metrics.splitlines() if line.startswith(name))


def test_endpoints(server: EmbeddedServer, tmp_path: Path, logs: Path) -> None:
    given = ["--set", f"output={tmp_path / 'out'}", "--set", "items=200000", "--set", "rate=40000"]
    with job(server.url, APPS / "bars_job.py", logs, *given) as running:
        running.start("coordinator")
        wait_until(running.leads, "the coordinator to lead")
        running.start("w0")
        running.wait_for_items("source", 30_000)
        worker = running.http("w0", "/metrics")
        for name in WORKER_METRICS:
            assert name in worker
        assert value(worker, "mdp_items_out_total{") >= 30_000
        assert value(worker, "mdp_duplicate_items_total{") > 0
        wait_until(lambda: all(n in running.http("coordinator", "/metrics") for n in COORDINATOR_METRICS), "metrics")
        assert running.http("w0", "/healthz") == running.http("coordinator", "/healthz") == "ok\n"
        assert running.http("w0", "/readyz") == f"holds partitions {list(range(8))}\n"
        status = json.loads(running.http("coordinator", "/api/status"))
        assert (status["job"], status["state"], status["tasks"]) == ("bars", "running", 9)
        assert status["owners"] == {str(p): "w0" for p in range(8)}
        assert status["workers"][0]["partitions"] == list(range(8))
        with pytest.raises(urllib.error.HTTPError, match="404"):
            running.http("w0", "/api/status")
        running.wait()


def test_refusals_are_counted_and_ended_tasks_have_no_lag(server: EmbeddedServer, tmp_path: Path, logs: Path) -> None:
    given = ["--set", f"output={tmp_path / 'out'}", "--set", "items=2000000", "--set", "rate=40000"]
    with job(server.url, APPS / "bars_job.py", logs, *given) as running:
        running.start("coordinator", "--partitions", "2")
        running.start("w0")
        refusals = 'mdp_fenced_commits_total{cause="moved"}'
        lag = 'mdp_watermark_lag_seconds{partition="1",subgraph="dedupe"}'
        wait_until(lambda: lag in running.http("w0", "/metrics"), "a task to have a lag")
        assert value(running.http("w0", "/metrics"), refusals) == 0
        running.client.hset(running.keys.lease(1), mapping={"epoch": 99, "token": "another"})
        wait_until(lambda: value(running.http("w0", "/metrics"), refusals) > 0, "a refusal")
        wait_until(lambda: lag not in running.http("w0", "/metrics"), "the lag to go with its task")
