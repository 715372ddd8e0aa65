"""Documents -> Dags: names, edges, options, parameters; the same plan as the program's."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from market_data_pipeline import (
    Collect,
    Dag,
    DagRuntime,
    Dedupe,
    JsonLines,
    KafkaTopic,
    Map,
    Node,
    Pipeline,
    PostgresStore,
    Router,
    Synthetic,
    TumblingBars,
)
from market_data_pipeline.app import load_app
from market_data_pipeline.catalog.load import dag_of, load_file
from market_data_pipeline.channels.base import Watermark
from market_data_pipeline.dag.graph import Edge
from market_data_pipeline.dag.options import ChannelOptions, Retries
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import ConfigError, DocumentError

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(autouse=True)
def _path() -> Iterator[None]:
    before, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = before
    for name in set(sys.modules) - modules:
        if name.endswith("_of_a_document"):
            del sys.modules[name]


def written(folder: Path, text: str, name: str = "p.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def line(*nodes: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A document of these nodes between a source and a sink."""
    return {"name": "x", "nodes": [{"source": "synthetic"}, *nodes, {"sink": "discard"}], **more}


@pytest.mark.parametrize("example", ["bars", "asof"])
def test_an_example_and_its_twin_have_one_plan(example: str) -> None:
    values = {"output": "some/folder/", "items": "5_000"}
    plans = [compile_dag(load_app(str(EXAMPLES / f"{example}.{end}"), values), 8) for end in ("py", "yaml")]
    assert plans[0].to_dict() == plans[1].to_dict()
    assert plans[0].fingerprint == plans[1].fingerprint


def test_other_values_are_another_plan() -> None:
    plans = [
        compile_dag(load_app(str(EXAMPLES / "bars.yaml"), {"output": "x", "interval": interval}), 8).fingerprint
        for interval in ("1s", "2s")
    ]
    assert plans[0] != plans[1]


def test_a_line_is_the_pipeline_with_its_names(tmp_path: Path) -> None:
    text = """
        name: x
        nodes:
          - source: synthetic
          - operator: dedupe
            key: symbol
            with: {fields: [symbol, trade_id]}
          - operator: dedupe
            boundary: true
            with: {fields: [symbol, trade_id]}
          - sink: collect
          - sink: discard
          - operator: "market_data_pipeline:Map"
            with: {fn: "builtins:bool"}
          - sink: discard
    """
    dag = load_file(written(tmp_path, text))
    assert list(dag.nodes) == ["source", "dedupe", "dedupe-2", "collect", "discard", "map", "discard-2"]
    assert dag.edges == (
        Edge("source", "dedupe", key="symbol"),
        Edge("dedupe", "dedupe-2", boundary=True),
        Edge("dedupe-2", "collect"),
        Edge("dedupe-2", "discard"),
        Edge("dedupe-2", "map"),
        Edge("map", "discard-2"),
    )
    again = Pipeline("x").source(Synthetic()).key_by("symbol").dedupe().boundary().dedupe().sink(Collect())
    assert list(again.build().nodes) == list(dag.nodes)[:4]


def test_json_declares_the_same(tmp_path: Path) -> None:
    document = line({"operator": "bars", "key": "symbol", "with": {"interval": "5s"}})
    path = written(tmp_path, json.dumps(document, indent="\t"), "p.json")
    fingerprints = {compile_dag(dag, 4).fingerprint for dag in (load_app(path, {}), dag_of(document))}
    program = Dag("x")
    program.add_node(Node("source", Synthetic()))
    program.add_node(Node("tumblingbars", TumblingBars("5s")))
    program.add_node(Node("discard", __import__("market_data_pipeline").Discard()))
    program.add_edge("source", "tumblingbars", key="symbol")
    program.add_edge("tumblingbars", "discard")
    assert fingerprints == {compile_dag(program, 4).fingerprint}


