"""Names of fields that no item has are told where that is certain, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from market_data_pipeline import (
    AsofJoin,
    Collect,
    Conflate,
    CountWindow,
    Dag,
    DagRuntime,
    Dedupe,
    Discard,
    DollarBars,
    Filter,
    Frame,
    GapDetector,
    IntervalJoin,
    LabelBars,
    Map,
    Node,
    Operator,
    Quantile,
    ReferenceJoin,
    Replay,
    Resample,
    Router,
    Sum,
    Synthetic,
    TableRouter,
    Throttle,
    TickBars,
    Tumble,
    TumblingBars,
    TumblingWindow,
    VolumeBars,
    Vwap,
    WindowAggregate,
)
from market_data_pipeline.cli import main
from market_data_pipeline.dag.fields import unknown_fields
from market_data_pipeline.records import Trade


class MyDedupe(Dedupe):
    """Its results may be anything."""

    def process(self, frame: Frame) -> Iterable[Frame]:
        return super().process(frame)


class MySource(Synthetic):
    """So may these."""


def line(source: Any, *operators: Operator, key: str | None = None) -> Dag:
    """``source`` -> ``operators`` -> sink, with ``key`` on the last edge."""
    dag = Dag("line")
    nodes = [Node("source", source)]
    nodes += [Node(f"op{number}", operator, singleton=True) for number, operator in enumerate(operators)]
    nodes.append(Node("sink", Discard()))
    for node in nodes:
        dag.add_node(node)
    for src, dst in pairwise(nodes):
        last = dst.name == "sink"
        dag.add_edge(src.name, dst.name, key=key if last else None)
    return dag


TYPOS: list[tuple[Operator, str, str]] = [
    (Dedupe("symbol", "trade_idd"), "trade_idd", "trade_id"),
    (Dedupe("symbol", content=("prise",)), "prise", "price"),
    (GapDetector("trade_idd"), "trade_idd", "trade_id"),
    (GapDetector(symbol="symbl"), "symbl", "symbol"),
    (GapDetector(connection="venu"), "venu", "venue"),
    (Conflate("1s", "symbl"), "symbl", "symbol"),
    (Throttle(5, key="symbl"), "symbl", "symbol"),
    (TableRouter("symbl", {"a": "", "b": ""}), "symbl", "symbol"),
    (LabelBars("1m", ts="ts_close"), "ts_close", ""),
    (TumblingWindow("1s", ts="ts_evnt"), "ts_evnt", "ts_event"),
    (TumblingWindow("1s", key="symbl"), "symbl", "symbol"),
    (WindowAggregate(Tumble("1s"), {"v": Sum("prise")}), "prise", "price"),
    (WindowAggregate(CountWindow(5), {"v": Vwap("price", "sise")}), "sise", "size"),
    (WindowAggregate(CountWindow(5), {"v": Quantile("prise")}), "prise", "price"),
    (WindowAggregate(Tumble("1s"), {"v": Sum("price")}, ("symbol", "venu")), "venu", "venue"),
    (WindowAggregate(Tumble("1s"), {"v": Sum("price")}, ts="ts_evnt"), "ts_evnt", "ts_event"),
]


@pytest.mark.parametrize(("operator", "name", "near"), TYPOS, ids=[f"{type(o).__name__}-{n}" for o, n, _ in TYPOS])
def test_an_operator_that_names_a_field_that_is_not_there(operator: Operator, name: str, near: str) -> None:
    (said,) = unknown_fields(line(Synthetic(), operator))
    meant = f"did you mean {near!r}?" if near else f"there are: {', '.join(sorted(Trade._fields))}"
    assert said == f"operator 'op0': {name!r} is a field that no item there has; {meant}"


def test_a_key_that_is_not_there() -> None:
    (said,) = unknown_fields(line(Synthetic(), Dedupe("symbol"), key="symbl"))
    assert said == "edge op0 -> sink: the key 'symbl' is a field that no item there has; did you mean 'symbol'?"


@pytest.mark.parametrize("kind", ["left", "right"])
@pytest.mark.parametrize("join", [AsofJoin(["bidd"]), IntervalJoin(0, 0, ["bidd"]), ReferenceJoin(["bidd"])])
def test_the_two_inputs_of_a_join_are_apart(join: Any, kind: str) -> None:
    dag = Dag("join")
    sources = {"": Synthetic(), join.inputs[1]: Synthetic(kinds=("quote",))}
    for number, (port, source) in enumerate(sources.items()):
        dag.add_node(Node(f"s{number}", source))
        dag.add_edge(f"s{number}", "join", key="price" if kind == "left" else None, input=port)
    dag.add_node(Node("join", join, singleton=True))
    dag.add_node(Node("sink", Discard()))
    dag.add_edge("join", "sink")
    found = unknown_fields(dag)
    assert found[-1] == "operator 'join': 'bidd' is a field that no item there has; did you mean 'bid'?"
    assert [text.partition(";")[0] for text in found[:-1]] == (
        ["edge s1 -> join: the key 'price' is a field that no item there has"] if kind == "left" else []
    )


def test_what_comes_from_several_may_be_of_either() -> None:
    dag = Dag("both")
    for name, source in (("trades", Synthetic()), ("quotes", Synthetic(kinds=("quote",)))):
        dag.add_node(Node(name, source))
        dag.add_edge(name, "dedupe", key="symbol")
    dag.add_node(Node("dedupe", Dedupe("price", "bid", "close")))
    dag.add_node(Node("sink", Discard()))
    dag.add_edge("dedupe", "sink")
    (said,) = unknown_fields(dag)
    assert said.startswith("operator 'dedupe': 'close' is a field")


LATE: list[Operator] = [
    TumblingBars("1s", late="side_output"),
    Resample("1s", late="side_output"),
    WindowAggregate(Tumble("1s"), {"v": Sum("price")}, late="side_output"),
    TumblingWindow("1s", late="side_output"),
]


@pytest.mark.parametrize("operator", LATE, ids=[type(one).__name__ for one in LATE])
def test_what_is_late_is_what_came(operator: Operator) -> None:
    dag = Dag("late")
    for node in (Node("source", Synthetic()), Node("op", operator), Node("out", Discard()), Node("late", Discard())):
        dag.add_node(node)
    dag.add_edge("source", "op")
    dag.add_edge("op", "out")
    dag.add_edge("op", "late", key="conditons", output="late")
    (said,) = unknown_fields(dag)
    assert said.endswith("did you mean 'conditions'?")


UNKNOWN: list[Dag] = [
    line(Synthetic(), Map(dict), Dedupe("symbl"), key="symbl"),
    line(Synthetic(), MyDedupe("symbl"), key="symbl"),
    line(MySource(), Dedupe("symbl"), key="symbl"),
    line(Replay("a.csv", "rows"), Dedupe("symbl"), key="symbl"),
    line(Synthetic(gaps=0.1, gap_records=True), key="missing"),
    line(Synthetic(), Throttle(5, key="symbl", total=True)),
]


@pytest.mark.parametrize("dag", UNKNOWN, ids=["function", "derived", "source", "rows", "gaps", "total"])
def test_where_nobody_can_say_nothing_is_said(dag: Dag) -> None:
    assert unknown_fields(dag) == []


PASS: list[tuple[str, tuple[Operator, ...], str]] = [
    ("nothing", (), ""),
    ("filter", (Filter(bool),), ""),
    ("dedupe", (Dedupe("symbol", "trade_id"),), ""),
    ("gaps", (GapDetector(),), ""),
    ("gap-records", (GapDetector(),), "gaps"),
    ("conflate", (Conflate("1s"),), ""),
    ("throttle", (Throttle(5),), ""),
    ("router", (Router({"all": bool}),), "all"),
    ("table-router", (TableRouter("symbol", {"S0000": "one"}, None),), "one"),
    ("bars", (TumblingBars("1s"),), ""),
    ("resample", (TumblingBars("1s"), Resample("1m")), ""),
    ("label", (TumblingBars("1s"), LabelBars("1s")), ""),
    ("ticks", (TickBars(5),), ""),
    ("volume", (VolumeBars(5),), ""),
    ("dollars", (DollarBars(5),), ""),
    ("windows", (TumblingWindow("1s"),), ""),
    ("aggregates", (WindowAggregate(Tumble("1s"), {"v": Sum("size")}, ("symbol", "side")),), ""),
]


@pytest.mark.parametrize(("operators", "output"), [row[1:] for row in PASS], ids=[row[0] for row in PASS])
async def test_items_have_no_other_fields_than_those_that_are_said(
    operators: tuple[Operator, ...], output: str
) -> None:
    kept = Collect()
    dag = Dag("run")
    dag.add_node(Node("op", Synthetic(3, 400, event_rate=50, duplicates=0.1, disorder=0.2, gaps=0.1, gap_records=True)))
    before = "op"
    for number, operator in enumerate(operators):
        dag.add_node(Node(f"op{number}", operator))
        dag.add_edge(before, f"op{number}")
        for port in operator.required_outputs():
            if port != output:
                dag.add_node(Node(f"rest{number}", Discard()))
                dag.add_edge(f"op{number}", f"rest{number}", output=port)
        before = f"op{number}"
    dag.add_node(Node("sink", kept))
    dag.add_edge(before, "sink", key="no such field", output=output)
    (said,) = unknown_fields(dag)
    allowed = set(said.partition("; there are: ")[2].split(", "))
    await DagRuntime(dag).start()
    assert kept.items
    for item in kept.items:
        assert {*(item if isinstance(item, dict) else item._fields)} <= allowed


@pytest.mark.parametrize("command", ["plan", "validate"])
def test_the_commands_say_it(tmp_path: Path, command: str) -> None:
    file = tmp_path / "typo.yaml"
    file.write_text("name: typo\nnodes:\n- source: synthetic\n- {sink: discard, key: symblo}\n")
    result = CliRunner().invoke(main, [command, str(file)])
    assert result.exit_code == 0
    assert "warning: edge source -> discard: the key 'symblo' is a field that no item there has" in result.stderr
    assert "did you mean 'symbol'?" in result.stderr
