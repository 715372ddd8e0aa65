"""What an operator expects of every pod, in every value set."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from mdp_worker.pins import legal_name

from helm.render import NAMESPACE, objects, value_sets
from helm.test_helm_refusals import merged
from market_data_pipeline.settings import Settings
from market_data_pipeline.store.keys import check_name
from market_data_pipeline.store.url import parse_address

SETS = value_sets()
FOR_ARGUMENTS = {"MDP_ORDINAL"}
"""Variables that stand for a part of the command line."""
POD_SUFFIX = "-0123456789-abcde"
"""What a Deployment appends to its name for a pod, at its longest."""


def of(name: str, *kinds: str) -> list[dict[str, Any]]:
    return [one for one in objects(SETS[name]) if one["kind"] in kinds]


def pods(name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(object, pod template) of all that start pods."""
    return [(one, one["spec"]["template"]) for one in of(name, "Deployment", "StatefulSet", "Job")]


def one_of(name: str, kind: str, suffix: str) -> dict[str, Any]:
    (found,) = (one for one in of(name, kind) if one["metadata"]["name"].endswith(suffix))
    return found


def env_of(template: dict[str, Any]) -> dict[str, Any]:
    (container,) = template["spec"]["containers"]
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def selects(selector: dict[str, str], template: dict[str, Any]) -> bool:
    return selector.items() <= template["metadata"]["labels"].items()


@pytest.mark.parametrize("name", SETS)
def test_pods_may_do_as_little_as_possible(name: str) -> None:
    for one, template in pods(name):
        spec = template["spec"]
        (container,) = spec["containers"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False, "a Service named mdp-http would set MDP_HTTP_PORT"
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }, one["metadata"]["name"]  # fmt: skip
        assert {"requests", "limits"} <= container["resources"].keys()
        assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}


@pytest.mark.parametrize("name", SETS)
def test_a_service_account_without_token(name: str) -> None:
    made = [account["metadata"]["name"] for account in of(name, "ServiceAccount")]
    assert all(account["automountServiceAccountToken"] is False for account in of(name, "ServiceAccount"))
    assert {template["spec"]["serviceAccountName"] for _, template in pods(name)} == set(made or ["default"])


