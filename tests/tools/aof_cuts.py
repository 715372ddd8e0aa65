"""A job that runs for a moment on a server with an append-only file; then the file is cut, loaded, compared, and resumed."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from market_data_pipeline.store.embedded import EmbeddedServer
from tools.aof import Commit, Keyspace, check_contents, check_unit, commits_of, last_increment, server_contents, units
from tools.jobs import APPS, generate, job
from tools.oracle import check_bars, plain_bars

APP = APPS / "bars_job.py"
SECOND = 1_000_000_000
_KEEP_AOF = ("--auto-aof-rewrite-percentage", "0")
"""One file from the first command to the last: no rewrite on the way."""


@dataclass
class Figures:
    """What was done: cuts, how many of them inside a unit and of how many units, slowest load in seconds, resumed jobs."""

    cuts: int = 0
    inside: int = 0
    units: int = 0
    slowest: float = 0.0
    resumed: int = 0


class CutFile:
    """The recorded run. ``folder`` holds the server's data, the job's output and its logs."""

    def __init__(
        self,
        folder: Path,
        items: int = 120_000,
        rate: float = 40_000,
        symbols: int = 50,
        binary: str | None = None,
    ) -> None:
        self.folder, self.items, self.rate, self.symbols, self.binary = folder, items, rate, symbols, binary
        self._data, self._output, self._logs = folder / "data", folder / "out", folder / "logs"
        self.figures = Figures()

    @property
    def _arguments(self) -> list[str]:
        values = {"output": self._output, "items": self.items, "rate": self.rate, "symbols": self.symbols}
        return [part for name, value in values.items() for part in ("--set", f"{name}={value}")]

    def record(self) -> None:
        """Run the job until about half of it is done, then kill its processes and stop the server in order."""
        self._logs.mkdir(parents=True)
        with _server(self._data, self.binary) as server, job(server.url, APP, self._logs, *self._arguments) as running:
            running.start("coordinator", "--partitions", "4", "--min-workers", "2")
            running.start("w0")
            running.start("w1")
            running.wait_for_items("source", self.items // 2)
        self._output.rename(self.folder / "out-then")
        self.aof = last_increment(self._data).read_bytes()
        self.units = units(self.aof)
        for unit in self.units:
            check_unit(unit)
        self.commits = [commit for unit in self.units for commit in commits_of(unit)]
        written = [commit.id for commit in self.commits]
        begun = len({commit.task for commit in self.commits})
        assert len(set(written)) == len(written) - begun + 1, "a commit id was written twice"

    def random_cuts(self, count: int, seed: int, tail: int = 1 << 20) -> list[int]:
        """Bytes at which the file will end, in its last ``tail`` bytes."""
        rng = random.Random(seed)
        size = len(self.aof)
        return sorted(rng.randrange(max(1, size - tail), size) for _ in range(count))

    def check(self, cuts: Sequence[int], say: Callable[[str], None] = lambda text: None) -> None:
        """Load the file cut at each of ``cuts`` (ascending). Raises ``AssertionError`` where a server holds anything else
        than the whole units before the cut, or something that is not consistent in itself."""
        assert list(cuts) == sorted(cuts)
        keyspace, done, commits, cut_units = Keyspace(), 0, 0, set()
        for number, cut in enumerate(cuts, 1):
            while done < len(self.units) and self.units[done].end <= cut:
                keyspace.apply(self.units[done])
                commits += len(commits_of(self.units[done]))
                done += 1
            keyspace.check()
            self._check_cut(cut, keyspace, self.commits[:commits])
            self.figures.cuts += 1
            if done < len(self.units) and self.units[done].start < cut:
                self.figures.inside += 1
                cut_units.add(done)
            if number % 100 == 0:
                say(f"{number} of {len(cuts)} cuts")
        self.figures.units += len(cut_units)

    def _check_cut(self, cut: int, keyspace: Keyspace, commits: list[Commit]) -> None:
        started = time.monotonic()
        with self._cut_server(cut) as server, redis.Redis(port=server.port) as client:
            self.figures.slowest = max(self.figures.slowest, time.monotonic() - started)
            found, expected = server_contents(client), keyspace.contents()
        differing = [key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)]
        assert not differing, f"cut at byte {cut}: {differing[0]!r} is not as the commits before the cut left it"
        check_contents(found)
        newest = {commit.task: commit.id for commit in commits}  # one prefix of the order of all commits
        stored = {key: value[b"commit"] for key, value in found.items() if isinstance(value, dict) and b":task:" in key}
        assert stored == newest, f"cut at byte {cut}: the tasks' commits are of no point of the history"

    def resume(self, cut: int) -> None:
        """Go on from a cut, with the output folder as the dead processes left it, to the end; compare with the oracle."""
        shutil.copytree(self.folder / "out-then", self._output)
        logs = self.folder / f"logs-{cut}"
        logs.mkdir()
        with self._cut_server(cut) as server, job(server.url, APP, logs, *self._arguments) as running:
            running.start("coordinator", "--partitions", "4")
            running.start("w2")
            running.wait()
        check_bars(self._output, self.expected(), SECOND)
        shutil.rmtree(self._output)
        self.figures.resumed += 1

    def expected(self) -> dict[tuple[str, int], dict[str, object]]:
        """The bars that the whole job has to write, made in the plain way."""
        import importlib.util  # noqa: PLC0415 - only to find the program by its path

        spec = importlib.util.spec_from_file_location("bars_job", APP)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        rows = asyncio.run(generate(module.source(self.items, self.rate, self.symbols)))
        return plain_bars(rows, SECOND)[0]

    @contextmanager
    def _cut_server(self, cut: int) -> Iterator[EmbeddedServer]:
        data = self.folder / f"cut-{cut}"
        shutil.copytree(self._data, data, ignore=shutil.ignore_patterns("lock", "server.log"))
        with last_increment(data).open("r+b") as file:
            file.truncate(cut)
        with _server(data, self.binary) as server:
            yield server
            server.kill()
        shutil.rmtree(data)


def _server(data: Path, binary: str | None) -> EmbeddedServer:
    return EmbeddedServer(data, binary, *_KEEP_AOF, "--aof-load-truncated", "yes")
