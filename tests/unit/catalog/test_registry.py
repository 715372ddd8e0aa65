"""Components by name: those of installed packages too, and what is said when something is wrong with one."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import market_data_pipeline
from market_data_pipeline.catalog.builtin import BUILTIN
from market_data_pipeline.catalog.registry import KINDS, Registry
from market_data_pipeline.component import Component
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.operators.aggregations import Aggregation
from market_data_pipeline.operators.base import Operator
from market_data_pipeline.operators.stateless import Map
from market_data_pipeline.sinks.base import Sink
from market_data_pipeline.sinks.discard import Discard
from market_data_pipeline.sources.base import Source
from market_data_pipeline.sources.synthetic import Synthetic

MODULE = '''
from market_data_pipeline import Discard, Map, Synthetic, Tumble

class Feed(Synthetic):
    """Made-up trades. For tests."""

class Doubled(Map):
    def __init__(self, fn):
        super().__init__(fn)

class Venue:
    async def connect(self): ...
    def check(self, symbols, kinds): ...

def nowhere(loud: bool = False) -> Discard:
    """Drops everything."""
    return Discard()

def silent():
    return Discard()

def puzzled() -> "NotHere":
    return Discard()
'''
NAMED = """
from market_data_pipeline import Discard, Synthetic

class Feed(Synthetic): ...

class Hole(Discard): ...
"""
POINTS = {
    "sources": "ticks = {module}:Feed",
    "operators": "doubled = {module}:Doubled",
    "sinks": "nowhere = {module}:nowhere [extra]",
    "providers": "venue = {module}:Venue",
    "values": "minutely = {module}:Feed",
}


def install(folder: Path, name: str, points: dict[str, str], module: str = MODULE) -> None:
    """Unpack what a wheel of one module and its entry points would hold, as pip does."""
    (folder / f"{name}.py").write_text(module)
    info = folder / f"{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.2\n")
    (info / "RECORD").write_text(f"{name}.py,,\n")
    groups = [f"[market_data_pipeline.{group}]\n{line.format(module=name)}\n" for group, line in points.items()]
    (info / "entry_points.txt").write_text("\n".join(groups))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which packages are installed."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_every_builtin_is_there_and_of_its_kind() -> None:
    found = Registry([])
    assert {kind: set(found.names(kind)) for kind in KINDS} == {kind: set(names) for kind, names in BUILTIN.items()}
    for entry in found.entries():
        factory = found.get(entry.kind, entry.name)
        assert isinstance(factory, type), entry
        assert f"{factory.__module__}:{factory.__qualname__}" == entry.target, entry
        assert factory.__doc__, entry


def test_every_public_component_is_in_the_table() -> None:
    known = {target for names in BUILTIN.values() for target in names.values()}
    missing = set()
    for module in pkgutil.walk_packages(market_data_pipeline.__path__, "market_data_pipeline."):
        for name, cls in vars(importlib.import_module(module.name)).items():
            if not inspect.isclass(cls) or cls.__module__ != module.name or name.startswith("_"):
                continue
            if issubclass(cls, Component | Aggregation) and not _ours(cls.__subclasses__()):
                missing |= {f"{module.name}:{name}".removeprefix("market_data_pipeline.")} - known
    assert not missing


def _ours(classes: list[type]) -> list[type]:
    """Those that are not some test's: a class that has such is a base."""
    return [cls for cls in classes if cls.__module__.startswith("market_data_pipeline.")]


def test_a_fresh_interpreter_finds_an_installed_package_of_each_kind(tmp_path: Path) -> None:
    install(tmp_path, "ticks_of_mine", POINTS)
    code = (
        "import json; from market_data_pipeline.catalog.registry import registry; r = registry();"
        "print(json.dumps([[e.kind, e.name, e.origin, r.get(e.kind, e.name).__qualname__]"
        " for e in r.entries() if 'mine' in e.origin]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [
        ["source", "ticks", "ticks-of-mine 1.2 (ticks_of_mine:Feed)", "Feed"],
        ["operator", "doubled", "ticks-of-mine 1.2 (ticks_of_mine:Doubled)", "Doubled"],
        ["sink", "nowhere", "ticks-of-mine 1.2 (ticks_of_mine:nowhere)", "nowhere"],
        ["provider", "venue", "ticks-of-mine 1.2 (ticks_of_mine:Venue)", "Venue"],
        ["value", "minutely", "ticks-of-mine 1.2 (ticks_of_mine:Feed)", "Feed"],
    ]


