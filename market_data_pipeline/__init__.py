"""market-data-pipeline: a streaming runtime for market data.

Declare a DAG (sources -> operators -> sinks); run it in one process, or as hash partitions of symbols over many worker
processes that exchange frames over bounded Redis streams with an exactly-once commit.

The public names below are loaded when first used, so that ``import market_data_pipeline`` (and ``mdp --help``) is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from market_data_pipeline.channels.base import ChannelClosed, Watermark
    from market_data_pipeline.channels.memory import Channel
    from market_data_pipeline.dag.graph import Dag, Edge, Node
    from market_data_pipeline.dag.pipeline import Pipeline
    from market_data_pipeline.frame import Columns, Frame
    from market_data_pipeline.records import Bar, Quote, Trade
    from market_data_pipeline.runtime.local import DagRuntime, RunConfig
    from market_data_pipeline.sinks.collect import Collect
    from market_data_pipeline.sinks.file import CsvFiles, JsonLines
    from market_data_pipeline.sinks.stdout import Stdout
    from market_data_pipeline.sources.replay import Replay
    from market_data_pipeline.sources.synthetic import Synthetic

_HOMES = {
    "Bar": "records", "Quote": "records", "Trade": "records",
    "Columns": "frame", "Frame": "frame",
    "Channel": "channels.memory", "ChannelClosed": "channels.base", "Watermark": "channels.base",
    "Dag": "dag.graph", "Edge": "dag.graph", "Node": "dag.graph", "Pipeline": "dag.pipeline",
    "DagRuntime": "runtime.local", "RunConfig": "runtime.local",
    "Replay": "sources.replay", "Synthetic": "sources.synthetic",
    "Collect": "sinks.collect", "CsvFiles": "sinks.file", "JsonLines": "sinks.file", "Stdout": "sinks.stdout",
}  # fmt: skip

__all__ = [
    "Bar", "Channel", "ChannelClosed", "Collect", "Columns", "CsvFiles", "Dag", "DagRuntime", "Edge", "Frame",
    "JsonLines", "Node", "Pipeline", "Quote", "Replay", "RunConfig", "Stdout", "Synthetic", "Trade", "Watermark",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
