"""What ``mdp run`` shows: a live table on a terminal, plain lines elsewhere, a summary at the end."""

from __future__ import annotations

import sys
import time
from collections import Counter
from types import TracebackType
from typing import Protocol, Self

from market_data_pipeline.frame import END
from market_data_pipeline.store.status import JobStatus
from market_data_pipeline.terminal import visible

_LINE_EVERY = 2.0


class Display(Protocol):
    """Something that shows the progress of a job."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, status: JobStatus, rate: float) -> None:
        """The job now; ``rate`` in items per second."""

    def say(self, text: str) -> None:
        """One line that stays."""


class Lines:
    """A line every two seconds, for logs and pipes."""

    def __init__(self) -> None:
        self._shown_at = 0.0
        self._waiting: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, status: JobStatus, rate: float) -> None:
        now = time.monotonic()
        if now - self._shown_at < _LINE_EVERY:
            return
        self._shown_at = now
        backlog = " ".join(f"{c.name}={c.backlog}/{c.capacity * len(c.lengths)}" for c in status.channels)
        self.say(
            f"in={status.items_in:,} out={status.items_out:,} rate={rate:,.0f}/s backlog[{backlog}]"
            f" lag={watermark_lag(status)} dead={status.dead_letters} workers={len(status.workers)}"
            f" ended={status.tasks_ended}/{status.tasks}{limited(status, ' limited[{}]')}"
        )
        waiting, before = waits(status), self._waiting
        for line in waiting:
            if line not in before:
                self.say(line)
        if before and not waiting:
            self.say("waits: no task any more")
        self._waiting = waiting

    def say(self, text: str) -> None:
        print(visible(text, lines=True), file=sys.stderr, flush=True)  # noqa: T201 - this is the display


def choose_display(plain: bool) -> Display:
    """The table on a terminal, lines elsewhere or when asked for."""
    if plain or not sys.stderr.isatty():
        return Lines()
    from market_data_pipeline.launcher.live_table import LiveTable  # noqa: PLC0415 - rich only where it draws

    return LiveTable()


def limited(status: JobStatus, pattern: str) -> str:
    """The sources that may bring in only so many items a second, and because of whose store where one says so, put into
    ``pattern``; empty where none is limited."""
    presses = {name: f" (store of {', '.join(nodes)})" for name, nodes in status.presses.items()}
    rates = ", ".join(f"{name} {rate:,.0f}/s{presses.get(name, '')}" for name, rate in sorted(status.rates.items()))
    return pattern.format(rates) if rates else ""


def stores(status: JobStatus) -> list[str]:
    """How the stores are that say it, a line each."""
    return [
        f"store of {node}: {said.queue_depth:,.0f} wait, high {said.high:,.0f}, low {said.low:,.0f}"
        + (f", a write {said.write_seconds:,.3f} s" if said.write_seconds else "")
        for node, said in status.stores.items()
    ]


def waits(status: JobStatus) -> list[str]:
    """What tasks wait for, a line per cause."""
    return [visible(str(trouble)) for trouble in status.troubles]


def latencies(status: JobStatus) -> str:
    """From source to commit, by percentile; empty before anything was measured."""
    if all(value is None for value in status.latency.values()):
        return ""
    known = {name: "-" if value is None else f"{value * 1000:,.1f} ms" for name, value in status.latency.items()}
    return " / ".join(f"{name} {value}" for name, value in known.items())


def watermark_lag(status: JobStatus) -> str:
    """How far the slowest subgraph's watermark is behind the fastest, in event time."""
    marks = [mark for mark in status.watermarks.values() if mark is not None]
    if len(marks) < len(status.watermarks):
        return "-"
    going = [mark for mark in marks if mark != END]
    return f"{(max(going) - min(going)) / 1e9:.3f}s" if len(going) == len(marks) and going else "0s"


def summary(
    status: JobStatus, seconds: float, outputs: list[str], rate: float, *, gone: bool = False, lists: bool = False
) -> str:
    """The end of a run, a line per fact. ``gone``: the server has kept nothing with which the job could go on.
    ``lists``: sinks may get lists, and refuse single items of them."""
    totals: Counter[str] = Counter(
        {name: status.total(name) for name in ("duplicate", "late", "dead_letter", "unkeyed", "skipped")}
    )
    lines = [
        f"job {status.job}: {'interrupted' if status.state == 'running' else status.state} after {seconds:.1f} s",
        f"  items in            {status.items_in:,}",
        f"  items out           {status.items_out:,}",
        f"  duplicates dropped  {totals['duplicate']:,}",
        f"  late, dropped       {totals['late']:,}",
        f"  dead letters        {totals['dead_letter']:,}",
    ]
    if status.first_dead_letter:
        lines.append(f"    the first:        {visible(status.first_dead_letter)}")
    lines += [f"  {line}" for line in waits(status)]
    if totals["unkeyed"]:
        lines.append(f"  without a key       {totals['unkeyed']:,}  (passed on, not deduplicated)")
    if totals["skipped"]:
        lines.append(f"  skipped             {totals['skipped']:,}")
    lines.append(f"  items/s             {rate:,.0f}")
    if known := latencies(status):
        lines.append(f"  latency             {known}")
    lines += [f"  written to          {output}" for output in outputs]
    lines += nothing_stored(status, lists)
    if status.state in ("running", "failed") and not gone:
        lines.append(
            f"{'once its cause is gone, ' if status.state == 'failed' else ''}the same command goes on from here"
        )
    elif status.state == "running":
        lines.append(
            "what was read and not written is gone with this run, a new one begins at the start; with --data-dir DIR it resumes"
        )
    return "\n".join(lines)


def nothing_stored(status: JobStatus, lists: bool = False) -> list[str]:
    """A sentence for each node that made a dead letter of everything: the job ends well, and nothing came of it.
    Not of sinks that may get ``lists``: they count lists, and what they refuse in them one by one."""
    found = []
    for name, counts in status.nodes.items():
        dead = counts.get("dead_letter", 0)
        given = counts.get("out", 0) + dead if name in status.sources else counts.get("in", 0)
        if dead and dead == given and not (lists and name in status.sinks):
            what = "stored" if name in status.sinks else "brought in" if name in status.sources else "taken"
            items = f"all {dead:,} items are dead letters" if dead > 1 else "the one item is a dead letter"
            found.append(
                f"nothing was {what} by {name!r}: {items}; the first: {visible(status.first_dead_letter)};"
                " on a server that stays (--redis-url), mdp dlq shows them"
            )
    return found
