"""Several sources before several stores that have queues of their own, in simulated time, for the rates they are given: the
coordinator looks once a second, knows what a store said ``said_after`` seconds ago, and is obeyed 0.2 s later."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mdp_coordinator.autoscale import Observation
from mdp_coordinator.rates import Rates

from market_data_pipeline import Dag, Node
from market_data_pipeline.dag.plan import Plan
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.feedback import StoreReading
from tools.memory_job import CommittedRows, ListSource

STEPS, OBEYED_AFTER = 10, 2
"""So many steps a second; so many of them later a rate is obeyed."""


@dataclass
class Queued:
    """A store: what it stores a second at a time, its levels, and which sources' items come to it."""

    speed: Callable[[float], float]
    high: float
    low: float
    sources: Sequence[int]
    depth: float = 0.0
    deepest: float = 0.0
    said: list[StoreReading] = field(default_factory=list)


@dataclass
class StoreWorld:
    """Sources that have ``offers[i](t)`` items a second. ``rates`` and ``intakes``: of each source, second by second."""

    offers: Sequence[Callable[[float], float]]
    stores: Sequence[Queued]
    said_after: int = 16
    rates: list[list[float | None]] = field(default_factory=list)
    intakes: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.plan = self._plan()
        self.control = Rates(self.plan, 48, 16)
        self._obeyed: list[float | None] = [None] * len(self.offers)
        self._brought = [0.0] * len(self.offers)

    def _plan(self) -> Plan:
        dag = Dag("job")
        for n in range(len(self.offers)):
            dag.add_node(Node(f"source{n}", ListSource([])))
        for n, store in enumerate(self.stores):
            dag.add_node(Node(f"store{n}", CommittedRows()))
            for source in store.sources:
                dag.add_edge(f"source{source}", f"store{n}", key="symbol")
        return compile_dag(dag, 1)

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            before, second = list(self._brought), len(self.intakes)
            for step in range(STEPS):
                if step == OBEYED_AFTER and self.rates:
                    self._obeyed = self.rates[-1]
                self._step(second + step / STEPS)
            self.intakes.append([now - then for now, then in zip(self._brought, before, strict=True)])
            self._look(second + 1.0)

    def _step(self, now: float) -> None:
        coming = [
            min(offer(now), math.inf if rate is None else rate) / STEPS
            for offer, rate in zip(self.offers, self._obeyed, strict=True)
        ]
        self._brought = [sum(two) for two in zip(self._brought, coming, strict=True)]
        for store in self.stores:
            store.depth += sum(coming[source] for source in store.sources)
            store.deepest = max(store.deepest, store.depth)
            store.depth -= min(store.depth, store.speed(now) / STEPS)
            store.said.append(StoreReading(store.depth, store.high, store.low))

    def _look(self, now: float) -> None:
        known = {
            f"store{n}": store.said[max(0, len(store.said) - self.said_after)] for n, store in enumerate(self.stores)
        }
        lengths = {edge.name: {0: 0} for edge in self.plan.channels}
        brought = {f"source{n}": round(count) for n, count in enumerate(self._brought)}
        found = self.control.observe(Observation(now, True, 2, lengths, {}, {}, brought, known), ())
        self.rates.append([found.get(f"source{n}") for n in range(len(self.offers))])

    def intake(self, source: int, seconds: int) -> float:
        """Items a second, over the last ones."""
        return sum(second[source] for second in self.intakes[-seconds:]) / seconds
