"""What a file sink does with bytes that were not committed, and with committed ones that are not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from market_data_pipeline.errors import CorruptState
from market_data_pipeline.frame import Frame
from market_data_pipeline.sinks.base import SinkContext
from market_data_pipeline.sinks.file import STAGING, JsonLines


async def opened(folder: Path, epoch: int, state: Any = None) -> JsonLines:
    sink = JsonLines(folder)
    await sink.open(SinkContext("out", "0123456789abcdef", 0, epoch, f"owner{epoch}"), state)
    return sink


async def step(sink: JsonLines, *numbers: int, ended: bool = False) -> Any:
    await sink.write([Frame([{"n": n} for n in numbers])])
    state = await sink.prepare(ended)
    await sink.committed()
    return state


def published(folder: Path) -> list[int]:
    return [json.loads(line)["n"] for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("epoch", [1, 2], ids=["by the same owner", "by another"])
async def test_a_long_step_that_was_not_committed_leaves_nothing_behind_a_short_one(tmp_path: Path, epoch: int) -> None:
    first = await opened(tmp_path, 1)
    state = await step(first, 1, 2)
    await first.write([Frame([{"n": n} for n in range(1000, 1100)])])
    await first.prepare(False)
    again = await opened(tmp_path, epoch, state)
    await step(again, 3, ended=True)
    assert published(tmp_path) == [1, 2, 3]


async def test_a_sealed_file_that_is_too_short_is_not_published(tmp_path: Path) -> None:
    first = await opened(tmp_path, 1)
    await first.write([Frame([{"n": 1}, {"n": 2}])])
    state = await first.prepare(True)
    staged = tmp_path / STAGING / state["sealed"][0][0]
    staged.write_bytes(staged.read_bytes()[:-3])
    with pytest.raises(CorruptState, match="bytes were committed"):
        await opened(tmp_path, 2, state)
    assert published(tmp_path) == []


async def test_a_published_file_that_became_too_short_stops_the_task(tmp_path: Path) -> None:
    first = await opened(tmp_path, 1)
    state = await step(first, 1, 2, ended=True)
    (path,) = tmp_path.glob("*.jsonl")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CorruptState, match="bytes were committed"):
        await opened(tmp_path, 2, state)
