"""Dag -> Plan: what is fused, what crosses a stream and how, where things run, and what the fingerprint sees."""

from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from market_data_pipeline.dag.graph import Dag, Node
from market_data_pipeline.dag.pipeline import Pipeline
from market_data_pipeline.dag.plan import Plan
from market_data_pipeline.dag.planner import MAX_PARTITIONS, compile_dag
from market_data_pipeline.errors import ConfigError, DagValidationError
from market_data_pipeline.operators.stateless import Filter, Map
from market_data_pipeline.sinks.collect import Collect
from market_data_pipeline.sources.base import Batch, Source
from market_data_pipeline.sources.synthetic import Synthetic


class Split(Source):
    """A source that can be split by partition."""

    splittable: ClassVar[bool] = True

    async def read(self) -> Batch | None:
        return None


async def step(in_ch: dict[str, Any], out_ch: dict[str, Any]) -> None:
    """A coroutine node."""


def build(*edges: tuple[str, str] | tuple[str, str, dict[str, Any]], **options: Any) -> Dag:
    """Nodes by first letter: s source, p splittable source, k sink, c coroutine, others operators; ``options`` by name
    give ``singleton``."""
    makers: dict[str, Callable[[], Any]] = {"s": Synthetic, "p": Split, "k": Collect, "c": lambda: step}
    dag = Dag("job")
    for name in dict.fromkeys(end for edge in edges for end in edge[:2]):
        dag.add_node(Node(name, makers.get(name[0], lambda: Map(str))(), singleton=options.get(name)))
    for edge in edges:
        kind: dict[str, Any] = edge[2] if len(edge) == 3 else {}
        dag.add_edge(edge[0], edge[1], **kind)
    return dag


KEYED: dict[str, Any] = {"key": "symbol"}
BOUNDARY: dict[str, Any] = {"boundary": True}
BROADCAST: dict[str, Any] = {"broadcast": True}


def kinds(plan: Plan) -> dict[str, str]:
    return {edge.name: edge.kind for edge in plan.edges}


def groups(plan: Plan) -> list[tuple[tuple[str, ...], int | None]]:
    return [(subgraph.nodes, subgraph.home) for subgraph in plan.subgraphs]


def test_the_usual_job() -> None:
    plan = compile_dag(build(("s", "a", KEYED), ("a", "b"), ("b", "k")), 4)
    assert groups(plan) == [(("s",), 0), (("a", "b", "k"), None)]
    assert kinds(plan) == {"s.a": "keyed", "a.b": "forward", "b.k": "forward"}
    assert [edge.key for edge in plan.edges] == ["symbol", None, None]
    assert [edge.name for edge in plan.channels] == ["s.a"]
    assert [str(task) for task in plan.tasks()] == ["s/0", "a/0", "a/1", "a/2", "a/3"]


def test_all_forward_from_a_singleton_source_runs_once() -> None:
    plan = compile_dag(build(("s", "a"), ("a", "k")), 4)
    assert groups(plan) == [(("s", "a", "k"), 0)]
    assert plan.channels == ()
    assert len(list(plan.tasks())) == 1


def test_a_splittable_source_runs_in_every_partition_with_what_follows() -> None:
    plan = compile_dag(build(("p", "a"), ("a", "k")), 3)
    assert groups(plan) == [(("p", "a", "k"), None)]
    assert [task.partition for task in plan.tasks()] == [0, 1, 2]


def test_boundary_cuts_but_stays_in_the_partition() -> None:
    plan = compile_dag(build(("s", "a", KEYED), ("a", "b", BOUNDARY), ("b", "k")), 4)
    assert groups(plan) == [(("s",), 0), (("a",), None), (("b", "k"), None)]
    assert kinds(plan)["a.b"] == "boundary"
    edge = plan.channels[1]
    assert plan.origins(edge, 2) == ("a/2",)
    assert plan.targets(edge, 2) == range(2, 3)


def test_keyed_goes_from_every_writer_to_every_partition() -> None:
    plan = compile_dag(build(("p", "a", KEYED), ("a", "k")), 3)
    (edge,) = plan.channels
    assert plan.origins(edge, 1) == ("p/0", "p/1", "p/2")
    assert plan.targets(edge, 1) == range(3)
    assert plan.outputs(plan.subgraph_of["p"]) == plan.inputs(plan.subgraph_of["a"]) == [edge]


def test_broadcast_reaches_every_partition() -> None:
    plan = compile_dag(build(("s", "a", BROADCAST), ("p", "a", KEYED), ("a", "k")), 3)
    assert kinds(plan) == {"s.a": "broadcast", "p.a": "keyed", "a.k": "forward"}
    edge = plan.edges[0]
    assert plan.targets(edge, 0) == range(3)
    assert plan.origins(edge, 2) == ("s/0",)


