"""The servers of a round: a master, perhaps a replica, and what can be done to them."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import redis
from tools.aof import last_increment
from tools.jobs import wait_until
from tools.proxy import Proxy

from market_data_pipeline.store.embedded import find_server, free_port

_START_SECONDS = 30.0


class Server:
    """One server process with an append-only file in ``folder``."""

    def __init__(self, binary: str, folder: Path, fsync: str, *extra: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self._command = [
            binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "",
            "--appendonly", "yes", "--appendfsync", fsync, "--maxmemory-policy", "noeviction",
            "--logfile", str(folder / "server.log"), "--repl-diskless-sync-delay", "0", *extra,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self.client: Any = redis.Redis(port=self.port, socket_timeout=10.0, protocol=2)

    def start(self) -> None:
        """Start, and wait until it answers. Raises ``AssertionError`` with the end of its log."""
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._answers, f"the server to start, see {self.folder / 'server.log'}", _START_SECONDS)

    def mend(self) -> None:
        """What an operator does before Redis is started again after a crash: ``redis-check-aof --fix``.

        Redis 7.0 starts on a file that ends within a transaction, ignores the piece, and appends behind it; the next start
        then takes the piece for the beginning of what was appended, and half a commit comes to life. (The binary is the
        tool when it is called by its name.) Valkey cuts the piece off by itself, and is left to do so.
        """
        if "valkey" in Path(self._command[0]).name:
            return
        manifest = next((self.folder / "appendonlydir").glob("*.manifest"))
        done = subprocess.run(
            ["redis-check-aof", "--fix", str(manifest)], executable=self._command[0], input=b"y\n", capture_output=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-500:]

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the server ended: {self.last_words()}"
        try:
            return bool(self.client.ping())
        except redis.exceptions.RedisError:
            return False

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def last_words(self) -> str:
        log = self.folder / "server.log"
        return " | ".join(log.read_text(errors="replace").splitlines()[-5:]) if log.exists() else "no log"

    def signal(self, number: int) -> None:
        if self.running:
            assert self._process is not None
            self._process.send_signal(number)

    def promote(self) -> None:
        """No replica any more, also not when it is started again."""
        self.client.execute_command("REPLICAOF", "NO", "ONE")
        at = self._command.index("--replicaof")
        del self._command[at : at + 3]

    def kill(self) -> None:
        """End it at once and wait until it is gone."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        self.kill()
        self.client.close()

    def cut_append_only_file(self, size: int, keep: int) -> int:
        """Cut the last ``size`` bytes off, but never into the first ``keep`` of the job; how many were cut. The server
        must be down."""
        path = last_increment(self.folder)
        length = path.stat().st_size
        floor = keep if path.name.endswith(".1.incr.aof") else 0
        left = max(min(floor, length), length - size)
        with path.open("r+b") as file:
            file.truncate(left)
        return length - left


class Servers:
    """The master, and where there is one its replica, which follows it through a door that can be held."""

    def __init__(self, folder: Path, name: str, fsync: str, replicated: bool, proxy: Proxy) -> None:
        self._folder, self._fsync, self._replicated = folder, fsync, replicated
        self._binary = find_server("redis-server" if name == "redis" else None)
        self._proxy = proxy
        self._number = 0
        self.master = self._new()
        self.replica: Server | None = None

    def _new(self, *extra: str) -> Server:
        self._number += 1
        return Server(self._binary, self._folder / f"server-{self._number}", self._fsync, *extra)

    def start(self) -> None:
        self.master.start()
        if self._replicated:
            self._door = self._proxy.door(self.master.port)
            self.add_replica()

    def add_replica(self) -> None:
        """Start a fresh replica; it copies the master in its own time."""
        self.replica = self._new("--replicaof", "127.0.0.1", str(self._door.port))
        self.replica.start()

    def replica_in_sync(self) -> bool:
        """Whether the replica follows the master, and its own append-only file holds what it has."""
        if self.replica is None or not self.replica.running:
            return False
        try:
            link, file = self.replica.client.info("replication"), self.replica.client.info("persistence")
        except redis.exceptions.RedisError:
            return False
        rewriting = file["aof_rewrite_in_progress"] or file["aof_rewrite_scheduled"]
        return link.get("master_link_status") == "up" and bool(file["aof_enabled"]) and not rewriting

    def hold_replica(self) -> None:
        """From now on the replica lags."""
        self._door.hold()

    def promote(self) -> None:
        """End the master; the replica, with what it has, takes its place. Nothing of the old one comes back."""
        assert self.replica is not None
        self.master.kill()
        self.replica.promote()
        self._door.heal()
        old, self.master, self.replica = self.master, self.replica, None
        old.client.close()
        self._door.lead_to(self.master.port)

    def close(self) -> None:
        self.master.close()
        if self.replica is not None:
            self.replica.close()
