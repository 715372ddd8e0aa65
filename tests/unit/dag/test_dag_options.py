"""What one step or edge is given of its own: in the pipeline, in the plan, between two plans."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import market_data_pipeline as api
from market_data_pipeline import (
    ChannelOptions,
    Collect,
    Dag,
    Map,
    Node,
    NodeOptions,
    Pipeline,
    PipelineBuilder,
    Retries,
    Synthetic,
    Watermark,
)
from market_data_pipeline.dag.change import compare, obstacles
from market_data_pipeline.dag.plan import Plan, TaskId, first_difference, plan_from_dict
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.dag.render import render
from market_data_pipeline.errors import ConfigError, DagValidationError
from market_data_pipeline.feedback import StoreReading

OWN = ChannelOptions(capacity=256, levels=Watermark(200, 50), bytes=64 * 1024 * 1024)


class Asked:
    """A store that says how it is."""

    async def reading(self) -> StoreReading:
        raise NotImplementedError


def start() -> PipelineBuilder:
    return PipelineBuilder("p").source(Synthetic())


def plan(channel: ChannelOptions | None = None, partitions: int = 4) -> Plan:
    dag = Dag("options")
    for node in (Node("source", Synthetic()), Node("text", Map(str)), Node("sink", Collect())):
        dag.add_node(node)
    dag.add_edge("source", "text", key="symbol", channel=channel)
    dag.add_edge("text", "sink")
    return compile_dag(dag, partitions)


def test_the_builder_is_the_pipeline() -> None:
    assert PipelineBuilder is Pipeline
    assert {"PipelineBuilder", "NodeOptions", "ChannelOptions", "Retries"} <= set(api.__all__)


def test_options_are_those_of_the_step_before() -> None:
    asked, often = Asked(), Retries(attempts=3)
    dag = (
        start()
        .options(NodeOptions(on_error="skip", retries=often))
        .key_by()
        .map(str)
        .options(NodeOptions(channel=OWN, on_error="fail", singleton=True))
        .sink(Collect())
        .options(NodeOptions(retries=often, feedback=asked))
        .build()
    )
    source, step, sink = dag.nodes.values()
    assert (source.on_error, source.retries, source.singleton) == ("skip", often, None)
    assert (step.on_error, step.retries, step.singleton) == ("fail", None, True)
    assert (sink.on_error, sink.retries) == ("dead_letter", often)
    assert sink.feedback is asked
    assert [(edge.key, edge.channel) for edge in dag.edges] == [("symbol", OWN), (None, None)]


def test_what_options_leave_out_stays_as_it_was() -> None:
    options = [NodeOptions(on_error="skip"), NodeOptions(singleton=False), NodeOptions()]
    pipeline = start().map(str, on_error="fail")
    assert pipeline.options(options[2]).build().nodes["map"].on_error == "fail"
    for given in options:
        pipeline.options(given)
    made = pipeline.build().nodes["map"]
    assert (made.on_error, made.singleton) == ("skip", False)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: Pipeline("e"), NodeOptions(), r"pipeline 'e': .options\(...\) belongs behind a step"),
        (start, NodeOptions(channel=OWN), "source 'source': no edge leads to it"),
        (lambda: start().key_by(), NodeOptions(), "behind key_by would be those of 'source'"),
        (lambda: start().map(str).boundary(), NodeOptions(), "behind boundary would be those of 'map'"),
    ],
)
def test_options_that_belong_to_no_step_are_refused(
    make: Callable[[], Pipeline], options: NodeOptions, message: str
) -> None:
    with pytest.raises(DagValidationError, match=message):
        make().options(options)


def test_retries_are_for_what_has_an_outside() -> None:
    with pytest.raises(DagValidationError, match="operator 'map': retries are for sources and sinks"):
        start().map(str).options(NodeOptions(retries=Retries())).build()


def test_an_edge_that_is_fused_has_no_channel() -> None:
    dag = start().map(str).options(NodeOptions(channel=ChannelOptions(capacity=64))).build()
    with pytest.raises(DagValidationError, match=r"edge source -> map .*\(capacity 64\).* key or boundary=True"):
        compile_dag(dag, 2)
    (edge,) = compile_dag(dag, 1, fuse=True).edges
    assert edge.channel is None


def test_a_plan_without_options_is_what_it_was() -> None:
    """Also where the options say nothing: jobs that run keep their fingerprint."""
    assert plan(ChannelOptions()) == plan()
    assert set(plan().to_dict()["edges"]["source.text"]) == {"kind", "key", "output", "input"}
    assert plan(OWN).fingerprint != plan().fingerprint


@pytest.mark.parametrize("channel", [OWN, ChannelOptions(bytes=9999), ChannelOptions(levels=Watermark(9, 3))], ids=str)
def test_options_survive_the_server(channel: ChannelOptions) -> None:
    again = plan_from_dict(json.loads(plan(channel).to_json()))
    assert next(edge for edge in again.edges if edge.name == "source.text").channel == channel
    assert again.fingerprint == plan(channel).fingerprint


def test_the_difference_of_two_programs_names_the_options() -> None:
    bare, own = plan().to_dict(), plan(ChannelOptions(capacity=256)).to_dict()
    assert first_difference(own, bare) == "plan.edges.source.text.channel: ours {'capacity': 256}, theirs None"
    more = plan(ChannelOptions(capacity=512)).to_dict()
    assert first_difference(own, more) == "plan.edges.source.text.channel.capacity: ours 256, theirs 512"


@pytest.mark.parametrize(("before", "after"), [(None, OWN), (OWN, None), (OWN, ChannelOptions(capacity=64))])
def test_another_capacity_drains_nothing_and_stands_in_nobodys_way(
    before: ChannelOptions | None, after: ChannelOptions | None
) -> None:
    old, new = plan(before), plan(after)
    change = compare(old, new)
    assert (change.same, change.drained) == (("source", "text", "sink"), ())
    assert change.resized == {
        "source.text": f"{before or 'as the settings say'} -> {after or 'as the settings say'}",
    }
    assert obstacles(old, new, change, {"source", "sink"}, [TaskId("source", 0)]) == []


def test_people_see_the_options() -> None:
    label = "source ~> text  [keyed by symbol, capacity 256, bytes 67108864, levels 200/50]"
    assert render(plan(OWN), "tree").count(label) == 2
    assert plan(OWN).capacities == {"source.text": 256}


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (NodeOptions, {"retries": 5}, r"retries: 5 is no Retries; write retries=Retries\(attempts=5\)"),
        (NodeOptions, {"channel": {"capacity": 9}}, r"channel: {'capacity': 9} is no ChannelOptions"),
        (NodeOptions, {"singleton": 1}, "singleton: 1 is no bool"),
        (NodeOptions, {"on_error": "drop"}, "on_error: 'drop' is not allowed; one of: fail, skip, dead_letter"),
        (NodeOptions, {"feedback": 5}, "feedback: 5 has no method reading"),
        (ChannelOptions, {"capacity": "256"}, "capacity: '256' is no int; write capacity=256"),
        (ChannelOptions, {"capacity": True}, "capacity: True is no int"),
        (ChannelOptions, {"bytes": 1e6}, "bytes: 1000000.0 is no int"),
        (
            ChannelOptions,
            {"levels": (8, 5)},
            r"levels: \(8, 5\) is no Watermark; write levels=Watermark\(high=200, low=50\)",
        ),
        (Retries, {"attempts": 2.5}, "attempts: 2.5 is no int"),
    ],
)
def test_values_of_a_wrong_type_are_refused_where_they_are_given(
    kind: type[object], given: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**given)


def test_a_step_takes_options_and_nothing_else() -> None:
    with pytest.raises(
        DagValidationError, match=r"step 'source': .options\({'on_error': 'skip'}\): write .options\(NodeO"
    ):
        start().options({"on_error": "skip"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("node", "edge", "message"),
    [
        ({"retries": 5}, {}, r"node 'out': retries: 5 is no Retries; write retries=Retries\(attempts=5\)"),
        ({"singleton": "yes"}, {}, "node 'out': singleton: 'yes' is no bool"),
        ({}, {"channel": 64}, r"edge source -> out: channel: 64 is no ChannelOptions"),
    ],
)
def test_a_dag_refuses_values_of_a_wrong_type(node: dict[str, Any], edge: dict[str, Any], message: str) -> None:
    dag = Dag("types")
    dag.add_node(Node("source", Synthetic()))
    dag.add_node(Node("out", Collect(), **node))
    dag.add_edge("source", "out", **edge)
    with pytest.raises(DagValidationError, match=message):
        dag.validate()
