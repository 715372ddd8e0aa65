"""Child processes of a run: started with the app, watched, started again when they die, ended politely."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from market_data_pipeline.processes import ask_to_end, with_parent

_MAX_RESTARTS = 10
_WITHIN_SECONDS = 60.0
_FIRST_DELAY, _LAST_DELAY = 0.1, 5.0
_LAST_LINES = 5
_LOG_BYTES = 8 << 20
NO_RESTART = (2,)
"""The exit code that says "configuration": starting again would not help."""


@dataclass
class Child:
    """One child process. ``died`` holds when it died lately. ``log_bytes``: from which size on its log is begun anew."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    died: deque[float] = field(default_factory=deque)
    start_at: float | None = None
    """When to start it again, while it waits for that."""

    begun: int | None = None
    """How long its log was before, in bytes."""

    log_bytes: int = _LOG_BYTES
    older: Path | None = None
    """What its log was before it was begun anew."""

    _forgotten: dict[str, None] = field(default_factory=dict)
    """Coroutines that nobody awaited, from logs that are gone."""

    def start(self) -> None:
        """Start it, its output appended to ``log``."""
        self.start_at = None
        if self.begun is None:
            self.begun = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                with_parent(self.command),
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=None if self._prints else out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def _prints(self) -> bool:
        return "mdp_worker.cli" in self.command  # a Stdout sink prints where mdp run was started

    def exit_code(self) -> int | None:
        """``None`` while it runs; 0 before it was started."""
        return 0 if self.process is None else self.process.poll()

    def last_words(self) -> str:
        """The end of its log."""
        lines = [line for log in self._logs() for line in log.read_text(errors="replace").splitlines()]
        return "\n".join(f"    {line}" for line in lines[-_LAST_LINES:])

    def never_awaited(self) -> list[str]:
        """What Python said, since the first start, of coroutines that nobody awaited: what they were to do was not done."""
        if self.begun is None or not self.log.exists():
            return []
        with self.log.open("rb") as file:
            file.seek(self.begun)
            found = [line.decode(errors="replace").strip() for line in file if b"was never awaited" in line]
        return list(self._forgotten | dict.fromkeys(found))

    def _logs(self) -> Iterator[Path]:
        """The oldest first."""
        return (log for log in (self.older, self.log) if log is not None and log.exists())

    def tend_log(self) -> None:
        """Begin its log anew where it is long: a child may run for months. What it held stays beside it, in place of what was
        there. A line that comes in that moment may be lost."""
        with suppress(OSError):  # the disk is full, say: a log is no reason to end the run
            if self.begun is None or self.log.stat().st_size < self.log_bytes:
                return
            self._forgotten |= dict.fromkeys(self.never_awaited())
            self.older = self.log.with_name(f"{self.log.name}.1")
            shutil.copyfile(self.log, self.older)
            os.truncate(self.log, 0)  # the child appends, so it goes on at the beginning
            self.begun = 0

    def may_restart(self) -> bool:
        """Whether it died rarely enough to be started again, each time later (``start_at``); counts this death."""
        now = time.monotonic()
        self.died.append(now)
        while self.died and now - self.died[0] > _WITHIN_SECONDS:
            self.died.popleft()
        self.start_at = now + min(_FIRST_DELAY * 2 ** (len(self.died) - 1), _LAST_DELAY)
        return len(self.died) <= _MAX_RESTARTS

    def terminate(self) -> None:
        """Ask it to leave."""
        if self.process is not None:
            ask_to_end(self.process)

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def service(name: str, module: str, arguments: Sequence[str], env: Mapping[str, str], logs: Path) -> Child:
    """A coordinator or worker, run by this interpreter."""
    return Child(name, [sys.executable, "-m", module, *arguments], env, logs / f"{name}.log")
