"""Server and workers on machines of their own (network namespaces); the cable of one worker is pulled and plugged in again."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from tools.jobs import PATIENCE, wait_until
from tools.namespaces import Network, NoNamespaces, network
from tools.paced import PARTITIONS, PacedJob, paced_job
from tools.parent_death import die_with_parent

from market_data_pipeline.store.client import connect_blocking
from market_data_pipeline.store.embedded import find_server

PASSWORD = "network-pw"
PORT = 6379
PACE, WORK = 5_000, 300
"""More trades a second than two workers can take, each keeping its process waiting for so many microseconds: whenever the
cable is pulled, a commit is on its way or about to be."""
PASSED = 1_500


@pytest.fixture
def machines() -> Iterator[Network]:
    try:
        with network("hub", "east", "west") as made:
            yield made
    except NoNamespaces as reason:
        pytest.skip(f"no network namespaces here: {reason}")


@dataclass(frozen=True)
class Server:
    """``url``: on the network. ``socket_url``: the same server by a socket in the file system, which no cable concerns."""

    url: str
    socket_url: str


@contextmanager
def server_on(machines: Network, name: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="mdp-") as folder:
        socket = Path(folder) / "socket"
        command = [
            *machines.inside(name), find_server(), "--bind", machines.address(name), "--port", str(PORT), "--unixsocket",
            str(socket), "--requirepass", PASSWORD, "--dir", folder, "--save", "", "--maxmemory-policy", "noeviction",
        ]  # fmt: skip
        with (Path(folder) / "log").open("w") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - started before any thread
            )  # fmt: skip
        try:
            found = Server(f"redis://:{PASSWORD}@{machines.address(name)}:{PORT}/0", f"unix://:{PASSWORD}@{socket}")
            with connect_blocking(found.socket_url) as client:

                def answers() -> bool:
                    try:
                        return bool(client.ping())
                    except redis.exceptions.ConnectionError:
                        return False

                wait_until(answers, "the server to answer")
            yield found
        finally:
            process.terminate()
            process.wait()


def epochs(paced: PacedJob) -> dict[int, int]:
    leases = paced.job.keys.lease
    return {partition: int(paced.job.client.hget(leases(partition), "epoch")) for partition in range(PARTITIONS)}


def held_by(paced: PacedJob, name: str) -> set[int]:
    return {partition for partition, owner in paced.owners().items() if owner == name}


SILENT = 'mdp_fenced_commits_total{cause="silent"}'


def metric(machines: Network, paced: PacedJob, name: str, metric_name: str) -> float:
    """A metric of a worker, asked for on its own machine: it listens on its loopback only."""
    address = re.findall(r"listening on (http://\S+)", paced.job.log(name))[-1]
    program = f"import urllib.request; print(urllib.request.urlopen('{address}/metrics', timeout=60).read().decode())"
    command = [*machines.inside(name), sys.executable, "-c", program]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout
    return float(re.findall(rf"^{re.escape(metric_name)} (\S+)$", text, re.MULTILINE)[0])


@pytest.mark.parametrize("with_source", [True, False], ids=["with-the-source", "without-the-source"])
def test_a_worker_that_is_cut_off_is_replaced_fenced_and_comes_back(
    machines: Network, tmp_path: Path, with_source: bool
) -> None:
    with server_on(machines, "hub") as server, paced_job(server.socket_url, tmp_path, WORK) as paced:
        env = {"MDP_REDIS_URL": server.url, "MDP_LEASE_TTL_MS": "2000"}  # a busy machine cuts nobody off
        paced.pace(PACE)
        paced.job.start("coordinator", "--min-workers", "2", env=env, inside=machines.inside("hub"))
        for name in ("east", "west"):
            paced.job.start(name, env=env, inside=machines.inside(name))
        wait_until(lambda: held_by(paced, "east") and held_by(paced, "west"), "both to hold partitions")
        paced.wait_for_items(PASSED)

        owner, other = (paced.owners()[0], ({"east", "west"} - {paced.owners()[0]}).pop())
        victim, survivor = (owner, other) if with_source else (other, owner)
        lost, before = held_by(paced, victim), epochs(paced)
        machines.cut(victim)
        wait_until(lambda: len(held_by(paced, survivor)) == PARTITIONS, f"{survivor} to take over {lost}")
        assert all(epochs(paced)[partition] > before[partition] for partition in lost)
        paced.wait_for_items(PASSED)
        assert paced.job.processes[victim].poll() is None
        assert "is over" not in paced.job.log(victim), "how should it know"
        assert metric(machines, paced, survivor, SILENT) == 0
        assert metric(machines, paced, victim, SILENT) == 0

        machines.restore(victim)
        wait_until(lambda: "is over" in paced.job.log(victim), f"{victim} to be refused")
        wait_until(lambda: held_by(paced, victim), f"{victim} to hold partitions again")
        assert metric(machines, paced, victim, SILENT) >= 1
        paced.wait_for_items(PASSED)
        paced.finish("east", "west", "coordinator")
