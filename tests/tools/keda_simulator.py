"""KEDA and an HPA for one Deployment of real worker processes, without a cluster.

:meth:`Simulator.step` does what is due: KEDA looks every ``pollingInterval``, the HPA every ``sync`` seconds (15 s in a
cluster, ``--horizontal-pod-autoscaler-sync-period`` of the controller manager), each with readings of its own. The time is
handed in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from tools.keda import Keda, ScaledObject
from tools.keda_scalers import Scalers, credentials_of

SYNC_SECONDS = 15.0


class ScaleTarget(Protocol):
    """What has replicas: a Deployment's ``/scale``."""

    @property
    def replicas(self) -> int: ...

    def scale(self, replicas: int) -> None: ...


class Simulator:
    """``authentications``: the rendered TriggerAuthentications; ``secrets``: by name, their data as text; ``found``: see
    :class:`Scalers`. Close it at the end."""

    def __init__(
        self,
        scaled_object: Mapping[str, Any],
        target: ScaleTarget,
        *,
        authentications: list[Mapping[str, Any]] | None = None,
        secrets: Mapping[str, Mapping[str, Any]] | None = None,
        found: Mapping[str, str] | None = None,
        sync: float = SYNC_SECONDS,
    ) -> None:
        self.spec = ScaledObject.parse(scaled_object)
        credentials = {each["metadata"]["name"]: credentials_of(each, secrets or {}) for each in authentications or []}
        self._scalers = Scalers(self.spec, credentials, found)
        self._keda, self._hpa = Keda(self.spec), self.spec.autoscaler()
        self._target, self._sync = target, sync
        self._poll_at = self._sync_at = float("-inf")
        self.metric: float | None = None
        """What the HPA was told last (of several metrics the largest)."""

    def step(self, now: float) -> None:
        """Look and scale, where it is due. ``now``: s of a monotonic clock."""
        if now >= self._poll_at:
            self._poll_at = now + self.spec.polling
            self._set(self._keda.poll(now, self._target.replicas, self._scalers.read()))
        if now >= self._sync_at and self._target.replicas:
            self._sync_at = now + self._sync
            metrics = self._keda.metrics(self._target.replicas, self._scalers.read())
            self.metric = max((metric.value for metric in metrics if metric.value is not None), default=None)
            self._set(self._hpa.decide(now, self._target.replicas, metrics))

    def _set(self, replicas: int) -> None:
        if replicas != self._target.replicas:
            self._target.scale(replicas)

    def close(self) -> None:
        self._scalers.close()
