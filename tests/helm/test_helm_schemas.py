"""Every rendered object is one that Kubernetes, KEDA and the Prometheus operator know, field by field."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import jsonschema
import pytest
import referencing
from kubernetes_validate import latest_version, utils

from helm.render import objects, value_sets

SETS = value_sets()
OURS = ("keda.sh/v1alpha1", "monitoring.coreos.com/v1")
OLDEST = "1.28.0"
FALLBACK_BEHAVIOURS = {"static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"}
"""KEDA 2.17's scaledobject_types.go; the models are 2.16's, where a fallback has no behaviour."""


@cache
def validator(version: str, kind: str, api_version: str) -> jsonschema.Draft202012Validator:
    """What ``kubernetes_validate.validate(..., strict=True)`` asks, with its files read once: they are large."""
    folder = f"kubernetes-json-schema/v{version}-local-strict"
    group, _, number = api_version.partition("/")
    name = f"{kind.lower()}-{group.partition('.')[0]}" + (f"-{number}" if number else "")
    schema = utils.schema_contents(f"{folder}/{name}.json", version)
    return jsonschema.Draft202012Validator(schema, registry=registry(version))


@cache
def registry(version: str) -> referencing.Registry:
    """The definitions that the schemas of a version refer to."""
    contents = utils.schema_contents(f"kubernetes-json-schema/v{version}-local-strict/_definitions.json", version)
    return (referencing.Resource.from_contents(contents) @ referencing.Registry()).crawl()


def problems(model: type, one: dict[str, Any]) -> None:
    """Raises where ``one`` is no ``model``, or holds fields that the model does not."""
    parsed = model.model_validate(one)
    kept = parsed.model_dump(by_alias=True, exclude_none=True, mode="json")
    lost = paths(one) - paths(kept)
    assert not lost, f"{one['kind']} has no {sorted(lost)}"


def paths(value: Any, at: str = "") -> set[str]:
    """All paths of a document, indices of lists left out; values that are empty do not count."""
    if isinstance(value, dict):
        return {path for name, inner in value.items() for path in {f"{at}.{name}", *paths(inner, f"{at}.{name}")}}
    if isinstance(value, list):
        return {path for inner in value for path in paths(inner, f"{at}[]")}
    return set()


@pytest.mark.parametrize("version", [OLDEST, latest_version()])
@pytest.mark.parametrize("name", SETS)
def test_objects_of_kubernetes(name: str, version: str) -> None:
    for one in objects(SETS[name]):
        if one["apiVersion"] not in OURS:
            errors = validator(version, one["kind"], one["apiVersion"]).iter_errors(one)
            assert [f"{error.json_path}: {error.message}" for error in errors] == [], one["metadata"]["name"]


def test_the_validator_is_the_packages_own_and_strict() -> None:
    """What is asked above finds what the package finds: an unknown field, and a wrong type."""
    (account,) = (one for one in objects(SETS["minimal"]) if one["kind"] == "ServiceAccount")
    assert utils.validate(account, OLDEST, strict=True) == "1.28"
    for wrong in ({**account, "secret": []}, {**account, "automountServiceAccountToken": "no"}):
        with pytest.raises(utils.ValidationError):
            utils.validate(wrong, OLDEST, strict=True)
        assert not validator(OLDEST, "ServiceAccount", "v1").is_valid(wrong)


@pytest.mark.parametrize("name", SETS)
def test_objects_of_keda(name: str) -> None:
    from cloudcoil.models.keda import v1alpha1  # noqa: PLC0415 - large, and of use here only

    for one in objects(SETS[name]):
        if one["apiVersion"] == "keda.sh/v1alpha1":
            if "fallback" in one["spec"]:
                assert one["spec"]["fallback"].pop("behavior") in FALLBACK_BEHAVIOURS
            problems(getattr(v1alpha1, one["kind"]), one)


@pytest.mark.parametrize("name", SETS)
def test_objects_of_the_prometheus_operator(name: str) -> None:
    from cloudcoil.models.prometheus_operator import v1  # noqa: PLC0415 - large, and of use here only

    for one in objects(SETS[name]):
        if one["apiVersion"] == "monitoring.coreos.com/v1":
            problems(getattr(v1, one["kind"]), one)


def test_a_field_that_the_models_do_not_have_is_found() -> None:
    from cloudcoil.models.keda import v1alpha1  # noqa: PLC0415 - large, and of use here only

    (scaled,) = (one for one in objects(SETS["streams"]) if one["kind"] == "ScaledObject")
    del scaled["spec"]["fallback"]["behavior"]
    scaled["spec"]["triggers"][0]["lagCount"] = "1"
    with pytest.raises((AssertionError, ValueError), match="lagCount"):
        problems(v1alpha1.ScaledObject, scaled)


def test_the_value_sets_show_every_kind_of_object() -> None:
    kinds = Counter(one["kind"] for values in SETS.values() for one in objects(values))
    assert set(kinds) == {
        "ConfigMap", "Deployment", "Job", "NetworkPolicy", "PodDisruptionBudget", "PodMonitor", "PrometheusRule",
        "ScaledObject", "Secret", "Service", "ServiceAccount", "ServiceMonitor", "StatefulSet", "TriggerAuthentication",
    }  # fmt: skip
