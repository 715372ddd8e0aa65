"""The declared graph: every kind of mistake is found before anything runs, and said in words."""

import functools
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.dag.graph import Dag, Edge, Node, is_coroutine_function
from market_data_pipeline.dag.pipeline import Pipeline
from market_data_pipeline.errors import DagValidationError
from market_data_pipeline.operators.stateless import Map
from market_data_pipeline.sinks.collect import Collect
from market_data_pipeline.sources.synthetic import Synthetic


async def step(in_ch: dict[str, Any], out_ch: dict[str, Any]) -> None:
    """A coroutine node that does nothing."""


def dag_of(*edges: tuple[str, str], nodes: str = "") -> Dag:
    """Coroutine nodes named by single letters, in the order of ``nodes``, else of the edges."""
    dag = Dag("g")
    for name in nodes or dict.fromkeys("".join(src + dst for src, dst in edges)):
        dag.add_node(Node(name, step))
    for src, dst in edges:
        dag.add_edge(src, dst)
    return dag


def linear() -> Dag:
    dag = Dag("line")
    dag.add_node(Node("src", Synthetic()))
    dag.add_node(Node("double", Map(str)))
    dag.add_node(Node("out", Collect()))
    dag.add_edge("src", "double")
    dag.add_edge("double", "out")
    return dag


def test_the_kind_of_a_node_follows_from_its_fn() -> None:
    kinds = [Node("n", fn).kind for fn in (Synthetic(), Map(str), Collect(), step)]
    assert kinds == ["source", "operator", "sink", "coroutine"]


def test_add_returns_what_was_added() -> None:
    dag = Dag()
    node = Node("a", step)
    assert dag.add_node(node) is node
    assert dag.add_edge("a", "b", key="symbol") == Edge("a", "b", key="symbol")
    assert dag.add_edge("a", "c", boundary=True) == Edge("a", "c", boundary=True)
    assert dag.add_edge("a", "d", broadcast=True) == Edge("a", "d", broadcast=True)
    assert [edge.dst for edge in dag.edges] == ["b", "c", "d"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            lambda dag: dag.add_node(Collect()),
            r"^add_node takes a Node, not Collect: add_node\(Node\('a_name', Collect\(",
        ),
        (lambda dag: dag.add_node(Collect), "^add_node takes a Node, not Collect: "),
        (
            lambda dag: dag.add_edge(Node("a", step), "b"),
            "^add_edge takes the names of nodes, not Node: write 'a' instead",
        ),
        (
            lambda dag: dag.add_edge("a", Collect()),
            "^add_edge takes the names of nodes, not Collect: write 'a_name' instead",
        ),
        (lambda _: Dag(None), r"^Dag\(None\): the name is to be text, such as Dag\('bars'\)"),
        (lambda _: Pipeline(5), r"^Pipeline\(5\): the name is to be text"),
    ],
)
def test_what_is_no_node_and_no_name_is_refused_where_it_is_given(wrong: Any, message: str) -> None:
    dag = linear()
    with pytest.raises(DagValidationError, match=message):
        wrong(dag)
    assert dag.validate() == ("src", "double", "out")


def test_a_valid_graph_gives_its_order() -> None:
    assert linear().validate() == ("src", "double", "out")


def test_edges_may_be_declared_before_nodes() -> None:
    dag = Dag()
    dag.add_edge("a", "b")
    dag.add_node(Node("b", step))
    dag.add_node(Node("a", step))
    assert dag.validate() == ("a", "b")


def test_neighbours() -> None:
    dag = dag_of(("a", "b"), ("a", "c"), ("b", "d"), ("c", "d"))
    assert (dag.downstream("a"), dag.upstream("d"), dag.upstream("a")) == (["b", "c"], ["b", "c"], [])


def test_ties_are_broken_by_declaration() -> None:
    assert dag_of(("a", "d"), ("b", "d"), ("c", "d"), nodes="cbad").validate() == ("c", "b", "a", "d")


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.permutations("abcdefgh"), st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=16))
def test_the_order_is_topological(names: list[str], pairs: list[tuple[int, int]]) -> None:
    edges = {(names[i], names[j]) for i, j in pairs if i < j}
    edges |= set(pairwise(names))
    order = dag_of(*sorted(edges), nodes="abcdefgh").validate()
    assert sorted(order) == list("abcdefgh")
    assert all(order.index(src) < order.index(dst) for src, dst in edges)


@pytest.mark.parametrize(
    ("edges", "nodes", "path"),
    [
        ([("a", "a")], "a", "a -> a"),
        ([("a", "b"), ("b", "a")], "ab", "a -> b -> a"),
        ([("a", "b"), ("b", "c"), ("c", "a")], "abc", "a -> b -> c -> a"),
        ([("a", "b"), ("b", "c"), ("c", "a")], "cab", "c -> a -> b -> c"),
        ([("a", "b"), ("b", "c"), ("c", "b"), ("c", "d")], "abcd", "b -> c -> b"),
        ([("x", "b"), ("b", "c"), ("c", "d"), ("d", "c"), ("d", "y")], "yxdcb", "d -> c -> d"),
    ],
)
def test_a_cycle_is_shown_as_a_path(edges: list[tuple[str, str]], nodes: str, path: str) -> None:
    with pytest.raises(DagValidationError, match=f"^dag 'g' has a cycle: {path}$"):
        dag_of(*edges, nodes=nodes).validate()


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef")), min_size=1, max_size=14, unique=True))
def test_a_cycle_that_is_shown_is_one(edges: list[tuple[str, str]]) -> None:
    try:
        order = dag_of(*edges).validate()
    except DagValidationError as error:
        path = str(error).partition("cycle: ")[2].split(" -> ")
        assert path[0] == path[-1]
        assert len(path) > 1
        assert len(set(path)) == len(path) - 1
        assert all(step in edges for step in pairwise(path))
    else:
        assert all(order.index(src) < order.index(dst) for src, dst in edges)


