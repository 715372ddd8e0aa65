"""The state of a job as a table on a terminal: what ``mdp run`` draws again and again, and ``mdp status`` once."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from market_data_pipeline.launcher.display import latencies, limited, stores, waits, watermark_lag
from market_data_pipeline.store.status import JobStatus
from market_data_pipeline.terminal import visible

_BAR_WIDTH = 24


class LiveTable:
    """A table that is drawn again in place."""

    def __init__(self) -> None:
        self._live = Live(console=Console(stderr=True), refresh_per_second=8, transient=True)

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
        """The terminal wraps it where it must, so that it can be copied as one line."""
        self._live.console.print(visible(text, lines=True), markup=False, highlight=False, soft_wrap=True)


class Phrases:
    """Phrases in as few lines as the width allows; a line ends between two of them."""

    def __init__(self, phrases: list[Text]) -> None:
        self._phrases = [phrase for phrase in phrases if phrase.plain]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = Text()
        for phrase in self._phrases:
            if line.plain and line.cell_len + 3 + phrase.cell_len > options.max_width:
                yield line
                line = Text()
            line = Text.assemble(line, "   " if line.plain else "", phrase)
        yield line


def render(status: JobStatus, rate: float | None) -> Group:
    """The whole table; without a rate where nobody measured one."""
    job = Text.assemble(
        (f"{status.job} ", "bold"), f"plan {status.fingerprint}  ", (status.state, "green" if not status.error else "red")
    )  # fmt: skip
    facts = [
        "" if rate is None else f"{rate:,.0f} items/s",
        f"in {status.items_in:,}", f"out {status.items_out:,}", f"watermark lag {watermark_lag(status)}",
        f"dead letters {status.dead_letters:,}", f"tasks ended {status.tasks_ended}/{status.tasks}",
    ]  # fmt: skip
    slowed = Text(visible(limited(status, "slowed down: {}, see 'Backpressure' in operations.md")), "yellow")
    head = Phrases([job, *map(Text, facts), slowed])
    troubles = [Text(line, "yellow") for line in waits(status)]
    known = latencies(status)
    latency = [Text(f"latency {known}")] if known else []
    return Group(
        head, *latency, *troubles, *map(Text, stores(status)), _channels(status), _nodes(status), _owners(status)
    )


def _channels(status: JobStatus) -> Table:
    table = Table("channel", "backlog (frames)", "items", "fullest stream", box=None, pad_edge=False)
    for channel in status.channels:
        fullest = max(channel.lengths.values(), default=0)
        filled = round(_BAR_WIDTH * fullest / channel.capacity)
        bar = "█" * filled + "·" * (_BAR_WIDTH - filled)
        table.add_row(
            channel.name,
            f"{channel.backlog}/{channel.capacity * len(channel.lengths)}",
            f"{channel.items:,}",
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