@pytest.mark.parametrize("kind", [KEYED, BROADCAST, {}, BOUNDARY])
def test_every_crossing_into_a_singleton_gathers(kind: dict[str, Any]) -> None:
    plan = compile_dag(build(("p", "a"), ("a", "k", kind), k=True), 3)
    assert kinds(plan)["a.k"] == "gather"
    assert groups(plan) == [(("p", "a"), None), (("k",), 0)]
    edge = plan.channels[0]
    assert plan.origins(edge, 0) == ("p/0", "p/1", "p/2")
    assert plan.targets(edge, 2) == range(1)


def test_homes_of_singletons_go_round_the_partitions() -> None:
    edges = [(f"s{i}", f"k{i}") for i in range(5)]
    plan = compile_dag(build(*edges), 3)
    assert [home for _, home in groups(plan)] == [0, 1, 2, 0, 1]
    assert [list(plan.partitions_of(subgraph)) for subgraph in plan.subgraphs] == [[0], [1], [2], [0], [1]]


def test_several_steps_may_follow_one_and_meet_again_in_one_subgraph() -> None:
    plan = compile_dag(build(("s", "r", KEYED), ("r", "a"), ("r", "b"), ("a", "m"), ("b", "m"), ("m", "k")), 2)
    assert groups(plan) == [(("s",), 0), (("r", "a", "b", "m", "k"), None)]


def test_a_diamond_behind_one_source_is_fused() -> None:
    plan = compile_dag(build(("s", "a"), ("s", "b"), ("a", "m"), ("b", "m"), ("m", "k")), 2)
    assert groups(plan) == [(("s", "a", "b", "m", "k"), 0)]


def test_fan_in_of_a_source_with_a_stream_becomes_a_boundary() -> None:
    plan = compile_dag(build(("p", "a"), ("a", "m"), ("s", "m", KEYED), ("m", "k")), 2)
    assert kinds(plan) == {"p.a": "forward", "a.m": "boundary", "s.m": "keyed", "m.k": "forward"}
    assert [nodes for nodes, _ in groups(plan)] == [("p", "a"), ("s",), ("m", "k")]


def test_fan_in_of_two_sources_becomes_streams() -> None:
    plan = compile_dag(build(("s1", "m"), ("s2", "m"), ("m", "k")), 3)
    assert kinds(plan) == {"s1.m": "gather", "s2.m": "gather", "m.k": "forward"}
    assert groups(plan) == [(("s1",), 0), (("s2",), 1), (("m", "k"), 2)]
    plan = compile_dag(build(("p1", "m"), ("p2", "m"), ("m", "k")), 3)
    assert kinds(plan) == {"p1.m": "boundary", "p2.m": "boundary", "m.k": "forward"}


def test_no_task_reads_both_a_source_and_a_stream() -> None:
    plan = compile_dag(
        build(("p", "a"), ("a", "k1"), ("a", "m"), ("s", "m", KEYED), ("m", "k2"), ("p", "n"), ("m", "n"), ("n", "k3")),
        2,
    )
    for subgraph in plan.subgraphs:
        sources = [name for name in subgraph.nodes if plan.node[name].kind == "source"]
        assert len(sources) + bool(plan.inputs(subgraph)) == 1


def test_edges_at_coroutines_always_cross() -> None:
    plan = compile_dag(build(("c1", "c2"), ("c2", "c3", KEYED)), 2)
    assert kinds(plan) == {"c1.c2": "gather", "c2.c3": "keyed"}
    assert groups(plan) == [(("c1",), 0), (("c2",), 1), (("c3",), None)]


def test_fused_in_one_process_only_coroutines_boundaries_and_sources_cross() -> None:
    plan = compile_dag(build(("s", "a", KEYED), ("a", "b"), ("b", "k")), 1, fuse=True)
    assert groups(plan) == [(("s", "a", "b", "k"), 0)]
    plan = compile_dag(build(("s", "a", KEYED), ("a", "b", BOUNDARY), ("b", "c")), 1, fuse=True)
    assert kinds(plan) == {"s.a": "forward", "a.b": "boundary", "b.c": "boundary"}


def test_one_partition_without_fuse_keeps_its_streams() -> None:
    assert kinds(compile_dag(build(("s", "a", KEYED), ("a", "k")), 1))["s.a"] == "keyed"


def test_forward_from_once_to_every_partition_is_refused() -> None:
    with pytest.raises(
        DagValidationError, match="edge s -> a: 's' runs once and 'a' in every partition: give the edge"
    ):
        compile_dag(build(("s", "a"), ("a", "k"), a=False), 2)


