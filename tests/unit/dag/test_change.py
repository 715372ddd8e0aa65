"""What a new plan changes: which nodes are the same, which streams must be drained, what stands in the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from market_data_pipeline import AsofJoin, Collect, Dag, Dedupe, Filter, Map, Node, Synthetic, TumblingBars
from market_data_pipeline.dag.change import Choice, compare, obstacles
from market_data_pipeline.dag.plan import Plan, TaskId, plan_from_dict
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import ConfigError


def plan(
    *between: Node, interval: str = "1s", partitions: int = 4, edit: Callable[[Dag], Any] = lambda dag: None
) -> Plan:
    """source, ``between`` ..., keyed to dedupe, bars, sink."""
    dag = Dag("change")
    nodes = [Node("source", Synthetic()), *between]
    keyed = [Node("dedupe", Dedupe("symbol")), Node("bars", TumblingBars(interval)), Node("sink", Collect())]
    for node in [*nodes, *keyed]:
        dag.add_node(node)
    for chain in (nodes, keyed):
        for src, dst in pairwise(chain):
            dag.add_edge(src.name, dst.name)
    dag.add_edge(nodes[-1].name, "dedupe", key="symbol")
    edit(dag)
    return compile_dag(dag, partitions)


def same(row: Any) -> bool:
    return True


def test_an_equal_plan_changes_nothing() -> None:
    change = compare(plan(), plan())
    assert change.same == ("source", "dedupe", "bars", "sink")
    assert (change.changed, change.added, change.removed, change.drained) == ({}, (), (), ())


def test_a_node_more_before_a_stream_drains_it() -> None:
    change = compare(plan(), plan(Node("keep", Filter(same))))
    assert change.added == ("keep",)
    assert change.drained == ("source.dedupe",)
    assert obstacles(plan(), plan(Node("keep", Filter(same))), change, {"source", "dedupe", "bars"}, []) == []


def test_arguments_that_differ_are_named() -> None:
    change = compare(plan(), plan(interval="2s"))
    assert change.changed == {"bars": "interval: 1000000000 -> 2000000000"}
    assert change.drained == (), "frames in flight are the same to both"


def test_another_type_is_another_node() -> None:
    change = compare(plan(Node("x", Filter(same))), plan(Node("x", Map(same))))
    assert "stateless.Filter -> operator " in change.changed["x"]


def test_a_stream_whose_writer_has_another_name_is_drained() -> None:
    """Readers merge marks by the task that wrote them."""
    extra = lambda dag: (dag.add_node(Node("first", Synthetic())), dag.add_edge("first", "dedupe", key="symbol"))  # noqa: E731
    assert compare(plan(), plan(edit=extra)).drained == ()
    assert compare(plan(edit=extra), plan()).drained == ("first.dedupe",)


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        (Choice(), "node 'bars' holds state and changed (interval: 1000000000 -> 2000000000): --keep bars if"),
        (Choice(keep=frozenset({"bars"})), None),
        (Choice(reset=frozenset({"bars"})), None),
    ],
)
def test_state_of_a_changed_node_is_the_users_to_decide(choice: Choice, text: str | None) -> None:
    old, new = plan(), plan(interval="2s")
    change = compare(old, new, choice)
    found = obstacles(old, new, change, {"bars"}, [])
    assert [sentence[: len(text)] for sentence in found] == [text] if text else found == []
    assert change.carried("bars") == ("bars" not in choice.reset)


def test_a_changed_node_without_state_is_carried() -> None:
    old, new = plan(Node("x", Filter(same))), plan(Node("x", Filter(bool)))
    change = compare(old, new)
    assert list(change.changed) == ["x"]
    assert obstacles(old, new, change, {"bars"}, []) == []
    assert change.carried("x")


def test_a_node_that_is_gone_with_its_state_must_be_reset() -> None:
    old, new = plan(Node("x", Dedupe("symbol"))), plan()
    assert "node 'x' is gone and holds state: --reset x" in obstacles(old, new, compare(old, new), {"x"}, [])[0]
    assert obstacles(old, new, compare(old, new, Choice(reset=frozenset({"x"}))), {"x"}, []) == []
    assert obstacles(old, new, compare(old, new), set(), []) == []


def test_state_cannot_be_kept_where_a_node_begins_to_run_once() -> None:
    def once(dag: Dag) -> None:
        dag.add_node(Node("total", Map(same), singleton=True))
        dag.add_edge("bars", "total")

    def each(dag: Dag) -> None:
        dag.add_node(Node("total", Map(same)))
        dag.add_edge("bars", "total")

    for old, new, text in (
        (plan(edit=each), plan(edit=once), "runs once now"),
        (plan(edit=once), plan(edit=each), "runs in every partition now"),
    ):
        change = compare(old, new, Choice(keep=frozenset({"total"})))
        assert "runs" in change.changed["total"]
        assert text in obstacles(old, new, change, {"total"}, [])[0]


def test_what_has_ended_must_not_have_to_speak_again() -> None:
    old, new = plan(), plan(Node("keep", Filter(same)))
    assert "subgraph 'source' has ended" in obstacles(old, new, compare(old, new), set(), [TaskId("source", 0)])[0]
    later = plan(interval="2s")
    assert obstacles(old, later, compare(old, later), set(), [TaskId("source", 0)]) == []


def test_p_is_fixed_and_nodes_must_be_known() -> None:
    with pytest.raises(ConfigError, match="partitions: the job has 4, this program 8; P is fixed"):
        compare(plan(), plan(partitions=8))
    with pytest.raises(ConfigError, match="no node bar; there are: bars, dedupe, sink, source"):
        compare(plan(), plan(), Choice(keep=frozenset({"bar"})))
    with pytest.raises(ConfigError, match="both kept and reset: bars"):
        compare(plan(), plan(), Choice(frozenset({"bars"}), frozenset({"bars"})))


def test_state_does_not_follow_items_to_other_partitions() -> None:
    """With another key the items of a symbol come to another partition than its state."""

    def other(dag: Dag) -> None:
        dag._edges = [replace(edge, key="venue") if edge.key else edge for edge in dag._edges]

    old, new = plan(), plan(edit=other)
    change = compare(old, new)
    assert change.changed == dict.fromkeys(("dedupe", "bars"), "spread by key 'symbol' -> by key 'venue'")
    found = obstacles(old, new, change, {"dedupe"}, [])
    assert found[0].startswith("node 'dedupe' holds state and changed (spread by key 'symbol' -> by key 'venue')")
    kept = Choice(keep=frozenset({"dedupe"}))
    assert "it cannot be kept, only --reset" in obstacles(old, new, compare(old, new, kept), {"dedupe"}, [])[0]
    reset = Choice(reset=frozenset({"dedupe"}))
    assert obstacles(old, new, compare(old, new, reset), {"dedupe"}, []) == []


def test_one_more_input_leaves_state_where_it_is() -> None:
    extra = lambda dag: (dag.add_node(Node("first", Synthetic())), dag.add_edge("first", "dedupe", broadcast=True))  # noqa: E731
    assert compare(plan(), plan(edit=extra)).changed == {}


def test_another_kind_of_node_has_nothing_of_the_former_one() -> None:
    old = plan(Node("x", Map(same)))
    new = plan(edit=lambda dag: (dag.add_node(Node("x", Synthetic())), dag.add_edge("x", "dedupe", key="symbol")))
    found = obstacles(old, new, compare(old, new, Choice(keep=frozenset({"x"}))), {"x"}, [])
    assert "node 'x' is another kind of node" in found[0]


def test_what_has_ended_is_untouched_in_whatever_order_its_edges_stand() -> None:
    """A plan that was stored has them sorted, a compiled one in the program's order."""

    def two(dag: Dag) -> None:
        for name in ("z", "a"):
            dag.add_node(Node(name, Collect()))
            dag.add_edge("source", name, boundary=True)

    old, new = plan(edit=two), plan(edit=two, interval="2s")
    stored = plan_from_dict(json.loads(old.to_json()))
    assert obstacles(stored, new, compare(stored, new), set(), [TaskId("source", 0)]) == []


def test_a_join_whose_inputs_are_exchanged_is_another_one() -> None:
    def joined(swapped: bool) -> Plan:
        dag = Dag("joined")
        dag.add_node(Node("trades", Synthetic()))
        dag.add_node(Node("quotes", Synthetic()))
        dag.add_node(Node("asof", AsofJoin()))
        for src, port in zip(("trades", "quotes"), ("right", "") if swapped else ("", "right"), strict=True):
            dag.add_edge(src, "asof", key="symbol", input=port)
        dag.add_node(Node("sink", Collect()))
        dag.add_edge("asof", "sink")
        return compile_dag(dag, 2)

    change = compare(joined(False), joined(True))
    assert change.changed == {"asof": "trades feeds input '' -> 'right', quotes feeds input 'right' -> ''"}
    assert compare(joined(False), joined(False)).changed == {}
