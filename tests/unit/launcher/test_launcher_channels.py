"""An edge whose own channel does not go with the settings is refused before anything starts, by whoever meets both."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from mdp_coordinator.cli import main as coordinator
from mdp_worker.pins import Pins
from mdp_worker.service import Worker

from market_data_pipeline.app import load_app
from market_data_pipeline.cli import main as mdp
from market_data_pipeline.dag.change import Choice, compare
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.launcher.deploy import _described
from market_data_pipeline.settings import Settings
from market_data_pipeline.store.client import connect
from market_data_pipeline.store.control import Heartbeat, publish
from market_data_pipeline.store.embedded import EmbeddedServer
from market_data_pipeline.store.url import parse_address

APP = """
from market_data_pipeline import ChannelOptions, Discard, NodeOptions, Pipeline, Synthetic

def pipeline(capacity: int | None = None):
    options = NodeOptions(channel=ChannelOptions(capacity=capacity))
    return Pipeline("narrow").source(Synthetic(items=1)).key_by("symbol").sink(Discard(), name="out").options(options)
"""
REFUSED = "edge source -> out: capacity=31 must be at least twice commit_frames=16, or a commit could wait for ever"


@pytest.fixture
def app(tmp_path: Path) -> str:
    path = tmp_path / "narrow_app.py"
    path.write_text(APP)
    return str(path)


def test_mdp_run_refuses_it(app: str) -> None:
    result = CliRunner().invoke(mdp, ["run", app, "--set", "capacity=31"])
    assert (result.exit_code, REFUSED in result.output) == (2, True), result.output


def test_a_coordinator_refuses_it_before_it_looks_for_a_server(app: str) -> None:
    nowhere = ["--redis-url", "redis://127.0.0.1:1"]
    result = CliRunner().invoke(coordinator, [app, "--set", "capacity=31", *nowhere])
    assert (result.exit_code, REFUSED in result.output) == (2, True), result.output


async def test_a_worker_with_other_settings_than_its_coordinator_refuses_it(app: str) -> None:
    dag = load_app(app, {"capacity": "31"})
    with EmbeddedServer() as server:
        client = connect(server.url)
        await publish(client, "narrow", compile_dag(dag, 2))
        await client.aclose()
        settings = Settings(allow_volatile=True)
        worker = Worker(dag, "narrow", settings, parse_address(server.url), Heartbeat("w", "token"), Pins())
        with pytest.raises(ConfigError, match="edge source -> out: capacity=31"):
            await worker.run()


def test_a_deployment_says_which_channel_changes(app: str) -> None:
    old, new = (compile_dag(load_app(app, values), 2) for values in ({}, {"capacity": "128"}))
    lines = list(_described(compare(old, new, Choice()), old.fingerprint, new))
    assert lines[1:] == [
        "  same     source",
        "  same     out",
        "  channel  source.out: as the settings say -> capacity 128",
    ]
