"""``mdp keys``: the names that the workers use, and why a job cannot be left without workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import market_data_pipeline as api
from market_data_pipeline import Collect, Dag, Discard, Node, Pipeline, Synthetic
from market_data_pipeline.cli import main
from market_data_pipeline.dag.plan import plan_from_dict
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.errors import ConfigError
from market_data_pipeline.launcher.deployment import deployment_of, render
from market_data_pipeline.operators.base import Operator
from market_data_pipeline.operators.batch import Batcher
from market_data_pipeline.operators.conflate import Conflate
from market_data_pipeline.operators.throttle import Throttle
from market_data_pipeline.runtime.contract import Limits
from market_data_pipeline.store.commit_args import CommitArguments, JobRef

ROOT = Path(__file__).resolve().parents[3]
APP = str(ROOT / "tests" / "integration" / "apps" / "small_job.py")


def trades(**settings: Any) -> Synthetic:
    return Synthetic(symbols=5, items=1000, **settings)


async def made(in_ch: Any, out_ch: Any) -> None:
    return None


def line() -> Dag:
    return Pipeline("line").source(trades()).key_by("symbol").dedupe("symbol").bars("1s").sink(Collect()).build()


def join() -> Dag:
    dag = Dag("join")
    for node in (
        Node("left", trades(idle_after="1s", live=True)),
        Node("right", trades()),
        Node("asof", api.AsofJoin(("price",))),
        Node("out", Discard()),
    ):
        dag.add_node(node)
    dag.add_edge("left", "asof", key="symbol")
    dag.add_edge("right", "asof", key="symbol", input="right")
    dag.add_edge("asof", "out", boundary=True)
    return dag


def coroutines() -> Dag:
    dag = Dag("coroutines")
    for name in ("first", "second"):
        dag.add_node(Node(name, made))
    dag.add_edge("first", "second")
    return dag


@pytest.mark.parametrize("make", [line, join, coroutines], ids=lambda make: make.__name__)
@pytest.mark.parametrize("partitions", [1, 3])
def test_the_streams_are_those_that_tasks_read_and_write(make: Any, partitions: int) -> None:
    dag = make()
    plan = compile_dag(dag, partitions)
    found = deployment_of(dag, plan, "some-job")
    read: set[str] = set()
    for task in plan.tasks():
        arguments = CommitArguments(JobRef("some-job", "uid", plan.fingerprint), plan, task, Limits())
        read |= set(arguments.stream_of)
    assert set(found.streams) == read
    assert len(found.streams) == len(set(found.streams)) > 0
    assert found.partitions == partitions
    assert all(plan.inputs(plan.subgraph_of[name]) for name in found.stages)


def test_why_workers_are_needed() -> None:
    assert deployment_of(line(), compile_dag(line(), 2), "j").needs_workers == (
        "source 'source' is read by a worker",
        "node 'tumblingbars' keeps open windows",
    )
    dag = join()
    assert set(deployment_of(dag, compile_dag(dag, 2), "j").needs_workers) == {
        "live source 'left' is read by a worker",
        "source 'right' is read by a worker",
        "node 'asof' keeps items that wait for the watermark",
    }
    dag = coroutines()
    assert deployment_of(dag, compile_dag(dag, 2), "j").needs_workers == ("node 'first' makes items in a worker",)


def kinds(cls: type[Operator]) -> Iterator[type[Operator]]:
    for sub in cls.__subclasses__():
        if sub.__module__.startswith("market_data_pipeline."):
            yield sub
            yield from kinds(sub)


def test_every_operator_that_waits_for_time_says_so() -> None:
    """Who overrides what is called when time goes on has decided; the rest depends on items alone."""
    assert {cls.__name__ for name in api.__all__ if isinstance(cls := getattr(api, name), type)} >= {"TumblingBars"}
    by_time = {cls for cls in kinds(Operator) if cls.advance is not Operator.advance or cls.tick is not Operator.tick}
    declared = {cls for cls in by_time if cls.keeps}
    by_instance = {Conflate, Throttle, Batcher}
    forgets_or_flushes_only = {"Dedupe", "InformationBars", "AmountBars", "TickBars", "VolumeBars", "DollarBars"}
    assert {cls.__name__ for cls in by_time - declared - by_instance} == forgets_or_flushes_only


@pytest.mark.parametrize(
    ("operator", "keeps"),
    [
        (Conflate("1s"), "open windows"),
        (Conflate(), "items that wait for room"),
        (Throttle(1), ""),
        (Throttle(1, over="delay"), "items that wait for their turn"),
        (Batcher(max_items=5), ""),
        (Batcher(max_time="1s"), "items that wait for their batch"),
    ],
)
def test_some_keep_items_back_only_as_configured(operator: Operator, keeps: str) -> None:
    assert operator.keeps == keeps


def test_every_format_says_the_same() -> None:
    dag = line()
    found = deployment_of(dag, compile_dag(dag, 2), "bars")
    values = json.loads(render(found, "json"))
    assert values == yaml.safe_load(render(found, "helm")) == found.to_dict()
    assert values["job"]["streams"] == render(found, "text").splitlines()
    assert values["job"]["streams"] == ["mdp:{bars:0}:q:source.dedupe", "mdp:{bars:1}:q:source.dedupe"]
    assert (values["job"]["name"], values["job"]["partitions"], values["job"]["stages"]) == ("bars", 2, ["dedupe"])


def test_a_job_without_streams_has_empty_lists() -> None:
    dag = Pipeline("one").source(trades()).sink(Collect()).build()
    found = deployment_of(dag, compile_dag(dag, 2), "one")
    assert (found.streams, found.stages) == ((), ())
    assert yaml.safe_load(render(found, "helm"))["job"]["streams"] == []


def test_the_names_do_not_depend_on_the_plan_having_been_stored() -> None:
    dag = line()
    plan = compile_dag(dag, 2)
    stored = plan_from_dict(json.loads(plan.to_json()))
    assert set(deployment_of(dag, stored, "j").streams) == set(deployment_of(dag, plan, "j").streams)


def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MDP_JOB", "MDP_PARTITIONS"):
        monkeypatch.delenv(name, raising=False)
    text = CliRunner().invoke(main, ["keys", APP, "--partitions", "2"])
    assert text.output.splitlines() == [f"mdp:{{small:{p}}}:q:source.tumblingbars" for p in range(2)]
    named = CliRunner().invoke(main, ["keys", APP, "--job", "other", "--format", "helm"])
    assert yaml.safe_load(named.output)["job"]["name"] == "other"
    refused = CliRunner().invoke(main, ["keys", APP, "--job", "a*"])
    assert refused.exit_code == 2
    assert "--job: 'a*' is not allowed; it must match [a-z0-9-]{1,40}" in refused.output
    with pytest.raises(ConfigError, match="is not allowed"):
        deployment_of(line(), compile_dag(line(), 1), "a*")
