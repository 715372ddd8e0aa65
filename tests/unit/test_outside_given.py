"""Objects of other packages are told from mistakes when a component is made, and packages that are not there by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tools import foreign

from market_data_pipeline import (
    ConfigError,
    CoordinatedSink,
    OutsideProvider,
    OutsideSink,
    OutsideSource,
    OutsideTransform,
)
from market_data_pipeline.catalog.load import dag_of
from market_data_pipeline.catalog.registry import registry
from market_data_pipeline.dag.planner import compile_dag

EVERY = [OutsideProvider, OutsideSource, OutsideSink, CoordinatedSink, OutsideTransform]


class Misspelt:
    async def wirte(self, items: list[Any]) -> None: ...


@pytest.mark.parametrize(
    ("component", "needed"),
    [
        (OutsideProvider, "stream_trades or stream_quotes"),
        (OutsideSource, "stream"),
        (OutsideSink, "write"),
        (CoordinatedSink, "start, stop, submit_many, health"),
        (OutsideTransform, "process"),
    ],
)
def test_a_missing_method_is_named_with_the_type_and_what_is_needed(component: Any, needed: str) -> None:
    with pytest.raises(ConfigError) as raised:
        component(Misspelt())
    name = f"{Misspelt.__module__}.Misspelt"
    assert str(raised.value).startswith(f"{component.__name__}: a {name} has no method {needed}; needed: {needed}")


@pytest.mark.parametrize("component", EVERY)
@pytest.mark.parametrize("package", ["market_data_core", "market_data_store", "market_data_ibkr"])
def test_a_package_that_is_not_there_is_a_clear_message(component: Any, package: str) -> None:
    with pytest.raises(ConfigError) as raised:
        component(factory=f"{package}.deep:Thing")
    for word in (f"the package {package} is not installed", "not on the registry", "any object with the same methods"):
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("factory", "word"),
    [
        ("tools.foreign", "not written 'module:name'"),
        ("tools.foreing:Lines", "there is no module tools.foreing"),
        ("tools.foreign:Linse", "did you mean 'Lines'"),
        ("tools.foreign:BEGIN_NS", "is a builtins.int; a class or a function is needed"),
        ("tools.foreign:Feed", "a tools.foreign.Feed has no method write"),
        ("tools.foreign:made_feed", "a tools.foreign.Feed has no method write"),
    ],
)
def test_a_wrong_factory_is_refused_before_anything_is_made(factory: str, word: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(word)):
        OutsideSink(factory=factory)


def test_a_module_that_needs_another_package_names_that_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_store.py").write_text("import market_data_store.sinks\n")
    (tmp_path / "needs_more.py").write_text("import a_package_of_nobody\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ConfigError, match="the package market_data_store is not installed, and it is not on the registry"
    ):
        OutsideSink(factory="needs_store:make")
    with pytest.raises(ConfigError, match="needs_more cannot be imported, because it needs a_package_of_nobody"):
        OutsideSink(factory="needs_more:make")


@pytest.mark.parametrize(
    ("given", "word"), [({}, "either"), ({"sink": foreign.Lines}, "no object yet"), ({"sink": "m:f"}, "no object yet")]
)
def test_neither_a_class_nor_a_text_is_an_object(given: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        OutsideSink(**given)
    with pytest.raises(ConfigError, match="either"):
        OutsideSink(foreign.Lines(foreign.Place()), factory="tools.foreign:lines")


def test_configurations_say_types_and_texts_and_nothing_of_one_run() -> None:
    place = foreign.Place()
    assert OutsideSink(foreign.Lines(place)).config() == OutsideSink(foreign.Lines(place)).config()
    assert OutsideSink(foreign.Lines(place)).config()["sink"] == "tools.foreign.Lines"
    of_data = CoordinatedSink(foreign.Coordinator(place)).config()
    assert of_data["coordinator"] == "tools.foreign.Coordinator", "a dataclass's fields are its own business"
    assert OutsideProvider(factory="tools.foreign:made_feed", name="x").config()["factory"] == "tools.foreign:made_feed"
    assert "clock" not in OutsideProvider(foreign.Feed()).config()


def test_an_object_is_shared_and_a_factory_makes_one_each() -> None:
    given = OutsideSink(foreign.Lines(foreign.Place()))
    assert given.fresh().sink is given.sink
    assert OutsideSource(foreign.Numbers()).fresh()._given.one is not None
    assert OutsideTransform(factory="tools.foreign:Doubler").fresh().factory == "tools.foreign:Doubler"


def test_documents_name_them_and_give_the_plan_of_the_program() -> None:
    document = {
        "name": "theirs",
        "nodes": [
            {
                "source": "provider",
                "with": {
                    "provider": {"provider": "outside", "with": {"factory": "tools.foreign:made_feed", "name": "x"}},
                    "symbols": ["AAPL"],
                },
            },
            {"operator": "outside", "with": {"factory": "tools.foreign:Doubler"}},
            {"sink": "outside", "with": {"factory": "tools.foreign:lines", "make": "market_data_pipeline:as_fields"}},
        ],
    }
    plans = [compile_dag(dag_of(document, {}), 2) for _ in range(2)]
    assert plans[0].fingerprint == plans[1].fingerprint
    for kind, name in [("source", "outside"), ("sink", "coordinated")]:
        assert registry().get(kind, name) in EVERY  # type: ignore[arg-type]
