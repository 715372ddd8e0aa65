"""What the benches share: the arguments, the table, processes and their CPU, and one run of a job over real processes.

A bench prints exactly one Markdown table to standard output (``print_table``) and everything else to standard error
(``say``). Its figures are medians of ``--runs`` runs; what is compared takes turns within one run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import redis

from market_data_pipeline.app import load_app
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.packing import unpack, unseal
from market_data_pipeline.store.client import connect_blocking
from market_data_pipeline.store.embedded import EmbeddedServer
from market_data_pipeline.store.keys import Keys, job_key

HERE = Path(__file__).resolve().parent
PARTITIONS = 8
KINDS = ("workers", "server", "coordinator+launcher")
"""Kinds of processes of a job, as CPU is told of them."""
_LOOK_SECONDS = 0.01


# --- arguments and output -----------------------------------------------------------------------------------------


def bench_parser(doc: str | None, runs: int = 5) -> argparse.ArgumentParser:
    """A parser with what every bench takes: ``--runs`` and ``--smoke``. ``doc`` becomes the help."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=runs, help=f"medians are of so many runs (default {runs})")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one run: only to see that it works")
    return parser


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, every row of the header's length."""
    lines = [header, ["---"] * len(header), *rows]
    assert all(len(line) == len(header) for line in lines), "a row is not as long as the header"
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A Markdown table, on standard output."""
    print(table(header, rows), flush=True)


def count(value: float) -> str:
    """A rate or a number to three digits: ``2,830,000``."""
    digits = max(0, len(str(int(abs(value)))) - 3)
    return f"{round(value / 10**digits) * 10**digits:,}"


def spread(values: Sequence[float]) -> str:
    """Median with the smallest and the largest: ``2,830,000 (2,600,000 - 2,990,000)``."""
    middle = count(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({count(min(values))} - {count(max(values))})"


# --- processes ----------------------------------------------------------------------------------------------------


def _fields_of(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` behind the name; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def cpu_seconds(pid: int) -> float | None:
    """CPU that a process has used, ``None`` when it is gone."""
    fields = _fields_of(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else None


def children_of(pid: int) -> dict[int, str]:
    """Command lines of the living children of ``pid``."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _fields_of(int(entry.name))) and int(fields[1]) == pid:
            try:
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


# --- a job --------------------------------------------------------------------------------------------------------


@dataclass
class JobRun:
    """One run of a job. ``rate``: see :func:`run_job`. ``cpu``: ns per item by kind of process, over the same time as the
    rate. ``summary``: what ``mdp run --json`` said. ``server``: the server's ``INFO all`` at the end."""

    rate: float
    seconds: float
    cpu: dict[str, float]
    summary: dict
    server: dict = field(default_factory=dict)

    def latency(self, percentile: str) -> float | None:
        """Seconds, ``p50`` or ``p99``, from an item's entering to the committed sink."""
        return self.summary["latency"][percentile]


def mdp_run(
    app: Path, sets: Mapping[str, object], url: str, workers: int = 2, partitions: int = PARTITIONS
) -> list[str]:
    """The command that runs ``app`` over the server at ``url``, which keeps nothing."""
    command = [
        sys.executable,
        "-m",
        "market_data_pipeline.cli",
        "run",
        str(app),
        "--json",
        "--plain",
        "--allow-volatile",
    ]
    command += ["--workers", str(workers), "--partitions", str(partitions), "--redis-url", url]
    return command + [part for name, value in sets.items() for part in ("--set", f"{name}={value}")]


