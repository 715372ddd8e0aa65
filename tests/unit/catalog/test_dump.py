"""A Dag as a document: that it comes back as it was, that no secret stands in it, and what is refused."""

from __future__ import annotations

import functools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner
from pydantic import SecretStr
from tools import written

from market_data_pipeline import (
    AsofJoin,
    ConnectionHealth,
    Count,
    Dag,
    Discard,
    Fold,
    JsonLines,
    Map,
    Node,
    Operator,
    Pipeline,
    ProviderSource,
    Replay,
    Router,
    Sink,
    Source,
    Synthetic,
    Tumble,
    VenueLimits,
    Vwap,
    Watermark,
    WindowAggregate,
)
from market_data_pipeline.app import load_app
from market_data_pipeline.catalog.builtin import BUILTIN
from market_data_pipeline.catalog.dump import Dumped, dump
from market_data_pipeline.catalog.load import dag_of
from market_data_pipeline.catalog.registry import registry
from market_data_pipeline.cli import main
from market_data_pipeline.component import describe
from market_data_pipeline.dag.options import ChannelOptions, Retries
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.feedback import StoreReading

EXAMPLES = Path(__file__).parents[3] / "examples"


def loaded(dumped: Dumped) -> Dag:
    return dag_of(json.loads(json.dumps(dumped.document)), {}, environment=dumped.environment)


def fingerprint(dag: Dag) -> str:
    return compile_dag(dag, 4).fingerprint


def holding(component: Source | Operator | Sink) -> Dag:
    """A Dag in which ``component`` stands, with whatever its ports need."""
    dag = Dag("holding")
    dag.add_node(Node("it", component))
    if not isinstance(component, Source):
        dag.add_node(Node("source", Synthetic(items=5)))
        for port in (component.inputs or ("",)) if isinstance(component, Operator) else ("",):
            name = f"in-{port or 'usual'}"
            dag.add_node(Node(name, Map(written.item_of)))
            dag.add_edge("source", name)
            dag.add_edge(name, "it", input=port)
    if not isinstance(component, Sink):
        taken = component.required_outputs() if isinstance(component, Operator) else ()
        for number, port in enumerate(dict.fromkeys(["", *taken] if "" in ("", *taken) else taken)):
            dag.add_node(Node(f"out-{number}", Discard()))
            dag.add_edge("it", f"out-{number}", output=port)
    return dag


@pytest.fixture(scope="module")
def table() -> dict[tuple[str, str], Any]:
    return dict(written.written())


def test_the_table_has_every_registered_component(table: dict[tuple[str, str], Any]) -> None:
    assert set(table) == {(kind, name) for kind, names in BUILTIN.items() for name in names}


@pytest.mark.parametrize("key", [(kind, name) for kind, names in BUILTIN.items() for name in names], ids="-".join)
def test_every_component_comes_back(key: tuple[str, str], table: dict[tuple[str, str], Any]) -> None:
    dag = table[key] if isinstance(table[key], Dag) else holding(table[key])
    component = dag.nodes["it"].fn
    dumped = dump(dag)
    again = loaded(dumped)
    assert fingerprint(again) == fingerprint(dag)
    found = again.nodes["it"].fn
    assert type(found) is type(component)
    for name, value in vars(component).items():
        if not name.startswith("_") and isinstance(value, str | int | float | tuple | list | SecretStr | Path):
            assert getattr(found, name) == value or describe(value) == describe(getattr(found, name)), name
    text = json.dumps(dumped.document)
    assert not [secret for secret in written.SECRETS if secret in text]
    assert not [secret for secret in written.SECRETS if secret in repr(dumped)]
    assert f'"{key[0]}": "{key[1]}"' in text


