"""A live feed in a job: provider -> dedupe -> bars, with a feed that is cut, and with two feeds."""

from __future__ import annotations

import asyncio

from market_data_pipeline.dag.graph import Dag, Node
from market_data_pipeline.dag.pipeline import Pipeline
from market_data_pipeline.operators.bars import TumblingBars
from market_data_pipeline.operators.dedupe import Dedupe
from market_data_pipeline.records import Gap, Trade
from market_data_pipeline.runtime.local import DagRuntime
from market_data_pipeline.sinks.collect import Collect
from market_data_pipeline.sources.provider_source import ProviderSource
from tests.tools.feed_reading import PATIENT, QUICK
from tests.tools.line_feed import LineFeed, LineProvider

SECOND = 1_000_000_000


def trade(number: int, second: float) -> Trade:
    return Trade("A", int(second * SECOND), 0, 100.0 + number, 1.0, trade_id=number)


def _source(*ports: int) -> ProviderSource:
    return ProviderSource(
        [LineProvider(port) for port in ports],
        ["A"],
        reconnect=QUICK,
        circuit=PATIENT,
        max_delay=0,
        idle_after=None,
        live=False,
    )


async def test_bars_around_a_gap_are_partial() -> None:
    async with LineFeed() as feed:
        bars, events = Collect(), Collect()
        dag = Dag("cut")
        for name, fn in [
            ("feed", _source(feed.port)),
            ("dedupe", Dedupe("symbol", "trade_id")),
            ("bars", TumblingBars("1s")),
            ("out", bars),
            ("events", events),
        ]:
            dag.add_node(Node(name, fn))
        dag.add_edge("feed", "dedupe")
        dag.add_edge("dedupe", "bars", key="symbol")
        dag.add_edge("bars", "out")
        dag.add_edge("feed", "events", output="events")
        runtime = DagRuntime(dag)
        running = asyncio.create_task(runtime.start())
        await feed.subscribed("A")
        await feed.send(trade(1, 10.1), trade(2, 11.1), trade(3, 11.9), trade(4, 12.2))
        await feed.cut()
        await feed.subscribed("A", 2)
        await feed.send(trade(3, 11.9), trade(4, 12.2), trade(7, 14.5), trade(8, 15.1), trade(9, 16.1))
        await feed.cut()
        await feed.subscribed("A", 3)
        await feed.send(trade(9, 16.1), trade(10, 16.2))
        await feed.say({"end": True})
        async with asyncio.timeout(20):
            await running
    assert [(bar.ts_open // SECOND, bar.trade_count, bar.partial) for bar in bars.items] == [
        (10, 1, True),  # the first of a symbol always is
        (11, 2, False),
        (12, 1, True),  # 5 and 6 are missing
        (14, 1, True),
        (15, 1, False),
        (16, 2, False),  # cut, and nothing is missing
    ]
    assert [event.event for event in events.items] == [
        "connected", "disconnected", "connected", "disconnected", "connected", "disconnected",
    ]  # fmt: skip
    counts = runtime.counts["feed"]
    assert (counts["gap"], counts["missing"], counts["connected"]) == (1, 2, 3)
    assert (counts["in"], counts["out"]) == (4 + 5 + 2 + 1, 4 + 5 + 2 + 1 + 6), "an event is no item that came in"
    assert runtime.counts["dedupe"]["duplicate"] == 3


async def test_two_feeds_of_one_venue_give_their_union_once() -> None:
    """Each feed lacks what the other has, is cut while the other is there, and sends it all in another rhythm."""
    trades = [trade(number, 10 + number / 100) for number in range(1, 201)]
    async with LineFeed() as first, LineFeed() as second:
        out = Collect()
        pipeline = Pipeline("two").source(_source(first.port, second.port)).key_by("symbol")
        runtime = DagRuntime(pipeline.dedupe("symbol", "trade_id").sink(out))
        running = asyncio.create_task(runtime.start())
        await first.subscribed("A")
        await second.subscribed("A")
        await first.send(*trades[:80])
        await second.send(*trades[:30])
        await first.cut()
        await second.send(*trades[30:150])
        await first.subscribed("A", 2)
        await first.send(*trades[140:170])
        await second.cut()
        await first.send(*trades[170:])
        await second.subscribed("A", 2)
        await second.send(*trades[160:])
        await first.say({"end": True})
        await second.say({"end": True})
        async with asyncio.timeout(20):
            await running
    gaps = [item for item in out.items if isinstance(item, Gap)]
    assert sorted(item.trade_id for item in out.items if isinstance(item, Trade)) == list(range(1, 201))
    assert gaps == []
    counts = runtime.counts["dedupe"]
    assert counts["duplicate"] == 80 + 30 + 120 + 30 + 30 + 40 - 200
    assert counts["conflict"] == 0