def test_a_name_that_two_packages_give_is_refused_with_both_origins(site: Path) -> None:
    install(site, "one_pkg", {"sources": "ticks = {module}:Feed"})
    install(site, "two_pkg", {"sources": "ticks = {module}:Feed", "sinks": "hole = {module}:nowhere"})
    found = Registry()
    with pytest.raises(ConfigError) as refused:
        found.get("source", "ticks")
    text = str(refused.value)
    assert text.startswith("source 'ticks' is there twice: from ")
    assert {"one-pkg 1.2 (one_pkg:Feed)", "two-pkg 1.2 (two_pkg:Feed)"} <= {
        part.partition(";")[0] for part in text.partition("twice: from ")[2].split(", and from ")
    }
    assert found.get("sink", "hole").__name__ == "nowhere"  # what has nothing to do with it goes on


def test_a_package_cannot_take_the_place_of_a_builtin(site: Path) -> None:
    install(site, "taker_pkg", {"sources": "synthetic = {module}:Feed", "sinks": "kafka = {module}:nowhere"})
    found = Registry()
    expected = (
        "source 'synthetic' is there twice: from market-data-pipeline, and from taker-pkg 1.2 (taker_pkg:Feed);"
        " each must have a name of its own: in a file write module:Class instead of it, or uninstall one"
    )
    with pytest.raises(ConfigError) as refused:
        found.get("source", "synthetic")
    assert str(refused.value) == expected
    assert found.get("source", "kafka").__name__ == "KafkaSource"  # a sink of that name is another one's business


