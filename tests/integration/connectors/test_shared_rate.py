"""What real workers ask of a venue together, counted by the venue; and a store behind a circuit breaker, seen from outside."""

from __future__ import annotations

import json
import os
import signal
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools.jobs import APPS, ROOT, Job, job, wait_until

from market_data_pipeline.store.embedded import EmbeddedServer
from market_data_pipeline.store.keys import budget_key

SYMBOLS, PARTITIONS, RATE = 64, 8, 20.0
ENV = {"PYTHONPATH": os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT / "tests")])}
"""The app's provider is the tests' own."""
LATE = 1.0
"""Seconds by which a busy machine may bring one call later than another."""


class Venue(socketserver.ThreadingTCPServer):
    """Takes every subscription. ``calls``: when each connection and each subscription came, by its own clock."""

    daemon_threads = True
    request_queue_size = 100

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.calls: list[float] = []
        self.connections: dict[_Connection, set[str]] = {}
        self.made = 0
        self.lock = threading.Lock()

    def served(self) -> set[str]:
        with self.lock:
            return {symbol for symbols in self.connections.values() for symbol in symbols}


class _Connection(socketserver.StreamRequestHandler):
    server: Venue

    def handle(self) -> None:
        with self.server.lock:
            self.server.calls.append(time.monotonic())
            self.server.connections[self] = set()
            self.server.made += 1
        try:
            for line in self.rfile:
                with self.server.lock:
                    self.server.calls.append(time.monotonic())
                self._answer(json.loads(line)["symbols"])
        except OSError:
            return
        finally:
            with self.server.lock:
                del self.server.connections[self]

    def _answer(self, symbols: list[str]) -> None:
        self.say({"subscribed": symbols, "refused": []})
        for symbol in symbols:
            self.say({"trade": [symbol, 1, 0, 1.0, 1.0]})
        with self.server.lock:
            self.server.connections[self].update(symbols)

    def say(self, message: object) -> None:
        self.wfile.write(json.dumps(message).encode() + b"\n")


@pytest.fixture
def venue() -> Iterator[Venue]:
    with Venue() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join()


def arguments(venue: Venue, symbols: int, rate: float, folder: Path) -> list[str]:
    given = {"port": venue.server_address[1], "symbols": symbols, "per_second": rate, "there": folder / "there"}
    return [word for name, value in given.items() for word in ("--set", f"{name}={value}")]


def circuits(running: Job, worker: str, circuit: str) -> list[float]:
    lines = running.http(worker, "/metrics").splitlines()
    return [
        float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f'mdp_circuit_state{{circuit="{circuit}')
    ]


def test_three_workers_together_stay_within_a_venues_rate_and_so_do_two(
    server: EmbeddedServer, logs: Path, tmp_path: Path, venue: Venue
) -> None:
    """Each call has a place, at least 1 / RATE behind the one before, and comes not before it. So of the calls since a time
    before all places the k-th comes (k - 1) / RATE later, at the earliest: exactly, however slow the machine is. Windows that
    begin elsewhere may hold what came late."""
    (tmp_path / "there").touch()
    given = arguments(venue, SYMBOLS, RATE, tmp_path)
    began = time.monotonic()
    with job(server.url, APPS / "venue_job.py", logs, *given, env=ENV) as running:
        running.start("coordinator", "--partitions", str(PARTITIONS), "--min-workers", "3")
        for name in ("w0", "w1", "w2"):
            running.start(name)
        wait_until(lambda: len(venue.calls) >= 24, "a third of the calls")
        wait_until(lambda: running.client.exists(budget_key("venue")), "the server to keep the budget")
        running.processes["w1"].send_signal(signal.SIGKILL)
        made = venue.made
        running.wait_for_exit("w1")
        wait_until(lambda: len(venue.served()) == SYMBOLS, "all symbols to be served by the others")
        assert circuits(running, "w0", "Venue@")
        assert set(circuits(running, "w0", "Venue@") + circuits(running, "w2", "Venue@")) == {0.0}
        calls = sorted(venue.calls)
    assert len(calls) > SYMBOLS + PARTITIONS, "what the dead worker had was asked for again"
    assert made > 1
    early = [at - began for k, at in enumerate(calls) if k > 1 + RATE * (at - began)]
    assert early == []
    for first, begin in enumerate(calls):
        for last in range(first, len(calls)):
            assert last - first + 1 <= 1 + RATE * (calls[last] - begin + LATE)


def test_a_store_that_is_away_is_left_alone_and_shows_it(
    server: EmbeddedServer, logs: Path, tmp_path: Path, venue: Venue
) -> None:
    given = arguments(venue, 8, 1000.0, tmp_path)
    with job(server.url, APPS / "venue_job.py", logs, *given, env=ENV) as running:
        running.start("coordinator", "--partitions", "2", "--min-workers", "1")
        running.start("w0")
        wait_until(lambda: 2.0 in circuits(running, "w0", "sink"), "the circuit to be open")
        wait_until(
            lambda: "circuit open for 2.5 s: store: connection refused" in running.log("w0"), "it to be told why"
        )
        (tmp_path / "there").touch()
        wait_until(lambda: running.counts().get("store", {}).get("in", 0) >= 8, "what was held back to be stored")
        wait_until(lambda: 2.0 not in circuits(running, "w0", "sink"), "the circuit to be closed")
        tries = (tmp_path / "asked").stat().st_size
    assert tries >= 3
