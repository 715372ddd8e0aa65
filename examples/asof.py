"""Each trade with the close of its symbol's last 1-second bar, and what each symbol traded in 5 seconds: join and window.

    mdp run examples/asof.py --workers 2 --set output=OUT

Two paths lead from the trades to the join: one direct, one over the bars. Results come out by event time, so they are the same
over any number of workers, and after any crash.
"""

from pathlib import Path

from market_data_pipeline import (
    AsofJoin,
    BarConvention,
    Count,
    Dag,
    JsonLines,
    Node,
    Sum,
    Synthetic,
    Tumble,
    TumblingBars,
    WindowAggregate,
)


def dag(output: Path, items: int = 200_000) -> Dag:
    dag = Dag("asof")
    dag.add_node(Node("trades", Synthetic(symbols=50, items=items, disorder=0.05, seed=7)))
    # labelled right: a bar's ts_event is its end, when it is known, so no trade meets a bar of its own future
    dag.add_node(Node("bars", TumblingBars("1s", convention=BarConvention(label="right"))))
    dag.add_node(Node("join", AsofJoin(["close"], tolerance="1m")))
    dag.add_node(Node("five", WindowAggregate(Tumble("5s"), {"trades": Count(), "volume": Sum("size")})))
    dag.add_node(Node("joined", JsonLines(output / "joined")))
    dag.add_node(Node("windows", JsonLines(output / "windows")))
    dag.add_edge("trades", "bars", key="symbol")
    dag.add_edge("trades", "join", key="symbol")
    dag.add_edge("bars", "join", input="right")
    dag.add_edge("join", "joined")
    dag.add_edge("join", "five")
    dag.add_edge("five", "windows")
    return dag
