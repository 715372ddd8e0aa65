"""What docs/connectors.md shows of a feed's events and gaps runs as printed."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from market_data_pipeline.runtime.local import DagRuntime
from market_data_pipeline.sources.provider_source import ProviderSource
from tests.tools.feed_reading import QUICK, trade
from tests.tools.line_feed import LineFeed, LineProvider

PAGE = Path(__file__).resolve().parents[3] / "docs" / "connectors.md"


def written(folder: Path) -> list[Any]:
    return [orjson.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_bytes().splitlines()]


async def test_events_and_gaps_go_where_the_page_sends_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = re.search(r"<!-- run by tests/\S+test_provider_docs\.py -->\n\n```python\n(.*?)```", PAGE.read_text(), re.S)
    assert found is not None
    async with LineFeed() as line:
        names: dict[str, Any] = {"feed": ProviderSource(LineProvider(line.port), ["A"], reconnect=QUICK)}
        exec(found[1], names)
        running = asyncio.create_task(DagRuntime(names["dag"]).start())
        try:
            await line.subscribed("A")
            await line.send(trade(1))
            await line.cut()
            await line.subscribed("A", 2)
            await line.send(trade(4))
            await line.say({"end": True})
            await asyncio.wait_for(running, 20)
        finally:
            running.cancel()
    out = tmp_path / "out"
    assert [event["event"] for event in written(out / "events")][:3] == ["connected", "disconnected", "connected"]
    assert [(gap["first"], gap["last"]) for gap in written(out / "gaps")] == [(2, 3)]
    assert [bar["trade_count"] for bar in written(out / "bars")] == [2]
