"""The HTTP side of worker and coordinator, while a job runs."""

from __future__ import annotations

from pathlib import Path

from test_main_job import APP, RATE, end, until_told
from tools.jobs import job, wait_until

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
    calm = {"MDP_LEASE_TTL_MS": "5000"}  # a worker that a busy machine takes for dead would be another test
    with job(server.url, APP, logs, *until_told(tmp_path, RATE), env=calm) as running:
        running.start("coordinator")
        wait_until(running.leads, "the coordinator to lead")
        running.start("w0")
        for name in WORKER_METRICS:
            wait_until(lambda name=name: name in running.http("w0", "/metrics"), name)
        wait_until(lambda: value(running.http("w0", "/metrics"), "mdp_items_out_total{") >= 30_000, "some items")
        wait_until(lambda: value(running.http("w0", "/metrics"), "mdp_duplicate_items_total{") > 0, "a duplicate")
        for name in COORDINATOR_METRICS:
            wait_until(lambda name=name: name in running.http("coordinator", "/metrics"), name)
        assert running.http("w0", "/healthz") == running.http("coordinator", "/healthz") == "ok\n"
        assert running.http("w0", "/readyz") == f"holds partitions {list(range(8))}\n"
        status = running.status()
        assert (status["job"], status["state"], status["tasks"]) == ("bars", "running", 9)
        assert status["owners"] == {str(p): "w0" for p in range(8)}
        assert status["workers"][0]["partitions"] == list(range(8))
        assert running.ask("w0", "/api/status")[0] == 404
        end(running, tmp_path, RATE)


def test_refusals_are_counted_and_ended_tasks_have_no_lag(server: EmbeddedServer, tmp_path: Path, logs: Path) -> None:
    with job(server.url, APP, logs, *until_told(tmp_path, RATE)) as running:
        running.start("coordinator", "--partitions", "2")
        running.start("w0")
        refusals = 'mdp_fenced_commits_total{cause="moved"}'
        lag = 'mdp_watermark_lag_seconds{partition="1",subgraph="dedupe"}'
        wait_until(lambda: lag in running.http("w0", "/metrics"), "a task to have a lag")
        assert value(running.http("w0", "/metrics"), refusals) == 0
        running.client.hset(running.keys.lease(1), mapping={"epoch": 99, "token": "another"})
        wait_until(lambda: value(running.http("w0", "/metrics"), refusals) > 0, "a refusal")
        wait_until(lambda: lag not in running.http("w0", "/metrics"), "the lag to go with its task")
