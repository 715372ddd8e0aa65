"""The plan as data: equal in two processes, through JSON and back, and compared in words."""

import json

import pytest

from market_data_pipeline.dag.graph import Dag, Node
from market_data_pipeline.dag.pipeline import Pipeline
from market_data_pipeline.dag.plan import Plan, PlanEdge, TaskId, first_difference, plan_from_dict
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.operators.stateless import Map
from market_data_pipeline.sinks.collect import Collect
from market_data_pipeline.sources.synthetic import Synthetic


def plan(interval: str = "1s", partitions: int = 4) -> Plan:
    pipeline = Pipeline("job").source(Synthetic(items=10)).key_by("symbol").dedupe().bars(interval)
    return compile_dag(pipeline.sink(Collect()).build(), partitions)


def wide() -> Plan:
    """A plan whose names are not in alphabetical order, with every kind of edge that a Dag can ask for."""
    dag = Dag("wide")
    for name in ("z", "y", "x", "w", "v"):
        fn = Synthetic() if name == "z" else Collect() if name == "v" else Map(str)
        dag.add_node(Node(name, fn, singleton=True if name == "v" else None))
    dag.add_edge("z", "y", key="symbol")
    dag.add_edge("y", "x")
    dag.add_edge("x", "w", boundary=True)
    dag.add_edge("w", "v")
    return compile_dag(dag, 3)


@pytest.mark.parametrize("made", [plan(), wide()])
def test_a_plan_survives_the_way_through_its_dict(made: Plan) -> None:
    back = plan_from_dict(made.to_dict())
    assert back == made
    assert back.fingerprint == made.fingerprint


@pytest.mark.parametrize("made", [plan(), wide()])
def test_a_plan_survives_the_way_through_json(made: Plan) -> None:
    back = plan_from_dict(json.loads(made.to_json()))
    assert back.to_dict() == made.to_dict()
    assert back.to_json() == made.to_json()
    assert back.fingerprint == made.fingerprint
    assert set(back.tasks()) == set(made.tasks())
    assert set(back.channels) == set(made.channels)


def test_json_is_canonical() -> None:
    text = plan().to_json()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


def test_lookups_by_node() -> None:
    made = wide()
    assert made.node["y"].kind == "operator"
    assert {name: subgraph.name for name, subgraph in made.subgraph_of.items()} == {
        "z": "z",
        "y": "y",
        "x": "y",
        "w": "w",
        "v": "v",
    }
    assert [edge.name for edge in made.outputs(made.subgraph_of["x"])] == ["x.w"]
    assert [edge.name for edge in made.inputs(made.subgraph_of["x"])] == ["z.y"]


def test_task_and_edge_names() -> None:
    assert str(TaskId("bars", 3)) == "bars/3"
    assert PlanEdge("a", "b", "keyed", "symbol").name == "a.b"


def test_equal_plans_have_no_difference() -> None:
    assert first_difference(plan().to_dict(), plan().to_dict()) is None
    assert first_difference(plan().to_dict(), json.loads(plan().to_json())) is None


def test_the_first_difference_names_path_and_both_values() -> None:
    ours, theirs = plan("1s").to_dict(), plan("2s").to_dict()
    assert first_difference(ours, theirs) == (
        "plan.nodes.tumblingbars.config.interval: ours 1000000000, theirs 2000000000"
    )
    assert first_difference(plan(partitions=4).to_dict(), plan(partitions=8).to_dict()) == (
        "plan.partitions: ours 4, theirs 8"
    )


def test_the_first_difference_names_what_only_one_side_has() -> None:
    ours = plan().to_dict()
    theirs = plan().to_dict()
    del theirs["nodes"]["dedupe"]
    assert first_difference(ours, theirs) == "plan.nodes.dedupe: only in ours"
    assert first_difference(theirs, ours) == "plan.nodes.dedupe: only in theirs"


def test_lists_differ_as_a_whole() -> None:
    assert first_difference({"a": [1, 2]}, {"a": [1, 3]}) == "plan.a: ours [1, 2], theirs [1, 3]"


def test_a_type_that_changed_is_a_difference() -> None:
    assert first_difference({"a": {}}, {"a": 1}) == "plan.a: ours {}, theirs 1"
    assert first_difference({"a": None}, {}) == "plan.a: only in ours"