def test_a_graph_with_ports_options_and_several_inputs() -> None:
    routes = {"routes": {"big": "builtins:bool"}}
    document = {
        "name": "g",
        "nodes": [
            {"source": "synthetic", "name": "left", "singleton": True},
            {"source": "synthetic", "retries": {"attempts": 3, "first": "1s"}},
            {"operator": "router", "with": routes, "from": "left", "key": "symbol", "on_error": "fail"},
            {
                "operator": "asof_join",
                "name": "join",
                "from": [
                    {"node": "source", "key": "symbol", "channel": {"capacity": 99, "levels": {"high": 50, "low": 3}}},
                    {"node": "router", "output": "big", "input": "right"},
                ],
            },
            {"sink": "discard"},
            {"sink": "collect", "from": {"node": "router", "boundary": True}},
        ],
    }
    dag = dag_of(document)
    assert dag.nodes["left"].singleton is True
    assert dag.nodes["source"].retries == Retries(3, "1s")
    assert dag.nodes["router"].on_error == "fail"
    assert set(dag.edges) == {
        Edge("left", "router", key="symbol"),
        Edge("source", "join", key="symbol", channel=ChannelOptions(99, Watermark(50, 3))),
        Edge("router", "join", output="big", input="right"),
        Edge("join", "discard"),
        Edge("router", "collect", boundary=True),
    }
    assert isinstance(dag.nodes["router"].fn, Router)


FUNCTIONS = """
from dataclasses import dataclass
from market_data_pipeline import Operator
from market_data_pipeline.feedback import StoreReading

async def node(in_ch, out_ch): pass
def double(item): return item

@dataclass(frozen=True)
class Rule:
    most: int
    names: tuple[str, ...] = ()

class Mine(Operator):
    def __init__(self, rule: Rule, *rest: int, scale: "float" = 1.0):
        self.rule, self.rest, self.scale = rule, rest, scale
    def process(self, frame): return [frame]

class Says:
    def __init__(self, depth: float): self.depth = depth
    async def reading(self): return StoreReading(self.depth, 2, 1)
"""


def test_a_file_names_what_stands_beside_it(tmp_path: Path) -> None:
    written(tmp_path, FUNCTIONS, "parts_of_a_document.py")
    text = """
        name: own
        nodes:
          - source: synthetic
          - coroutine: "parts_of_a_document:node"
          - operator: map
            with: {fn: "parts_of_a_document:double"}
          - operator: "parts_of_a_document:Mine"
            with: {rule: {most: 5, names: [a]}, rest: [1, 2], scale: 2}
          - sink: discard
            feedback: {value: "parts_of_a_document:Says", with: {depth: 1.5}}
    """
    dag = load_file(written(tmp_path, text))
    module = sys.modules["parts_of_a_document"]
    assert list(dag.nodes) == ["source", "node", "map", "mine", "discard"]
    assert dag.nodes["node"].fn is module.node
    mapped, mine = dag.nodes["map"].fn, dag.nodes["mine"].fn
    assert isinstance(mapped, Map)
    assert mapped.fn is module.double
    assert mine.config() == module.Mine(module.Rule(5, ("a",)), 1, 2, scale=2).config()  # type: ignore[union-attr]
    assert dag.nodes["discard"].feedback.depth == 1.5  # type: ignore[union-attr]


def test_parameters_have_the_type_that_their_place_wants() -> None:
    def bars(**values: str) -> Any:
        arguments = {
            "fields": ["${field}", "x-${n}-${yes}"],
            "within": "${span}",
            "max_keys": "${n}",
            "promote": "${yes}",
        }
        defaults = {"n": 5, "yes": True, "span": None, "field": "a"}
        return dag_of(line({"operator": "dedupe", "with": arguments}, parameters=defaults), values).nodes["dedupe"].fn

    def made(*fields: str, **arguments: Any) -> Any:
        return Dedupe(*fields, **arguments).config()

    assert bars(span="1m").config() == made("a", "x-5-true", within="1m", max_keys=5, promote=True)
    assert bars(span="1m", n="7", yes="no").config() == made("a", "x-7-no", within="1m", max_keys=7, promote=False)
    assert bars(span="5s", field="12").config() == made("12", "x-5-true", within="5s", max_keys=5)
    with pytest.raises(DocumentError, match=r"max_keys: 'many' is not a whole number \(it comes from \$\{n\}\)"):
        bars(span="1s", n="many")