def test_joining_once_with_every_partition_is_refused() -> None:
    with pytest.raises(DagValidationError, match="node 'm' joins 's', which runs once, with 'p', which runs in every"):
        compile_dag(build(("s", "m"), ("p", "m"), ("m", "k")), 2)


def test_an_edge_that_crosses_within_a_subgraph_is_refused() -> None:
    dag = build(("s", "x", KEYED), ("x", "z", BOUNDARY), ("x", "y"), ("y", "z2"), ("z2", "k"), ("x", "z2", BOUNDARY))
    with pytest.raises(DagValidationError, match="edge x -> z2 crosses a stream but both nodes are fused"):
        compile_dag(dag, 2)


def test_a_stream_parallel_to_fused_nodes_is_refused() -> None:
    dag = build(("s", "x", KEYED), ("x", "y"), ("x", "z", KEYED), ("z", "y", KEYED), ("y", "k"))
    with pytest.raises(DagValidationError, match=r"cycle: x -> z -> x; add boundary=True to a parallel forward edge"):
        compile_dag(dag, 2)


def test_the_advice_given_for_parallel_edges_works() -> None:
    dag = build(("s", "x", KEYED), ("x", "y", BOUNDARY), ("x", "z", KEYED), ("z", "y", KEYED), ("y", "k"))
    assert [nodes for nodes, _ in groups(compile_dag(dag, 2))] == [("s",), ("x",), ("z",), ("y", "k")]


@pytest.mark.parametrize("partitions", [0, -1, MAX_PARTITIONS + 1])
def test_partitions_out_of_bounds(partitions: int) -> None:
    with pytest.raises(ConfigError, match=f"partitions: {partitions} is not allowed; from 1 to 4096"):
        compile_dag(build(("s", "k")), partitions)


@pytest.mark.parametrize("partitions", [1, MAX_PARTITIONS])
def test_partitions_at_the_bounds(partitions: int) -> None:
    assert compile_dag(build(("p", "k")), partitions).partitions == partitions


def test_an_invalid_graph_is_not_compiled() -> None:
    with pytest.raises(DagValidationError, match="cycle: a -> b -> a"):
        compile_dag(build(("a", "b"), ("b", "a")), 2)


def test_nodes_carry_kind_type_config_and_policy() -> None:
    plan = compile_dag(Pipeline("x").source(Synthetic(items=5)).dedupe("id", within="5s").build(), 1)
    source, dedupe = plan.nodes
    assert (source.kind, source.type) == ("source", "market_data_pipeline.sources.synthetic.Synthetic")
    assert source.config["items"] == 5
    usual = {"max_keys": 1_000_000, "content": None, "promote": True}
    assert dedupe.config == {"fields": ["id"], "within": 5_000_000_000, **usual}
    assert dedupe.on_error == "dead_letter"


def program(
    fn: Callable[[Any], Any] = lambda t: t.price > 10,
    *,
    name: str = "job",
    items: int = 100,
    interval: str = "1s",
    key: str = "symbol",
    on_error: Any = "dead_letter",
) -> Dag:
    pipeline = Pipeline(name).source(Synthetic(items=items)).key_by(key)
    return pipeline.filter(fn, on_error=on_error).bars(interval).sink(Collect()).build()


def fingerprint(dag: Dag, partitions: int = 4) -> str:
    return compile_dag(dag, partitions).fingerprint


def test_equal_programs_have_equal_fingerprints() -> None:
    first, second = compile_dag(program(), 4), compile_dag(program(), 4)
    assert first == second
    assert first.fingerprint == second.fingerprint
    assert len(first.fingerprint) == 16
    assert set(first.fingerprint) <= set("0123456789abcdef")


def test_equal_durations_in_other_words_are_equal_programs() -> None:
    assert fingerprint(program(interval="1s")) == fingerprint(program(interval="1000ms"))


def test_every_edit_shows_in_the_fingerprint() -> None:
    prints = [
        fingerprint(program()),
        fingerprint(program(lambda t: t.price > 11)),
        fingerprint(program(lambda t: t.price < 10)),
        fingerprint(program(lambda t: t.size > 10)),
        fingerprint(program(name="other")),
        fingerprint(program(items=101)),
        fingerprint(program(interval="2s")),
        fingerprint(program(key="side")),
        fingerprint(program(on_error="skip")),
        fingerprint(program(), 5),
    ]
    assert len(set(prints)) == len(prints)


def test_an_operator_of_another_class_shows() -> None:
    def fn(x: Any) -> Any:
        return x

    dags = []
    for operator in (Map(fn), Filter(fn)):
        dags.append(Pipeline("p").source(Synthetic()).operator(operator, "op").build())
    assert fingerprint(dags[0]) != fingerprint(dags[1])
