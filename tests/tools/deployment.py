"""Replicas of ``mdp-worker`` as real processes: what a Deployment would do with pods."""

from __future__ import annotations

import signal

from tools.jobs import Job


class Deployment:
    """Workers of ``job``. More: new names. Fewer: the newest are asked to leave (SIGTERM), as a ReplicaSet removes
    young pods first."""

    def __init__(self, job: Job, *arguments: str, env: dict[str, str] | None = None) -> None:
        self._job, self._arguments, self._env = job, arguments, env
        self._started = 0
        self.running: list[str] = []
        self.leaving: list[str] = []

    @property
    def replicas(self) -> int:
        return len(self.running)

    def scale(self, replicas: int) -> None:
        """Start what is missing, ask what is too much to leave. Does not wait for either."""
        while len(self.running) < replicas:
            name = f"worker-{self._started}"
            self._started += 1
            self._job.start(name, *self._arguments, env=self._env)
            self.running.append(name)
        while len(self.running) > replicas:
            name = self.running.pop()
            self._job.processes[name].send_signal(signal.SIGTERM)
            self.leaving.append(name)

    def failed(self) -> list[str]:
        """Names of processes that ended otherwise than with 0; one that was asked to leave before it could listen to that
        ended by the signal itself, and had nothing yet."""
        codes = {name: self._job.processes[name].poll() for name in (*self.running, *self.leaving)}
        return [name for name, code in codes.items() if code and not self._left_early(name, code)]

    def _left_early(self, name: str, code: int) -> bool:
        return name in self.leaving and code == -signal.SIGTERM and "listening on" not in self._job.log(name)
