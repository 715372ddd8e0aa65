"""Recorded trades to bars, twice: JSON lines and CSV. A trade at 13 raises with its symbol; EMPTY becomes the empty symbol."""

from pathlib import Path
from typing import Any

from market_data_pipeline import CsvFiles, Dag, Dedupe, JsonLines, Map, Node, Replay, TumblingBars


def rename(trade: Any) -> Any:
    return trade._replace(symbol="") if trade.symbol == "EMPTY" else trade


def grumble(trade: Any) -> Any:
    if trade.price == 13.0:
        raise ValueError(f"unlucky: {trade.symbol}")
    return trade


def dag(trades: Path, output: Path, fail: bool = False) -> Dag:
    graph = Dag("names")
    check = Node("check", Map(grumble), on_error="fail" if fail else "dead_letter")
    nodes = {
        "source": Replay(trades), "rename": Map(rename), "dedupe": Dedupe("symbol", "trade_id"),
        "bars": TumblingBars("1s"), "lines": JsonLines(output / "lines"), "table": CsvFiles(output / "table"),
    }  # fmt: skip
    for node in (check, *(Node(name, fn) for name, fn in nodes.items())):
        graph.add_node(node)
    graph.add_edge("source", "rename")
    graph.add_edge("rename", "check", key="symbol")
    for src, dst in [("check", "dedupe"), ("dedupe", "bars"), ("bars", "lines"), ("bars", "table")]:
        graph.add_edge(src, dst)
    return graph
