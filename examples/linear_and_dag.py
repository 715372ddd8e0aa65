"""One job written as a Pipeline and as a Dag, each run in this process and over 2 worker processes: four equal outputs.

    python examples/linear_and_dag.py OUT

OUT: a folder that is empty or not there yet.
"""

import asyncio
import hashlib
import sys
from pathlib import Path

from market_data_pipeline import (
    Count,
    Dag,
    Dedupe,
    Distributed,
    Filter,
    JsonLines,
    Last,
    Max,
    Min,
    Node,
    Pipeline,
    PipelineRuntime,
    Synthetic,
    Trade,
    Tumble,
    WindowAggregate,
)

TRADES = Synthetic(symbols=50, items=60_000, duplicates=0.02, disorder=0.05, seed=7)
WHAT = {"trades": Count(), "high": Max("price"), "low": Min("price"), "last": Last("price")}


def large_enough(trade: Trade) -> bool:
    """Workers import this by its name, so it cannot be a lambda."""
    return trade.size >= 0.1


def linear(output: Path) -> Pipeline:
    return (
        Pipeline("linear")
        .source(TRADES)
        .key_by("symbol")
        .filter(large_enough)
        .dedupe("symbol", "trade_id")
        .window(Tumble("1s"), WHAT)
        .sink(JsonLines(output))
    )


def graph(output: Path) -> Dag:
    dag = Dag("graph")
    dag.add_node(Node("trades", TRADES))
    dag.add_node(Node("filter", Filter(large_enough)))
    dag.add_node(Node("dedupe", Dedupe("symbol", "trade_id")))
    dag.add_node(Node("seconds", WindowAggregate(Tumble("1s"), WHAT)))
    dag.add_node(Node("files", JsonLines(output)))
    dag.add_edge("trades", "filter", key="symbol")
    dag.add_edge("filter", "dedupe")
    dag.add_edge("dedupe", "seconds")
    dag.add_edge("seconds", "files")
    return dag


def digest(output: Path) -> str:
    lines = sorted(line for file in output.glob("*.jsonl") for line in file.read_text().splitlines())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


async def main(output: Path) -> bool:
    found = []
    async with PipelineRuntime() as here, PipelineRuntime(Distributed(workers=2)) as over_workers:
        runs = []
        for where, runtime in (("here", here), ("workers", over_workers)):
            for form in (linear, graph):
                folder = output / f"{form.__name__}-{where}"
                runs.append((folder, runtime.start(form(folder))))
        for folder, running in runs:
            status = await running.wait()
            found.append((status.items_in, status.items_out, digest(folder)))
            print(f"{status.name:6}  {status.where:10}  in {found[-1][0]:,}  out {found[-1][1]:,}  {found[-1][2]}")
    equal = len(set(found)) == 1
    print("equal" if equal else "not equal")
    return equal


if __name__ == "__main__":
    if len(sys.argv) != 2 or any(Path(sys.argv[1]).glob("*")):
        sys.exit("needed: a folder for the output, empty or not there yet")
    sys.exit(0 if asyncio.run(main(Path(sys.argv[1]))) else 1)