@pytest.mark.parametrize("name", SETS)
def test_volumes_and_mounts_belong_together(name: str) -> None:
    for one, template in pods(name):
        volumes = {volume["name"] for volume in template["spec"]["volumes"]}
        volumes |= {claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", [])}
        assert {mount["name"] for mount in template["spec"]["containers"][0]["volumeMounts"]} == volumes


@pytest.mark.parametrize("name", SETS)
def test_liveness_asks_the_event_loop_only(name: str) -> None:
    for suffix in ("worker", "coordinator"):
        (container,) = next(
            template["spec"]["containers"]
            for one, template in pods(name)
            if one["metadata"]["name"] == f"bars-{suffix}"
        )
        assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
        assert container["startupProbe"]["httpGet"]["path"] == "/healthz"
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
        assert [port["name"] for port in container["ports"]] == ["http"]


@pytest.mark.parametrize("name", SETS)
def test_there_is_time_for_the_longest_commit(name: str) -> None:
    for one, template in pods(name):
        if one["metadata"]["name"].endswith(("-worker", "-coordinator")):
            sleep = template["spec"]["containers"][0].get("lifecycle", {"preStop": {"exec": {"command": ["", "0"]}}})
            seconds = int(sleep["preStop"]["exec"]["command"][-1])
            assert template["spec"]["terminationGracePeriodSeconds"] > seconds


@pytest.mark.parametrize("name", SETS)
def test_what_pods_are_told_are_settings(name: str) -> None:
    known = {f"MDP_{field.upper()}" for field in Settings.model_fields} | FOR_ARGUMENTS
    for one, template in pods(name):
        if one["metadata"]["name"].endswith("-valkey"):
            continue
        env = env_of(template)
        assert {key for key in env if key.startswith("MDP_")} <= known
        plain = {
            key[4:].lower(): value for key, value in env.items() if isinstance(value, str) and key not in FOR_ARGUMENTS
        }
        settings = Settings(**{key: value for key, value in plain.items() if key in Settings.model_fields})
        assert settings.redis_url is not None
        address = parse_address(settings.redis_url.get_secret_value())
        assert (address.username, address.password) == (None, None)
        assert settings.job == SETS[name]["job"]["name"]


@pytest.mark.parametrize("name", SETS)
def test_passwords_come_from_secrets_only(name: str) -> None:
    password = SETS[name]["redis"].get("auth", {}).get("password")
    for _, template in pods(name):
        assert password is None or password not in yaml.safe_dump(template)
        for key, value in env_of(template).items():
            if key.endswith("PASSWORD"):
                assert value.keys() == {"secretKeyRef"}


def test_each_role_has_its_own_user() -> None:
    users = {
        one["metadata"]["name"]: env_of(template)["MDP_REDIS_USERNAME"]["secretKeyRef"]["key"]
        for one, template in pods("sentinel")
    }
    assert users == {
        "bars-worker": "worker-user", "bars-coordinator": "coordinator-user", "bars-deploy": "operator-user",
        "bars-rollback": "operator-user", "bars-test": "viewer-user",
    }  # fmt: skip
    secrets = one_of("sentinel", "TriggerAuthentication", "-redis")["spec"]["secretTargetRef"]
    assert {entry["parameter"]: entry["key"] for entry in secrets} == {
        "username": "keda-user", "password": "keda-password", "sentinelPassword": "sentinel-password",
        "ca": "ca.crt", "cert": "tls.crt", "key": "tls.key",
    }  # fmt: skip


@pytest.mark.parametrize("release", ["bars", "a-much-longer-release", "release.with.dots", "x" * 53])
def test_a_pods_name_is_a_workers_name(release: str) -> None:
    rendered = objects(SETS["minimal"], release)
    (workers,) = (
        one for one in rendered if one["kind"] == "Deployment" and one["metadata"]["name"].endswith("-worker")
    )
    assert len(workers["metadata"]["name"]) <= 52, "a StatefulSet's name and a hash of ten are a label, which has 63"
    assert check_name("--name", legal_name("--name", workers["metadata"]["name"] + POD_SUFFIX))
    assert env_of(workers["spec"]["template"])["MDP_WORKER_NAME"] == {"fieldRef": {"fieldPath": "metadata.name"}}


def test_long_names_of_releases_stay_apart() -> None:
    names = {objects(SETS["minimal"], f"a-much-longer-release-{n}")[0]["metadata"]["name"] for n in range(5)}
    assert len(names) == 5


def test_pinned_workers_ask_for_the_share_of_their_ordinal() -> None:
    for name, wanted in {
        "pinned-ranges": "--partition=$(MDP_ORDINAL)/4",
        "pinned-each": "--partition=$(MDP_ORDINAL)",
    }.items():
        workers = one_of(name, "StatefulSet", "-worker")
        assert wanted in workers["spec"]["template"]["spec"]["containers"][0]["args"]
        ordinal = env_of(workers["spec"]["template"])["MDP_ORDINAL"]["fieldRef"]["fieldPath"]
        assert ordinal == "metadata.labels['apps.kubernetes.io/pod-index']"
        assert workers["spec"]["podManagementPolicy"] == "Parallel"
        assert workers["spec"]["serviceName"] in {one["metadata"]["name"] for one in of(name, "Service")}


@pytest.mark.parametrize(
    ("name", "surge", "unavailable"), [("minimal", 1, 0), ("as-many-as-partitions", 0, 1), ("streams", 0, 1)]
)
def test_an_update_never_waits_for_a_worker_without_a_partition(name: str, surge: int, unavailable: int) -> None:
    strategy = one_of(name, "Deployment", "-worker")["spec"]["strategy"]["rollingUpdate"]
    assert strategy == {"maxSurge": surge, "maxUnavailable": unavailable}


def test_arguments_are_not_expanded_by_kubernetes() -> None:
    (container,) = one_of("many-streams", "Deployment", "-worker")["spec"]["template"]["spec"]["containers"]
    assert container["args"] == [
        "trading.jobs:bars", "--set=interval=1m", "--set=items=1000000", "--set=note=$$(HOME)", "--set=rate=2.5",
        "--set=strict=true",
    ]  # fmt: skip


def test_a_changed_program_restarts_pods_and_a_changed_count_does_not() -> None:
    def checksums(values: dict[str, Any]) -> set[str]:
        workloads = [one for one in objects(values) if one["kind"] == "Deployment"]
        return {one["spec"]["template"]["metadata"]["annotations"]["checksum/config"] for one in workloads}

    example = SETS["example"]
    (before,) = checksums(example)
    assert checksums(merged(example, {"workers": {"replicas": 5}})) == {before}
    for changed in ({"app": {"files": {"bars.py": "pipeline = 1"}}}, {"redis": {"auth": {"password": "other"}}}):
        assert before not in checksums(merged(example, changed))


def test_the_plan_is_deployed_with_the_new_program_before_an_upgrade() -> None:
    job = one_of("example", "Job", "-deploy")
    program = one_of("example", "ConfigMap", "-app-next")
    hooks = [one["metadata"]["annotations"]["helm.sh/hook"] for one in (job, program)]
    assert hooks == ["pre-upgrade", "pre-upgrade,pre-rollback"]
    weights = [int(one["metadata"]["annotations"]["helm.sh/hook-weight"]) for one in (program, job)]
    assert weights == sorted(set(weights)), "the program must be there first"
    (volume,) = (one for one in job["spec"]["template"]["spec"]["volumes"] if one["name"] == "app")
    assert volume["configMap"]["name"] == program["metadata"]["name"]
    assert program["data"] == one_of("example", "ConfigMap", "-app")["data"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert (container["command"], container["args"][0]) == (["mdp", "deploy"], "/app/bars.py")
    refused = job["spec"]["podFailurePolicy"]["rules"][0]
    assert (refused["action"], refused["onExitCodes"]["values"]) == ("FailJob", [2])


def test_the_former_plan_is_deployed_before_a_rollback_and_no_state_is_forgotten() -> None:
    """Helm takes the hooks of the revision that it goes back to: what was said for the upgrade to it was said for that."""
    upgrade, rollback = (one_of("operators-habits", "Job", suffix) for suffix in ("-deploy", "-rollback"))
    assert rollback["metadata"]["annotations"]["helm.sh/hook"] == "pre-rollback"
    there, back = (one["spec"]["template"]["spec"]["containers"][0] for one in (upgrade, rollback))
    said = {"--keep=trades", "--reset=dedupe", "--reset=bars"}
    assert said <= set(there["args"])
    assert {**there, "args": [arg for arg in there["args"] if arg not in said]} == back


def test_what_loads_the_program_may_reach_what_the_coordinator_may() -> None:
    feed = {"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}
    rendered = objects(merged(SETS["minimal"], {"coordinator": {"extraEgress": [feed]}}))
    reach = {
        one["metadata"]["name"].removeprefix("bars-")
        for one in rendered
        if one["kind"] == "NetworkPolicy" and feed in one["spec"]["egress"]
    }
    assert reach == {"coordinator", "deploy", "rollback"}


def test_helm_test_checks_the_job() -> None:
    job = one_of("minimal", "Job", "-test")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] + container["args"] == ["mdp", "status", "--check", "--job=bars"]


@pytest.mark.parametrize("name", SETS)
def test_selectors_find_their_pods_and_no_others(name: str) -> None:
    templates = {one["metadata"]["name"]: template for one, template in pods(name)}
    for one in of(name, "Service"):
        found = [pod for pod, template in templates.items() if selects(one["spec"]["selector"], template)]
        assert found == [one["metadata"]["name"]]
    for one in of(name, "PodDisruptionBudget", "NetworkPolicy"):
        selector = one["spec"].get("selector") or one["spec"]["podSelector"]
        found = [pod for pod, template in templates.items() if selects(selector["matchLabels"], template)]
        assert found == [one["metadata"]["name"]]


@pytest.mark.parametrize("name", SETS)
def test_networks_are_closed_for_every_pod_or_for_none(name: str) -> None:
    guarded = {one["metadata"]["name"] for one in of(name, "NetworkPolicy")}
    assert guarded == (set() if name == "bare" else {one["metadata"]["name"] for one, _ in pods(name)})
    assert all(one["spec"]["policyTypes"] == ["Ingress", "Egress"] for one in of(name, "NetworkPolicy"))


@pytest.mark.parametrize(
    ("name", "ports"),
    [
        ("many-streams", [6380]),
        ("sentinel", [26379, 26380, 6379]),
        ("url-sentinel", [26379, 26400, 6390]),
        ("url-tls", [6379]),
    ],
)
def test_workers_may_reach_the_servers_ports(name: str, ports: list[int]) -> None:
    _, redis = one_of(name, "NetworkPolicy", "-worker")["spec"]["egress"]
    assert [entry["port"] for entry in redis["ports"]] == ports


def test_keda_reaches_the_coordinator_and_the_valkey() -> None:
    keda = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}
    assert keda in one_of("example", "NetworkPolicy", "-coordinator")["spec"]["ingress"][0]["from"]
    assert keda in one_of("example", "NetworkPolicy", "-valkey")["spec"]["ingress"][0]["from"]
    assert keda not in one_of("example", "NetworkPolicy", "-worker")["spec"]["ingress"][0]["from"]


def test_keda_finds_the_valkey_from_its_own_namespace() -> None:
    values = merged(SETS["example"], {"job": SETS["streams"]["job"], "autoscaling": {"enabled": True}})
    (scaled,) = (one for one in objects(values) if one["kind"] == "ScaledObject")
    service = one_of("example", "Service", "-valkey")["metadata"]["name"]
    assert {trigger["metadata"]["address"] for trigger in scaled["spec"]["triggers"]} == {
        f"{service}.{NAMESPACE}.svc:6379"
    }


def test_the_valkey_keeps_what_it_is_given() -> None:
    lines = one_of("example", "ConfigMap", "-valkey")["data"]["valkey.conf"].splitlines()
    assert {"appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction"} <= set(lines)
    valkey = one_of("example", "StatefulSet", "-valkey")
    assert valkey["spec"]["volumeClaimTemplates"][0]["spec"]["resources"] == {"requests": {"storage": "8Gi"}}


@pytest.mark.parametrize("password", ["only-for-trying", 'a"b', "a\\x41", "a $HOME b", "a'b"])
def test_the_valkey_asks_for_the_password_whatever_is_in_it(password: str, tmp_path: Path) -> None:
    """The container's own command with a stand-in for the server, which shows what configuration it is given."""
    (container,) = one_of("example", "StatefulSet", "-valkey")["spec"]["template"]["spec"]["containers"]
    (tmp_path / "valkey.conf").write_text("appendonly yes\n")
    server = tmp_path / "valkey-server"
    server.write_text("#!/bin/sh\nexec cat\n")
    server.chmod(0o755)
    command = [word.replace("/etc/valkey", str(tmp_path)) for word in container["command"]]
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "VALKEY_PASSWORD": password}
    given = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    escaped = password.replace("\\", "\\\\").replace('"', '\\"')
    assert given.splitlines() == ["appendonly yes", f'requirepass "{escaped}"']


def test_the_coordinators_service_may_be_asked_by_its_names() -> None:
    env = env_of(one_of("stage-from-zero", "Deployment", "-coordinator")["spec"]["template"])
    service = f"bars-coordinator.{NAMESPACE}.svc"
    assert env["MDP_HTTP_ALLOWED_HOSTS"].split(",") == [
        "bars-coordinator", f"bars-coordinator.{NAMESPACE}", service, f"{service}.example.internal",
    ]  # fmt: skip
    assert re.fullmatch(r"\d+", env["MDP_HTTP_PORT"])
