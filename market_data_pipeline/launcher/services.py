"""The coordinator and the workers of one run: looked after together, and ended together."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence

from market_data_pipeline.errors import JobFailed
from market_data_pipeline.launcher.children import NO_RESTART, Child
from market_data_pipeline.settings import Settings, as_environment
from market_data_pipeline.store.url import Address

_LEAVE_SECONDS = 35.0
_LEFT_SECONDS = 2.0
_BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


class Services:
    """``say`` is told what happens to them."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._children: list[Child] = []

    def start(self, children: Sequence[Child]) -> None:
        """Start all: the coordinator, which is the last one to be ended, and the workers."""
        self._children = list(children)
        for child in self._children:
            child.start()

    def look_after(self) -> None:
        """Start again what died, and keep logs short. Raises ``JobFailed`` for one that cannot run."""
        for child in self._children:
            child.tend_log()
            code = child.exit_code()
            if code is None:
                continue
            if code == 0 and child.start_at is None:
                # it saw the job's end before we did, or somebody asked it to leave
                child.start_at = time.monotonic() + _LEFT_SECONDS
            elif child.start_at is None:
                words = child.last_words()
                self._say(f"{child.name} died with {_cause(code)}; its last words:\n{words}")
                if code in NO_RESTART or not child.may_restart():
                    said = words.strip().splitlines()
                    raise JobFailed(
                        f"{child.name} cannot run ({_cause(code)}): {said[-1].strip() if said else 'it said nothing'}"
                    )
            elif time.monotonic() >= child.start_at:
                self._say(f"{child.name}: starting it again")
                child.start()

    async def end(self, at_once: Callable[[], bool]) -> None:
        """Politely; as soon as ``at_once`` says so, or when they do not go, by force."""
        deadline = time.monotonic() + _LEAVE_SECONDS
        for child in reversed(self._children):  # workers first: the coordinator is there while they give back
            child.terminate()
        running = list(self._children)
        try:
            while running and time.monotonic() < deadline and not at_once():
                await asyncio.sleep(0.02)
                running = [child for child in running if child.exit_code() is None]
        finally:
            for child in running:
                child.kill()

    def tell_never_awaited(self) -> None:
        """What Python said of coroutines that nobody awaited."""
        for child in self._children:
            for line in child.never_awaited():
                self._say(f"{child.name}: {line}")


def child_environment(
    settings: Settings, address: Address, embedded: bool, workers: int, http_port: int = 0
) -> dict[str, str]:
    """The settings as environment, for children: a password never stands in a command line. The workers share the cores, so
    each has one thread for linear algebra where the user says nothing else (starting more also costs each child 50 ms of
    CPU)."""
    own = {"MDP_REDIS_URL": address.url, "MDP_HTTP_PORT": str(http_port), "MDP_MIN_WORKERS": str(workers)}
    if embedded:
        own["MDP_ALLOW_VOLATILE"] = "true"
    given = {name: text for name, text in as_environment(settings).items() if name.upper() != "MDP_JOB"}
    # in whichever case they are inherited
    env = {name: own.get(name.upper(), text) for name, text in given.items()} | own
    if not any(name in os.environ for name in _BLAS_THREADS):
        env |= dict.fromkeys(_BLAS_THREADS, "1")
    return env


def _cause(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
