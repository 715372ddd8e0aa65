"""The records of tasks under a new plan: everything a node committed is found again, and nothing is promised twice."""

from __future__ import annotations

from typing import Any

from market_data_pipeline import Collect, Dedupe, Filter, Map, Pipeline, Synthetic, TumblingBars
from market_data_pipeline.dag.change import Choice, compare
from market_data_pipeline.dag.plan import Plan, TaskId
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.frame import NO_MARK
from market_data_pipeline.runtime.chain import input_keys
from market_data_pipeline.runtime.migration import NewRecord, Stored, holding, migrate

NO_CHOICE = Choice()


def plan(filtered: bool = False, apart: bool = False, interval: str = "1s") -> Plan:
    made = Pipeline("m").source(Synthetic(), name="source")
    if filtered:
        made = made.operator(Filter(bool), name="filter")
    made = made.key_by("symbol").operator(Dedupe("symbol"), name="dedupe")
    if apart:
        made = made.boundary().operator(Map(str), name="map")
    return compile_dag(made.operator(TumblingBars(interval), name="bars").sink(Collect(), name="sink").build(), 2)


def committed(made: Plan, mark: int = 100) -> dict[TaskId, Stored]:
    """What the tasks of ``made`` would have committed at the watermark ``mark``."""
    records = {}
    for task in made.tasks():
        subgraph = next(s for s in made.subgraphs if s.name == task.subgraph)
        marks = {}
        for name in subgraph.nodes:
            keys = list(input_keys(made, name, task.partition))
            marks[name] = {"marks": dict.fromkeys(keys, mark), "idle": [], "watermark": mark, "last": mark}
        meta: dict[str, Any] = {
            "marks": marks, "counts": {name: {"in": 7 + task.partition} for name in subgraph.nodes}, "watermark": mark,
        }  # fmt: skip
        sent = {edge.name: 40 for edge in made.outputs(subgraph)}
        used = {edge.name: 30 + task.partition for edge in made.inputs(subgraph)}
        meta["flow"] = {"sent": sent, "used": used, "busy": 0.0, "outside": 0.0, "paused": 0.0}
        if "source" in subgraph.nodes:
            meta |= {"position": 5000, "source_mark": mark}
        if "sink" in subgraph.nodes:
            meta |= {"sinks": {"sink": ["file", task.partition]}, "latency": {"count": 1}}
        if made.outputs(subgraph):
            meta |= {"out_marks": {edge.name: mark for edge in made.outputs(subgraph)}, "out_idle": []}
        records[task] = Stored(meta, False)
    return records


def exchanged(old: Plan, new: Plan, choice: Choice = NO_CHOICE) -> dict[TaskId, NewRecord]:
    return {record.task: record for record in migrate(old, new, compare(old, new, choice), committed(old))}


def test_an_equal_plan_has_equal_records() -> None:
    old = plan()
    records = exchanged(old, plan())
    assert list(records) == list(old.tasks())
    for task, stored in committed(old).items():
        assert records[task].stays
        assert records[task].meta == stored.meta


def test_a_new_node_begins_where_the_node_before_it_is() -> None:
    record = exchanged(plan(), plan(filtered=True))[TaskId("source", 0)]
    assert record.stays, "the source has no state of its own but its position"
    assert record.meta["position"] == 5000
    assert record.meta["marks"]["filter"] == {"marks": {"source": 100}, "idle": [], "watermark": 100, "last": 100}
    assert record.meta["out_marks"] == {"filter.dedupe": 100}
    assert record.meta["watermark"] == 100


def test_a_reader_keeps_its_watermark_and_forgets_marks_of_streams_that_are_gone() -> None:
    record = exchanged(plan(), plan(filtered=True))[TaskId("dedupe", 1)]
    assert record.meta["marks"]["dedupe"] == {"marks": {}, "idle": [], "watermark": 100, "last": 100}
    assert record.meta["marks"]["bars"]["marks"] == {"dedupe": 100}


def test_nodes_that_move_take_everything_along() -> None:
    records = exchanged(plan(), plan(apart=True))
    moved, left = records[TaskId("map", 1)], records[TaskId("dedupe", 1)]
    assert moved.sources == ((TaskId("dedupe", 1), ("bars", "sink")),)
    assert left.sources == ((TaskId("dedupe", 1), ("dedupe",)),)
    assert not moved.stays
    assert not left.stays
    assert moved.meta["sinks"] == {"sink": ["file", 1]}
    assert moved.meta["latency"] == {"count": 1}
    assert moved.meta["counts"]["bars"] == {"in": 8}
    assert moved.meta["marks"]["bars"]["watermark"] == 100
    assert moved.meta["marks"]["map"]["watermark"] == NO_MARK, "nothing has come there yet"
    assert left.meta["out_marks"] == {"dedupe.map": 100}
    assert "sinks" not in left.meta


def test_nodes_that_come_together_bring_everything() -> None:
    record = exchanged(plan(apart=True), plan(), Choice(reset=frozenset({"map"})))[TaskId("dedupe", 0)]
    assert not record.stays, "its own state is there, but the others' is not"
    assert record.sources == ((TaskId("dedupe", 0), ("dedupe",)), (TaskId("map", 0), ("bars", "sink")))
    assert record.meta["sinks"] == {"sink": ["file", 0]}


def test_what_is_reset_is_forgotten_but_not_the_watermark() -> None:
    record = exchanged(plan(), plan(interval="2s"), Choice(reset=frozenset({"bars"})))[TaskId("dedupe", 0)]
    assert not record.stays
    assert record.sources == ((TaskId("dedupe", 0), ("dedupe", "sink")),)
    assert record.meta["marks"]["bars"]["watermark"] == 100
    kept = exchanged(plan(), plan(interval="2s"), Choice(keep=frozenset({"bars"})))[TaskId("dedupe", 0)]
    assert kept.stays


def test_what_waits_on_an_edge_is_still_what_was_sent_less_what_was_used() -> None:
    records = exchanged(plan(), plan(apart=True))
    assert records[TaskId("source", 0)].meta["flow"]["sent"] == {"source.dedupe": 40}
    assert records[TaskId("dedupe", 1)].meta["flow"]["used"] == {"source.dedupe": 31}
    drained = exchanged(plan(), plan(filtered=True))
    assert drained[TaskId("source", 0)].meta["flow"]["sent"] == {}, "both sides begin anew where nothing waits"
    assert drained[TaskId("dedupe", 1)].meta["flow"]["used"] == {}


def test_a_source_that_is_reset_begins_anew() -> None:
    records = exchanged(plan(), plan(), Choice(reset=frozenset({"source"})))
    assert "position" not in records[TaskId("source", 0)].meta


def test_a_job_that_has_not_begun_has_empty_records() -> None:
    old, new = plan(), plan(apart=True)
    nothing = {task: Stored({}, False) for task in old.tasks()}
    made = {record.task: record.meta for record in migrate(old, new, compare(old, new), nothing)}
    assert made == {task: {} for task in new.tasks()}


def test_who_holds_something() -> None:
    old = plan()
    assert holding(committed(old), {TaskId("dedupe", 0): frozenset({"bars"})}) == {"source", "sink", "bars"}
    assert holding({task: Stored({}, False) for task in old.tasks()}, {}) == set()
