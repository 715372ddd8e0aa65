"""A slow store slows its source down: watch it.

python examples/backpressure.py

A source of 50,000 trades a second, and a store that takes them; for eight seconds it takes only 10,000 a second. The streams
between them fill to their high level, the coordinator publishes what the source may bring in, and the source brings in that.
When the store is well again, the limit grows, until the source uses less than half of it: then there is none any more. What
was due meanwhile is brought in beside the new trades, at more than 50,000 a second until nothing is behind. Each second a line:

    store   how the store is             limit   what the source may bring in a second
    in      brought in, a second         high    how often a stream came to its high level,
    out     stored, a second             low     and went back to its low one
    behind  trades that were due, and    worker  the worker's memory
            are not brought in yet
    frames  in the longest stream (of 32)

At the end everything is there, exactly once.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import click

from market_data_pipeline import Frame, JsonLines, Pipeline, Synthetic
from market_data_pipeline.processes import with_parent
from market_data_pipeline.store.embedded import EmbeddedServer, free_port

CAPACITY, PARTITIONS, RATE = 32, 2, 50_000
SLOW = 10_000
SCREEN = 20
SETTINGS = {"MDP_CHANNEL_CAPACITY": str(CAPACITY), "MDP_COMMIT_FRAMES": "8", "MDP_FRAME_ITEMS": "200"}
LEGEND = """\
in, out: trades brought in, and stored, a second. limit: the published rate.
behind: trades that were due and are not in yet. A store that is well again gets
them beside the new ones: in is over {rate:,} until none is behind."""
HEADER = "  s  store      in     out   behind  frames     limit  high  low   worker"


class SlowStore(JsonLines):
    """Files; while a file ``slow`` stands beside them, only so many items a second in all partitions."""

    free_at: ClassVar[float] = 0.0
    """When the store can take the next items; there is one worker, so its tasks share this."""

    async def write(self, frames: Sequence[Frame]) -> None:
        if (self.path.parent / "slow").exists():
            now = time.monotonic()
            items = sum(len(frame.items) for frame in frames)
            SlowStore.free_at = max(SlowStore.free_at, now - 0.2) + items / SLOW  # what a commit takes is made up for
            await asyncio.sleep(SlowStore.free_at - now)
        await super().write(frames)


def pipeline(output: Path, items: int) -> Pipeline:
    source = Synthetic(symbols=200, items=items, rate=RATE)
    return Pipeline("backpressure").source(source).key_by("symbol").sink(SlowStore(output / "trades"), name="store")


def get(port: int, path: str) -> str:
    """An answer of the coordinator or worker; empty before there is one."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return ""


