"""``mdp components``: what is listed, and what a component takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import pytest
from click.testing import CliRunner

from market_data_pipeline.catalog.arguments import (
    argument_type,
    arguments_of,
    default_text,
    docstring,
    summary,
    type_text,
)
from market_data_pipeline.catalog.registry import Registry
from market_data_pipeline.cli import main
from market_data_pipeline.clock import SYSTEM_CLOCK, Clock
from market_data_pipeline.durations import Duration
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.launcher.components import components, in_lines_of_any_width, print_list, print_one
from market_data_pipeline.sinks.discard import Discard

Way = Literal["left", "right"]


class Loud(Discard):
    """Says it in ``n`` ways, e.g. by :class:`~some.where.Shout`. Not a word more.

    Costs nothing."""

    def __init__(
        self,
        *fields: str,
        way: Way | None,
        every: Duration | None = "1s",
        fn: Callable[[Any], Any] = str,
        table: Mapping[str, Sequence[int]] = {},
        clock: Clock = SYSTEM_CLOCK,
        **rest: Any,
    ) -> None: ...


@dataclass
class Plain:
    n: int
    path: "NotThere" = None  # type: ignore[name-defined] # noqa: F821, UP037


def test_arguments_as_people_read_them() -> None:
    shown = [(one.name, argument_type(one), default_text(one), one.required) for one in arguments_of(Loud)]
    assert shown == [
        ("fields", "list[str]", "[]", False),
        ("way", "'left' | 'right' | None", "", True),
        ("every", "Duration | None", "'1s'", False),
        ("fn", "function", "str", False),
        ("table", "Mapping[str, Sequence[int]]", "{}", False),
    ]


def test_annotations_that_cannot_be_resolved_are_shown_as_they_stand() -> None:
    assert [(one.name, type_text(one.hint)) for one in arguments_of(Plain)] == [("n", "int"), ("path", "NotThere")]


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (str | int | timedelta | Path, "Duration | Path"),
        (tuple[str, ...], "tuple[str, ...]"),
        (str | int, "str | int"),
        (None, "None"),
        (Any, "any"),
        (Callable, "function"),
        (dict, "dict"),
    ],
)
def test_types_as_people_read_them(hint: Any, text: str) -> None:
    assert type_text(hint) == text


def test_docstrings_lose_their_marks() -> None:
    assert docstring(Loud) == "Says it in `n` ways, e.g. by Shout. Not a word more.\n\nCosts nothing."
    assert summary(Loud) == "Says it in `n` ways, e.g. by Shout."
    assert docstring(Plain) == summary(Plain) == ""


def test_the_list_tells_what_cannot_be_used_and_why() -> None:
    group = "market_data_pipeline.sinks"
    points = [
        EntryPoint("hole", "no_such_package:Hole", group),
        EntryPoint("stdout", "no_such_package:Out", group),
        EntryPoint("null", "market_data_pipeline:Discard", group),
    ]
    known = Registry(points)
    said: list[str] = []
    print_list(components("sink", None, known), said.append)
    lines = {line.split()[1]: line for line in said}
    assert lines["hole"].split("  ")[-1] == (
        "cannot be used: importing no_such_package:Hole raised ModuleNotFoundError: No module named 'no_such_package'"
    )
    first, second = [line for line in said if line.split()[1] == "stdout"]
    assert first.endswith("in a file write module:Class instead of it, or uninstall one")
    assert second.endswith("  cannot be used: as said above")
    assert "an entry point (market_data_pipeline:Discard)  Takes everything and keeps nothing;" in lines["null"]
    with pytest.raises(Exception, match=r"^sink 'hole' \(from an entry point .*No module named"):
        print_one(components("sink", "hole", known)[0], said.append)


def test_the_command() -> None:
    listed = CliRunner().invoke(main, ["components", "provider"])
    assert [line.split()[1] for line in listed.output.splitlines()[1:]] == ["ccxt", "interactive_brokers", "outside"]
    assert json.loads(CliRunner().invoke(main, ["components", "--json"]).output)[0]["name"] == "kafka"
    one = CliRunner().invoke(main, ["components", "operator", "bars"]).output
    assert "late              'drop' | 'side_output' | 'revise'  'drop'" in one.splitlines()
    assert "Trades (symbol, ts_event, price, size;" in one
    (described,) = json.loads(CliRunner().invoke(main, ["components", "operator", "dedupe", "--json"]).output)
    assert described["arguments"][1] == {
        "name": "within",
        "type": "Duration | None",
        "default": "'1h'",
        "required": False,
    }


def test_what_an_argument_is_made_of_is_named_as_in_a_file() -> None:
    one = CliRunner().invoke(main, ["components", "operator", "window"]).output.splitlines()
    assert "windows: {value: NAME, with: {...}} in a file; NAME: count_window, hop, session, tumble" in one
    assert next(line for line in one if line.startswith("aggregations: ")).endswith(" quantile, std, sum, vwap")


def test_paragraphs_are_as_wide_as_the_terminal_and_tables_stay() -> None:
    text = "A b\nc.\n\n* one\n* two\n\na  b\n=  =\n\n-> x\ny"
    assert in_lines_of_any_width(text) == "A b c.\n\n* one\n* two\n\na  b\n=  =\n\n-> x y"


def test_the_docs_show_what_the_command_prints() -> None:
    shown = (Path(__file__).parents[3] / "docs" / "usage.md").read_text().partition("$ mdp components ")[2]
    command, _, output = shown.partition("```")[0].partition("\n")
    assert CliRunner().invoke(main, ["components", *command.split()]).output.startswith(output)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["operator", "bar"], "no operator 'bar'; did you mean 'bars'?"),
        (["sources"], "no kind 'sources'; did you mean 'source'?"),
        (["bars"], "no kind 'bars'; did you mean 'mdp components operator bars'?"),
        (["x\x1b[31m"], "no kind 'x\\x1b[31m'; there are: source, operator, sink, provider, value"),
    ],
)
def test_unknown_names_exit_with_2(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(main, ["components", *arguments])
    assert done.exit_code == 2
    assert done.stderr == f"main components: error: {said}\n"


def test_one_whose_arguments_nobody_can_read_leaves_the_others() -> None:
    known = Registry([EntryPoint("wide", "builtins:dict", "market_data_pipeline.values")])
    (wide,) = components("value", "wide", known)
    assert (
        wide.problem
        == "the arguments of builtins:dict cannot be read: no signature found for builtin type <class 'dict'>"
    )
    assert len(components(None, None, known)) == len(known.entries())


def test_one_with_a_type_that_is_not_there_is_told_with_its_package() -> None:
    known = Registry([EntryPoint("plain", f"{__name__}:Plain", "market_data_pipeline.values")])
    (plain,) = components("value", "plain", known)
    assert plain.row()[-1].startswith(
        f"cannot be used: the argument path of {__name__}:Plain has a type that is not there"
    )
    told = (
        rf"^value 'plain' \(from an entry point \({__name__}:Plain\)\): the argument path of .*: NotThere; import it in"
    )
    with pytest.raises(ConfigError, match=told):
        print_one(plain, print)
