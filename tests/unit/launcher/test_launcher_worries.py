"""What a program's own sinks may get wrong over processes: told before anything starts, by whoever would run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from mdp_coordinator.cli import main as coordinator
from mdp_worker.cli import main as worker

from market_data_pipeline import Dag, Discard, Node, Pipeline, Synthetic, TumblingBars
from market_data_pipeline.app import load_app
from market_data_pipeline.cli import main as mdp
from market_data_pipeline.dag.worries import check_processes, unheard, unkept, worries
from market_data_pipeline.errors import ConfigError

APP = """
from market_data_pipeline import Collect, Discard, GuardedSink, Pipeline, Sink, Synthetic

class Kept(Discard):
    def __init__(self, path):
        self.path = path

class Forgets(Discard):
    def __init__(self, path, *tables, mode="a"):
        self.folder, self.mode = path, mode

class Speaks(Forgets):
    def config(self):
        return {"path": self.folder}

def pipeline(sink: str = "collect"):
    sinks = {
        "collect": Collect, "guarded": lambda: GuardedSink(Collect()), "discard": Discard, "kept": lambda: Kept("a"),
        "forgets": lambda: Forgets("a"), "speaks": lambda: Speaks("a"), "inside": lambda: GuardedSink(Forgets("a")),
    }
    return Pipeline("worries").source(Synthetic(items=1)).sink(sinks[sink](), name="out")
"""
REFUSED = "sink 'out': {} keeps items in one process, and worker processes would show them to nobody: run it in process"
WARNING = (
    "sink 'out': argument path, tables of Forgets is not kept (self.path, self.tables), so a plan does not tell its values"
    " apart; keep it, or override config()"
)
NOWHERE = ["--redis-url", "redis://127.0.0.1:1"]


@pytest.fixture
def app(tmp_path: Path) -> str:
    path = tmp_path / "worries_app.py"
    path.write_text(APP)
    return str(path)


async def swallow(in_ch: dict[str, Any], out_ch: dict[str, Any]) -> None:
    async for _ in in_ch["bars"]:
        pass


def ran(command: str, app: str, sink: str) -> Result:
    main, first, last = {
        "run": (mdp, ["run"], []), "plan": (mdp, ["plan"], []), "validate": (mdp, ["validate"], []),
        "coordinator": (coordinator, [], NOWHERE), "worker": (worker, [], NOWHERE),
    }[command]  # fmt: skip
    return CliRunner().invoke(main, [*first, app, "--set", f"sink={sink}", *last])


@pytest.mark.parametrize("command", ["run", "coordinator", "worker"])
@pytest.mark.parametrize(("sink", "name"), [("collect", "Collect"), ("guarded", "GuardedSink")])
def test_a_sink_that_keeps_its_items_in_one_process_is_refused_over_several(
    app: str, command: str, sink: str, name: str
) -> None:
    result = ran(command, app, sink)
    assert (result.exit_code, REFUSED.format(name) in result.output) == (2, True), result.output


def test_it_is_a_good_dag_all_the_same(app: str) -> None:
    assert ran("validate", app, "collect").exit_code == 0
    check_processes(load_app(app, {"sink": "discard"}))
    with pytest.raises(ConfigError):
        check_processes(load_app(app, {"sink": "collect"}))


@pytest.mark.parametrize(
    ("sink", "warnings"),
    [("forgets", [WARNING]), ("inside", [WARNING]), ("kept", []), ("speaks", []), ("discard", [])],
)
def test_arguments_that_a_plan_cannot_see_are_named(app: str, sink: str, warnings: list[str]) -> None:
    assert unkept(load_app(app, {"sink": sink})) == warnings


def test_what_nothing_follows_is_named() -> None:
    """Of an operator whose one output is followed, or of a coroutine, nobody knows whether more was meant."""
    pipeline = Pipeline("unheard").source(Synthetic(items=1)).key_by("symbol").bars("1s", name="bars")
    said = "operator 'bars': nothing follows it, so what it gives goes nowhere; end with a sink (Discard() only counts)"
    assert worries(pipeline.build()) == [said]
    assert unheard(pipeline.sink(Discard()).build()) == []
    late = Dag("late")
    late.add_node(Node("source", Synthetic(items=1)))
    late.add_node(Node("bars", TumblingBars("1s", late="side_output")))
    late.add_node(Node("out", swallow))
    late.add_edge("source", "bars", key="symbol")
    late.add_edge("bars", "out", output="late")
    assert unheard(late) == []


@pytest.mark.parametrize("command", ["plan", "validate"])
def test_who_shows_a_plan_warns_of_them_once_and_beside_it(app: str, command: str) -> None:
    result = ran(command, app, "forgets")
    assert result.exit_code == 0
    assert (result.stderr.count(WARNING), result.stdout.count(WARNING)) == (1, 0)
    assert "worries" in result.stdout


def test_a_run_warns_of_them_once(app: str) -> None:
    result = CliRunner().invoke(mdp, ["run", app, "--set", "sink=forgets", "--server", "there-is-none"])
    assert result.stderr.count(f"warning: {WARNING}") == 1


@pytest.mark.parametrize("command", ["coordinator", "worker"])
def test_the_services_log_it(app: str, command: str, caplog: pytest.LogCaptureFixture) -> None:
    ran(command, app, "forgets")
    assert [record.getMessage() for record in caplog.records if "is not kept" in record.getMessage()] == [WARNING]