def test_values_that_are_no_text_are_taken_as_they_are(tmp_path: Path) -> None:
    document = {"name": "x", "parameters": {"n": None, "to": None}, "nodes": [
        {"source": "synthetic", "with": {"items": "${n}"}}, {"sink": "json_lines", "with": {"path": "${to}/x"}}]}  # fmt: skip
    dag = dag_of(document, {"n": 3, "to": tmp_path})
    assert dag.nodes["source"].fn.items == 3  # type: ignore[union-attr]
    assert dag.nodes["jsonlines"].fn.config() == JsonLines(tmp_path / "x").config()  # type: ignore[union-attr]
    with pytest.raises(DocumentError, match="'3' is not a whole number or null"):
        dag_of({**document, "parameters": {"n": "3", "to": "x"}})


def test_a_literal_mark_and_values_that_look_like_one() -> None:
    document = line({"operator": "gap_detector", "with": {"seq": "$${x}", "symbol": "${s}", "connection": "$$${x}"}},
                    parameters={"s": None})  # fmt: skip
    config = dag_of(document, {"s": "${env:HOME}"}).nodes["gapdetector"].fn.config()  # type: ignore[union-attr]
    assert config == {"seq": "${x}", "symbol": "${env:HOME}", "connection": "$${x}"}


def test_secrets_come_from_the_environment_and_nothing_shows_them() -> None:
    environment = {"PW": "tiger-1", "PORT": "7", "BAD": "not-a-url-at-all"}
    url = "postgresql://u:${env:PW}@h:${env:PORT}/db"
    options = {"sasl.password": "${env:PW}", "client.id": "me"}
    document = line(
        {"sink": "postgres", "with": {"url": url}}, {"sink": "kafka", "with": {"servers": "h:1", "options": options}}
    )
    dag = dag_of(document, environment=environment)
    store, topic = dag.nodes["postgresstore"].fn, dag.nodes["kafkatopic"].fn
    assert isinstance(store, PostgresStore)
    assert isinstance(topic, KafkaTopic)
    assert store.url.get_secret_value() == "postgresql://u:tiger-1@h:7/db"
    assert topic.options["sasl.password"].get_secret_value() == "tiger-1"  # type: ignore[union-attr]
    assert topic.options["client.id"] == "me"
    assert "tiger" not in compile_dag(dag, 1).to_json()
    number = dag_of(line({"operator": "batch", "with": {"max_items": "${env:PORT}"}}), environment=environment)
    assert number.nodes["batcher"].fn.config()["max_items"] == 7  # type: ignore[union-attr]
    wrong = line(
        {"sink": "postgres", "with": {"url": "${env:BAD}", "interval": "${env:PW}", "create": "${env:PW}"}},
        {"sink": "sqlite_table", "with": {"path": "x", "table": "${env:PW}"}},
        {"sink": "kafka", "name": "${env:NO}"},
    )
    with pytest.raises(DocumentError) as caught:
        dag_of(wrong, environment=environment)
    assert "tiger" not in str(caught.value)
    assert "environment has no variable 'NO'" in str(caught.value)
    assert len(caught.value.mistakes) >= 4


def test_a_secret_that_begins_with_another_is_hidden_whole() -> None:
    environment = {f"PW{length}": "tiger-stripes-in-a-row"[:length] for length in range(5, 23)}
    fields = [f"${{env:{name}}}" for name in environment]
    document = line({"operator": "dedupe", "with": {"fields": fields}}, {"operator": "${env:PW22}"})
    with pytest.raises(DocumentError) as caught:
        dag_of(document, environment=environment)
    assert "no operator '***'" in str(caught.value)
    assert not re.search("tiger|stripes|row", str(caught.value))


