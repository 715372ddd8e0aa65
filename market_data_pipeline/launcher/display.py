"""What ``mdp run`` and ``mdp status`` show: a live table on a terminal, plain lines elsewhere, a summary at the end."""

from __future__ import annotations

import sys
import time
from collections import Counter
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from market_data_pipeline.frame import END
from market_data_pipeline.store.status import JobStatus
from market_data_pipeline.terminal import visible

_LINE_EVERY = 2.0
_BAR_WIDTH = 24


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


class LiveTable:
    """A table that is drawn again in place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, status: JobStatus, rate: float) -> None:
        self._live.update(render(status, rate))

    def say(self, text: str) -> None:
        self._live.console.print(visible(text, lines=True), markup=False, highlight=False)


class Lines:
    """A line every two seconds, for logs and pipes."""

    def __init__(self) -> None:
        self._shown_at = 0.0

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
            f" ended={status.tasks_ended}/{status.tasks}"
        )

    def say(self, text: str) -> None:
        print(visible(text, lines=True), file=sys.stderr, flush=True)  # noqa: T201 - this is the display


def choose_display(plain: bool) -> Display:
    """The table on a terminal, lines elsewhere or when asked for."""
    console = Console(stderr=True)
    return LiveTable(console) if console.is_terminal and not plain else Lines()


def watermark_lag(status: JobStatus) -> str:
    """How far the slowest subgraph's watermark is behind the fastest, in event time."""
    marks = [mark for mark in status.watermarks.values() if mark is not None]
    if len(marks) < len(status.watermarks):
        return "-"
    going = [mark for mark in marks if mark != END]
    return f"{(max(going) - min(going)) / 1e9:.3f}s" if len(going) == len(marks) and going else "0s"


def render(status: JobStatus, rate: float | None) -> Group:
    """The whole table; without a rate where nobody measured one."""
    speed = "" if rate is None else f"   {rate:,.0f} items/s"
    head = Text.assemble(
        (f"{status.job} ", "bold"), f"plan {status.fingerprint}  ", (status.state, "green" if not status.error else "red"),
        f"{speed}   in {status.items_in:,}   out {status.items_out:,}"
        f"   watermark lag {watermark_lag(status)}   dead letters {status.dead_letters:,}"
        f"   tasks ended {status.tasks_ended}/{status.tasks}",
    )  # fmt: skip
    return Group(head, _channels(status), _nodes(status), _owners(status))


def _channels(status: JobStatus) -> Table:
    table = Table("channel", "backlog (frames)", "fullest stream", box=None, pad_edge=False)
    for channel in status.channels:
        fullest = max(channel.lengths.values(), default=0)
        filled = round(_BAR_WIDTH * fullest / channel.capacity)
        bar = "█" * filled + "·" * (_BAR_WIDTH - filled)
        table.add_row(
            channel.name,
            f"{channel.backlog}/{channel.capacity * len(channel.lengths)}",
            f"{bar} {fullest}/{channel.capacity}",
        )
    return table


def _nodes(status: JobStatus) -> Table:
    table = Table("node", "in", "out", "other", box=None, pad_edge=False)
    for name, counts in status.nodes.items():
        other = ", ".join(f"{key} {n:,}" for key, n in sorted(counts.items()) if key not in ("in", "out"))
        table.add_row(name, f"{counts.get('in', 0):,}", f"{counts.get('out', 0):,}", other)
    return table


def _owners(status: JobStatus) -> Table:
    table = Table("worker", "partitions", box=None, pad_edge=False)
    for worker in status.workers:
        table.add_row(visible(worker["name"]), _ranges(worker["partitions"]))
    orphans = [p for p in range(status.partitions) if not status.owners.get(p)]
    if orphans:
        table.add_row(Text("nobody", "red"), _ranges(orphans))
    return table


def _ranges(numbers: list[int]) -> str:
    """``[0, 1, 2, 5]`` as ``0-2 5``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return " ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts) or "none"


def summary(status: JobStatus, seconds: float, outputs: list[str], rate: float) -> str:
    """The end of a run, a line per fact."""
    totals: Counter[str] = Counter(
        {name: status.total(name) for name in ("duplicate", "late", "dead_letter", "unkeyed", "skipped")}
    )
    latency = " / ".join(
        f"{name} {'-' if value is None else f'{value * 1000:,.1f} ms'}" for name, value in status.latency.items()
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
    if totals["unkeyed"]:
        lines.append(f"  without a key       {totals['unkeyed']:,}  (passed on, not deduplicated)")
    if totals["skipped"]:
        lines.append(f"  skipped             {totals['skipped']:,}")
    lines += [f"  items/s             {rate:,.0f}", f"  latency             {latency}"]
    lines += [f"  written to          {output}" for output in outputs]
    return "\n".join(lines)
