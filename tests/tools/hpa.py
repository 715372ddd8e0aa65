"""What a HorizontalPodAutoscaler answers: numbers and a time in, replicas out. No I/O.

Rules and their sources. "Doc" is Kubernetes, "Horizontal Pod Autoscaling"
(kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale), sections "Algorithm details" and "Configurable scaling
behavior"; "code" is pkg/controller/podautoscaler of kubernetes/kubernetes, where the text leaves something open.

* AverageValue: the wanted number is ceil(value / target), unless value / (target x current) is within the tolerance (0.1) of
  1 (doc; code: ``GetExternalPerPodMetricReplicas``). Value: ceil(value / target x current), the same tolerance.
* Several metrics: the largest wanted number. One that cannot be read forbids scaling down, all of them any scaling (doc).
* No pods: nothing is computed; above the maximum or below the minimum: straight there (code: ``reconcileAutoscaler``).
* Stabilisation: up to the smallest, down to the largest number wanted within the window (doc).
* Policies: what may be added or removed per period, counted from the number at the period's start; ``selectPolicy`` Max takes
  the policy that allows most, Min least, Disabled forbids the direction (doc). Percent is rounded up for up, down for down
  (code).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TOLERANCE = 0.1
_MILLI = 1000


class NotSimulated(Exception):
    """The object asks for something that this simulation has no rule for."""


@dataclass(frozen=True)
class Policy:
    """At most ``value`` pods, or percent of the pods, in ``period`` seconds."""

    kind: str
    value: int
    period: float

    def limit(self, start: int, up: bool) -> int:
        """How far from ``start`` pods the number may go."""
        if self.kind == "Pods":
            return start + self.value if up else start - self.value
        share = start * (100 + self.value if up else 100 - self.value) / 100
        return math.ceil(share) if up else math.trunc(share)


@dataclass(frozen=True)
class Rules:
    """One direction: stabilisation window in seconds, policies, which of them counts, tolerance."""

    window: float
    policies: tuple[Policy, ...]
    select: str = "Max"
    tolerance: float = TOLERANCE


UP = Rules(0, (Policy("Percent", 100, 15), Policy("Pods", 4, 15)))
DOWN = Rules(300, (Policy("Percent", 100, 15),))
"""Defaults of autoscaling/v2 ("Default Behavior")."""


def rules_of(given: Mapping[str, Any] | None, default: Rules) -> Rules:
    """``spec.behavior.scaleUp`` or ``scaleDown`` with what it leaves out from ``default``. Raises ``NotSimulated``."""
    left = dict(given or {})
    policies = tuple(
        Policy(
            _one_of(each["type"], "policy type", ("Pods", "Percent")), int(each["value"]), float(each["periodSeconds"])
        )
        for each in left.pop("policies", None) or ()
    )
    window = left.pop("stabilizationWindowSeconds", None)
    select = _one_of(left.pop("selectPolicy", None) or "Max", "selectPolicy", ("Max", "Min", "Disabled"))
    tolerance = left.pop("tolerance", None)
    if left:
        raise NotSimulated(f"behavior: {sorted(left)}")
    return Rules(
        default.window if window is None else float(window),
        policies or default.policies,
        select,
        default.tolerance if tolerance is None else float(tolerance),
    )


def _one_of(value: str, what: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise NotSimulated(f"{what} {value!r}; allowed are {', '.join(allowed)}")
    return value


@dataclass(frozen=True)
class Metric:
    """``value``: what was read, ``None`` when it could not be; ``kind``: ``AverageValue`` or ``Value``."""

    name: str
    value: float | None
    target: float
    kind: str = "AverageValue"


def wanted(metric: Metric, current: int, up: float = TOLERANCE, down: float = TOLERANCE) -> int:
    """Replicas that one metric asks for. In thousandths, as quantities are, so that no float rounds 2.0 up to 3."""
    assert metric.value is not None
    value, target = int(metric.value * _MILLI), int(metric.target * _MILLI)
    pods = 1 if metric.kind == "Value" else current
    if 1 - down <= value / (target * pods) <= 1 + up:
        return current
    return -(-value * (current if metric.kind == "Value" else 1) // target)


@dataclass
class Autoscaler:
    """One HPA with its memory. ``decide`` is called every sync period."""

    minimum: int
    maximum: int
    up: Rules = UP
    down: Rules = DOWN
    _wanted: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def decide(self, now: float, current: int, metrics: Sequence[Metric]) -> int:
        """The replicas to have from ``now`` (s, of any clock) on, given ``current`` ones."""
        chosen = self._decide(now, current, metrics)
        if chosen != current:
            self._changes.append((now, chosen - current))
        return chosen

    def _decide(self, now: float, current: int, metrics: Sequence[Metric]) -> int:
        if current == 0:
            return 0
        if not self.minimum <= current <= self.maximum:
            return min(max(current, self.minimum), self.maximum)
        read = [metric for metric in metrics if metric.value is not None]
        if not read:
            return current
        desired = max(wanted(metric, current, self.up.tolerance, self.down.tolerance) for metric in read)
        if len(read) < len(metrics) and desired < current:
            return current
        return self._limited(now, current, self._stabilised(now, current, desired))

    def _stabilised(self, now: float, current: int, desired: int) -> int:
        def within(window: float) -> Iterable[int]:
            return (number for at, number in self._wanted if at > now - window)

        lowest, highest = min([desired, *within(self.up.window)]), max([desired, *within(self.down.window)])
        longest = max(self.up.window, self.down.window)
        self._wanted = [(at, number) for at, number in self._wanted if at > now - longest] + [(now, desired)]
        return min(max(current, lowest), highest)

    def _limited(self, now: float, current: int, desired: int) -> int:
        if desired > current:
            limit = max(self._limit(now, current, self.up, up=True), current)
            return min(desired, limit, self.maximum)
        if desired < current:
            limit = min(self._limit(now, current, self.down, up=False), current)
            return max(desired, limit, self.minimum)
        return current

    def _limit(self, now: float, current: int, rules: Rules, up: bool) -> int:
        if rules.select == "Disabled":
            return current
        limits = []
        for policy in rules.policies:
            since = sum(change for at, change in self._changes if at > now - policy.period)
            limits.append(policy.limit(current - since, up))
        return max(limits) if up is (rules.select == "Max") else min(limits)