def test_a_file_has_no_attributes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a file declares one Dag, so there is no 'x' to choose"):
        load_app(written(tmp_path, "name: x") + ":x", {})


def test_the_file_in_the_docs_is_one(tmp_path: Path) -> None:
    section = (EXAMPLES.parent / "docs" / "usage.md").read_text().partition("## Pipelines as files")[2]
    text = section.partition("```yaml\n")[2].partition("```")[0]
    dag = load_file(written(tmp_path, text), {"output": "x"})
    assert list(dag.nodes) == ["source", "dedupe", "bars", "jsonlines", "windowaggregate", "csvfiles", "jsonlines-2"]
    assert dag.upstream("windowaggregate") == ["bars"]
    with pytest.raises(
        DocumentError, match=r"p\.yaml:3:\d+: parameters\.output: it needs a value: --set output=\.\.\."
    ):
        load_file(tmp_path / "p.yaml")


@pytest.mark.parametrize("example", ["bars", "asof"])
def test_an_example_gives_what_its_twin_gives(tmp_path: Path, example: str) -> None:
    found = []
    for end in ("py", "yaml"):
        values = {"output": str(tmp_path / end), "items": "300"}
        asyncio.run(DagRuntime(load_app(str(EXAMPLES / f"{example}.{end}"), values)).start())
        files = sorted((tmp_path / end).rglob("*.jsonl"))
        found.append(
            [(file.parent.name if example == "asof" else "", *sorted(file.read_text().splitlines())) for file in files]
        )
    assert sorted(found[0]) == sorted(found[1])
    assert sum(map(len, found[0])) > 50


def test_files_of_two_folders_name_what_stands_beside_each(tmp_path: Path) -> None:
    """One process has one module of a name: the second file is refused rather than run with the first one's function."""
    files = []
    for name, factor in (("a", 2), ("b", 3)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "both_of_a_document.py").write_text(f"def times(n):\n    return {factor} * n\n")
        (folder / f"{name}_of_a_document.py").write_text(f"def times(n):\n    return {factor} * n\n")
        files.append(folder / "p.yaml")
    text = "name: x\nnodes:\n- source: synthetic\n- operator: map\n  with: {fn: 'NAME:times'}\n- sink: discard\n"
    for file, name in zip(files, ("both_of_a_document", "b_of_a_document"), strict=True):
        file.write_text(text.replace("NAME", name))
        load_file(file)
    files[1].write_text(text.replace("NAME", "both_of_a_document"))
    with pytest.raises(DocumentError) as caught:
        load_file(files[1])
    (said,) = caught.value.mistakes
    assert said.startswith(
        f"{files[1]}:5:14: nodes[1].with.fn: the module both_of_a_document of this process is {tmp_path}/a/"
    )
    assert load_file(files[0]).nodes["map"].fn.fn(1) == 2  # type: ignore[union-attr]
    assert sys.path[0] == str(tmp_path / "a")


def test_folders_of_documents_that_are_gone_are_not_searched_any_more(tmp_path: Path) -> None:
    own = str(tmp_path / "own")
    sys.path.append(own)  # somebody else's, and not there either
    before = len(sys.path)
    for number in range(5):
        folder = tmp_path / str(number)
        folder.mkdir()
        load_file(written(folder, json.dumps(line())))
        shutil.rmtree(folder)
    kept = tmp_path / "kept"
    kept.mkdir()
    load_file(written(kept, json.dumps(line())))
    load_file(written(tmp_path, json.dumps(line())))
    assert sys.path[:2] == [str(tmp_path), str(kept)]
    assert len(sys.path) == before + 2, "of the five none"
    assert own in sys.path
