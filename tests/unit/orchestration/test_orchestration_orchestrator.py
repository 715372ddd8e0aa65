"""RuntimeOrchestrator and Distributed: what settings mean, and what is refused before anything starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from tools.memory_job import ListSource

from market_data_pipeline import (
    Collect,
    Dag,
    Discard,
    Distributed,
    Node,
    OrchestratorSettings,
    Pipeline,
    PipelineRuntime,
    RunConfig,
    RuntimeOrchestrator,
    Synthetic,
)
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.operators.stateless import Filter
from market_data_pipeline.orchestration.places import InProcess
from market_data_pipeline.settings import load_settings


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MDP_")]:
        monkeypatch.delenv(name)


def line(out: Collect, n: int = 10) -> Pipeline:
    return Pipeline("line").source(ListSource(range(n))).filter(bool).sink(out).sink(Discard())


def graph(edges: list[tuple[str, str]], sources: int = 1) -> Dag:
    dag = Dag("graph")
    for name in dict.fromkeys(name for edge in edges for name in edge):
        fn: Any = Filter(bool)
        if name.startswith("s"):
            fn = ListSource(range(5))
        elif name.startswith("o"):
            fn = Discard()
        dag.add_node(Node(name, fn))
    for src, dst in edges:
        dag.add_edge(src, dst)
    return dag


@pytest.mark.parametrize("mode", ["dag", "pipeline"])
async def test_both_modes_of_this_process_run_a_line(mode: Any) -> None:
    out = Collect()
    orchestrator = RuntimeOrchestrator(OrchestratorSettings(mode=mode))
    status = await orchestrator.run_pipeline(line(out))
    assert (status.where, status.state, out.items) == ("in process", "finished", list(range(1, 10)))
    assert orchestrator.status() == {"line": status}
    assert await orchestrator.stop() == {}


@pytest.mark.parametrize(
    ("edges", "why"),
    [
        ([("s1", "f1"), ("s2", "f1"), ("f1", "o1")], "2 nodes begin it (s1, s2)"),
        ([("s1", "f1"), ("s1", "f2"), ("f1", "o1"), ("f2", "o2")], "2 steps follow 's1' (f1, f2)"),
        ([("s1", "f1"), ("s1", "o1"), ("f1", "o1")], "'o1' has 2 inputs (s1, f1)"),
    ],
)
async def test_mode_pipeline_refuses_what_is_no_line(edges: list[tuple[str, str]], why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await RuntimeOrchestrator(OrchestratorSettings(mode="pipeline")).run_dag(graph(edges))
    assert str(caught.value) == f"dag 'graph' is no line, and mode is 'pipeline': {why}; mode 'dag' runs any graph"
    status = await RuntimeOrchestrator(OrchestratorSettings(mode="dag")).run_dag(graph(edges))
    assert status.state == "finished"


async def test_the_settings_are_those_of_the_channels_and_of_concurrency() -> None:
    settings = OrchestratorSettings(
        channel_capacity=4, high_watermark_pct=0.5, low_watermark_pct=0.0, max_concurrency=3
    )
    orchestrator = RuntimeOrchestrator(settings)
    place = orchestrator.runtime.on
    assert isinstance(place, InProcess)
    assert (place.config.channel_capacity, place.config.levels().high, place.config.max_concurrency) == (4, 2, 3)
    with pytest.raises(ConfigError, match="dag 'line' has 4 nodes, max_concurrency is 3"):
        await orchestrator.run_pipeline(line(Collect()))
    many = RuntimeOrchestrator(OrchestratorSettings(mode="distributed", max_concurrency=3))
    with pytest.raises(ConfigError, match="dag 'line' has 4 nodes, max_concurrency is 3"):
        await many.run_pipeline(line(Collect()))


def test_over_processes_only_what_is_given_changes_the_streams() -> None:
    def streams(settings: OrchestratorSettings) -> tuple[int, float, int]:
        on = RuntimeOrchestrator(settings, Distributed(workers=3, partitions=4)).runtime.on
        assert isinstance(on, Distributed)
        made = on.effective_settings()
        assert (on.workers, made.partitions) == (3, 4)
        return made.channel_capacity, made.high_watermark_pct, made.commit_frames

    usual = load_settings()
    assert streams(OrchestratorSettings(mode="distributed")) == (usual.channel_capacity, 0.75, usual.commit_frames)
    assert streams(OrchestratorSettings(mode="distributed", channel_capacity=200)) == (200, 0.75, usual.commit_frames)
    with pytest.raises(ConfigError, match="channel_capacity=8 must be at least twice commit_frames=16"):
        streams(OrchestratorSettings(mode="distributed", channel_capacity=8))
    with pytest.raises(
        ConfigError, match=r"^distributed: mode 'dag' runs in this process; it needs mode 'distributed'$"
    ):
        RuntimeOrchestrator(OrchestratorSettings(), Distributed())


def test_without_settings_the_tree_of_settings_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDP_ORCHESTRATOR__MODE", "pipeline")
    assert RuntimeOrchestrator().settings == OrchestratorSettings(mode="pipeline")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"mode": "cluster"}, "mode: 'cluster': must be one of 'dag', 'pipeline' or 'distributed'"),
        ({"channel_capacity": 0}, "channel_capacity: 0: must be at least 1"),
        ({"low_watermark_pct": 0.9}, "low_watermark_pct=0.9 must be below high_watermark_pct=0.75"),
        ({"max_concurency": 2}, "max_concurency: there is no such setting; did you mean 'max_concurrency'?"),
        (
            {"mode": "x", "colour": 1},
            "mode: 'x': must be one of 'dag', 'pipeline' or 'distributed'; colour: there is no such"
            " setting; there are: mode, channel_capacity, high_watermark_pct, low_watermark_pct, max_concurrency",
        ),
    ],
)
def test_wrong_settings_are_one_sentence(values: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        OrchestratorSettings(**values)
    assert str(caught.value) == why


# --- Distributed ------------------------------------------------------------------------------------------------


def test_what_distributed_is_given_is_stronger_than_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDP_REDIS_URL", "redis://elsewhere:1/0")
    monkeypatch.setenv("MDP_LEASE_TTL_MS", "700")
    url = "redis://:hidden@here:2/0"
    on = Distributed(partitions=3, redis_url=url)
    assert "hidden" not in repr(on)
    settings = on.effective_settings()
    assert settings.redis_url == SecretStr(url)
    assert (settings.partitions, settings.lease_ttl_ms) == (3, 700)
    given = load_settings(partitions=5, lease_ttl_ms=900)
    monkeypatch.setenv("MDP_LEASE_TTL_MS", "800")
    settings = Distributed(redis_url=url, settings=given).effective_settings()
    assert (settings.partitions, settings.lease_ttl_ms, settings.redis_url) == (5, 900, SecretStr(url))
    assert Distributed(settings=given).effective_settings() is given


def test_what_distributed_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"^workers: 0 is not allowed; 1 to 256$"):
        Distributed(workers=0)
    with pytest.raises(ConfigError, match="data_dir belongs to a server of the run's own"):
        Distributed(data_dir="data", redis_url="redis://localhost")
    with pytest.raises(ConfigError, match=r"^partitions: 0 is not allowed; 1 to 4096$"):
        Distributed(partitions=0)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda a: Distributed(workers=a("2")), "workers: '2' is no whole number"),
        (lambda a: Distributed(workers=a(True)), "workers: True is no whole number"),
        (lambda a: Distributed(partitions=a("8")), "partitions: '8' is no whole number"),
        (lambda a: Distributed(redis_url=a(b"redis://:pw@x")), "redis_url: a bytes is no address; give text or a SecretStr"),
        (lambda a: Distributed(data_dir=a(5)), "data_dir: 5 is no path"),
        (lambda a: Distributed(fresh=a("no")), "fresh: 'no' is no bool"),
        (lambda a: Distributed(settings=a("x")), "settings: 'x' is no Settings; make them with load_settings(...)"),
        (lambda a: InProcess(a({"max_concurrency": 2})), "config: {'max_concurrency': 2} is no RunConfig(...)"),
        (lambda a: RunConfig(channel_capacity=a("9")), "channel_capacity: '9' is no whole number"),
        (lambda a: PipelineRuntime(a(Distributed)), f"on: {Distributed} is no InProcess() or Distributed(); give an instance"),
        (lambda a: RuntimeOrchestrator(a(Distributed())), f"settings: {Distributed()} is no OrchestratorSettings(...)"),
        (lambda a: RuntimeOrchestrator(a(load_settings())), "settings: Settings(...) is no OrchestratorSettings(...)"),
        (lambda a: RuntimeOrchestrator(None, a("x")), "distributed: 'x' is no Distributed(...)"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_told_where_the_object_is_made(make: Callable[[Any], object], why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(lambda anything: anything)
    assert str(caught.value) == why


def test_what_a_program_gives_is_called_by_no_flag() -> None:
    settings = OrchestratorSettings(mode="distributed", channel_capacity=4)
    with pytest.raises(ConfigError, match=r"channel_capacity=4 must be .* \(channel_capacity: the program\)$"):
        RuntimeOrchestrator(settings)
    with pytest.raises(ConfigError, match=r"channel_capacity=4 must be .* \(channel_capacity: the program\)$"):
        RuntimeOrchestrator(settings, Distributed(settings=load_settings(partitions=2)))


async def test_a_job_that_is_stopped_before_it_began_starts_nothing() -> None:
    runtime = PipelineRuntime(Distributed(workers=1))
    running = runtime.start(Pipeline("early").source(Synthetic(symbols=1, items=5)).sink(Discard()))
    status = await running.stop()
    assert (status.state, status.error, status.nodes) == ("stopped", "", {})


async def test_a_job_is_refused_before_anything_starts(tmp_path: Path) -> None:
    app = tmp_path / "named_for_a_job.py"
    app.write_text(
        "from market_data_pipeline import Discard, Pipeline, Synthetic\n"
        "dag = Pipeline('Bars_1').source(Synthetic()).sink(Discard()).build()\n"
    )
    runtime = PipelineRuntime(Distributed())
    with pytest.raises(ConfigError, match=r"^name: 'Bars_1' is not allowed; it must match \[a-z0-9-\]\{1,40\}$"):
        runtime.start(str(app))
    assert runtime.status() == {}
    missing = Pipeline("p").source(Synthetic(symbols=1, items=1)).map(lambda item: item).sink(Discard())
    with pytest.raises(ConfigError, match="lambda"):
        runtime.start(missing)
