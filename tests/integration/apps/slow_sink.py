"""A job whose sink takes its time."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from market_data_pipeline import ChannelOptions, Frame, JsonLines, NodeOptions, Pipeline, Synthetic


class SlowFiles(JsonLines):
    """Waits before each write: ``delay`` seconds, and for the file ``gate``."""

    def __init__(self, path: Path, delay: float, gate: Path | None) -> None:
        super().__init__(path)
        self.delay, self.gate = delay, gate

    async def write(self, frames: Sequence[Frame]) -> None:
        await asyncio.sleep(self.delay)
        while self.gate is not None and not self.gate.exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.02)
        await super().write(frames)


def pipeline(output: Path, items: int, delay: float, capacity: int | None = None, gate: Path | None = None) -> Pipeline:
    source, sink = Synthetic(symbols=20, items=items, rate=20_000), SlowFiles(output, delay, gate)
    options = NodeOptions(channel=ChannelOptions(capacity=capacity))
    return Pipeline("slow").source(source).key_by("symbol").sink(sink, name="files").options(options)
