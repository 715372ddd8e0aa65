"""Pipeline: the linear way to declare a Dag.

>>> Pipeline("bars").source(Synthetic()).key_by("symbol").bars("1s").sink(JsonLines("out")).build()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self

from market_data_pipeline.dag.graph import Dag, Node
from market_data_pipeline.durations import Duration
from market_data_pipeline.errors import DagValidationError
from market_data_pipeline.frame import Columns
from market_data_pipeline.operators.bars import TumblingBars
from market_data_pipeline.operators.base import OnError, Operator
from market_data_pipeline.operators.batch import Batcher
from market_data_pipeline.operators.dedupe import Dedupe
from market_data_pipeline.operators.stateless import Filter, FlatMap, Map, MapColumns
from market_data_pipeline.sinks.base import Sink
from market_data_pipeline.sources.base import Source


class Pipeline:
    """A chain of steps. Every method adds one and returns the pipeline; several sinks may follow the same step."""

    def __init__(self, name: str = "pipeline") -> None:
        self.name = name
        self._dag = Dag(name)
        self._tail: str | None = None
        self._key: str | None = None
        self._boundary = False

    def source(self, source: Source, name: str = "source") -> Self:
        """Start with ``source``."""
        if self._tail is not None:
            raise DagValidationError(f"pipeline {self.name!r} has a source already; build a Dag for several")
        self._dag.add_node(Node(name, source))
        self._tail = name
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

    def filter(self, fn: Callable[[Any], Any], name: str | None = None, on_error: OnError = "dead_letter") -> Self:
        """Only items for which ``fn(item)`` is true."""
        return self.operator(Filter(fn), name, on_error)

    def flat_map(
        self, fn: Callable[[Any], Iterable[Any]], name: str | None = None, on_error: OnError = "dead_letter"
    ) -> Self:
        """Every element of ``fn(item)``."""
        return self.operator(FlatMap(fn), name, on_error)

    def map_columns(self, fn: Callable[[Columns], Columns], name: str | None = None) -> Self:
        """``fn(columns)`` for each frame."""
        return self.operator(MapColumns(fn), name)

    def dedupe(
        self, *fields: str, within: Duration | None = "1h", max_keys: int = 1_000_000, name: str | None = None
    ) -> Self:
        """Only the first item of each key; see :class:`Dedupe`."""
        return self.operator(Dedupe(*(fields or ("symbol", "trade_id")), within=within, max_keys=max_keys), name)

    def bars(self, interval: Duration = "1s", name: str | None = None) -> Self:
        """Trades -> OHLCV bars of ``interval`` on event time; see :class:`TumblingBars`."""
        return self.operator(TumblingBars(interval), name)

    def batch(self, max_items: int, name: str | None = None) -> Self:
        """Lists of up to ``max_items`` items."""
        return self.operator(Batcher(max_items), name)

    def sink(self, sink: Sink, name: str | None = None) -> Self:
        """Write to ``sink``; may be called again to write the same items elsewhere too."""
        self._add(sink, name, "dead_letter")
        return self

    def build(self) -> Dag:
        """The validated Dag."""
        self._dag.validate()
        return self._dag

    def _add(self, fn: Operator | Sink, name: str | None, on_error: OnError) -> str:
        if self._tail is None:
            raise DagValidationError(f"pipeline {self.name!r}: begin with .source(...)")
        base = name or type(fn).__name__.lower()
        taken = self._dag.nodes
        name = name or next(n for n in (base, *(f"{base}-{i}" for i in range(2, 1000))) if n not in taken)
        self._dag.add_node(Node(name, fn, on_error=on_error))
        self._dag.add_edge(self._tail, name, key=self._key, boundary=self._boundary and self._key is None)
        self._key, self._boundary = None, False
        return name
