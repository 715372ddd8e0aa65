"""Minute bars of one symbol from a file -> 5-minute and hourly bars, JSON lines.

    mdp run examples/resample.py --workers 2 --set input=bars.csv.gz --set symbol=GBPUSD --set output=OUT

``input``: CSV (also .gz) with the columns timestamp, open, high, low, close, where the timestamp (ISO 8601, or with
``time_unit`` ns, us, ms, s) is the start of the minute, or with ``label=right`` its end.
"""

from pathlib import Path
from typing import Literal

from market_data_pipeline import Dag, JsonLines, LabelBars, Node, Replay, Resample


def dag(
    input: Path, output: Path, symbol: str = "X", time_unit: str = "iso", label: Literal["left", "right"] = "left"
) -> Dag:
    columns = {"ts_open": "timestamp", "ts_close": "timestamp"}
    dag = Dag("resample")
    dag.add_node(
        Node("file", Replay(input, kind="bar", columns=columns, time_unit=time_unit, symbol=symbol, max_delay="1m"))
    )
    dag.add_node(Node("minutes", LabelBars("1m", label=label, ts="ts_open")))
    dag.add_node(Node("five", Resample("5m")))
    dag.add_node(Node("hour", Resample("1h")))
    dag.add_node(Node("five-out", JsonLines(output / "5m")))
    dag.add_node(Node("hour-out", JsonLines(output / "1h")))
    dag.add_edge("file", "minutes", key="symbol")
    for src, dst in [("minutes", "five"), ("five", "hour"), ("five", "five-out"), ("hour", "hour-out")]:
        dag.add_edge(src, dst)
    return dag
