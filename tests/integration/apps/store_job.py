"""Trades and their bars into a PostgreSQL store."""

from market_data_pipeline import Dag, Dedupe, Node, PostgresStore, Synthetic, TumblingBars


def source(items: int, rate: float | None) -> Synthetic:
    return Synthetic(symbols=50, items=items, rate=rate, event_rate=10_000, duplicates=0.05, disorder=0.1, seed=3)


def dag(url: str, items: int, rate: float | None = None) -> Dag:
    made = Dag("store")
    made.add_node(Node("source", source(items, rate)))
    made.add_node(Node("dedupe", Dedupe("symbol", "trade_id")))
    made.add_node(Node("bars", TumblingBars("1s")))
    made.add_node(Node("trade-store", PostgresStore(url)))
    made.add_node(Node("bar-store", PostgresStore(url, tables=("bars",))))
    made.add_edge("source", "dedupe", key="symbol")
    made.add_edge("dedupe", "bars")
    made.add_edge("dedupe", "trade-store")
    made.add_edge("bars", "bar-store")
    return made
