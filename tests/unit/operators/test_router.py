"""Routers, against a plain loop."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.memory_job import ListSource

from market_data_pipeline import Collect, Dag, DagRuntime, Node, Router, TableRouter, Trade
from market_data_pipeline.errors import ConfigError, DagValidationError
from market_data_pipeline.frame import Frame, columns_from_rows, to_rows
from market_data_pipeline.operators.base import Operator, OperatorContext


def trade(symbol: str, n: int) -> Trade:
    return Trade(symbol, n, n, 1.0, float(n), "buy", n)


def run(operator: Operator, items: Any) -> tuple[dict[str, list[Any]], OperatorContext]:
    ctx = OperatorContext("router")
    operator = operator.fresh()
    operator.open(ctx)
    out: dict[str, list[Any]] = defaultdict(list)
    for frame in operator.process(Frame(items)):
        out[frame.port] += to_rows(frame.items)
    return dict(out), ctx


trades = st.lists(st.builds(trade, st.sampled_from("ABCDE"), st.integers(0, 300)), max_size=30)
TABLE = {"A": "x", "B": ("x", "y"), "C": (), "D": ""}


@given(trades, st.sampled_from(["", "rest", None]), st.booleans())
@settings(derandomize=True, max_examples=200, deadline=None)
def test_a_table_routes_rows_and_columns_alike(items: list[Trade], default: str | None, columns: bool) -> None:
    expected: dict[str, list[Any]] = defaultdict(list)
    unmatched = 0
    for item in items:
        targets = {"A": ["x"], "B": ["x", "y"], "C": [], "D": [""]}.get(
            item.symbol, [] if default is None else [default]
        )
        unmatched += not targets
        for target in targets:
            expected[target].append(item)
    given_items = columns_from_rows(items)[0] if columns and items else items
    found, ctx = run(TableRouter("symbol", TABLE, default), given_items)
    assert found == dict(expected)
    assert ctx.counts["unmatched"] == unmatched


@given(trades, st.sampled_from(["", "rest", None]), st.booleans())
@settings(derandomize=True, max_examples=200, deadline=None)
def test_predicates(items: list[Trade], default: str | None, every: bool) -> None:
    rules = {"big": lambda t: t.size > 100, "even": lambda t: t.trade_id % 2 == 0}
    expected: dict[str, list[Any]] = defaultdict(list)
    unmatched = 0
    for item in items:
        hits = [name for name, rule in rules.items() if rule(item)]
        hits = hits if every else hits[:1]
        unmatched += not hits and default is None
        for target in hits or ([] if default is None else [default]):
            expected[target].append(item)
    found, ctx = run(Router(rules, default, every), items)
    assert found == dict(expected)
    assert ctx.counts["unmatched"] == unmatched


def test_a_predicate_that_raises_costs_one_item() -> None:
    found, ctx = run(Router({"big": lambda t: t["size"] > 1}), [{"size": 2}, {"siez": 2}, {"size": 0}])
    assert found == {"big": [{"size": 2}], "": [{"size": 0}]}
    assert [letter.item for letter in ctx.dead_letters] == [{"siez": 2}]


def test_an_item_without_the_field_is_a_dead_letter() -> None:
    found, ctx = run(TableRouter("symbol", {"A": "a"}), [{"symbol": "A"}, {"x": 1}])
    assert found == {"a": [{"symbol": "A"}]}
    assert [letter.item for letter in ctx.dead_letters] == [{"x": 1}]


def test_every_named_output_needs_an_edge() -> None:
    dag = Dag("routes")
    dag.add_node(Node("source", ListSource([])))
    dag.add_node(Node("router", Router({"big": bool}, default="rest")))
    dag.add_node(Node("sink", Collect()))
    dag.add_edge("source", "router")
    dag.add_edge("router", "sink", output="big")
    with pytest.raises(DagValidationError, match="sends items to its output 'rest'"):
        dag.validate()


def test_empty_and_wrong_tables_are_refused() -> None:
    with pytest.raises(ConfigError, match="routes: give at least one"):
        Router({})
    with pytest.raises(ConfigError, match="table: give at least one"):
        TableRouter("symbol", {})
    with pytest.raises(ConfigError, match="output: 5 is not a name"):
        TableRouter("symbol", {"A": (5,)})  # type: ignore[arg-type]


async def test_a_routed_dag_in_one_process() -> None:
    big, rest = Collect(), Collect()
    dag = Dag("routes")
    dag.add_node(Node("source", ListSource([trade("A", n) for n in range(200)])))
    dag.add_node(Node("router", Router({"big": lambda t: t.size > 100})))
    dag.add_node(Node("big", big))
    dag.add_node(Node("rest", rest))
    dag.add_edge("source", "router")
    dag.add_edge("router", "big", output="big")
    dag.add_edge("router", "rest")
    await DagRuntime(dag).start()
    assert [t.trade_id for t in big.items] == list(range(101, 200))
    assert [t.trade_id for t in rest.items] == list(range(101))