def test_an_empty_graph() -> None:
    with pytest.raises(DagValidationError, match="dag 'dag' has no nodes"):
        Dag().validate()


def test_an_unknown_node_with_a_suggestion() -> None:
    dag = linear()
    dag.add_edge("doubel", "out")
    with pytest.raises(DagValidationError, match="edge doubel -> out: unknown node 'doubel'; did you mean 'double'\\?"):
        dag.validate()


def test_an_unknown_node_without_a_near_name_lists_all() -> None:
    dag = linear()
    dag.add_edge("src", "zzz")
    with pytest.raises(DagValidationError, match="unknown node 'zzz'; there are: src, double, out"):
        dag.validate()


def test_duplicate_node() -> None:
    dag = linear()
    dag.add_node(Node("double", Map(int)))
    with pytest.raises(DagValidationError, match="duplicate node 'double'"):
        dag.validate()


def test_duplicate_edge_even_with_another_kind() -> None:
    dag = linear()
    dag.add_edge("src", "double", key="symbol")
    with pytest.raises(DagValidationError, match="duplicate edge src -> double"):
        dag.validate()


@pytest.mark.parametrize("name", ["", "a b", "a.b", "-a", "_a", "ä", "a" * 41, "a\n", 5])
def test_bad_names(name: Any) -> None:
    dag = Dag()
    dag.add_node(Node(name, step))
    with pytest.raises(DagValidationError, match="must match"):
        dag.validate()


@pytest.mark.parametrize("name", ["a", "A-1_b", "0", "a" * 40])
def test_good_names(name: str) -> None:
    dag = Dag()
    dag.add_node(Node(name, step))
    assert dag.validate() == (name,)


@pytest.mark.parametrize(
    "kinds",
    [{"key": "s", "broadcast": True}, {"key": "s", "boundary": True}, {"broadcast": True, "boundary": True}],
)
def test_an_edge_is_of_one_kind(kinds: dict[str, Any]) -> None:
    dag = Dag()
    dag.add_node(Node("a", step))
    dag.add_node(Node("b", step))
    dag.add_edge("a", "b", **kinds)
    with pytest.raises(DagValidationError, match="edge a -> b: choose one of key, broadcast, boundary"):
        dag.validate()


@pytest.mark.parametrize("kind", ["operator", "sink"])
def test_missing_source(kind: str) -> None:
    dag = Dag()
    dag.add_node(Node("n", Map(str) if kind == "operator" else Collect()))
    with pytest.raises(DagValidationError, match=f"{kind} 'n' has no source: no edge leads to it"):
        dag.validate()


def test_unreachable_node() -> None:
    dag = linear()
    dag.add_node(Node("lonely", step))
    with pytest.raises(DagValidationError, match="node 'lonely' is unreachable: no edge joins it"):
        dag.validate()


def test_a_source_that_nothing_reads_is_unreachable() -> None:
    dag = linear()
    dag.add_node(Node("lonely", Synthetic()))
    with pytest.raises(DagValidationError, match="node 'lonely' is unreachable"):
        dag.validate()


def test_a_source_has_no_input_and_a_sink_no_output() -> None:
    dag = linear()
    dag.add_node(Node("second", Synthetic()))
    dag.add_edge("src", "second")
    with pytest.raises(DagValidationError, match="source 'second' cannot have an input, but 'src' feeds it"):
        dag.validate()
    dag = linear()
    dag.add_node(Node("after", Map(str)))
    dag.add_edge("out", "after")
    with pytest.raises(DagValidationError, match="sink 'out' cannot have an output, but it feeds 'after'"):
        dag.validate()


def test_a_class_in_place_of_an_instance() -> None:
    dag = Dag()
    dag.add_node(Node("n", Collect))  # type: ignore[arg-type]
    with pytest.raises(DagValidationError, match=r"node 'n': Collect is a class; give an instance: Collect\(...\)"):
        dag.validate()


@pytest.mark.parametrize("fn", [print, lambda i, o: None, 5, None])
def test_what_is_no_node_function(fn: Any) -> None:
    dag = Dag()
    dag.add_node(Node("n", fn))
    with pytest.raises(DagValidationError, match="neither a Source, Operator or Sink nor an 'async def"):
        dag.validate()


def test_an_unknown_error_policy() -> None:
    dag = Dag()
    dag.add_node(Node("n", step, on_error="ignore"))  # type: ignore[arg-type]
    with pytest.raises(DagValidationError, match="on_error='ignore'; allowed: fail, skip, dead_letter"):
        dag.validate()


def test_immutable_after_validate() -> None:
    dag = linear()
    order = dag.validate()
    with pytest.raises(DagValidationError, match="dag 'line' is already validated and cannot be changed"):
        dag.add_node(Node("more", Map(str)))
    with pytest.raises(DagValidationError, match="cannot be changed"):
        dag.add_edge("src", "out")
    dag.nodes.clear()
    assert dag.validate() == order
    assert list(dag.nodes) == ["src", "double", "out"]


class AsyncCall:
    async def __call__(self, in_ch: dict[str, Any], out_ch: dict[str, Any]) -> None: ...

    async def method(self, in_ch: dict[str, Any], out_ch: dict[str, Any]) -> None: ...


def test_what_is_a_coroutine_function() -> None:
    good = [step, functools.partial(step), functools.partial(functools.partial(step)), AsyncCall(), AsyncCall().method]
    assert [is_coroutine_function(fn) for fn in good] == [True] * 5
    assert [is_coroutine_function(fn) for fn in (print, 5, None, functools.partial(print))] == [False] * 4
