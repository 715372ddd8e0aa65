"""The smallest job, in this process: 25 dicts, doubled, in micro-batches of 5, printed.

python examples/basic.py
"""

import asyncio
from typing import Any

from market_data_pipeline.orchestration.dag import Dag, DagRuntime, Node, buffer_async, map_async

Channels = dict[str, Any]


async def numbers(in_ch: Channels, out_ch: Channels) -> None:
    for n in range(25):
        await out_ch["double"].put({"n": n})


async def double(in_ch: Channels, out_ch: Channels) -> None:
    await map_async(in_ch["numbers"], out_ch["batch"], lambda item: {**item, "n2": item["n"] * 2})


async def batch(in_ch: Channels, out_ch: Channels) -> None:
    await buffer_async(in_ch["double"], out_ch["show"], max_items=5, flush_interval=0.1)


async def show(in_ch: Channels, out_ch: Channels) -> None:
    async for items in in_ch["batch"]:
        print(items)


def dag() -> Dag:
    graph = Dag("basic")
    for name, fn in {"numbers": numbers, "double": double, "batch": batch, "show": show}.items():
        graph.add_node(Node(name, fn))
    for src, dst in [("numbers", "double"), ("double", "batch"), ("batch", "show")]:
        graph.add_edge(src, dst)
    return graph


if __name__ == "__main__":
    print(asyncio.run(DagRuntime(dag()).start()))
