"""An exchange by ccxt in a job: provider -> ProviderSource -> dedupe, with a socket that is cut, and with two feeds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tools.captures import Capture, coinbase, needs_coinbase, synthetic
from tools.exchange_server import ExchangeServer

from market_data_pipeline.dag.pipeline import Pipeline
from market_data_pipeline.operators.stateless import Filter
from market_data_pipeline.records import Gap, Trade
from market_data_pipeline.runtime.local import DagRuntime
from market_data_pipeline.sinks.collect import Collect
from market_data_pipeline.sources.ccxt import CcxtProvider
from market_data_pipeline.sources.provider import VenueLimits
from market_data_pipeline.sources.provider_source import ProviderSource
from market_data_pipeline.sources.reconnect import Reconnect

FEEDS = [
    pytest.param(synthetic, id="made up"),
    pytest.param(coinbase, id="recorded", marks=needs_coinbase),
]
QUICK = Reconnect(first="1ms", most="5ms", seed=1)


def provider(server: ExchangeServer) -> CcxtProvider:
    urls = {"api": {"public": server.http, "ws": server.ws}}
    limits = VenueLimits(per_second=1000.0)  # feeds of one venue share its budget, and the recording does not wait
    return CcxtProvider("coinbaseexchange", options={"rateLimit": 1, "timeout_on_exit": 1, "urls": urls}, limits=limits)


async def run(capture: Capture, providers: Sequence[CcxtProvider]) -> tuple[list[Any], DagRuntime]:
    """What comes out of the job, which is stopped when it has seen the last trade of each symbol."""
    seen: set[tuple[str, Any]] = set()
    all_there = asyncio.Event()

    def watched(item: Any) -> bool:
        seen.add((item.symbol, getattr(item, "trade_id", None)))
        if seen >= capture.trades():
            all_there.set()
        return True

    out = Collect()
    source = ProviderSource(providers, capture.symbols, reconnect=QUICK, max_delay=None, idle_after=None, live=False)
    job = Pipeline("feed").source(source).key_by("symbol").dedupe("symbol", "trade_id")
    runtime = DagRuntime(job.operator(Filter(watched)).sink(out))
    running = asyncio.create_task(runtime.start())
    async with asyncio.timeout(30):
        await asyncio.wait([running, asyncio.create_task(all_there.wait())], return_when=asyncio.FIRST_COMPLETED)
        runtime.stop()
        await running
    return out.items, runtime


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("make", FEEDS)
async def test_exactly_the_trades_of_the_recording_come_out(make: Callable[[], Capture], cut: bool) -> None:
    capture = make()
    middle = len(capture.messages) // 2
    expected = {("matches", product) for product in capture.products}
    async with ExchangeServer(capture, cuts=[middle] if cut else [], overlap=middle // 3, expected=expected) as server:
        items, runtime = await run(capture, [provider(server)])
    trades = [item for item in items if isinstance(item, Trade)]
    assert sorted((t.symbol, t.trade_id) for t in trades) == sorted(capture.trades())
    assert len(trades) == (107 if make is coinbase else 63)
    assert [item for item in items if isinstance(item, Gap)] == [], "the replay overlaps: nothing was missed"
    assert server.connections == 1 + cut
    assert not runtime.dead_letters


async def test_what_was_missed_is_told_exactly() -> None:
    capture = synthetic(["AAA-USD"], rounds=20)
    matches = [at for at, message in enumerate(capture.messages) if message.type == "match"]
    hole = {capture.messages[at].body["trade_id"] for at in matches[9:14]}
    cut, again = matches[9], matches[14]
    server = ExchangeServer(capture, cuts=[cut], overlap=cut - again, expected={("matches", "AAA-USD")})
    async with server:  # the second connection begins behind the hole; its last_match is the hole's last trade
        seen = Capture(
            tuple(m for m in capture.messages if m.body.get("trade_id") not in sorted(hole)[:-1]), capture.http
        )
        items, runtime = await run(seen, [provider(server)])
    gaps = [item for item in items if isinstance(item, Gap)]
    assert [(gap.first, gap.last, gap.missing) for gap in gaps] == [(min(hole), max(hole) - 1, len(hole) - 1)]
    assert {item.trade_id for item in items if isinstance(item, Trade)} == {number for _, number in seen.trades()}
    assert runtime.counts["source"]["recovered"] == 1


async def test_two_feeds_of_one_venue() -> None:
    capture = synthetic()
    expected = {("matches", product) for product in capture.products}
    cuts = [len(capture.messages) // 3]
    async with (
        ExchangeServer(capture, expected=expected, cuts=cuts) as a,
        ExchangeServer(capture, expected=expected) as b,
    ):
        items, _ = await run(capture, [provider(a), provider(b)])
    trades = [item for item in items if isinstance(item, Trade)]
    assert sorted((t.symbol, t.trade_id) for t in trades) == sorted(capture.trades())
    assert [item for item in items if isinstance(item, Gap)] == []
