"""Pipeline: the linear way to declare a Dag.

>>> Pipeline("bars").source(Synthetic()).key_by("symbol").bars("1s").sink(JsonLines("out")).build()

What one step has of its own follows it, as a typed value:

>>> made = Pipeline("bars").source(Synthetic()).key_by("symbol").bars("1s").options(NodeOptions(ChannelOptions(capacity=256)))
>>> made.sink(SqliteStore("bars.db")).options(NodeOptions(on_error="fail", retries=Retries(attempts=5)))
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from itertools import chain, count
from typing import Any, Self

from market_data_pipeline.dag.graph import Dag, Edge, Node, checked_name
from market_data_pipeline.dag.options import NodeOptions
from market_data_pipeline.durations import Duration
from market_data_pipeline.errors import DagValidationError
from market_data_pipeline.frame import Columns
from market_data_pipeline.operators.aggregations import Aggregation
from market_data_pipeline.operators.async_map import AsyncMap
from market_data_pipeline.operators.bar_choices import LEFT, BarConvention, Empty
from market_data_pipeline.operators.bars import ALL_TRADES, TradeRules, TumblingBars
from market_data_pipeline.operators.base import OnError, Operator
from market_data_pipeline.operators.batch import Batcher
from market_data_pipeline.operators.buckets import Buckets
from market_data_pipeline.operators.conflate import Conflate
from market_data_pipeline.operators.dedupe import Dedupe
from market_data_pipeline.operators.lateness import LatePolicy
from market_data_pipeline.operators.resample import Resample
from market_data_pipeline.operators.stateless import Filter, FlatMap, Map, MapColumns
from market_data_pipeline.operators.throttle import Over, Throttle
from market_data_pipeline.operators.window import WindowAggregate
from market_data_pipeline.operators.windows import Windows
from market_data_pipeline.sinks.base import Sink
from market_data_pipeline.sources.base import Source


class Pipeline:
    """A chain of steps. Every method adds one and returns the pipeline; several sinks may follow the same step. A mistake is a
    ``DagValidationError``, at once where one step shows it, else from :meth:`build`."""

    def __init__(self, name: str = "pipeline") -> None:
        self.name = checked_name(type(self).__name__, name)
        self._nodes: list[Node] = []
        self._edges: list[Edge] = []
        self._tail: str | None = None
        self._key: str | None = None
        self._boundary = False

    def source(self, source: Source, name: str = "source") -> Self:
        """Start with ``source``."""
        if self._tail is not None:
            raise DagValidationError(f"pipeline {self.name!r} has a source already; build a Dag for several")
        self._nodes.append(Node(name, source))
        self._tail = name
        return self

    def options(self, options: NodeOptions) -> Self:
        """Set ``options`` of the step just added: source, operator or sink. What is ``None`` in them stays as it is;
        ``channel`` is that of the edge that leads to the step."""
        if not self._nodes:
            raise DagValidationError(
                f"pipeline {self.name!r}: .options(...) belongs behind a step, and there is none yet"
            )
        node = self._nodes[-1]
        if not isinstance(options, NodeOptions):
            raise DagValidationError(
                f"step {node.name!r}: .options({options!r:.100}): write .options(NodeOptions(on_error='skip'))"
            )
        if self._key is not None or self._boundary:
            raise DagValidationError(
                f"pipeline {self.name!r}: .options(...) behind {'key_by' if self._key is not None else 'boundary'} would be"
                f" those of {node.name!r}; give them behind the step that follows"
            )
        if options.channel is not None:
            if not self._edges:
                raise DagValidationError(
                    f"source {node.name!r}: no edge leads to it, so there is no channel to give options"
                )
            self._edges[-1] = replace(self._edges[-1], channel=options.channel)
        self._nodes[-1] = replace(
            node,
            singleton=node.singleton if options.singleton is None else options.singleton,
            on_error=options.on_error or node.on_error,
            retries=options.retries or node.retries,
            feedback=node.feedback if options.feedback is None else options.feedback,
        )
        return self

    def key_by(self, key: str = "symbol") -> Self:
        """Repartition before the next step: items with equal ``key`` meet in one task."""
        self._key = key
        return self

    def boundary(self) -> Self:
        """Decouple the next step: same partition, but behind a stream of its own."""
        self._boundary = True
        return self

    def operator(self, operator: Operator, name: str | None = None, on_error: OnError = "dead_letter") -> Self:
        """Any operator."""
        self._tail = self._add(operator, name, on_error)
        return self

    def map(self, fn: Callable[[Any], Any], name: str | None = None, on_error: OnError = "dead_letter") -> Self:
        """``fn(item)`` for each item."""
        return self.operator(Map(fn), name, on_error)

    def filter(
        self, predicate: Callable[[Any], Any], name: str | None = None, on_error: OnError = "dead_letter"
    ) -> Self:
        """Only items for which ``predicate(item)`` is true."""
        return self.operator(Filter(predicate), name, on_error)

    def flat_map(
        self, fn: Callable[[Any], Iterable[Any]], name: str | None = None, on_error: OnError = "dead_letter"
    ) -> Self:
        """Every element of ``fn(item)``."""
        return self.operator(FlatMap(fn), name, on_error)

    def map_columns(self, fn: Callable[[Columns], Columns], name: str | None = None) -> Self:
        """``fn(columns)`` for each frame."""
        return self.operator(MapColumns(fn), name)

    def map_async(
        self,
        fn: Callable[[Any], Awaitable[Any]],
        concurrency: int = 16,
        ordered: bool = True,
        timeout: Duration = "5s",
        retries: int = 2,
        name: str | None = None,
    ) -> Self:
        """``await fn(item)`` for each item, up to ``concurrency`` at once; see :class:`AsyncMap`."""
        return self.operator(AsyncMap(fn, concurrency, ordered, timeout, retries), name)

    def dedupe(
        self, *fields: str, within: Duration | None = "1h", max_keys: int = 1_000_000, name: str | None = None
    ) -> Self:
        """Only the first item of each key; see :class:`Dedupe`."""
        return self.operator(Dedupe(*(fields or ("symbol", "trade_id")), within=within, max_keys=max_keys), name)

    def throttle(self, rate: float, burst: int = 1, over: Over = "drop", name: str | None = None) -> Self:
        """At most ``rate`` items a second of each symbol; see :class:`Throttle`."""
        return self.operator(Throttle(rate, burst, over=over), name)

    def conflate(self, interval: Duration | None = None, name: str | None = None) -> Self:
        """Only the last item of each symbol per interval, or while the output is full; see :class:`Conflate`."""
        return self.operator(Conflate(interval), name)

    def bars(
        self,
        interval: Duration | Buckets = "1s",
        name: str | None = None,
        late: LatePolicy = "drop",
        allowed_lateness: Duration = 0,
        empty: Empty = "skip",
        convention: BarConvention = LEFT,
        rules: TradeRules = ALL_TRADES,
    ) -> Self:
        """Trades -> OHLCV bars of ``interval`` on event time; see :class:`TumblingBars`."""
        return self.operator(TumblingBars(interval, 0, late, allowed_lateness, empty, None, convention, rules), name)

    def resample(
        self,
        interval: Duration | Buckets,
        name: str | None = None,
        late: LatePolicy = "drop",
        allowed_lateness: Duration = 0,
        empty: Empty = "skip",
        convention: BarConvention = LEFT,
    ) -> Self:
        """Bars -> bars of a longer ``interval``; see :class:`Resample`."""
        return self.operator(Resample(interval, 0, late, allowed_lateness, empty, None, convention), name)

    def window(
        self,
        windows: Windows,
        aggregations: Mapping[str, Aggregation],
        key: str | tuple[str, ...] | None = "symbol",
        late: LatePolicy = "drop",
        allowed_lateness: Duration = 0,
        name: str | None = None,
    ) -> Self:
        """One item per window and key with the values of ``aggregations``; see :class:`WindowAggregate`."""
        made = WindowAggregate(windows, aggregations, key, late=late, allowed_lateness=allowed_lateness)
        return self.operator(made, name)

    def batch(
        self,
        max_items: int | None = None,
        name: str | None = None,
        max_bytes: int | None = None,
        max_time: Duration | None = None,
    ) -> Self:
        """Lists of items, by whichever limit comes first; see :class:`Batcher`."""
        return self.operator(Batcher(max_items, max_bytes, max_time), name)

    def sink(self, sink: Sink, name: str | None = None) -> Self:
        """Write to ``sink``; may be called again to write the same items elsewhere too."""
        self._add(sink, name, "dead_letter")
        return self

    def build(self) -> Dag:
        """A validated Dag of the steps so far; a new one each time, so that the pipeline may grow and be built again."""
        dag = Dag(self.name)
        for node in self._nodes:
            dag.add_node(node)
        for edge in self._edges:
            dag.add_edge(edge.src, edge.dst, key=edge.key, boundary=edge.boundary, channel=edge.channel)
        dag.validate()
        return dag

    def _add(self, fn: Operator | Sink, name: str | None, on_error: OnError) -> str:
        if self._tail is None:
            raise DagValidationError(f"pipeline {self.name!r}: begin with .source(...)")
        base = name or type(fn).__name__.lower()
        taken = {node.name for node in self._nodes}
        name = name or next(n for n in chain([base], (f"{base}-{i}" for i in count(2))) if n not in taken)
        self._nodes.append(Node(name, fn, on_error=on_error))
        self._edges.append(Edge(self._tail, name, key=self._key, boundary=self._boundary and self._key is None))
        self._key, self._boundary = None, False
        return name


PipelineBuilder = Pipeline
"""One class under two names: a pipeline is nothing but what builds a Dag, so a builder apart from it would hold the same steps
twice. Write whichever reads better."""
