"""The JSON schema for editors says what the loader does."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from market_data_pipeline import Synthetic
from market_data_pipeline.catalog.parameters import accepted_by
from market_data_pipeline.catalog.registry import Registry, registry
from market_data_pipeline.catalog.schema import document_schema
from market_data_pipeline.catalog.text import read_text
from market_data_pipeline.cli import main

EXAMPLES = Path(__file__).parents[3] / "examples"
SCHEMA = document_schema()
VALIDATOR = Draft202012Validator(SCHEMA)


def wrong(*nodes: dict[str, Any], **more: Any) -> list[str]:
    document = {"name": "x", "nodes": list(nodes), **more}
    return [".".join(map(str, error.absolute_path)) for error in VALIDATOR.iter_errors(document)]


def test_it_is_a_schema_and_the_examples_keep_to_it() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    files = sorted(EXAMPLES.glob("*.yaml"))
    assert files
    for file in files:
        assert not list(VALIDATOR.iter_errors(read_text(file).data)), file


def test_every_component_has_its_arguments_with_defaults_and_words() -> None:
    for entry in registry().entries():
        part = SCHEMA["$defs"].get(f"with.{entry.kind}.{entry.name}")
        arguments = accepted_by(registry().get(entry.kind, entry.name))
        assert part is not None, entry
        assert list(part["properties"]) == list(arguments.shapes)
        assert part["description"]
        assert all(argument["description"] and argument["title"] for argument in part["properties"].values())
    synthetic = SCHEMA["$defs"]["with.source.synthetic"]["properties"]
    assert synthetic["items"]["default"] == 1_000_000
    assert synthetic["items"]["description"] == "how many in all, duplicates included"
    assert SCHEMA["$defs"]["with.operator.bars"]["properties"]["convention"]["default"]["closed"] == "left"


GOOD: list[dict[str, Any]] = [
    {"source": "synthetic", "with": {"items": "${n}", "kinds": ["trade"], "bursts": {"every": "1m"}}},
    {"source": "my.module:Feed", "with": {"anything": 1}, "name": "mine"},
    {
        "operator": "bars",
        "with": {"interval": {"value": "session_buckets", "with": {"calendar": "X", "interval": "1m"}}},
    },
    {
        "operator": "map",
        "with": {"fn": "a.b:c"},
        "from": ["a", {"node": "b", "channel": {"levels": {"high": 2, "low": 1}}}],
    },
    {"operator": "table_router", "with": {"by": "n", "table": [[1, "a"], [2, ["b"]]]}},
    {"coroutine": "a:b", "from": []},
    {"sink": "kafka", "with": {"servers": "h:1", "options": {"a.b": 5}}, "retries": {"attempts": 3}},
]


@pytest.mark.parametrize("node", GOOD, ids=[str(number) for number in range(len(GOOD))])
def test_what_the_loader_takes_is_right(node: dict[str, Any]) -> None:
    assert wrong(node, parameters={"n": None}) == []


BAD: list[tuple[dict[str, Any], str]] = [
    ({"source": "synthetc"}, "nodes.0.source"),
    ({"source": "synthetic", "with": {"item": 1}}, "nodes.0.with"),
    ({"source": "synthetic", "with": {"items": "5"}}, "nodes.0.with.items"),
    ({"sink": "json_lines"}, "nodes.0"),
    ({"sink": "json_lines", "with": {}}, "nodes.0.with"),
    ({"operator": "bars", "with": {"interval": "1x"}}, "nodes.0.with.interval"),
    ({"operator": "bars", "with": {"late": "dorp"}}, "nodes.0.with.late"),
    ({"operator": "bars", "with": {"interval": {"value": "vwap"}}}, "nodes.0.with.interval"),
    ({"operator": "bars", "with": {"convention": {"label": "top"}}}, "nodes.0.with.convention"),
    ({"operator": "map", "with": {"fn": "int"}}, "nodes.0.with.fn"),
    ({"operator": "map", "sink": "discard", "with": {"fn": "a:b"}}, "nodes.0"),
    ({"sink": "discard", "on_eror": "fail"}, "nodes.0"),
    ({"sink": "discard", "channel": {"capacity": "many"}}, "nodes.0.channel"),
]


BAD += [
    ({"operator": "bars", "with": {"convention": None}}, "nodes.0.with.convention"),
    ({"operator": "table_router", "with": {"by": "n", "table": [[1, 2]]}}, "nodes.0.with.table"),
    ({"sink": "discard", "name": "a b"}, "nodes.0.name"),
    ({"operator": "dedupe", "source": None, "with": {"fields": ["a"]}}, "nodes.0"),
]


@pytest.mark.parametrize(("node", "place"), BAD, ids=[str(number) for number in range(len(BAD))])
def test_what_the_loader_refuses_is_wrong(node: dict[str, Any], place: str) -> None:
    assert place in wrong(node)


def test_the_command_writes_it(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    assert CliRunner().invoke(main, ["schema", "--output", str(file)]).exit_code == 0
    assert json.loads(file.read_text()) == SCHEMA == json.loads(CliRunner().invoke(main, ["schema"]).stdout)
    refused = CliRunner().invoke(main, ["schema", "--output", str(tmp_path / "no" / "where")])
    assert refused.exit_code == 2
    assert "No such file or directory" in refused.stderr


class Odd(Synthetic):
    def __init__(self, rate: "NotThere") -> None: ...  # type: ignore[name-defined] # noqa: F821, UP037


def test_one_whose_arguments_nobody_can_read_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Registry([EntryPoint("odd", f"{__name__}:Odd", "market_data_pipeline.sources")])
    monkeypatch.setattr("market_data_pipeline.catalog.schema.registry", lambda: known)
    parts = document_schema()["$defs"]
    assert "with.source.synthetic" in parts
    assert "with.source.odd" not in parts