def test_all_kinds_of_edges_and_options_come_back() -> None:
    dag = Dag("many")
    slow = ChannelOptions(capacity=100, levels=Watermark(high=50, low=10), bytes=1 << 20)
    dag.add_node(Node("left", Synthetic(symbols=3)))
    dag.add_node(Node("windows", JsonLines("windows"), retries=Retries(3, "2s", "9s")))
    dag.add_node(Node("right", Synthetic(seed=1, kinds=("trade", "quote")), on_error="fail"))
    dag.add_node(Node("count", WindowAggregate(Tumble("5s"), {"n": Count()}, late="side_output"), on_error="skip"))
    dag.add_node(Node("late", Discard()))
    dag.add_node(Node("join", AsofJoin(["bid"]), singleton=True))
    dag.add_node(Node("told", forward))
    dag.add_node(Node("all", Map(written.item_of)))
    dag.add_node(Node("end", Discard(), retries=Retries()))
    dag.add_edge("count", "late", output="late", boundary=True, channel=slow)
    dag.add_edge("left", "count", key="symbol", channel=ChannelOptions(bytes=4096))
    dag.add_edge("right", "join", input="right", output="quotes", boundary=True)
    dag.add_edge("left", "join")
    dag.add_edge("count", "windows")
    dag.add_edge("join", "told")
    dag.add_edge("told", "all", broadcast=True)
    dag.add_edge("all", "end")
    dumped = dump(dag)
    again = loaded(dumped)
    assert fingerprint(again) == fingerprint(dag)
    assert set(again.edges) == set(dag.edges)
    options = [(one.name, one.on_error, one.singleton, one.retries) for one in again.nodes.values()]
    assert sorted(options) == sorted((one.name, one.on_error, one.singleton, one.retries) for one in dag.nodes.values())
    assert dumped.environment.keys() <= {"PYTHONPATH"}
    nodes = {node["name"]: node for node in dumped.document["nodes"]}
    assert nodes["late"] == {
        "sink": "discard", "name": "late", "from": "count", "output": "late", "boundary": True,
        "channel": {"capacity": 100, "levels": {"high": 50, "low": 10}, "bytes": 1 << 20},
    }  # fmt: skip
    assert nodes["join"]["from"] == [
        {"node": "right", "boundary": True, "output": "quotes", "input": "right"},
        {"node": "left"},
    ]
    assert "with" not in nodes["end"]
    assert "retries" in nodes["end"]


def test_names_of_fields_and_outputs_that_look_like_parameters_come_back() -> None:
    dag = Dag("marks")
    for node in (Node("source", Synthetic()), Node("router", Router({"${x}": bool})), Node("end", Discard())):
        dag.add_node(node)
    dag.add_edge("source", "router")
    dag.add_edge("router", "end", key="$${y}", output="${x}")
    again = loaded(dump(dag))
    assert set(again.edges) == set(dag.edges)
    assert fingerprint(again) == fingerprint(dag)


def test_a_coroutine_without_inputs_stays_without() -> None:
    dag = Dag("two")
    dag.add_node(Node("first", forward))
    dag.add_node(Node("second", forward))
    for name in ("first", "second"):
        dag.add_node(Node(f"{name}-end", Discard()))
        dag.add_edge(name, f"{name}-end")
    assert {(edge.src, edge.dst) for edge in loaded(dump(dag)).edges} == {(n, f"{n}-end") for n in ("first", "second")}


