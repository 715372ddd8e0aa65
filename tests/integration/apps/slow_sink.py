"""A job whose sink takes its time."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from market_data_pipeline import ChannelOptions, Frame, JsonLines, NodeOptions, Pipeline, Synthetic


class SlowFiles(JsonLines):
    """Waits before each write."""

    def __init__(self, path: Path, delay: float) -> None:
        super().__init__(path)
        self.delay = delay

    async def write(self, frames: Sequence[Frame]) -> None:
        await asyncio.sleep(self.delay)
        await super().write(frames)


def pipeline(output: Path, items: int, delay: float, capacity: int | None = None) -> Pipeline:
    source, sink = Synthetic(symbols=20, items=items, rate=20_000), SlowFiles(output, delay)
    options = NodeOptions(channel=ChannelOptions(capacity=capacity))
    return Pipeline("slow").source(source).key_by("symbol").sink(sink, name="files").options(options)
