"""The fluent builder declares the Dag one would write by hand."""

from itertools import pairwise
from typing import Any

import pytest

from market_data_pipeline.dag.graph import Edge
from market_data_pipeline.dag.pipeline import Pipeline
from market_data_pipeline.errors import DagValidationError
from market_data_pipeline.frame import Columns
from market_data_pipeline.operators.aggregations import Count
from market_data_pipeline.operators.async_map import AsyncMap
from market_data_pipeline.operators.bar_choices import BarConvention
from market_data_pipeline.operators.bars import TradeRules, TumblingBars
from market_data_pipeline.operators.batch import Batcher
from market_data_pipeline.operators.conflate import Conflate
from market_data_pipeline.operators.dedupe import Dedupe
from market_data_pipeline.operators.resample import Resample
from market_data_pipeline.operators.stateless import Filter, FlatMap, Map, MapColumns
from market_data_pipeline.operators.throttle import Throttle
from market_data_pipeline.operators.window import WindowAggregate
from market_data_pipeline.operators.windows import Tumble
from market_data_pipeline.sinks.collect import Collect
from market_data_pipeline.sources.synthetic import Synthetic


def same(columns: Columns) -> Columns:
    return columns


def start() -> Pipeline:
    return Pipeline("p").source(Synthetic())


def test_every_step_adds_a_node_and_an_edge() -> None:
    dag = (
        start()
        .map(str)
        .filter(bool)
        .flat_map(list)
        .map_columns(same)
        .dedupe()
        .bars("5s")
        .batch(7)
        .sink(Collect())
        .build()
    )
    types = [Synthetic, Map, Filter, FlatMap, MapColumns, Dedupe, TumblingBars, Batcher, Collect]
    assert [type(node.fn) for node in dag.nodes.values()] == types
    names = list(dag.nodes)
    assert names == [
        "source",
        "map",
        "filter",
        "flatmap",
        "mapcolumns",
        "dedupe",
        "tumblingbars",
        "batcher",
        "collect",
    ]
    assert dag.edges == tuple(Edge(src, dst) for src, dst in pairwise(names))
    assert dag.name == "p"


def test_arguments_reach_the_operators() -> None:
    right, rules, values = BarConvention(label="right"), TradeRules(corrections=True), {"n": Count()}

    async def ask(item: Any) -> Any:
        return item

    late: dict[str, Any] = {"late": "revise", "allowed_lateness": "1s"}
    dag = (
        start()
        .dedupe("a", "b", within="5s", max_keys=9)
        .dedupe()
        .bars("2s", empty="carry", convention=right, rules=rules, **late)
        .resample("1m", empty="null", convention=right, **late)
        .window(Tumble("1h"), values, key=None, **late)
        .throttle(5, 2, "delay")
        .conflate("3s")
        .map_async(ask, 3, False, "1s", 0)
        .batch(3, max_bytes=9, max_time="1s")
        .build()
    )
    configs = [node.fn.config() for node in list(dag.nodes.values())[1:]]  # type: ignore[union-attr]
    expected = [
        Dedupe("a", "b", within="5s", max_keys=9),
        Dedupe("symbol", "trade_id", within="1h", max_keys=1_000_000),
        TumblingBars("2s", empty="carry", convention=right, rules=rules, **late),
        Resample("1m", empty="null", convention=right, **late),
        WindowAggregate(Tumble("1h"), values, key=None, **late),
        Throttle(5, 2, over="delay"),
        Conflate("3s"),
        AsyncMap(ask, concurrency=3, ordered=False, timeout="1s", retries=0),
        Batcher(3, 9, "1s"),
    ]
    assert configs == [operator.config() for operator in expected]
    assert configs[2]["allowed_lateness"] == 10**9
    assert configs[8] == {"max_items": 3, "max_bytes": 9, "max_time": 10**9}


def test_key_by_and_boundary_hold_for_the_next_edge_only() -> None:
    dag = start().key_by("symbol").map(str).map(str).boundary().map(str).map(str).build()
    assert [(edge.key, edge.boundary) for edge in dag.edges] == [
        ("symbol", False),
        (None, False),
        (None, True),
        (None, False),
    ]


def test_a_key_implies_the_boundary() -> None:
    (edge,) = start().boundary().key_by().map(str).build().edges
    assert (edge.key, edge.boundary) == ("symbol", False)


def test_repeated_steps_get_numbers_and_given_names_are_kept() -> None:
    dag = start().map(str).map(str).map(str, name="third").map(str).build()
    assert list(dag.nodes) == ["source", "map", "map-2", "third", "map-3"]


def test_several_sinks_follow_the_same_step() -> None:
    dag = start().map(str).sink(Collect()).sink(Collect(), name="other").build()
    assert [(edge.src, edge.dst) for edge in dag.edges] == [("source", "map"), ("map", "collect"), ("map", "other")]


@pytest.mark.parametrize("policy", ["fail", "skip", "dead_letter"])
def test_error_policies_reach_the_nodes(policy: Any) -> None:
    dag = start().map(str, on_error=policy).filter(bool, on_error=policy).flat_map(list, on_error=policy).build()
    assert [node.on_error for node in list(dag.nodes.values())[1:]] == [policy] * 3


def test_a_pipeline_has_one_source() -> None:
    with pytest.raises(DagValidationError, match="pipeline 'p' has a source already; build a Dag for several"):
        start().source(Synthetic())


def test_a_pipeline_begins_with_its_source() -> None:
    with pytest.raises(DagValidationError, match=r"pipeline 'empty': begin with .source\(...\)"):
        Pipeline("empty").map(str)


def test_a_name_given_twice_is_found() -> None:
    with pytest.raises(DagValidationError, match="duplicate node 'x'"):
        start().map(str, name="x").map(str, name="x").build()


def test_a_built_pipeline_may_grow_and_what_was_built_stays_as_it_is() -> None:
    pipeline = start().map(str)
    built = pipeline.build()
    grown = pipeline.map(str).build()
    assert list(grown.nodes) == ["source", "map", "map-2"]
    assert list(built.nodes) == ["source", "map"]
    assert grown is not pipeline.build()
    with pytest.raises(DagValidationError, match="cannot be changed"):
        built.add_node(grown.nodes["map-2"])


def test_any_number_of_steps_of_one_kind() -> None:
    pipeline = start()
    for _ in range(1001):
        pipeline.map(str)
    assert list(pipeline.build().nodes)[-1] == "map-1001"