def run_job(
    app: Path, items: int, sets: Mapping[str, object], workers: int = 2, partitions: int = PARTITIONS
) -> JobRun:
    """Run ``app`` with ``mdp run`` over a server of its own: launcher, coordinator, ``workers`` and server.

    The rate is taken from outside, by looking at the server a hundred times a second: the items that came in behind the first
    commit of the source, divided by the time from that commit to the last commit of any task. So neither the start nor
    the end of the processes counts, and what is still in the streams when the source is done does.
    """
    with EmbeddedServer() as server, connect_blocking(server.url) as client:
        given = {"items": items, **sets}
        command = mdp_run(app, given, server.url, workers, partitions)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        sets = {name: str(value) for name, value in given.items()}
        watch = _Watch(client, process, server.pid, app, sets, partitions)
        watch.until_the_end()
        info = client.info("all")
        out, errors = process.communicate()
    if process.returncode:
        sys.exit(errors)
    summary = json.loads(out)
    assert summary["items_in"] == items, f"{summary['items_in']} of {items} items came in"
    return replace(watch.judged(summary), server=info)


@dataclass
class _Sample:
    """A look: when, how many items had come in, how many tasks had ended, CPU seconds by process."""

    at: float
    items: int
    ended: int
    cpu: dict[int, float]


@dataclass
class _Watch:
    client: redis.Redis
    process: subprocess.Popen[str]
    server: int
    app: Path
    sets: dict[str, str]
    partitions: int
    kinds: dict[int, str] = field(default_factory=dict)

    def until_the_end(self) -> None:
        """Look until the launcher is gone; keeps the first look with items, and the one at which the last task ended."""
        dag = load_app(str(self.app), self.sets)
        plan = compile_dag(dag, self.partitions)
        fed = {edge.dst for edge in plan.edges}
        sources = {node.name for node in plan.nodes if node.name not in fed}
        subgraphs = {plan.subgraph_of[name].name for name in sources}
        tasks = [task for task in plan.tasks() if task.subgraph in subgraphs]
        keys: Keys | None = None
        self.first: _Sample | None = None
        self.last: _Sample | None = None
        while self.process.poll() is None:
            time.sleep(_LOOK_SECONDS)
            uid = self.client.hget(job_key(dag.name), "uid") if keys is None else None
            keys = Keys(dag.name) if uid else keys
            if keys is None:
                continue
            if self.first is None:
                now = time.perf_counter()
                items = sum(self._emitted(keys.task(task), sources) for task in tasks)
                self.first = self._sample(now, items) if items else None
                continue
            ended = int(self.client.scard(keys.ended))
            if self.last is None or ended > self.last.ended:
                self.last = self._sample(time.perf_counter(), ended=ended)

    def _emitted(self, record: str, sources: set[str]) -> int:
        blob = self.client.hget(record, "meta")
        counts = unpack(unseal(blob, record)).get("counts", {}) if blob else {}
        return sum(counts.get(name, {}).get("out", 0) for name in sources)

    def _sample(self, at: float, items: int = 0, ended: int = 0) -> _Sample:
        """What is to be called ``at``: the first look before it asks for the items, the last one behind its answer."""
        if not self.kinds:
            self.kinds = {self.process.pid: KINDS[2], self.server: KINDS[1]}
            for pid, command in children_of(self.process.pid).items():
                self.kinds[pid] = KINDS[0] if "mdp_worker" in command else KINDS[2]
        cpu = {pid: used for pid in self.kinds if (used := cpu_seconds(pid)) is not None}
        return _Sample(at, items, ended, cpu)

    def judged(self, summary: dict) -> JobRun:
        """The run's figures. With very few items all may come in with the first commit: then all count."""
        first, last = self.first, self.last
        assert first is not None, "no look found the first commit"
        assert last is not None, "no look found the end of the job"
        assert last.ended == summary["tasks"], f"{last.ended} of {summary['tasks']} tasks were seen to end"
        items = summary["items_in"] - first.items or summary["items_in"]
        seconds = last.at - first.at
        cpu: Counter[str] = Counter(dict.fromkeys(KINDS, 0.0))
        for pid, used in last.cpu.items():
            cpu[self.kinds[pid]] += (used - first.cpu.get(pid, 0.0)) * 1e9 / items
        return JobRun(items / seconds, seconds, dict(cpu), summary)
