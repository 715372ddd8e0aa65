"""What KEDA does with a ScaledObject: what was read from its triggers in, metrics for the HPA and scaling from and to zero out.

No I/O here; ``keda_scalers.py`` reads the triggers, ``keda_simulator.py`` puts both to work. Rules and their sources: "spec"
is keda.sh/docs, "ScaledObject specification"; "scaler" the pages "Redis Streams", "Redis Streams (supports Redis Sentinel)"
and "Metrics API"; "code" is kedacore/keda, where the text leaves something open.

* A redis-streams trigger without ``consumerGroup`` is compared by XLEN with ``streamLength`` (default 5), a missing stream is
  0 (scaler; code: pkg/scalers/redis_streams_scaler.go); it is active when not empty. With a group: refused here, see the
  issue.
* metrics-api: GET ``url``, the number at ``valueLocation`` against ``targetValue``; active above ``activationTargetValue``
  (scaler).
* ``scalingModifiers``: the formula over the triggers' names gives one metric in place of theirs, with its own ``target``,
  ``activationTarget`` (default 0; active above it) and ``metricType`` (spec). Without: one metric per trigger, and the HPA
  takes the largest number of replicas: P streams of length L ask for ceil(L / target), not for ceil(P x L / target).
* ``fallback``: from the (failureThreshold + 1)th failure in a row on the metric is target x replicas, so that an AverageValue
  asks for exactly these; ``behavior`` says which (spec). Before that, the HPA gets no metric. With a formula one failing
  trigger is enough, and the composite metric is replaced (code: pkg/fallback/fallback.go).
* The HPA's minimum is ``minReplicaCount``, at least 1; KEDA itself goes from 0 to max(1, minReplicaCount) when a trigger is
  active, and to 0 when ``minReplicaCount`` is 0 and none was active for ``cooldownPeriod`` (spec; code:
  pkg/scaling/executor).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tools.hpa import DOWN, UP, Autoscaler, Metric, NotSimulated, rules_of
from tools.keda_formula import evaluate

BEHAVIORS = ("static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower")
STREAMS = ("redis-streams", "redis-sentinel-streams")
_DEFAULT_LENGTH = 5
_SPEC = {
    "scaleTargetRef", "pollingInterval", "cooldownPeriod", "minReplicaCount", "maxReplicaCount",
    "fallback", "advanced", "triggers",
}  # fmt: skip


@dataclass(frozen=True)
class Trigger:
    """``target``: per pod. ``activation``: active above it. ``auth``: the name of a TriggerAuthentication, or empty."""

    name: str
    type: str
    metadata: Mapping[str, str]
    target: float
    activation: float
    metric_type: str
    auth: str


@dataclass(frozen=True)
class Modifiers:
    """``advanced.scalingModifiers``."""

    formula: str
    target: float
    activation: float
    metric_type: str


@dataclass(frozen=True)
class Fallback:
    threshold: int
    replicas: int
    behavior: str

    def replicas_at(self, current: int) -> int:
        return {
            "static": self.replicas,
            "currentReplicas": current,
            "currentReplicasIfHigher": max(current, self.replicas),
            "currentReplicasIfLower": min(current, self.replicas),
        }[self.behavior]


@dataclass(frozen=True)
class ScaledObject:
    """A ScaledObject with its defaults filled in. Times in seconds."""

    name: str
    target: str
    minimum: int
    maximum: int
    polling: float
    cooldown: float
    triggers: tuple[Trigger, ...]
    modifiers: Modifiers | None
    fallback: Fallback | None
    behavior: Mapping[str, Any]

    @classmethod
    def parse(cls, rendered: Mapping[str, Any]) -> ScaledObject:
        """From the object as Helm renders it. Raises ``NotSimulated`` for what no rule above is about."""
        if rendered.get("kind") != "ScaledObject":
            raise NotSimulated(f"kind {rendered.get('kind')!r}")
        spec = rendered["spec"]
        if unknown := set(spec) - _SPEC:
            raise NotSimulated(f"spec: {sorted(unknown)}")
        advanced = dict(spec.get("advanced") or {})
        hpa = dict(advanced.pop("horizontalPodAutoscalerConfig", None) or {})
        modifiers = advanced.pop("scalingModifiers", None)
        advanced.pop("restoreToOriginalReplicaCount", None)  # is about the object's deletion
        if advanced or set(hpa) - {"behavior", "name"}:
            raise NotSimulated(f"advanced: {sorted({*advanced, *hpa} - {'behavior', 'name'})}")
        triggers = tuple(_trigger(number, given) for number, given in enumerate(spec["triggers"]))
        return cls(
            rendered["metadata"]["name"],
            spec["scaleTargetRef"]["name"],
            int(spec.get("minReplicaCount", 0)),
            int(spec.get("maxReplicaCount", 100)),
            float(spec.get("pollingInterval", 30)),
            float(spec.get("cooldownPeriod", 300)),
            triggers,
            _modifiers(modifiers, triggers) if modifiers else None,
            _fallback(spec["fallback"]) if spec.get("fallback") else None,
            hpa.get("behavior") or {},
        )

    def autoscaler(self) -> Autoscaler:
        """The HPA that KEDA makes."""
        up, down = rules_of(self.behavior.get("scaleUp"), UP), rules_of(self.behavior.get("scaleDown"), DOWN)
        return Autoscaler(max(self.minimum, 1), self.maximum, up, down)


def _metric_type(given: str | None) -> str:
    if (given or "AverageValue") not in ("AverageValue", "Value"):
        raise NotSimulated(f"metricType {given!r}; allowed are AverageValue, Value")
    return given or "AverageValue"


def _trigger(number: int, given: Mapping[str, Any]) -> Trigger:
    kind, metadata = given["type"], {key: str(value) for key, value in (given.get("metadata") or {}).items()}
    if given.get("useCachedMetrics"):
        raise NotSimulated("useCachedMetrics: the HPA reads each time")
    if kind in STREAMS:
        if refused := {"consumerGroup", "pendingEntriesCount", "lagCount", "activationLagCount"} & set(metadata):
            raise NotSimulated(
                f"{kind} with {sorted(refused)}: only XLEN is a backlog, as consumed entries are deleted"
            )
        if not metadata.get("stream"):
            raise NotSimulated(f"{kind} without a stream")
        target, activation = float(metadata.get("streamLength", _DEFAULT_LENGTH)), 0.0
    elif kind == "metrics-api":
        target, activation = float(metadata["targetValue"]), float(metadata.get("activationTargetValue", 0))
    else:
        raise NotSimulated(f"trigger type {kind!r}; simulated are {', '.join((*STREAMS, 'metrics-api'))}")
    auth = (given.get("authenticationRef") or {}).get("name", "")
    return Trigger(
        given.get("name") or f"s{number}",
        kind,
        metadata,
        target,
        activation,
        _metric_type(given.get("metricType")),
        auth,
    )


def _modifiers(given: Mapping[str, Any], triggers: tuple[Trigger, ...]) -> Modifiers:
    names = [trigger.name for trigger in triggers]
    if len(set(names)) < len(names):
        raise NotSimulated(f"two triggers have one name: {names}")
    evaluate(given["formula"], dict.fromkeys(names, 1.0))  # so that a formula KEDA could not compute is found at once
    activation = float(given.get("activationTarget") or 0)
    return Modifiers(given["formula"], float(given["target"]), activation, _metric_type(given.get("metricType")))


def _fallback(given: Mapping[str, Any]) -> Fallback:
    behavior = given.get("behavior") or "static"
    if behavior not in BEHAVIORS:
        raise NotSimulated(f"fallback.behavior {behavior!r}; allowed are {', '.join(BEHAVIORS)}")
    return Fallback(int(given["failureThreshold"]), int(given["replicas"]), behavior)


Readings = Mapping[str, float | None]
"""What the triggers gave, by name; ``None`` where one could not be read."""


@dataclass
class Keda:
    """The operator's side of one ScaledObject, with its memory."""

    spec: ScaledObject
    failures: dict[str, int] = field(default_factory=dict)
    _active_at: float | None = None

    def metrics(self, current: int, readings: Readings) -> list[Metric]:
        """What the HPA is told; failures in a row are counted here."""
        for trigger in self.spec.triggers:
            self.failures[trigger.name] = (
                self.failures.get(trigger.name, 0) + 1 if readings[trigger.name] is None else 0
            )
        modifiers = self.spec.modifiers
        if modifiers is None:
            return [self._metric_of(trigger, current, readings[trigger.name]) for trigger in self.spec.triggers]
        value = self._composed(readings)
        if value is None and any(map(self._falls_back, self.failures)) and modifiers.metric_type == "AverageValue":
            value = self._fallback_value(modifiers.target, current)
        return [Metric("composite", value, modifiers.target, modifiers.metric_type)]

    def _metric_of(self, trigger: Trigger, current: int, value: float | None) -> Metric:
        if value is None and self._falls_back(trigger.name) and trigger.metric_type == "AverageValue":
            value = self._fallback_value(trigger.target, current)
        return Metric(trigger.name, value, trigger.target, trigger.metric_type)

    def _falls_back(self, name: str) -> bool:
        return self.spec.fallback is not None and self.failures[name] > self.spec.fallback.threshold

    def _fallback_value(self, target: float, current: int) -> float:
        assert self.spec.fallback is not None
        return target * self.spec.fallback.replicas_at(current)

    def _composed(self, readings: Readings) -> float | None:
        values = {name: value for name, value in readings.items() if value is not None}
        if self.spec.modifiers is None or len(values) < len(readings):
            return None
        return evaluate(self.spec.modifiers.formula, values)

    def active(self, readings: Readings) -> bool | None:
        """Whether there is something to do; ``None`` when what was read does not tell."""
        if self.spec.modifiers is not None:
            value = self._composed(readings)
            return None if value is None else value > self.spec.modifiers.activation
        read = [(trigger, readings[trigger.name]) for trigger in self.spec.triggers]
        if any(value is not None and value > trigger.activation for trigger, value in read):
            return True
        return None if any(value is None for _, value in read) else False

    def poll(self, now: float, current: int, readings: Readings) -> int:
        """KEDA's own look every ``pollingInterval``: from zero, to zero, up to the minimum; else ``current``."""
        active = self.active(readings)
        if active:
            self._active_at = now
            return current or max(1, self.spec.minimum)
        if active is None:
            return current
        cool = self._active_at is None or now - self._active_at > self.spec.cooldown
        if self.spec.minimum == 0 and current and cool:
            return 0
        return max(current, self.spec.minimum)
