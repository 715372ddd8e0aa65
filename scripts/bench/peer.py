"""The systems to compare with: each its own program under peers_apps/, run by an interpreter that has it installed.

Start-up is taken off by two sizes: a run of a tenth of the items, then one of all; the rate is the difference of the items over
the difference of the times. Both include start and end of the processes, which so cancel out.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from bare_hop import expected_bars
from harness import HERE, say

from market_data_pipeline.store.embedded import free_port

APPS = HERE / "peers_apps"
LOCKS = HERE.parent.parent / "requirements"
_LIMIT_SECONDS = 600
_CHECKED_ITEMS = 20_000
_NUMBER = r"\d+\.\d+"


class Skipped(Exception):
    """Why a peer cannot be measured here."""


class Peer(ABC):
    """A system to compare with. ``name``: as in the options and the lock's name; ``module``: what must be importable."""

    name: str
    title: str
    module: str
    guarantee: str
    needs: tuple[str, ...] = ()
    """Programs that must be on PATH."""

    def check(self, python: Path) -> None:
        """Raises ``Skipped`` where this peer cannot run."""
        for program in self.needs:
            if shutil.which(program) is None:
                raise Skipped(f"{program} is not on PATH")
        probe = subprocess.run([python, "-c", f"import {self.module}"], capture_output=True, check=False)
        if probe.returncode:
            raise Skipped(f"{self.module} is not installed (scripts/bench/peers --install DIR)")

    def rate(self, python: Path, items: int) -> float:
        """Items per second, start-up taken off. Raises ``Skipped``."""
        self.check(python)
        few = max(1, items // 10)
        short, long = self.seconds(python, few), self.seconds(python, items)
        if long <= short:
            raise Skipped(f"{items:,} items take no longer than {few:,}: too few to tell from the start")
        return (items - few) / (long - short)

    @abstractmethod
    def seconds(self, python: Path, items: int) -> float:
        """How long one run takes, start included."""

    def check_bars(self, python: Path) -> None:
        """Raises ``AssertionError`` unless it makes the bars that must come out; here by a run with few items."""
        self.seconds(python, _CHECKED_ITEMS)


class Bytewax(Peer):
    name, title, module = "bytewax", "Bytewax 0.21, two processes, Python fold", "bytewax.run"
    guarantee = "none (no recovery store)"

    def seconds(self, python: Path, items: int) -> float:
        addresses = ";".join(f"127.0.0.1:{free_port()}" for _ in range(2))
        with tempfile.TemporaryDirectory(prefix="mdp-bench-") as folder:
            counts = Path(folder) / "counts"
            command = [python, "-m", "bytewax.run", "bytewax_ohlcv", "-a", addresses]
            env = {"ITEMS": str(items), "COUNTS": str(counts)}
            began = time.perf_counter()
            _run_all([[*command, "-i", str(n)] for n in range(2)], env)
            took = time.perf_counter() - began
            bars = sum(int(line.split()[1]) for line in counts.read_text().splitlines())
        assert bars == expected_bars(items), f"Bytewax made {bars} bars, not {expected_bars(items)}"
        return took


class Flink(Peer):
    name, title, module = "flink", "Flink 2.3 SQL, parallelism 2, blackhole sink", "pyflink.table"
    guarantee = "none (no checkpoints)"
    needs = ("java",)

    def seconds(self, python: Path, items: int) -> float:
        return float(self._answer(python, rf"seconds ({_NUMBER})", str(items)))

    def check_bars(self, python: Path) -> None:
        found = self._answer(python, r"bars (\d+ of \d+) trades", str(_CHECKED_ITEMS), "--count")
        wanted = f"{expected_bars(_CHECKED_ITEMS)} of {_CHECKED_ITEMS}"
        assert found == wanted, f"Flink made {found} bars, not {wanted}"

    def _answer(self, python: Path, pattern: str, *arguments: str) -> str:
        (out,) = _run_all([[python, APPS / "flink_sql_ohlcv.py", *arguments]], {})
        answer = re.search(pattern, out)
        assert answer is not None, f"Flink did not say {pattern!r} but: {out[-2000:]}"
        return answer[1]


BYTEWAX, FLINK = Bytewax(), Flink()


def _run_all(commands: Sequence[Sequence[object]], env: Mapping[str, str]) -> list[str]:
    """Standard outputs of ``commands``, run at the same time. Raises ``RuntimeError`` when one fails."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    processes = [
        subprocess.Popen(
            list(map(str, command)), cwd=APPS, env={**clean, **env, "PYTHONDONTWRITEBYTECODE": "1"}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for command in commands
    ]  # fmt: skip
    try:
        told = [process.communicate(timeout=_LIMIT_SECONDS) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
    for process, (_, errors) in zip(processes, told, strict=True):
        if process.returncode:
            raise RuntimeError(f"{process.args}: exit code {process.returncode}: {errors[-2000:]}")
    return [out for out, _ in told]


# --- where they are installed -------------------------------------------------------------------------------------


def add_interpreters(parser: argparse.ArgumentParser, peers: Sequence[Peer]) -> None:
    """An option ``--NAME-python`` for each peer."""
    for peer in peers:
        parser.add_argument(
            f"--{peer.name}-python", type=Path, default=Path(sys.executable), metavar="PATH",
            help=f"the interpreter that has {peer.name} (default: this one)",
        )  # fmt: skip


def interpreter_of(peer: Peer, args: argparse.Namespace) -> Path:
    """What was given for ``peer``, made absolute: programs run in another folder."""
    return Path(os.path.abspath(getattr(args, f"{peer.name}_python")))  # noqa: PTH100 - a venv's link must stay one


def install(peer: Peer, folder: Path) -> Path:
    """The interpreter of a virtual environment under ``folder`` that has the peer's lock; made where it is missing. Raises
    ``Skipped``."""
    python = folder.absolute() / peer.name / "bin" / "python"
    ready = python.parent.parent / "installed"
    if ready.exists():
        return python
    say(f"installing {peer.name} ...")
    lock = LOCKS / f"bench-{peer.name}.txt"
    pip = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--require-hashes",
        "-r",
        str(lock),
    ]
    for command in ([sys.executable, "-m", "venv", str(python.parent.parent)], pip):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            say(done.stderr)
            raise Skipped("it could not be installed")
    ready.touch()
    return python