class Running:
    """A coordinator and a worker of the job, as processes; their logs are in the output folder."""

    def __init__(self, url: str, output: Path, items: int) -> None:
        self._output = output
        self._url, self.items = url, items
        self._ports = {name: free_port() for name in ("coordinator", "worker")}
        self._processes = {name: self._start(name) for name in self._ports}

    def _start(self, name: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", f"mdp_{name}.cli", __file__, "--http-port", str(self._ports[name])]
        command += ["--set", f"output={self._output}", "--set", f"items={self.items}"]
        env = {"MDP_REDIS_URL": self._url, "MDP_ALLOW_VOLATILE": "true", "MDP_PARTITIONS": str(PARTITIONS)}
        with (self._output / f"{name}.log").open("ab") as log:
            return subprocess.Popen(with_parent(command), env={**os.environ, **SETTINGS, **env}, stdout=log, stderr=log)

    def over(self) -> bool:
        """Whether both have ended. Raises when one failed."""
        codes = {name: process.poll() for name, process in self._processes.items()}
        failed = [name for name, code in codes.items() if code]
        if failed:
            words = (self._output / f"{failed[0]}.log").read_text()[-2000:]
            raise click.ClickException(f"{failed[0]} ended with {codes[failed[0]]}:\n{words}")
        return None not in codes.values()

    def status(self) -> dict[str, Any] | None:
        """What the coordinator says of the job; ``None`` before it does."""
        text = get(self._ports["coordinator"], "/api/status")
        return dict(json.loads(text)) if text else None

    def crossings(self) -> dict[str, int]:
        """How often a stream came to its ``high`` and ``low`` level."""
        found = re.findall(
            r'mdp_channel_crossings_total\{.*level="(\w+)"\} ([\d.e+]+)', get(self._ports["worker"], "/metrics")
        )
        return {level: int(float(n)) for level, n in found}

    def worker_mib(self) -> float:
        """The worker's memory."""
        pid = str(self._processes["worker"].pid)
        found = subprocess.run(["ps", "-o", "rss=", "-p", pid], capture_output=True, text=True, check=False).stdout
        return int(found or 0) / 1024

    def end(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()


@contextmanager
def running(output: Path, items: int) -> Iterator[Running]:
    """The job on a server of its own; nothing is left running."""
    with EmbeddedServer() as server:
        job = Running(server.url, output, items)
        try:
            yield job
        finally:
            job.end()


class Table:
    """A line a second; knows the totals of the line before."""

    def __init__(self, items: int) -> None:
        self._items = items
        self._before = (0.0, 0, 0)

    def line(self, at: float, slow: bool, status: dict[str, Any], crossings: dict[str, int], mib: float) -> str:
        """The state ``at`` so many seconds."""
        then, before_in, before_out = self._before
        total_in, total_out = int(status["items_in"]), int(status["items_out"])
        self._before = (at, total_in, total_out)
        passed = max(0.5, at - then)
        longest = max((max(c["lengths"].values()) for c in status["channels"]), default=0)
        rate = status["rates"].get("source")
        limit = "none" if rate is None else f"{rate:,.0f}"
        behind = max(0, min(round(at * RATE), self._items) - total_in)
        return (
            f"{round(at):3}  {'slow' if slow else 'well'}  {(total_in - before_in) / passed:7,.0f}"
            f" {(total_out - before_out) / passed:7,.0f}  {behind:7,}   {longest:2}/{CAPACITY}  {limit:>8}"
            f"  {crossings.get('high', 0):4} {crossings.get('low', 0):4}  {mib:3.0f} MiB"
        )


def watch(job: Running, slow: Path, well_for: int, slow_for: int) -> None:
    """Until the job is over: make the store slow and well again in time, and say each second how it is."""
    began: float | None = None
    table = Table(job.items)
    click.echo(LEGEND.format(rate=RATE))
    while not job.over():
        status = job.status()
        if status is None or not status["items_in"]:
            time.sleep(0.1)
            continue
        began = began or time.monotonic()
        at = time.monotonic() - began
        second = round(at)
        if well_for <= second < well_for + slow_for:
            slow.touch()
        else:
            slow.unlink(missing_ok=True)
        if second % SCREEN == 0:
            click.echo(HEADER)
        click.echo(table.line(at, slow.exists(), status, job.crossings(), job.worker_mib()))
        time.sleep(max(0.0, began + second + 1 - time.monotonic()))


def stored(output: Path) -> list[tuple[str, int]]:
    """Symbol and number of every trade in the files."""
    found = []
    for path in sorted((output / "trades").glob("*.jsonl")):
        with path.open("rb") as file:
            found += [(row["symbol"], row["trade_id"]) for row in map(json.loads, file)]
    return found


@click.command()
@click.option("--output", type=click.Path(path_type=Path), help="Folder for files and logs [a temporary one].")
@click.option("--seconds", default=4, show_default=True, help="So long the store is well before it becomes slow.")
@click.option("--slow", default=8, show_default=True, help="So many seconds the store is slow.")
@click.option("--after", default=20, show_default=True, help="Seconds of trades that follow.")
def main(output: Path | None, seconds: int, slow: int, after: int) -> None:
    """A slow store slows its source down: watch it."""
    items = RATE * (seconds + slow + after)
    with tempfile.TemporaryDirectory() as folder:
        output = output or Path(folder)
        output.mkdir(parents=True, exist_ok=True)
        with running(output, items) as job:
            watch(job, output / "slow", seconds, slow)
        trades = stored(output)
    if len(trades) != items or len(set(trades)) != items:
        raise click.ClickException(
            f"{items:,} trades were sent, {len(trades):,} are stored, {len(set(trades)):,} of them once"
        )
    click.echo(f"all {items:,} trades are stored, each once")


if __name__ == "__main__":
    main()
