"""Coroutine nodes across processes: the same functions that run in one."""

from pathlib import Path
from typing import Any

from market_data_pipeline import Dag, JsonLines, Node, Synthetic
from market_data_pipeline.orchestration.dag import map_async

Channels = dict[str, Any]


async def double(in_ch: Channels, out_ch: Channels) -> None:
    await map_async(in_ch["source"], out_ch["tag"], lambda trade: {"symbol": trade.symbol, "n": trade.trade_id * 2})


async def tag(in_ch: Channels, out_ch: Channels) -> None:
    async for item in in_ch["double"]:
        await out_ch["files"].put({**item, "tagged": True})


def dag(output: Path, items: int = 20_000) -> Dag:
    graph = Dag("coroutines")
    graph.add_node(Node("source", Synthetic(symbols=20, items=items, rate=20_000)))
    graph.add_node(Node("double", double))
    graph.add_node(Node("tag", tag))
    graph.add_node(Node("files", JsonLines(output)))
    graph.add_edge("source", "double", key="symbol")
    graph.add_edge("double", "tag", key="symbol")
    graph.add_edge("tag", "files")
    return graph
