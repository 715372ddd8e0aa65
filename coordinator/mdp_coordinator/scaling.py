"""The scaling signal of a running coordinator: fed with what is read each second, served as ``/api/scale`` and as metrics."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from market_data_pipeline.channels.base import Watermark
from market_data_pipeline.clock import Clock
from market_data_pipeline.dag.plan import Plan
from market_data_pipeline.http import NotAnswered
from market_data_pipeline.metrics import CoordinatorMetrics
from market_data_pipeline.store.status import JobStatus
from mdp_coordinator.autoscale import DEFAULT_TARGET, Autoscaler, Observation

_NUMBER = re.compile("[1-9][0-9]{0,6}")
_STALE_SECONDS = 10.0
_SHOWN = 60


class Scaling:
    """Feeds an :class:`~mdp_coordinator.autoscale.Autoscaler`, whose ``low`` and ``levels`` it is given."""

    def __init__(
        self,
        plan: Plan,
        low: int,
        metrics: CoordinatorMetrics,
        clock: Clock,
        levels: Mapping[str, Watermark] = MappingProxyType({}),
    ) -> None:
        self._autoscaler = Autoscaler(plan, low, levels)
        self._metrics, self._clock = metrics, clock

    def observe(self, status: JobStatus) -> Observation:
        """Take the job as it is now; what was seen of it."""
        seen = Observation(
            self._clock.monotonic(),
            status.state == "running",
            len(status.workers),
            {channel.name: channel.lengths for channel in status.channels},
            {channel.name: channel.items for channel in status.channels},
            status.flows,
            status.brought,
            status.stores,
        )
        self._autoscaler.observe(seen)
        for stage in self._autoscaler.stages:
            signal = self._autoscaler.signal(stage)
            drain = math.nan if signal.drain_seconds is None else signal.drain_seconds
            self._metrics.scale.backlog_frames.labels(stage).set(signal.backlog_frames)
            self._metrics.scale.backlog_items.labels(stage).set(signal.backlog_items)
            self._metrics.scale.drain.labels(stage).set(drain)
            self._metrics.scale.hot_share.labels(stage).set(signal.hot_partition_share)
        whole = self._autoscaler.signal()
        self._metrics.scale.desired.set(whole.desired_replicas)
        self._metrics.scale.sink_bound.set(whole.sink_bound)
        return seen

    def waiting(self) -> frozenset[str]:
        """See :meth:`~mdp_coordinator.autoscale.Autoscaler.waiting`."""
        return self._autoscaler.waiting()

    async def document(self, query: Mapping[str, str]) -> dict[str, Any]:
        """``/api/scale``. Parameters, both optional: ``stage``, and ``target`` (frames that a worker should have waiting).

        Raises ``NotAnswered``: 400 for anything else in the query, 404 for an unknown stage, 503 when nothing was observed yet,
        or not for ten seconds: who scales by old figures scales by none.
        """
        for name in query:
            if name not in ("stage", "target"):
                raise NotAnswered(400, f"unknown parameter {_shown(name)}; there are: stage, target")
        target = query.get("target", str(DEFAULT_TARGET))
        if not _NUMBER.fullmatch(target):
            raise NotAnswered(400, f"target={_shown(target)} is not a number of frames from 1 to 9999999")
        stage = query.get("stage")
        if stage is not None and stage not in self._autoscaler.stages:
            known = ", ".join(self._autoscaler.stages) or "none, no subgraph of this job reads streams"
            raise NotAnswered(404, f"no stage {_shown(stage)}; there are: {known}")
        seen_at = self._autoscaler.seen_at
        if seen_at is None:
            raise NotAnswered(503, "nothing was observed yet; ask again in a second")
        age = self._clock.monotonic() - seen_at
        if age > _STALE_SECONDS:
            raise NotAnswered(503, f"the last observation is {age:.0f} s old: the server is away")
        return asdict(self._autoscaler.signal(stage, int(target)))


def _shown(text: str) -> str:
    return repr(text[:_SHOWN])
