"""The records of tasks under a new plan: everything a node committed is found again, and nothing is promised twice."""

from __future__ import annotations

from typing import Any

from market_data_pipeline import Collect, Dag, Dedupe, Filter, Map, Node, Pipeline, Synthetic, TumblingBars
from market_data_pipeline.dag.change import Choice, compare, obstacles
from market_data_pipeline.dag.plan import Plan, TaskId
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.frame import END, NO_MARK
from market_data_pipeline.runtime.chain import input_keys
from market_data_pipeline.runtime.migration import NewRecord, Stored, holding, migrate, silenced

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


def idle_source(stored: Stored) -> Stored:
    marks = {name: {**saved, "idle": list(saved["marks"])} for name, saved in stored.meta["marks"].items()}
    return Stored({**stored.meta, "marks": marks, "out_idle": list(stored.meta["out_marks"])}, stored.ended)


def test_who_is_idle_is_idle_for_new_nodes_and_new_channels() -> None:
    """A source says once that it is silent; whoever comes later must be told, or it waits for it for ever."""
    old, new = plan(), plan(filtered=True)
    records = committed(old)
    records[TaskId("source", 0)] = idle_source(records[TaskId("source", 0)])
    made = {record.task: record.meta for record in migrate(old, new, compare(old, new), records)}
    meta = made[TaskId("source", 0)]
    assert meta["marks"]["filter"] == {"marks": {"source": 100}, "idle": ["source"], "watermark": 100, "last": 100}
    assert meta["out_idle"] == ["filter.dedupe"]
    back = {record.task: record.meta for record in migrate(new, old, compare(new, old), stored_of(made))}
    assert back[TaskId("source", 0)]["out_idle"] == ["source.dedupe"]


def stored_of(made: dict[TaskId, dict[str, Any]]) -> dict[TaskId, Stored]:
    return {task: Stored(meta, False) for task, meta in made.items()}


def test_an_idle_input_among_others_holds_a_new_node_as_little_as_the_old_ones() -> None:
    """A node that is new behind a join of which one input is idle."""

    def joined(extra: bool) -> Plan:
        dag = Dag("m")
        for name in ("a", "b"):
            dag.add_node(Node(name, Synthetic()))
            dag.add_node(Node(f"{name}2", Map(str)))
            dag.add_edge(name, f"{name}2", key="symbol")
        dag.add_node(Node("both", Map(str)))
        dag.add_node(Node("sink", Collect()))
        dag.add_edge("a2", "both")
        dag.add_edge("b2", "both")
        if extra:
            dag.add_node(Node("new", Map(str)))
            dag.add_edge("a2", "new")
            dag.add_edge("new", "sink")
        dag.add_edge("both", "sink")
        return compile_dag(dag, 1)

    old, new = joined(False), joined(True)
    records = committed(old)
    task = old.subgraph_of["both"].name
    meta = records[TaskId(task, 0)].meta
    key = next(iter(meta["marks"]["a2"]["marks"]))
    meta["marks"]["a2"]["idle"], meta["marks"]["both"]["idle"] = [key], ["a2"]
    made = {record.task: record.meta for record in migrate(old, new, compare(old, new), records)}
    assert made[TaskId(new.subgraph_of["new"].name, 0)]["marks"]["new"]["idle"] == ["a2"]


def test_what_has_ended_cannot_say_so_on_a_new_channel() -> None:
    """Two nodes in one subgraph, one of which has ended: apart from the other, it would end without telling it."""

    def joined(apart: bool) -> Plan:
        dag = Dag("m")
        for name in ("a", "b"):
            dag.add_node(Node(name, Synthetic()))
            dag.add_node(Node(f"{name}2", Map(str)))
            dag.add_edge(name, f"{name}2", key="symbol")
        dag.add_node(Node("sink", Collect()))
        dag.add_edge("a2", "sink", boundary=apart)
        dag.add_edge("b2", "sink", boundary=apart)
        return compile_dag(dag, 1)

    old, new = joined(False), joined(True)
    change = compare(old, new)
    records = committed(old)
    assert silenced(old, new, change, migrate(old, new, change, records)) == []
    both = records[TaskId("a2", 0)]
    ended = {"marks": dict.fromkeys(both.meta["marks"]["a2"]["marks"], END), "idle": [], "watermark": END, "last": 99}
    both.meta["marks"]["a2"] = ended
    assert obstacles(old, new, change, set(), [t for t, s in records.items() if s.meta["watermark"] == END]) == []
    assert silenced(old, new, change, migrate(old, new, change, records)) == ["a2"]


def test_a_node_of_another_kind_takes_nothing_over() -> None:
    """Its former namesake stood behind a source, whose position is not its own."""
    old = plan(filtered=True)
    dag = Pipeline("m").source(Synthetic(), name="filter").key_by("symbol").operator(Dedupe("symbol"), name="dedupe")
    new = compile_dag(dag.operator(TumblingBars("1s"), name="bars").sink(Collect(), name="sink").build(), 2)
    record = exchanged(old, new, Choice(reset=frozenset({"source"})))[TaskId("filter", 0)]
    assert "position" not in record.meta
    assert record.meta == {}


def test_a_sink_that_begins_anew_is_another_one_to_its_files() -> None:
    """With the name of the former one it would take that one's files for what a rolled-back server forgot, and delete them."""
    old, reset = plan(), Choice(reset=frozenset({"sink"}))
    first = migrate(old, plan(), compare(old, plan(), reset), committed(old), "one")
    task = TaskId("dedupe", 0)
    meta = {record.task: record.meta for record in first}
    assert meta[task]["lives"] == {"sink": "one"}
    assert meta[task]["sinks"] == {}
    then = migrate(old, plan(apart=True), compare(old, plan(apart=True)), stored_of(meta), "two")
    assert {r.task: r.meta.get("lives") for r in then}[TaskId("map", 0)] == {"sink": "one"}
    new = migrate(plan(), old, compare(plan(), old, reset), {t: Stored({}, False) for t in old.tasks()}, "three")
    assert {r.task: r.meta for r in new}[task] == {"lives": {"sink": "three"}}
