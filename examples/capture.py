"""Capture trades and quotes into a folder of Parquet, by table and date.

    mdp run examples/capture.py --workers 2 --set output=OUT
    mdp compact OUT --before 2030-01-01 --min-age 1s

The feed is synthetic: an exchange's hours, bursts, doubles, and ids that never come. Put your own source in its place. Trades
are deduped; quotes come by the feed's output ``quotes``. Read it with ``polars.read_parquet("OUT/table=trades")``, or in DuckDB
``SELECT * FROM read_parquet('OUT/table=quotes/*/*.parquet')``. Needs the extra ``parquet``.
"""

from pathlib import Path

from market_data_pipeline import Bursts, Dag, Dedupe, Node, ParquetFiles, Synthetic


def dag(output: Path, items: int = 200_000) -> Dag:
    feed = Synthetic(
        symbols=200, items=items, kinds=("trade", "quote"), sessions=["14:30-21:00"], bursts=Bursts("1m", "2s", 10),
        duplicates=0.01, gaps=0.001, seed=7,
    )  # fmt: skip
    dag = Dag("capture")
    dag.add_node(Node("feed", feed))
    dag.add_node(Node("dedupe", Dedupe("symbol", "trade_id")))
    dag.add_node(Node("trades", ParquetFiles(output)))
    dag.add_node(Node("quotes", ParquetFiles(output)))
    dag.add_edge("feed", "dedupe", key="symbol")
    dag.add_edge("dedupe", "trades")
    dag.add_edge("feed", "quotes", key="symbol", output="quotes")
    return dag
