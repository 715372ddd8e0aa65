"""market-data-pipeline: a streaming runtime for market data.

Declare a DAG (sources -> operators -> sinks); run it in one process, or as hash partitions of symbols over many worker
processes that exchange frames over bounded Redis streams with an exactly-once commit.

The public names below are loaded when first used, so that ``import market_data_pipeline`` (and ``mdp --help``) is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from market_data_pipeline.adapters.http_feedback import HttpFeedback
    from market_data_pipeline.adapters.outside import as_dto, as_fields, bar_of, quote_of, record_of, trade_of
    from market_data_pipeline.adapters.serialization import JsonDecoder, JsonEncoder, MsgpackDecoder, MsgpackEncoder
    from market_data_pipeline.budget import Budget, BudgetRule
    from market_data_pipeline.catalog.load import dag_of, load_file
    from market_data_pipeline.catalog.registry import Registry, registry
    from market_data_pipeline.channels.base import ChannelClosed, Watermark
    from market_data_pipeline.channels.memory import Channel
    from market_data_pipeline.channels.redis_stream import StreamChannel
    from market_data_pipeline.circuit import CircuitBreaker, CircuitRule
    from market_data_pipeline.dag.graph import Dag, Edge, Node
    from market_data_pipeline.dag.options import ChannelOptions, NodeOptions, Retries
    from market_data_pipeline.dag.pipeline import Pipeline, PipelineBuilder
    from market_data_pipeline.errors import (
        CodecError,
        ConfigError,
        CorruptState,
        DagValidationError,
        DocumentError,
        JobFailed,
        MdpError,
        OperatorFailed,
        PlanMismatch,
        RecordError,
        SinkError,
        SourceError,
        StoreUnavailable,
    )
    from market_data_pipeline.feedback import StoreFeedback, StoreReading
    from market_data_pipeline.frame import Columns, Frame
    from market_data_pipeline.operators.aggregations import Count, First, ItemList, Last, Max, Mean, Min, Std, Sum, Vwap
    from market_data_pipeline.operators.async_map import AsyncMap
    from market_data_pipeline.operators.bar_choices import BarConvention
    from market_data_pipeline.operators.bars import TradeRules, TumblingBars
    from market_data_pipeline.operators.base import AsyncOperator, DeadLetter, Operator, OperatorContext
    from market_data_pipeline.operators.batch import Batcher
    from market_data_pipeline.operators.calendars import SessionBuckets
    from market_data_pipeline.operators.conflate import Conflate
    from market_data_pipeline.operators.dedupe import Dedupe
    from market_data_pipeline.operators.fold import Fold
    from market_data_pipeline.operators.gaps import GapDetector
    from market_data_pipeline.operators.information_bars import DollarBars, TickBars, VolumeBars
    from market_data_pipeline.operators.joins.asof import AsofJoin
    from market_data_pipeline.operators.joins.interval import IntervalJoin
    from market_data_pipeline.operators.joins.reference import ReferenceJoin
    from market_data_pipeline.operators.outside import OutsideTransform
    from market_data_pipeline.operators.quantile import Quantile
    from market_data_pipeline.operators.resample import LabelBars, Resample
    from market_data_pipeline.operators.router import Router, TableRouter
    from market_data_pipeline.operators.stateless import Filter, FlatMap, Map, MapColumns
    from market_data_pipeline.operators.throttle import Throttle
    from market_data_pipeline.operators.window import TumblingWindow, WindowAggregate
    from market_data_pipeline.operators.windows import CountWindow, Hop, Session, Tumble
    from market_data_pipeline.orchestration.places import Distributed, InProcess
    from market_data_pipeline.orchestration.rate_coordinator import RateCoordinator
    from market_data_pipeline.orchestration.run_status import RunStatus
    from market_data_pipeline.orchestration.running import Running
    from market_data_pipeline.orchestration.runtime import PipelineRuntime
    from market_data_pipeline.orchestration.runtime_orchestrator import RuntimeOrchestrator
    from market_data_pipeline.records import Bar, FeedEvent, Gap, Quote, Trade, Window
    from market_data_pipeline.runtime.coroutines import buffer_async, filter_async, map_async, tumbling_window
    from market_data_pipeline.runtime.local import DagRuntime, RunConfig, RunResult
    from market_data_pipeline.runtime_settings import OrchestratorSettings
    from market_data_pipeline.settings import Settings, load_settings
    from market_data_pipeline.sinks.base import Sink, SinkContext
    from market_data_pipeline.sinks.collect import Collect
    from market_data_pipeline.sinks.discard import Discard
    from market_data_pipeline.sinks.file import CsvFiles, JsonLines
    from market_data_pipeline.sinks.guarded import GuardedSink
    from market_data_pipeline.sinks.kafka import KafkaTopic
    from market_data_pipeline.sinks.outside import CoordinatedSink, OutsideSink
    from market_data_pipeline.sinks.parquet import ParquetFiles
    from market_data_pipeline.sinks.postgres import PostgresStore
    from market_data_pipeline.sinks.redis import RedisLatest, RedisOutput
    from market_data_pipeline.sinks.sqlite import SqliteTable
    from market_data_pipeline.sinks.sqlite_store import SqliteStore
    from market_data_pipeline.sinks.stdout import Stdout
    from market_data_pipeline.sources.base import Batch, Source, SourceContext
    from market_data_pipeline.sources.ccxt import CcxtProvider
    from market_data_pipeline.sources.ib import InteractiveBrokers
    from market_data_pipeline.sources.kafka import KafkaSource
    from market_data_pipeline.sources.outside import OutsideProvider, OutsideSource
    from market_data_pipeline.sources.provider import (
        ConnectionHealth,
        FeedConnection,
        FeedDown,
        MarketDataProvider,
        Refused,
        SubscriptionRefused,
        Unusable,
        VenueLimits,
    )
    from market_data_pipeline.sources.provider_source import ProviderSource
    from market_data_pipeline.sources.reconnect import Reconnect
    from market_data_pipeline.sources.redis_stream import RedisStreamSource
    from market_data_pipeline.sources.replay import Replay
    from market_data_pipeline.sources.router import SourceRouter
    from market_data_pipeline.sources.routes import BySymbol, Failover, Priority, RoundRobin
    from market_data_pipeline.sources.synthetic import Synthetic
    from market_data_pipeline.sources.synthetic_time import Bursts

_HOMES = {
    "adapters.http_feedback": ("HttpFeedback",),
    "adapters.outside": (
        "as_dto",
        "as_fields",
        "bar_of",
        "quote_of",
        "record_of",
        "trade_of",
    ),
    "adapters.serialization": (
        "JsonDecoder",
        "JsonEncoder",
        "MsgpackDecoder",
        "MsgpackEncoder",
    ),
    "budget": (
        "Budget",
        "BudgetRule",
    ),
    "catalog.load": (
        "dag_of",
        "load_file",
    ),
    "catalog.registry": (
        "Registry",
        "registry",
    ),
    "channels.base": (
        "ChannelClosed",
        "Watermark",
    ),
    "channels.memory": ("Channel",),
    "channels.redis_stream": ("StreamChannel",),
    "circuit": (
        "CircuitBreaker",
        "CircuitRule",
    ),
    "dag.graph": (
        "Dag",
        "Edge",
        "Node",
    ),
    "dag.options": (
        "ChannelOptions",
        "NodeOptions",
        "Retries",
    ),
    "dag.pipeline": (
        "Pipeline",
        "PipelineBuilder",
    ),
    "errors": (
        "CodecError",
        "ConfigError",
        "CorruptState",
        "DagValidationError",
        "DocumentError",
        "JobFailed",
        "MdpError",
        "OperatorFailed",
        "PlanMismatch",
        "RecordError",
        "SinkError",
        "SourceError",
        "StoreUnavailable",
    ),
    "feedback": (
        "StoreFeedback",
        "StoreReading",
    ),
    "frame": (
        "Columns",
        "Frame",
    ),
    "operators.aggregations": (
        "Count",
        "First",
        "ItemList",
        "Last",
        "Max",
        "Mean",
        "Min",
        "Std",
        "Sum",
        "Vwap",
    ),
    "operators.async_map": ("AsyncMap",),
    "operators.bar_choices": ("BarConvention",),
    "operators.bars": (
        "TradeRules",
        "TumblingBars",
    ),
    "operators.base": (
        "AsyncOperator",
        "DeadLetter",
        "Operator",
        "OperatorContext",
    ),
    "operators.batch": ("Batcher",),
    "operators.calendars": ("SessionBuckets",),
    "operators.conflate": ("Conflate",),
    "operators.dedupe": ("Dedupe",),
    "operators.fold": ("Fold",),
    "operators.gaps": ("GapDetector",),
    "operators.information_bars": (
        "DollarBars",
        "TickBars",
        "VolumeBars",
    ),
    "operators.joins.asof": ("AsofJoin",),
    "operators.joins.interval": ("IntervalJoin",),
    "operators.joins.reference": ("ReferenceJoin",),
    "operators.outside": ("OutsideTransform",),
    "operators.quantile": ("Quantile",),
    "operators.resample": (
        "LabelBars",
        "Resample",
    ),
    "operators.router": (
        "Router",
        "TableRouter",
    ),
    "operators.stateless": (
        "Filter",
        "FlatMap",
        "Map",
        "MapColumns",
    ),
    "operators.throttle": ("Throttle",),
    "operators.window": (
        "TumblingWindow",
        "WindowAggregate",
    ),
    "operators.windows": (
        "CountWindow",
        "Hop",
        "Session",
        "Tumble",
    ),
    "orchestration.places": (
        "Distributed",
        "InProcess",
    ),
    "orchestration.rate_coordinator": ("RateCoordinator",),
    "orchestration.run_status": ("RunStatus",),
    "orchestration.running": ("Running",),
    "orchestration.runtime": ("PipelineRuntime",),
    "orchestration.runtime_orchestrator": ("RuntimeOrchestrator",),
    "records": (
        "Bar",
        "FeedEvent",
        "Gap",
        "Quote",
        "Trade",
        "Window",
    ),
    "runtime.coroutines": (
        "buffer_async",
        "filter_async",
        "map_async",
        "tumbling_window",
    ),
    "runtime.local": (
        "DagRuntime",
        "RunConfig",
        "RunResult",
    ),
    "runtime_settings": ("OrchestratorSettings",),
    "settings": (
        "Settings",
        "load_settings",
    ),
    "sinks.base": (
        "Sink",
        "SinkContext",
    ),
    "sinks.collect": ("Collect",),
    "sinks.discard": ("Discard",),
    "sinks.file": (
        "CsvFiles",
        "JsonLines",
    ),
    "sinks.guarded": ("GuardedSink",),
    "sinks.kafka": ("KafkaTopic",),
    "sinks.outside": (
        "CoordinatedSink",
        "OutsideSink",
    ),
    "sinks.parquet": ("ParquetFiles",),
    "sinks.postgres": ("PostgresStore",),
    "sinks.redis": (
        "RedisLatest",
        "RedisOutput",
    ),
    "sinks.sqlite": ("SqliteTable",),
    "sinks.sqlite_store": ("SqliteStore",),
    "sinks.stdout": ("Stdout",),
    "sources.base": (
        "Batch",
        "Source",
        "SourceContext",
    ),
    "sources.ccxt": ("CcxtProvider",),
    "sources.ib": ("InteractiveBrokers",),
    "sources.kafka": ("KafkaSource",),
    "sources.outside": (
        "OutsideProvider",
        "OutsideSource",
    ),
    "sources.provider": (
        "ConnectionHealth",
        "FeedConnection",
        "FeedDown",
        "MarketDataProvider",
        "Refused",
        "SubscriptionRefused",
        "Unusable",
        "VenueLimits",
    ),
    "sources.provider_source": ("ProviderSource",),
    "sources.reconnect": ("Reconnect",),
    "sources.redis_stream": ("RedisStreamSource",),
    "sources.replay": ("Replay",),
    "sources.router": ("SourceRouter",),
    "sources.routes": (
        "BySymbol",
        "Failover",
        "Priority",
        "RoundRobin",
    ),
    "sources.synthetic": ("Synthetic",),
    "sources.synthetic_time": ("Bursts",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AsofJoin",
    "AsyncMap",
    "AsyncOperator",
    "Bar",
    "BarConvention",
    "Batch",
    "Batcher",
    "Budget",
    "BudgetRule",
    "Bursts",
    "BySymbol",
    "CcxtProvider",
    "Channel",
    "ChannelClosed",
    "ChannelOptions",
    "CircuitBreaker",
    "CircuitRule",
    "CodecError",
    "Collect",
    "Columns",
    "ConfigError",
    "Conflate",
    "ConnectionHealth",
    "CoordinatedSink",
    "CorruptState",
    "Count",
    "CountWindow",
    "CsvFiles",
    "Dag",
    "DagRuntime",
    "DagValidationError",
    "DeadLetter",
    "Dedupe",
    "Discard",
    "Distributed",
    "DocumentError",
    "DollarBars",
    "Edge",
    "Failover",
    "FeedConnection",
    "FeedDown",
    "FeedEvent",
    "Filter",
    "First",
    "FlatMap",
    "Fold",
    "Frame",
    "Gap",
    "GapDetector",
    "GuardedSink",
    "Hop",
    "HttpFeedback",
    "InProcess",
    "InteractiveBrokers",
    "IntervalJoin",
    "ItemList",
    "JobFailed",
    "JsonDecoder",
    "JsonEncoder",
    "JsonLines",
    "KafkaSource",
    "KafkaTopic",
    "LabelBars",
    "Last",
    "Map",
    "MapColumns",
    "MarketDataProvider",
    "Max",
    "MdpError",
    "Mean",
    "Min",
    "MsgpackDecoder",
    "MsgpackEncoder",
    "Node",
    "NodeOptions",
    "Operator",
    "OperatorContext",
    "OperatorFailed",
    "OrchestratorSettings",
    "OutsideProvider",
    "OutsideSink",
    "OutsideSource",
    "OutsideTransform",
    "ParquetFiles",
    "Pipeline",
    "PipelineBuilder",
    "PipelineRuntime",
    "PlanMismatch",
    "PostgresStore",
    "Priority",
    "ProviderSource",
    "Quantile",
    "Quote",
    "RateCoordinator",
    "Reconnect",
    "RecordError",
    "RedisLatest",
    "RedisOutput",
    "RedisStreamSource",
    "ReferenceJoin",
    "Refused",
    "Registry",
    "Replay",
    "Resample",
    "Retries",
    "RoundRobin",
    "Router",
    "RunConfig",
    "RunResult",
    "RunStatus",
    "Running",
    "RuntimeOrchestrator",
    "Session",
    "SessionBuckets",
    "Settings",
    "Sink",
    "SinkContext",
    "SinkError",
    "Source",
    "SourceContext",
    "SourceError",
    "SourceRouter",
    "SqliteStore",
    "SqliteTable",
    "Std",
    "Stdout",
    "StoreFeedback",
    "StoreReading",
    "StoreUnavailable",
    "StreamChannel",
    "SubscriptionRefused",
    "Sum",
    "Synthetic",
    "TableRouter",
    "Throttle",
    "TickBars",
    "Trade",
    "TradeRules",
    "Tumble",
    "TumblingBars",
    "TumblingWindow",
    "Unusable",
    "VenueLimits",
    "VolumeBars",
    "Vwap",
    "Watermark",
    "Window",
    "WindowAggregate",
    "as_dto",
    "as_fields",
    "bar_of",
    "buffer_async",
    "dag_of",
    "filter_async",
    "load_file",
    "load_settings",
    "map_async",
    "quote_of",
    "record_of",
    "registry",
    "trade_of",
    "tumbling_window",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
