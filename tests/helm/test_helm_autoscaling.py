"""What KEDA is told: every stream once, added up, with an integer target, by lengths and never by lag."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import yaml
from click.testing import CliRunner

from helm.render import EXAMPLE, NAMESPACE, objects, value_sets
from helm.test_helm_refusals import merged
from market_data_pipeline.app import load_app
from market_data_pipeline.cli import main
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.store.keys import Keys
from market_data_pipeline.store.url import parse_address

SETS = value_sets()
SCALED = [name for name, values in SETS.items() if values.get("autoscaling", {}).get("enabled")]
BY_STREAMS = ["allowed-zero", "sentinel", "streams", "url-sentinel", "url-tls"]
BY_COORDINATOR = ["many-streams", "stage-from-zero"]


def spec(name: str) -> dict[str, Any]:
    (found,) = (one for one in objects(SETS[name]) if one["kind"] == "ScaledObject")
    return found["spec"]


def test_the_sets_are_of_both_kinds() -> None:
    assert sorted(BY_STREAMS + BY_COORDINATOR) == SCALED


@pytest.mark.parametrize("name", BY_STREAMS)
def test_a_trigger_for_each_stream_and_their_sum(name: str) -> None:
    triggers, modifiers = spec(name)["triggers"], spec(name)["advanced"]["scalingModifiers"]
    names = [trigger["name"] for trigger in triggers]
    assert names == [f"p{n}" for n in range(len(SETS[name]["job"]["streams"]))]
    assert [trigger["metadata"]["stream"] for trigger in triggers] == SETS[name]["job"]["streams"]
    assert modifiers["formula"].split(" + ") == names
    assert modifiers["metricType"] == "AverageValue", "KEDA's fallback needs it"
    assert str(int(modifiers["target"])) == modifiers["target"]
    assert {trigger["metadata"]["streamLength"] for trigger in triggers} == {modifiers["target"]}


@pytest.mark.parametrize("name", BY_STREAMS)
def test_lengths_never_lag(name: str) -> None:
    for trigger in spec(name)["triggers"]:
        assert not {"consumerGroup", "lagCount", "pendingEntriesCount"} & trigger["metadata"].keys()


@pytest.mark.parametrize("name", BY_STREAMS)
def test_keda_asks_the_server_that_workers_use(name: str) -> None:
    (workers,) = (
        one for one in objects(SETS[name]) if one["kind"] == "Deployment" and one["metadata"]["name"] == "bars-worker"
    )
    env = {entry["name"]: entry.get("value") for entry in workers["spec"]["template"]["spec"]["containers"][0]["env"]}
    address = parse_address(env["MDP_REDIS_URL"])
    for trigger in spec(name)["triggers"]:
        metadata = trigger["metadata"]
        hosts = metadata.get("addresses", metadata.get("address")).split(",")
        assert hosts == [f"{host}:{port}" for host, port in address.hosts]
        assert metadata.get("sentinelMaster", "") == address.master
        assert trigger["type"] == ("redis-sentinel-streams" if address.master else "redis-streams")
        assert metadata["databaseIndex"] == str(address.db)
        assert metadata["enableTLS"] == str(address.scheme.startswith("rediss")).lower()


@pytest.mark.parametrize("name", SCALED)
def test_triggers_use_the_authentication_that_is_there(name: str) -> None:
    made = {one["metadata"]["name"]: one for one in objects(SETS[name]) if one["kind"] == "TriggerAuthentication"}
    used = {trigger.get("authenticationRef", {}).get("name") for trigger in spec(name)["triggers"]} - {None}
    assert used == set(made)
    for one in made.values():
        parameters = [entry["parameter"] for entry in one["spec"]["secretTargetRef"]]
        assert len(parameters) == len(set(parameters))
        assert "tls" not in parameters, "KEDA refuses it beside enableTLS"


@pytest.mark.parametrize("name", SCALED)
def test_scaling_is_bounded_and_falls_back_to_no_fewer_workers(name: str) -> None:
    scaled, values = spec(name), SETS[name]
    assert scaled["fallback"]["behavior"] == "currentReplicasIfHigher"
    assert scaled["minReplicaCount"] <= scaled["fallback"]["replicas"] <= scaled["maxReplicaCount"]
    assert scaled["maxReplicaCount"] <= values["job"]["partitions"]
    assert (
        scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"]
        == 120
    )
    (target,) = (
        one
        for one in objects(values)
        if one["kind"] == scaled["scaleTargetRef"]["kind"]
        and one["metadata"]["name"] == scaled["scaleTargetRef"]["name"]
    )
    assert "replicas" not in target["spec"], "each upgrade would undo what KEDA did"


@pytest.mark.parametrize("name", BY_COORDINATOR)
def test_the_coordinator_is_asked_where_it_is(name: str) -> None:
    (trigger,) = spec(name)["triggers"]
    assert "scalingModifiers" not in spec(name)["advanced"]
    assert (trigger["type"], trigger["metricType"]) == ("metrics-api", "AverageValue")
    url = urlsplit(trigger["metadata"]["url"])
    (service,) = (
        one
        for one in objects(SETS[name])
        if one["kind"] == "Service" and one["metadata"]["name"].endswith("coordinator")
    )
    assert url.hostname == f"{service['metadata']['name']}.{NAMESPACE}.svc"
    assert (url.port, url.path) == (service["spec"]["ports"][0]["port"], "/api/scale")
    asked = dict(parse_qsl(url.query))
    assert asked["target"] == trigger["metadata"]["targetValue"]
    assert asked.get("stage") == SETS[name]["autoscaling"].get("stage")
    assert trigger["metadata"]["valueLocation"] == "scale_frames"


def test_the_signal_changes_above_sixteen_streams() -> None:
    def kinds(partitions: int, **autoscaling: object) -> set[str]:
        streams = [f"mdp:{{bars:{n}}}:q:source.dedupe" for n in range(partitions)]
        job = {"partitions": partitions, "streams": streams}
        (scaled,) = (
            one
            for one in objects(merged(SETS["streams"], {"job": job, "autoscaling": {"maxReplicas": 4, **autoscaling}}))
            if one["kind"] == "ScaledObject"
        )
        return {trigger["type"] for trigger in scaled["spec"]["triggers"]}

    assert kinds(16) == {"redis-streams"}
    assert kinds(17) == {"metrics-api"}
    assert kinds(17, signal="streams") == {"redis-streams"}
    assert kinds(16, signal="coordinator") == {"metrics-api"}


def test_the_streams_are_those_of_the_code() -> None:
    """The value set ``streams`` is what ``mdp keys`` prints for the chart's example, and what a worker looks for."""
    printed = CliRunner().invoke(main, ["keys", str(EXAMPLE / "bars.py"), "--partitions", "8", "--format", "helm"])
    assert printed.exit_code == 0
    assert yaml.safe_load(printed.output)["job"] == SETS["streams"]["job"]
    plan = compile_dag(load_app(str(EXAMPLE / "bars.py"), {}), 8)
    crossing = [edge for edge in plan.edges if edge.kind != "forward"]
    names = [Keys("bars").stream(edge, partition) for edge in crossing for partition in range(8)]
    assert SETS["streams"]["job"]["streams"] == names
