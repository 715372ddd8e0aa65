"""Two feeds of the same trades, one of which brings each symbol: trades to one folder, what happens to the feeds to another."""

from pathlib import Path

from tools.line_feed import LineProvider

from market_data_pipeline import CircuitRule, Dag, Dedupe, Failover, JsonLines, Node, Reconnect, SourceRouter

SYMBOLS = [f"S{number}" for number in range(8)]


def dag(primary: int, backup: int, output: Path) -> Dag:
    feeds = SourceRouter(
        [LineProvider(primary, "primary"), LineProvider(backup, "backup")],
        SYMBOLS,
        route=Failover(fail_after="200ms", recover_after="500ms"),
        overlap="300ms",
        reconnect=Reconnect(first="20ms", most="100ms"),
        circuit=CircuitRule(min_calls=1000),
    )
    made = Dag("router")
    made.add_node(Node("feed", feeds))
    made.add_node(Node("dedupe", Dedupe("symbol", "trade_id", content=("price", "size"))))
    made.add_node(Node("trades", JsonLines(output / "trades")))
    made.add_node(Node("events", JsonLines(output / "events")))
    made.add_edge("feed", "dedupe", key="symbol")
    made.add_edge("dedupe", "trades")
    made.add_edge("feed", "events", output="events")
    return made
