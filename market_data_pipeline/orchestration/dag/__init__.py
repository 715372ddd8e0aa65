"""The in-process Dag layer in one import: graph, channels, runtime and helper coroutines."""

from market_data_pipeline.channels.base import ChannelClosed, Watermark
from market_data_pipeline.channels.memory import Channel
from market_data_pipeline.dag.graph import Dag, Edge, Node
from market_data_pipeline.errors import DagValidationError
from market_data_pipeline.runtime.coroutines import buffer_async, filter_async, map_async, tumbling_window
from market_data_pipeline.runtime.local import DagRuntime, RunConfig, RunResult

__all__ = [
    "Channel",
    "ChannelClosed",
    "Dag",
    "DagRuntime",
    "DagValidationError",
    "Edge",
    "Node",
    "RunConfig",
    "RunResult",
    "Watermark",
    "buffer_async",
    "filter_async",
    "map_async",
    "tumbling_window",
]
