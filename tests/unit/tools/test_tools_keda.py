"""KEDA's rules for one ScaledObject: what the HPA is told, when workers start from nothing and stop to nothing."""

from __future__ import annotations

from typing import Any

import pytest
from tools.hpa import Metric, NotSimulated
from tools.keda import Keda, ScaledObject
from tools.keda_formula import evaluate


def streams(count: int, **metadata: str) -> list[dict[str, Any]]:
    return [
        {"type": "redis-streams", "name": f"p{n}", "metadata": {"address": "r:1", "stream": f"s{n}", **metadata}}
        for n in range(count)
    ]


def scaled(triggers: list[dict[str, Any]], modifiers: dict[str, Any] | None = None, **spec: Any) -> ScaledObject:
    advanced = {"scalingModifiers": modifiers} if modifiers else {}
    return ScaledObject.parse(
        {
            "kind": "ScaledObject",
            "metadata": {"name": "worker"},
            "spec": {"scaleTargetRef": {"name": "worker"}, "triggers": triggers, "advanced": advanced, **spec},
        }
    )


def summed(count: int, **spec: Any) -> ScaledObject:
    formula = " + ".join(f"p{n}" for n in range(count))
    modifiers = {"formula": formula, "target": "10", "activationTarget": "2", "metricType": "AverageValue"}
    return scaled(streams(count, streamLength="10"), modifiers, **spec)


def full(count: int, length: float | None) -> dict[str, float | None]:
    return {f"p{n}": length for n in range(count)}


FALLBACK = {"failureThreshold": 3, "replicas": 2, "behavior": "currentReplicasIfHigher"}


def test_with_a_formula_there_is_one_metric() -> None:
    assert Keda(summed(8)).metrics(1, full(8, 10)) == [Metric("composite", 80, 10)]


def test_without_a_formula_p_streams_are_underscaled_by_p() -> None:
    """8 streams with 10 frames each and target 10 need 8 workers. Without a formula the HPA leaves it at 1."""
    alone = scaled(streams(8, streamLength="10"), maxReplicaCount=8)
    assert alone.autoscaler().decide(0, 1, Keda(alone).metrics(1, full(8, 10))) == 1
    together = summed(8, maxReplicaCount=8)
    assert together.autoscaler().decide(0, 1, Keda(together).metrics(1, full(8, 10))) == 5  # 4 more in 15 s
    assert together.autoscaler().decide(15, 5, Keda(together).metrics(5, full(8, 10))) == 8


def test_defaults() -> None:
    given = scaled(streams(1))
    assert (given.minimum, given.maximum, given.polling, given.cooldown) == (0, 100, 30, 300)
    assert given.triggers[0].target == 5
    assert given.autoscaler().minimum == 1, "an HPA cannot have 0"
    assert scaled([{"type": "redis-streams", "metadata": {"stream": "x"}}]).triggers[0].name == "s0"


def test_fallback_begins_behind_the_threshold_and_ends_with_a_success() -> None:
    keda = Keda(summed(2, fallback=FALLBACK))
    for _ in range(3):
        assert keda.metrics(1, {"p0": 5, "p1": None})[0].value is None
    assert keda.metrics(1, {"p0": 5, "p1": None})[0].value == 20, "2 workers x target 10, though p0 can be read"
    assert keda.metrics(1, full(2, 5))[0].value == 10
    assert keda.metrics(1, full(2, None))[0].value is None, "counted anew"


@pytest.mark.parametrize(
    ("behavior", "current", "replicas"),
    [
        (None, 5, 2), ("static", 5, 2), ("currentReplicas", 5, 5), ("currentReplicas", 1, 1),
        ("currentReplicasIfHigher", 5, 5), ("currentReplicasIfHigher", 1, 2),
        ("currentReplicasIfLower", 5, 2), ("currentReplicasIfLower", 1, 1),
    ],
)  # fmt: skip
def test_how_many_fallback_asks_for(behavior: str | None, current: int, replicas: int) -> None:
    given = summed(2, fallback={"failureThreshold": 0, "replicas": 2, "behavior": behavior}, maxReplicaCount=9)
    metrics = Keda(given).metrics(current, full(2, None))
    down = given.autoscaler()
    down.decide(0, current, metrics)
    assert down.decide(300, current, metrics) == replicas