@pytest.mark.parametrize(
    ("program", "values"),
    [
        ("bars.py", {"output": "out"}),
        ("asof.py", {"output": "out"}),
        ("resample.py", {"input": str(EXAMPLES), "output": "out"}),
        ("redis_bus.py", {"url": "redis://:s3cret-a@h"}),
    ],
)
def test_examples_come_back(program: str, values: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    dag = load_app(str(EXAMPLES / program), values)
    for readable in (False, True):
        dumped = dump(dag, readable)
        assert "PYTHONPATH" not in dumped.environment  # nothing of the program's own is named
        assert fingerprint(loaded(dumped)) == fingerprint(dag)


def test_the_mark_of_a_folder_that_is_not_there_yet_stays() -> None:
    dag = Pipeline("later").source(Replay("no-such-folder/")).sink(Discard()).build()
    assert dump(dag).document["nodes"][0]["with"] == {"path": "no-such-folder/"}


async def forward(in_ch: dict[str, Any], out_ch: dict[str, Any]) -> None: ...


class Loose(Operator):
    """Keeps durations as they are given."""

    def __init__(
        self, every: Any = "1s", *, path: Path | None = None, wanted: Callable[[Any], Any] | None = None
    ) -> None:
        self.every, self.path, self.wanted = every, path, wanted


class Line(NamedTuple):
    price: float = 0.0
    size: float = 1.0


@dataclass(frozen=True)
class Scale:
    """A function that is an object."""

    by: float
    line: Line

    def __call__(self, item: Any) -> Any:
        return item


@dataclass(frozen=True)
class Queue:
    """A store that can be asked."""

    url: SecretStr
    names: frozenset[str] = field(default=frozenset())

    async def reading(self) -> StoreReading:
        return StoreReading(0, 2, 1)


class Venue:
    """A provider that is no Component."""

    name, kinds, splittable, limits = "venue", frozenset({"trade"}), True, VenueLimits()

    def __init__(self, address: str, lines: Sequence[Line]) -> None:
        self.address, self.lines = address, list(lines)

    def check(self, symbols: Sequence[str], kinds: Sequence[str]) -> None: ...

    async def connect(self) -> Any:
        raise NotImplementedError

    def health(self) -> ConnectionHealth:
        raise NotImplementedError


def through(*components: Operator) -> Dag:
    pipeline = Pipeline("mine").source(Synthetic())
    for number, one in enumerate(components):
        pipeline.operator(one, f"step-{number}")
    return pipeline.sink(Discard()).build()


def test_what_a_program_defines_is_named_by_its_module() -> None:
    dag = through(Loose("2s", path=Path("x"), wanted=written.large), Loose(), Loose([Scale(1.5, Line(2.0)), Vwap()]))
    dumped = dump(dag)
    assert dumped.document["nodes"][1] == {
        "operator": f"{__name__}:Loose",
        "name": "step-0",
        "with": {"every": "2s", "path": "x", "wanted": "tools.written:large"},
    }
    assert "with" not in dumped.document["nodes"][2]
    again = loaded(dumped)
    assert fingerprint(again) == fingerprint(dag)
    assert again.nodes["step-0"].fn.wanted is written.large  # type: ignore[union-attr]
    assert again.nodes["step-2"].fn.every == [Scale(1.5, Line(2.0)), Vwap()]  # type: ignore[union-attr]
    assert Path(__file__).parent in map(Path, dumped.environment["PYTHONPATH"].split(os.pathsep))


def test_a_provider_of_ones_own_comes_back() -> None:
    dag = Pipeline("p").source(ProviderSource(Venue("tcp://me:s3cret-a@h", [Line(2.0)]), ["A"])).sink(Discard()).build()
    dumped = dump(dag)
    assert "s3cret-a" not in json.dumps(dumped.document)
    found = loaded(dumped).nodes["source"].fn.provider  # type: ignore[union-attr]
    assert (found.address, found.lines) == ("tcp://me:s3cret-a@h", [Line(2.0)])


def test_feedback_comes_back_and_keeps_its_secret() -> None:
    dag = Dag("asked")
    dag.add_node(Node("source", Synthetic()))
    dag.add_node(Node("end", Discard(), feedback=Queue(SecretStr("s3cret-a"), frozenset({"b", "a"}))))
    dag.add_edge("source", "end")
    dumped = dump(dag)
    assert dumped.document["nodes"][1]["feedback"] == {
        "value": f"{__name__}:Queue",
        "with": {"url": "${env:MDP_PIPELINE_SECRET_1}", "names": ["a", "b"]},
    }
    assert loaded(dumped).nodes["end"].feedback == Queue(SecretStr("s3cret-a"), frozenset({"b", "a"}))


def test_a_component_that_only_this_program_knows_is_named_by_its_class() -> None:
    registry.cache_clear()
    try:
        registry().add("operator", "loose", Loose)
        assert dump(through(Loose())).document["nodes"][1]["operator"] == f"{__name__}:Loose"
    finally:
        registry.cache_clear()


def test_one_secret_is_one_variable() -> None:
    dag = Dag("secrets")
    dag.add_node(Node("source", written.SOURCES["redis_stream"]()))
    for name in ("redis_stream", "redis_latest", "postgres"):
        dag.add_node(Node(name, written.SINKS[name]()))
        dag.add_edge("source", name)
    environment = dump(dag).environment
    assert {name: environment[name] for name in environment if name != "PYTHONPATH"} == {
        "MDP_PIPELINE_SECRET_1": "redis://me:s3cret-d@h:6379/1",
        "MDP_PIPELINE_SECRET_2": "redis://:s3cret-d@h",
        "MDP_PIPELINE_SECRET_3": "postgresql://me:s3cret-e@h/d",
    }


class Kept(Operator):
    def __init__(self, seconds: float, url: str = "") -> None:
        self.seconds = seconds * 1000
        self.url = url


class Forgetful(Operator):
    def __init__(self, url: str) -> None:
        self._url = url


class Shy(Operator):
    """One whose configuration does not show what changed."""

    def __init__(self, n: int) -> None:
        self.n = n + 1

    def config(self) -> dict[str, Any]:
        return {}


class Turned(Operator):
    """One that makes another secret of the one that it is given, and shows none."""

    def __init__(self, url: str) -> None:
        self.url = url.replace("@", "0@")

    def config(self) -> dict[str, Any]:
        return {}


class Dropping(Operator):
    """One that drops what it is given, and shows what it has."""

    def __init__(self, url: str = "") -> None:
        self.url = ""


class Untyped(Operator):
    def __init__(self, fn, lines=()):  # type: ignore[no-untyped-def]
        self.fn, self.lines = fn, lines


class Lock:
    pass


def local() -> Any:
    def inner(item: Any) -> Any:
        return item

    return inner


def moved(item: Any) -> Any:
    return item


moved_away, moved = moved, local()


class Outer:
    def method(self, item: Any) -> Any:
        return item


_OUT = (
    ", which another process cannot import: define it with a name in a module, or run the program by its name (path.py[:attr])"
    " instead"
)
REFUSED = {
    "a lambda": (Map(lambda item: item), f"its argument fn is a lambda{_OUT}"),
    "a function in a function": (
        Map(local()), f"its argument fn is local to a function (local.inner){_OUT}"
    ),
    "a partial": (Map(functools.partial(local)), f"its argument fn is a functools.partial{_OUT}"),
    "another one of that name": (Map(moved_away), f"its argument fn is not what {__name__}:moved is{_OUT}"),
    "a method of an object": (Map(Outer().method), f"its argument fn is a method of an object (Outer){_OUT}"),
    "in a mapping": (Untyped({"a": [None, {"b": lambda x: x}]}), "its argument fn.a[1].b is a function, which its "),
    "in a dataclass": (
        WindowAggregate(Tumble("1s"), {"v": Fold(0, lambda state, item: state)}),
        f"its argument aggregations.v.step is a lambda{_OUT}",
    ),
    "not kept": (
        Forgetful("x"),
        "its argument url is not kept: Forgetful has no attribute 'url'. Keep it under that name, give the class a method"
        " made_with(), or run the program by its name (path.py[:attr]) instead",
    ),
    "a function where anything may stand": (
        WindowAggregate(Tumble("1s"), {"v": Fold(list, written.pair)}),
        "its argument aggregations.v.initial is a function, which its annotation does not say, so it would come back as plain"
        " data: annotate it, or run the program by its name (path.py[:attr]) instead",
    ),
    "a tuple without annotation": (
        Untyped(None, (1, 2)),
        "its argument lines is a tuple, which its annotation does not say, so it would come back as plain data: annotate it, or"
        " run the program by its name (path.py[:attr]) instead",
    ),
    "an object": (
        Untyped(Lock()),
        "its argument fn is a Lock, which no document can hold: make it a dataclass, or run the program by its name ",
    ),
    "a timedelta": (
        Loose(timedelta(seconds=1)),
        "its argument every is a timedelta; a document holds a duration as text ('500ms') or int nanoseconds",
    ),
    "no number": (Loose(math.inf), "its argument every is inf, which no document can hold"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_named_is_refused(what: str) -> None:
    component, why = REFUSED[what]
    with pytest.raises(ConfigError) as refused:
        dump(through(component))
    assert str(refused.value).startswith(f"node 'step-0': {why}")


def test_a_local_class_and_a_local_coroutine_are_refused() -> None:
    class Here(Operator):
        pass

    with pytest.raises(
        ConfigError, match=r"node 'step-0': its class is local to a function \(test_\w+\.Here\), which another"
    ):
        dump(through(Here()))
    dag = Dag("one")
    dag.add_node(Node("told", functools.partial(forward)))
    with pytest.raises(ConfigError, match=r"node 'told': its function is a functools\.partial, which another process"):
        dump(dag)


@pytest.mark.parametrize(
    ("component", "difference"),
    [
        (Kept(2.0), r"plan\.nodes\.step-0\.config\.seconds: ours 2000\.0, theirs 2000000\.0"),
        (Shy(1), r"document\.nodes\.step-0\.with\.n: ours 2, theirs 3"),
        (Turned("http://me:s3cret-a@h"), r"loaded from its document: document: a secret$"),
        (Loose({"a": (1, Path("x"))}), "argument every.a is a tuple"),
        (Loose({"value": "no_module:Here"}), "dag 'mine' cannot be loaded from its document: "),
        (Map(Scale(2.0, Line())), r"loaded from its document: nodes\[1\]\.with\.fn: a mapping is not a function"),
    ],
)  # fmt: skip
def test_what_comes_back_as_something_else_is_refused(component: Operator, difference: str) -> None:
    with pytest.raises(ConfigError, match=difference):
        dump(through(component))


def test_no_secret_stands_in_an_error() -> None:
    class_of_secrets = Loose({"value": "http://me:s3cret-a@h"}, path=Path("p"))
    assert "s3cret-a" not in json.dumps(dump(through(class_of_secrets)).document)
    with pytest.raises(ConfigError) as refused:
        dump(through(Loose({"x": SecretStr("s3cret-b")})))
    assert "s3cret-b" not in str(refused.value)
    with pytest.raises(ConfigError) as refused:
        dump(through(Kept(1.0, "http://me:s3cret-a@h"), Kept(3.0)))
    assert "s3cret-a" not in str(refused.value)
    changed = Dropping()
    changed.url = "http://me:s3cret-a@h"
    with pytest.raises(ConfigError, match=r"config\.url: ours '\*\*\*', theirs ''$"):
        dump(through(changed))


PROGRAM = """
import json
from market_data_pipeline import Discard, Map, Operator, Pipeline, Synthetic
from market_data_pipeline.catalog.dump import dump
from market_data_pipeline.dag.planner import compile_dag

class Mine(Operator):
    def __init__(self, n: int, by=None) -> None:
        self.n, self.by = n, by

def double(item, by=2):
    return item

def run():
    dag = Pipeline("main").source(Synthetic()).map(double).operator(Mine(3)).sink(Discard()).build()
    dumped = dump(dag)
    print(json.dumps([dumped.document, dumped.environment]))

{start}
"""
LOADER = """
import json, sys
from market_data_pipeline.catalog.load import dag_of
dag = dag_of(json.loads(sys.stdin.read()), {})
print(type(dag.nodes["mine"].fn).__module__, dag.nodes["map"].fn.fn(7))
"""


def python(*arguments: str, folder: Path, given: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    ours = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, input=given, capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PYTHONPATH": ours, **environment},
    )  # fmt: skip


def test_a_script_without_a_guard_is_told_so_in_a_short_traceback(tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text(
        "from market_data_pipeline import Discard, Distributed, Pipeline, PipelineRuntime, Synthetic\n"
        "def even(trade):\n    return True\n"
        "PipelineRuntime(Distributed()).run(Pipeline('x').source(Synthetic(items=1)).filter(even).sink(Discard()))\n"
    )
    said = python("bare.py", folder=tmp_path).stderr
    assert said.count("Traceback") == 1
    assert "event loop of its own" not in said
    assert len(said.splitlines()) <= 8
    assert said.rstrip().endswith('runs once more: let what it runs stand under `if __name__ == "__main__":`')


SPAWNED = 'import multiprocessing\n    multiprocessing.get_context("spawn").Process(target=run).start()'


@pytest.mark.parametrize("start", ["run()", SPAWNED])
def test_what_a_script_defines_is_found_by_other_processes(tmp_path: Path, start: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    script = tmp_path / "my_script.py"
    script.write_text(PROGRAM.replace("{start}", f'if __name__ == "__main__":\n    {start}'))
    made = python(str(script), folder=tmp_path / "elsewhere")
    document, environment = json.loads(made.stdout)
    assert [node.get("operator") for node in document["nodes"]] == [None, "map", "my_script:Mine", None]
    assert document["nodes"][1]["with"] == {"fn": "my_script:double"}
    found = python("-c", LOADER, folder=tmp_path / "elsewhere", given=json.dumps(document), **environment)
    assert found.stdout.split() == ["my_script", "7"], found.stderr


def test_a_script_that_no_file_holds_is_told_so(tmp_path: Path) -> None:
    script = PROGRAM.replace("{start}", "run()")
    for made in (python("-", folder=tmp_path, given=script), python("-c", script, folder=tmp_path)):
        assert "is defined in a session that no file holds, which another process cannot import" in made.stderr


def test_a_script_that_runs_when_it_is_imported_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(PROGRAM.replace("{start}", "run()"))
    made = python(str(script), folder=tmp_path)
    assert made.stdout == ""
    assert made.stderr.splitlines()[-1].startswith(
        "market_data_pipeline.catalog.importable.Unguarded: other processes import this program by its name, and then it"
    )
    assert made.stderr.rstrip().endswith('let what it runs stand under `if __name__ == "__main__":`')


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    program = tmp_path / "shown.py"
    program.write_text(
        "from market_data_pipeline import *\n"
        "def same(item): return item\n"
        "def pipeline(n: int): return (Pipeline('shown').source(Synthetic(items=n)).dedupe(within='10m').map(same)\n"
        "    .sink(RedisLatest('redis://:s3cret-a@h', ttl='90s')))\n"
    )
    done = CliRunner().invoke(main, ["dump", str(program), "--set", "n=5"])
    assert done.stdout.splitlines() == [
        "name: shown",
        "nodes:",
        "- source: synthetic",
        "  name: source",
        "  with:",
        "    items: 5",
        "- operator: dedupe",
        "  name: dedupe",
        "  with:",
        "    fields:",
        "    - symbol",
        "    - trade_id",
        "    within: 10m",
        "- operator: map",
        "  name: map",
        "  with:",
        "    fn: shown:same",
        "- sink: redis_latest",
        "  name: redislatest",
        "  with:",
        "    url: ${env:MDP_PIPELINE_SECRET_1}",
        "    ttl: 90s",
    ]
    assert done.stderr.splitlines() == [
        "its secrets must be in the environment when it is loaded: MDP_PIPELINE_SECRET_1",
        "it names functions or classes of the program's modules: save it beside them, or set PYTHONPATH",
    ]
    del sys.modules["shown"]
    as_json = CliRunner().invoke(main, ["dump", str(program), "--set", "n=5", "--format", "json"])
    assert json.loads(as_json.stdout)["nodes"][3]["with"]["ttl"] == "90s"
    refused = CliRunner().invoke(main, ["dump", str(program)])
    assert (refused.exit_code, refused.stdout) == (2, "")


def test_what_a_script_makes_an_object_for_goes_by_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module of a script that runs is another one in the processes that import it: there, no object could be compared."""
    monkeypatch.setattr(Outer.method, "__module__", "__main__")
    with pytest.raises(ConfigError, match=r"its argument fn is a method of an object \(Outer\)"):
        dump(Pipeline("script").source(Synthetic()).map(Outer().method).sink(Discard()).build())