def test_the_first_of_two_copies_of_one_package_counts(
    site: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = tmp_path_factory.mktemp("behind")
    install(site, "copied_pkg", {"sources": "ticks = {module}:Feed"})
    install(behind, "copied_pkg", {"sources": "ticks = {module}:Feed"})
    monkeypatch.setattr(sys, "path", [*sys.path, str(behind)])
    assert inspect.getfile(Registry().get("source", "ticks")) == str(site / "copied_pkg.py")


@pytest.mark.parametrize(
    ("kind", "point", "said"),
    [
        ("source", "bad = {module}:Doubled", "{module}.Doubled makes no Source"),
        ("sink", "bad = {module}:Feed", "{module}.Feed makes no Sink"),
        ("operator", "bad = {module}:nowhere", "{module}.nowhere() makes no Operator"),
        ("sink", "bad = {module}:silent", "{module}.silent() does not say what it returns: annotate it"),
        ("sink", "bad = {module}:puzzled", "an annotation of {module}.puzzled() raised NameError: name 'NotHere' is not"),
        ("source", "bad = {module}:Synthetics", "importing {module}:Synthetics raised AttributeError: "),
        ("source", "bad = {module}", "<module '{module}' from "),
        ("provider", "bad = {module}:Feed", "{module}.Feed makes nothing with methods connect and check, as a "),
        ("source", "bad = no_such_module_here:Feed", "importing no_such_module_here:Feed raised ModuleNotFoundError: "),
        ("source", "bad = a b:c", "importing a b:c raised ModuleNotFoundError: "),
        ("source", "Bad-Name = {module}:Feed", "the name is not allowed; it must match [a-z][a-z0-9_]{{0,39}}"),
    ],
)  # fmt: skip
def test_what_is_no_such_component_is_refused_when_asked_for(site: Path, kind: Any, point: str, said: str) -> None:
    module = site.name.replace("-", "_")
    install(site, module, {f"{kind}s": point})
    found = Registry()
    assert found.get("source", "synthetic") is Synthetic
    name, _, target = point.format(module=module).partition(" = ")
    with pytest.raises(ConfigError) as refused:
        found.get(kind, name)
    origin = f"{kind} {name!r} (from {module.replace('_', '-')} 1.2 ({target})): "
    assert str(refused.value).startswith(origin + said.format(module=module))


def test_a_component_is_not_written_down_by_a_name_that_is_refused(site: Path) -> None:
    module = f"{site.name.replace('-', '_')}_named"
    install(site, module, {"sources": "Bad-Name = {module}:Feed", "sinks": "Worse-Name = {module}:Hole"}, NAMED)
    with (site / f"{module}-1.2.dist-info" / "entry_points.txt").open("a") as file:
        file.write(f"[market_data_pipeline.sources]\nticks = {module}:Feed\n")
    found, classes = Registry(), importlib.import_module(module)
    assert found.name_of("source", classes.Feed()) == "ticks"
    assert found.name_of("sink", classes.Hole()) is None  # it is written as module:Class


@pytest.mark.parametrize("raised", ["raise ValueError('no licence')", "import sys; sys.exit('no licence')"])
def test_a_module_that_raises_stops_only_those_who_use_it(site: Path, raised: str) -> None:
    module = site.name.replace("-", "_")
    install(site, module, {"sources": "broken = {module}:Feed"}, raised)
    found = Registry()
    assert "broken" in found.names("source")
    assert found.get("sink", "discard") is Discard
    with pytest.raises(
        ConfigError, match=rf"source 'broken' \(from {module.replace('_', '-')} 1.2 .* raised .*no licence"
    ):
        found.get("source", "broken")


def test_metadata_that_cannot_be_read_stops_nobody(site: Path) -> None:
    install(site, "torn_pkg", {"sources": "a line without the sign that belongs there"})
    (site / "nameless-1.dist-info").mkdir()
    install(site, "whole_pkg", {"sources": "ticks = {module}:Feed"})
    assert Registry().get("source", "ticks").__module__ == "whole_pkg"


def test_a_program_adds_its_own() -> None:
    found = Registry([])

    class Mine(Discard):
        """Mine."""

    def also_mine() -> Map:
        return Map(str)

    found.add("sink", "mine", Mine)
    found.add("operator", "mine", also_mine)
    assert found.get("sink", "mine") is Mine
    assert found.get("operator", "mine") is also_mine
    assert found.name_of("sink", Mine()) is None  # no other process knows it
    assert found.name_of("sink", Discard()) == "discard"
    with pytest.raises(
        ConfigError, match=r"sink 'mine' is there twice: from .*test_registry\..*Mine, and from .*Discard"
    ):
        found.add("sink", "mine", Discard)
    assert found.get("sink", "mine") is Mine


@pytest.mark.parametrize(
    ("kind", "name", "factory", "said"),
    [
        ("sink", "discard", Discard, "is there twice: from market-data-pipeline, and from market_data_pipeline.sinks"),
        ("sink", "My Sink", Discard, "the name is not allowed; it must match"),
        ("sink", "a" * 41, Discard, "the name is not allowed"),
        ("sink", "", Discard, "the name is not allowed"),
        ("source", "mine", Discard, "market_data_pipeline.sinks.discard.Discard makes no Source"),
        ("sink", "mine", Discard(), "is neither a class nor a function"),
        ("sinks", "mine", Discard, "kind: 'sinks' is not allowed; one of: source, operator, sink, provider, value"),
    ],
)
def test_what_a_program_may_not_add(kind: Any, name: str, factory: Any, said: str) -> None:
    found = Registry([])
    before = found.entries()
    with pytest.raises(ConfigError) as refused:
        found.add(kind, name, factory)
    assert said in str(refused.value)
    assert found.entries() == before


def test_the_nearest_name() -> None:
    found = Registry([])
    with pytest.raises(ConfigError, match=r"^no operator 'dedup'; did you mean 'dedupe'\?$"):
        found.get("operator", "dedup")
    with pytest.raises(ConfigError, match=r"^no provider 'zzz'; there are: ccxt, interactive_brokers, outside$"):
        found.get("provider", "zzz")


def test_the_kinds_are_apart() -> None:
    found = Registry([])
    kafka = [found.get(kind, "kafka") for kind in ("source", "sink")]
    assert issubclass(kafka[0], Source)
    assert issubclass(kafka[1], Sink)
    with pytest.raises(ConfigError, match="no operator 'kafka'"):
        found.get("operator", "kafka")
    assert issubclass(found.get("operator", "map"), Operator)