def test_without_a_formula_each_trigger_falls_back_for_itself() -> None:
    keda = Keda(scaled(streams(2, streamLength="10"), fallback={"failureThreshold": 0, "replicas": 3}))
    assert [metric.value for metric in keda.metrics(1, {"p0": 7, "p1": None})] == [7, 30]


def test_from_zero_and_back() -> None:
    keda = Keda(summed(2, minReplicaCount=0, cooldownPeriod=60))
    assert keda.poll(0, 0, full(2, 1)) == 0, "2 is not above activationTarget 2"
    assert keda.poll(30, 0, {"p0": 3, "p1": 0}) == 1
    assert keda.poll(60, 3, full(2, 0)) == 3
    assert keda.poll(90, 1, full(2, 0)) == 1, "60 s after it was active: not yet longer than the cooldown"
    assert keda.poll(91, 1, full(2, None)) == 1, "unknown is not idle"
    assert keda.poll(92, 1, full(2, 0)) == 0


def test_the_minimum() -> None:
    keda = Keda(summed(2, minReplicaCount=2))
    assert keda.poll(0, 0, full(2, 0)) == 2
    assert keda.poll(30, 0, full(2, 9)) == 2
    assert keda.poll(60, 5, full(2, 0)) == 5, "less is the HPA's business"


def test_activity_of_triggers_without_a_formula() -> None:
    api = {
        "type": "metrics-api",
        "name": "api",
        "metadata": {"url": "http://c/", "valueLocation": "x", "targetValue": "10"},
    }
    keda = Keda(scaled([*streams(1), {**api, "metadata": {**api["metadata"], "activationTargetValue": "5"}}]))
    assert keda.active({"p0": 0, "api": 5}) is False
    assert keda.active({"p0": 0, "api": 6}) is True
    assert keda.active({"p0": 1, "api": None}) is True
    assert keda.active({"p0": 0, "api": None}) is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"type": "cron"}, "trigger type 'cron'"),
        ({"metadata": {"stream": "x", "consumerGroup": "g"}}, "consumerGroup"),
        ({"metadata": {"stream": "x", "lagCount": "5"}}, "lagCount"),
        ({"metadata": {"streamLength": "5"}}, "without a stream"),
        ({"useCachedMetrics": True}, "useCachedMetrics"),
        ({"metricType": "Utilization"}, "Utilization"),
    ],
)
def test_triggers_without_a_rule_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(NotSimulated, match=sentence):
        scaled([{**streams(1)[0], **change}])


@pytest.mark.parametrize(
    "spec", [{"idleReplicaCount": 0}, {"fallback": {"failureThreshold": 1, "replicas": 1, "behavior": "panic"}}]
)
def test_other_things_without_a_rule_are_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(NotSimulated):
        scaled(streams(1), **spec)


def test_names_must_differ_and_stand_in_the_formula() -> None:
    with pytest.raises(NotSimulated, match="one name"):
        scaled([*streams(1), *streams(1)], {"formula": "p0", "target": "1"})
    with pytest.raises(NotSimulated, match="no trigger is named 'p1'"):
        scaled(streams(1), {"formula": "p0 + p1", "target": "1"})


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("p0 + p1", 7), ("p0 + p1 * 2", 11), ("(p0 + p1) * 2", 14), ("p0 / p1", 0.75), ("p0 - p1", -1), ("-p0", -3),
        ("max(p0, p1, 2)", 4), ("min(p0, p1)", 3), (" 2.5 ", 2.5),
    ],
)  # fmt: skip
def test_formulas(formula: str, value: float) -> None:
    assert evaluate(formula, {"p0": 3, "p1": 4}) == value


@pytest.mark.parametrize(
    "formula",
    ["p0 > 1 ? p0 : 0", "count([p0], {# > 1})", "p0 ** 2", "p0 % 2", "sum(p0, p1)", "'a'", "true", "", "max(p0)"],
)
def test_formulas_that_are_not_simulated(formula: str) -> None:
    with pytest.raises(NotSimulated):
        evaluate(formula, {"p0": 3, "p1": 4})
