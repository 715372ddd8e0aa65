"""The workers and coordinators of a round: who should run, who was killed by us, and who died of something else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.proxy import Door, Proxy

_RETRY_SECONDS = 0.3
NO_SERVER = 3
"""What a service exits with that finds no server when it starts; its supervisor is to start it again."""


@dataclass
class Member:
    """A process under a name. ``doomed``: we ended it ourselves, and how; ``frozen``: it is stopped."""

    name: str
    process: subprocess.Popen[bytes]
    started: float
    doomed: str = ""
    frozen: bool = False

    @property
    def running(self) -> bool:
        return self.process.poll() is None


@dataclass(frozen=True)
class Death:
    """A process that ended: nobody's fault when ``excused`` says why."""

    name: str
    pid: int
    code: int
    excused: str


class Fleet:
    """Starts processes, each behind a door of its own, and starts again those that should run."""

    def __init__(
        self,
        proxy: Proxy,
        upstream: Callable[[], int],
        app: Sequence[str],
        logs: Path,
        env: Mapping[str, str],
        excuses: Callable[[int, int, float], str],
    ) -> None:
        """``upstream``: the server's port now; ``excuses(pid, code, started)``: why such an end is no fault, or ``""``."""
        self._proxy, self._upstream, self._app, self._logs, self._env = proxy, upstream, app, logs, env
        self._excuses = excuses
        self.doors: dict[str, Door] = {}
        self.members: dict[str, Member] = {}
        self.starts_at: dict[str, float] = {}
        self.deaths: list[Death] = []
        self.started: dict[int, float] = {}
        """Pid -> when it was started, of all there ever were."""
        self._seen: set[int] = set()

    def names(self, role: str = "w") -> list[str]:
        """Who of ``role`` should run, whether it does or not."""
        return sorted(name for name in {*self.members, *self.starts_at} if name.startswith(role))

    def running(self, role: str = "w") -> list[str]:
        """Who of ``role`` runs and is not stopped."""
        members = self.members.values()
        return sorted(
            m.name for m in members if m.name.startswith(role) and m.running and not m.frozen and not m.doomed
        )

    def start(self, name: str) -> None:
        """Start ``name`` now; its output goes to ``<name>.log``."""
        self.starts_at.pop(name, None)
        if name not in self.doors:
            self.doors[name] = self._proxy.door(self._upstream())
        worker = name.startswith("w")
        command = [sys.executable, "-m", "mdp_worker.cli" if worker else "mdp_coordinator.cli", *self._app]
        command += ["--name", name] if worker else []
        env = {**os.environ, **self._env, "MDP_REDIS_URL": f"redis://127.0.0.1:{self.doors[name].port}/0"}
        with (self._logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.members[name] = member = Member(name, process, time.time())
        self.started[process.pid] = member.started

    def start_later(self, name: str, seconds: float) -> None:
        """Start ``name`` after ``seconds``."""
        self.starts_at[name] = time.time() + seconds

    def send(self, name: str, number: int) -> int:
        """Send a signal; the pid, 0 where ``name`` does not run."""
        member = self.members.get(name)
        if member is None or not member.running:
            return 0
        if number == signal.SIGKILL:
            member.doomed = "killed"
        elif number == signal.SIGTERM:
            member.doomed = member.doomed or "asked to leave"
        elif number in (signal.SIGSTOP, signal.SIGCONT):
            member.frozen = number == signal.SIGSTOP
        member.process.send_signal(number)
        return member.process.pid

    def forget(self, name: str) -> None:
        """``name`` is not to be started again."""
        self.starts_at.pop(name, None)
        member = self.members.get(name)
        if member is not None and not member.running:
            self._note(member)
            del self.members[name]

    def look(self, finished: bool) -> list[Death]:
        """Note who ended since the last look, start whose time has come; the deaths that nothing excuses."""
        faults: list[Death] = []
        for member in list(self.members.values()):
            if member.running or member.process.pid in self._seen:
                continue
            death = self._note(member)
            if not death.excused and not (finished and death.code == 0):
                faults.append(death)
            if not member.doomed and member.name not in self.starts_at and not finished:
                self.start_later(member.name, _RETRY_SECONDS)
            if member.doomed and member.name not in self.starts_at:
                del self.members[member.name]
        for name, at in list(self.starts_at.items()):
            present = self.members.get(name)
            if time.time() >= at and not finished and (present is None or not present.running):
                self.start(name)
        return faults

    def _note(self, member: Member) -> Death:
        code = member.process.wait()
        self._seen.add(member.process.pid)
        death = Death(member.name, member.process.pid, code, self._excuse(member, code))
        self.deaths.append(death)
        return death

    def _excuse(self, member: Member, code: int) -> str:
        if member.doomed == "killed" and code == -signal.SIGKILL:
            return "killed"
        if member.doomed and code in (0, -signal.SIGTERM):  # it may not have come as far as to handle the signal
            return member.doomed
        return self._excuses(member.process.pid, code, member.started)

    def last_words(self, name: str, lines: int = 8) -> str:
        return "\n".join((self._logs / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])

    def wait_for_exits(self, seconds: float) -> list[str]:
        """Give everybody ``seconds`` to leave; the names of those who did not."""
        deadline = time.time() + seconds
        late = []
        for member in self.members.values():
            try:
                member.process.wait(timeout=max(0.1, deadline - time.time()))
            except subprocess.TimeoutExpired:
                late.append(member.name)
        return late

    def close(self) -> None:
        """End whatever still runs."""
        for member in self.members.values():
            if member.running:
                member.process.kill()
        for member in self.members.values():
            member.process.wait()
