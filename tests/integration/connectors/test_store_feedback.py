"""Stores with queues of their own slow their sources down before they are too full: seen in running processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tools.jobs import APPS, ROOT, Job, job, wait_until

from market_data_pipeline.store.embedded import EmbeddedServer

PACE = 10_000
HIGH, LOW = 10_000, 2_000
"""As in the app."""
SETTINGS = {"MDP_LEASE_TTL_MS": "5000"}  # a worker that a busy machine takes for dead would be another test


class Setting:
    """The files by which a test tells the app what to do."""

    def __init__(self, folder: Path) -> None:
        self._pace, self.output, self.slow = folder / "pace", folder / "out", folder / "slow"

    def pace(self, items: int) -> None:
        """So many items a second come from now on; 0: no more."""
        told = self._pace.with_suffix(".new")
        told.write_text(str(items))
        told.rename(self._pace)

    @property
    def arguments(self) -> list[str]:
        given = {"pace": self._pace, "output": self.output, "slow": self.slow}
        return [part for name, value in given.items() for part in ("--set", f"{name}={value}")]

    def stored(self) -> list[tuple[str, int]]:
        """Symbol and number of all trades in the files."""
        rows = [json.loads(line) for path in self.output.glob("*.jsonl") for line in path.read_text().splitlines()]
        return [(row["symbol"], row["trade_id"]) for row in rows]


def shown(server: EmbeddedServer) -> str:
    """What ``mdp status`` says."""
    said = subprocess.run(
        [sys.executable, "-m", "market_data_pipeline.cli", "status", "--redis-url", server.url],
        capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, "MDP_ALLOW_VOLATILE": "true"},
    )  # fmt: skip
    return " ".join(said.stdout.split())


def start(running: Job) -> None:
    running.start("coordinator", "--partitions", "2", "--min-workers", "1")
    running.start("w0")
    wait_until(lambda: running.state() == "running" and running.status()["items_out"] > PACE / 2, "the job to run")


def test_a_sink_with_a_queue_of_its_own_is_never_buried(server: EmbeddedServer, tmp_path: Path, logs: Path) -> None:
    told = Setting(tmp_path)
    told.pace(PACE)
    with job(server.url, APPS / "queue_job.py", logs, *told.arguments, env=SETTINGS) as running:
        start(running)
        wait_until(lambda: running.status()["rates"] == {}, "the source not to be limited")
        told.slow.touch()
        deepest: list[float] = []

        def pressed() -> bool:
            now = running.status()
            deepest.append(now["stores"].get("store", {}).get("queue_depth", 0.0))
            return now["presses"] == {"source": ["store"]} and now["rates"]["source"] < PACE / 2

        wait_until(pressed, "the source to be limited")
        wait_until(lambda: running.metric("w0", "mdp_source_rate_limit{") < PACE / 2, "the worker to obey")
        assert max(deepest) <= HIGH + 5 * PACE
        assert running.metric("coordinator", 'mdp_store_queue_high{node="store"}') == HIGH
        assert running.metric("coordinator", 'mdp_store_queue_depth{node="store"}') > LOW
        assert running.metric("coordinator", 'mdp_store_write_seconds{node="store"}') == 0.01
        wait_until(lambda: running.metric("coordinator", "mdp_scale_sink_bound") == 1, "the sink to be what is slow")
        told.slow.unlink()
        told.pace(200)
        wait_until(lambda: running.status()["rates"] == {}, "the limit to be lifted")
        assert running.status()["presses"] == {}
        told.pace(0)
        running.wait()
        brought = running.counts()["source"]["out"]
    stored = told.stored()
    assert len(stored) == brought
    assert "source: not limited any more" in running.log("coordinator")


class _Coordinator(BaseHTTPRequestHandler):
    """An outside coordinator of writes. Its server's ``depth`` is the test's; ``answers`` counts."""

    def do_GET(self) -> None:
        self.server.answers += 1  # type: ignore[attr-defined]
        document = {"queue": {"depth": self.server.depth}, "write_seconds": 0.25}  # type: ignore[attr-defined]
        body = json.dumps({**document, "high": 80, "low": 20, "queue_depth": document["queue"]["depth"]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def outside() -> Iterator[Any]:
    coordinator: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Coordinator)
    coordinator.depth = coordinator.answers = 0
    thread = threading.Thread(target=coordinator.serve_forever)
    thread.start()
    try:
        yield coordinator
    finally:
        coordinator.shutdown()
        thread.join()
        coordinator.server_close()


def test_an_outside_coordinator_of_writes_is_obeyed(server: EmbeddedServer, tmp_path: Path, logs: Path) -> None:
    told = Setting(tmp_path)
    told.pace(PACE)
    with outside() as writes:
        url = ["--set", f"url=http://127.0.0.1:{writes.server_port}/queue"]
        with job(server.url, APPS / "queue_job.py", logs, *told.arguments, *url, env=SETTINGS) as running:
            start(running)
            wait_until(lambda: running.status()["stores"], "the coordinator to be asked")
            wait_until(lambda: running.status()["rates"] == {}, "the source not to be limited")
            writes.depth = 100
            wait_until(lambda: running.status()["presses"] == {"source": ["store"]}, "the source to be limited")
            assert running.metric("coordinator", 'mdp_store_queue_depth{node="store"}') == 100
            said = shown(server)
            assert "/s (store of store)" in said
            assert "store of store: 100 wait, high 80, low 20, a write 0.250 s" in said
            writes.depth = 50
            told.pace(200)
            wait_until(lambda: running.status()["stores"]["store"]["queue_depth"] == 50, "the next answer")
            held, more = running.status()["rates"], writes.answers + 3
            wait_until(lambda: writes.answers >= more, "some more answers")
            assert running.status()["rates"] == held, "between its levels nothing is changed"
            writes.depth = 0
            wait_until(lambda: running.status()["rates"] == {}, "the limit to be lifted")
            told.pace(0)
            running.wait()
            brought = running.counts()["source"]["out"]
    assert len(told.stored()) == brought
