"""How many items a second each source may bring in: observations in, rates out. No clock, no socket.

Levels stop a source whose streams are full, to and fro many times a second. A rate says the same ahead of time and visibly: a
slow database slows the feed down to what it can take, and one sees by how much. The rate follows AIMD, as TCP does (Jacobson,
*Congestion Avoidance and Control*, SIGCOMM 1988; Chiu and Jain 1989), with what the bottleneck was seen to use as its measure:

* **Pressed**: a stage waits for the outside (:meth:`~mdp_coordinator.autoscale.Autoscaler.waiting`), and its streams are at
  the high level, or the source is paused for a quarter of its time, or what waits for the stage takes it over two seconds and
  ever longer. The source gets 95 % of what the stage can use of the source's items: what it used lately, by the time in which
  it had something to do. While the streams empty, that is left; else it is cut again. It never falls below a twentieth of what
  the source brought before: without any items nobody would see the store come back, and the levels bound them.
* **Not pressed, but with a backlog**: the rate rises to 95 % of what the stage can use at once.
* **Calm**: all streams at or below the low level, no backlog that grows. The rate grows by 5 %, and from the fourth second on
  by half; where the stage takes its items in less than a third of its time, it doubles. As long as the source uses it up.
* **No limit any more**: the source does not use half of its rate; or what holds it back is not the outside.

A store that says how full its own queue is (``Observation.stores``) makes a second rate, which each of the sources before it
may use, by :mod:`~mdp_coordinator.store_rates`: at its high level it presses as a full stream does, at its low one it is calm,
between them nothing is changed. Of all rates of a source the smallest one holds.

Only waiting for the outside makes a limit. Where workers lack, a backlog is what asks for them: a rate would hide it. A healthy
job, also one that reads as fast as it can compute, has none. Between the levels nothing is changed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from market_data_pipeline.channels.base import Watermark
from market_data_pipeline.dag.plan import Plan, Subgraph
from mdp_coordinator.autoscale import Observation
from mdp_coordinator.store_rates import StoreRate

_WINDOW_SECONDS = 5.0
_CUT, _STEP, _FASTER, _FLOOR = 0.95, 0.05, 1.5, 0.05
_FADES = 0.99
"""What a source once brought in counts so much less with each second; it may have been paused before it was limited."""
_STEPS = 3
"""So many times the rate grows by a step before it grows faster."""
_PATIENCE = 3
"""So many observations in a row something must be seen that a single one could feign."""
_PAUSED_SHARE, _NOT_PAUSED_SHARE = 0.25, 0.05
_BUSY_SHARE = 0.7
_DELAY_SECONDS = 2.0
_SHORT_SECONDS = 0.25
"""A backlog that is worked off in so short a time is none."""


class Press(NamedTuple):
    """What a source should know of what is behind it, at one moment. Items are the source's own, per second where rates.

    ``pressed``: it brings in too much for the outside. ``calm``: it may bring in more. ``drain``: what the bottleneck uses;
    None where that is not known. ``saturated``: the bottleneck has had work all the time, so that is what it can do.
    ``shrinks``: its backlog becomes smaller. ``elsewhere``: what holds the source back is not the outside.
    """

    pressed: bool
    calm: bool
    intake: float
    drain: float | None = None
    saturated: bool = False
    shrinks: bool = False
    elsewhere: bool = False


class SourceRate:
    """The rate of one source, from one :class:`Press` to the next, a second apart; None is no limit."""

    def __init__(self) -> None:
        self.rate: float | None = None
        self._anchor = self._healthy = 0.0
        self._steps = self._unused = self._other = 0
        self._settles = False

    def follow(self, rate: float | None) -> None:
        """Another has decided this."""
        if rate != self.rate:
            self.rate, self._anchor = rate, rate or 0.0
            self._steps = self._unused = self._other = 0

    def update(self, seen: Press) -> float | None:
        """The rate from now on."""
        if seen.pressed:
            self._press(seen)
        elif self.rate is None:
            self._healthy = max(seen.intake, _FADES * self._healthy)
        else:
            self._release(seen, self.rate)
        return self.rate

    def _press(self, seen: Press) -> None:
        floor = max(1.0, _FLOOR * self._healthy)
        target = floor if seen.drain is None else max(floor, _CUT * seen.drain)
        self._steps = self._unused = self._other = 0
        if self.rate is None or target < _CUT * self.rate or target > self.rate:
            self._set(target)
        elif not seen.shrinks and not self._settles:
            self._set(max(floor, _CUT * self.rate))
            self._settles = True
            return
        self._settles = False

    def _set(self, rate: float) -> None:
        self.rate = self._anchor = rate

    def _release(self, seen: Press, rate: float) -> None:
        self._settles = False
        self._other = self._other + 1 if seen.elsewhere else 0
        if self._other >= _PATIENCE:
            self.rate = None
        elif seen.saturated and seen.drain is not None and _CUT * seen.drain > rate:
            self._set(_CUT * seen.drain)
            self._steps = 0
        elif not seen.calm:
            self._steps = 0
        elif seen.intake >= 0.8 * rate:
            self._unused = 0
            self._grow(seen, rate)
        else:
            self._unused += 1
            if self._unused >= _PATIENCE:  # a rate that grew is used a moment later
                self._unused = 0
                self.rate = None if seen.intake < 0.5 * rate else self.rate
                if self.rate is not None:
                    self._grow(seen, rate)

    def _grow(self, seen: Press, rate: float) -> None:
        self._steps += 1
        if seen.drain is not None and seen.drain > 2 * _FASTER * rate:
            self.rate = rate * 2
        else:
            self.rate = rate + _STEP * self._anchor if self._steps <= _STEPS else rate * _FASTER


@dataclass(frozen=True)
class _Reach:
    """What is behind a source: the edges that pressure can come along, and who reads each; the tasks of the source."""

    subgraph: Subgraph
    tasks: int
    edges: tuple[tuple[str, str], ...]


class Rates:
    """The rates of all sources of a plan. ``high`` and ``low``: levels of a stream, in frames, where ``levels`` has none for
    its edge. ``absorbing``: nodes that keep what they cannot hand on, so that no pressure comes past them. Coroutine nodes that
    bring items in are not limited."""

    def __init__(
        self,
        plan: Plan,
        high: int,
        low: int,
        absorbing: Collection[str] = (),
        levels: Mapping[str, Watermark] = MappingProxyType({}),
    ) -> None:
        self._plan = plan
        self._levels = {edge.name: levels.get(edge.name, Watermark(high, low)) for edge in plan.channels}
        self._sources: dict[str, SourceRate] = {}
        self._reach: dict[str, _Reach] = {}
        self._before: dict[str, list[str]] = {}
        """The sources before each node."""
        for node in plan.nodes:
            if node.kind == "source":
                subgraph = plan.subgraph_of[node.name]
                edges = tuple(dict.fromkeys(_edges_behind(plan, subgraph, absorbing)))
                self._sources[node.name] = SourceRate()
                self._reach[node.name] = _Reach(subgraph, len(plan.partitions_of(subgraph)), edges)
                for behind in plan.behind(node.name, absorbing):
                    self._before.setdefault(behind, []).append(node.name)
        self._stores = {name: StoreRate() for name in self._before}
        self._seen: deque[Observation] = deque()
        self._bottlenecks: dict[str, frozenset[str]] = {}

    @property
    def rates(self) -> dict[str, float]:
        """Items per second by source; those without a limit are left out."""
        found = {name: source.rate for name, source in self._sources.items() if source.rate is not None}
        for node, store in self._stores.items():
            if store.rate is not None:
                found |= {name: min(store.rate, found.get(name, store.rate)) for name in self._before[node]}
        return found

    @property
    def presses(self) -> dict[str, list[str]]:
        """The nodes whose stores press a source that is limited because of what they say; the others are left out."""
        found: dict[str, list[str]] = {}
        for name, rate in sorted(self.rates.items()):
            for node, store in sorted(self._stores.items()):
                if store.pressed and store.rate == rate and name in self._before[node]:
                    found.setdefault(name, []).append(node)
        return found

    def follow(self, rates: Mapping[str, float], presses: Mapping[str, Collection[str]] = MappingProxyType({})) -> None:
        """Take over what another leader has said, so as to go on from there. A store limits all sources before it.
        ``presses``: as :attr:`presses`."""
        self._seen.clear()
        for name, source in self._sources.items():
            source.follow(rates.get(name))
        for node, store in self._stores.items():
            said = [rates.get(name) for name in self._before[node]]
            pressed = any(node in presses.get(name, ()) for name in self._before[node])
            store.follow(None if None in said else max(rate for rate in said if rate is not None), pressed)

    def observe(self, seen: Observation, waiting: Collection[str]) -> dict[str, float]:
        """Take the next observation, a second behind the last, and the stages that wait for the outside; the rates from now
        on. A job that does not run, or has no workers, says nothing of what it could do."""
        if not seen.running or not seen.workers:
            self._seen.clear()
            return self.rates
        self._seen.append(seen)
        while len(self._seen) > 2 and self._seen[1].now <= seen.now - _WINDOW_SECONDS:
            self._seen.popleft()
        if len(self._seen) > 1:
            for name, source in self._sources.items():
                source.update(self._press(name, waiting))
            for node, store in self._stores.items():
                said = seen.stores.get(node)
                intakes = [self._intake(name) for name in self._before[node]]
                store.update(None if said is None else said.position, intakes)
        return self.rates

    def _press(self, name: str, waiting: Collection[str]) -> Press:
        reach = self._reach[name]
        held_by = frozenset(stage for _, stage in reach.edges if stage in waiting and self._busy(name, stage))
        if held_by:
            self._bottlenecks[name] = held_by
        stages = held_by or self._bottlenecks.get(name, frozenset())
        full = any(self._fullest(edge) >= self._levels[edge].high for edge, _ in reach.edges)
        paused = self._paused(reach)
        drains = {stage: self._drain(name, stage) for stage in stages}
        known = [drain for drain in drains.values() if drain is not None]
        backlogs = [self._backlogs(name, stage) for stage in stages]
        grows = any(now > before and now > _SHORT_SECONDS * self._intake(name) for before, now in backlogs)
        late = any(self._falls_behind(name, stage) for stage in held_by)
        pressed = bool(held_by) and (full or paused >= _PAUSED_SHARE or late)
        low = all(self._fullest(edge) <= self._levels[edge].low for edge, _ in reach.edges)
        return Press(
            pressed,
            calm=low and not grows and paused < _NOT_PAUSED_SHARE,
            intake=self._intake(name),
            drain=min(known, default=None),
            saturated=bool(stages) and all(self._saturated(name, stage, drains[stage]) for stage in stages),
            shrinks=all(now < before for before, now in backlogs),
            elsewhere=not held_by and (full or paused >= _PAUSED_SHARE),
        )

    def _fullest(self, edge: str) -> int:
        return max(self._seen[-1].lengths.get(edge, {}).values(), default=0)

    def _intake(self, name: str) -> float:
        """What the source brought in a second, since the last observation."""
        before, now = self._seen[-2], self._seen[-1]
        return _gain(before.brought, now.brought, name) / max(1e-9, now.now - before.now)

    def _paused(self, reach: _Reach) -> float:
        """The share of the time in which the source's tasks have waited for room, since the last observation."""
        before, now = self._seen[-2], self._seen[-1]
        paused = sum(
            max(0.0, flow.paused - before.flows[task].paused)
            for task, flow in now.flows.items()
            if task.subgraph == reach.subgraph.name and task in before.flows
        )
        return paused / max(1e-9, now.now - before.now) / reach.tasks

    def _edges_to(self, name: str, stage: str) -> list[str]:
        return [edge for edge, reader in self._reach[name].edges if reader == stage]

    def _worth(self, name: str, stage: str) -> float | None:
        """How many items of the source ``name`` one item that is sent to ``stage`` stands for; None where none was sent."""
        seen, edges = self._seen[-1], self._edges_to(name, stage)
        feeding = [other for other in self._sources if self._edges_to(other, stage)]
        sent = sum(flow.sent.get(edge, 0) for flow in seen.flows.values() for edge in edges)
        brought = sum(seen.brought.get(other, 0) for other in feeding)
        if not sent or not brought:
            return None
        first = self._seen[0].brought
        gains = {other: _gain(first, seen.brought, other) for other in feeding}
        gained = sum(gains.values())
        share = gains[name] / gained if gained else seen.brought.get(name, 0) / brought
        return brought / sent * share

    def _drain(self, name: str, stage: str) -> float | None:
        """What ``stage`` can use a second, in items of the source: what it used in the last two seconds (or, where no commit
        tells of these, over the window), by the time it had something to do. (By the clock it would be less where it waited
        for items, because of the very rate that comes from this.)"""
        first, last, worth = self._seen[max(0, len(self._seen) - 3)], self._seen[-1], self._worth(name, stage)
        if worth is None:
            return None
        if not self._busy_seconds(stage, first):
            first = self._seen[0]
        edges = self._edges_to(name, stage)
        used = sum(
            _gain(first.flows[task].used, flow.used, edge)
            for task, flow in last.flows.items()
            for edge in edges
            if task in first.flows
        )
        return used * worth / (self._busy_seconds(stage, first) or last.now - first.now)

    def _backlogs(self, name: str, stage: str) -> tuple[float, float]:
        """What waited for ``stage`` at the last two observations, in items of the source."""
        worth, edges = self._worth(name, stage) or 0.0, self._edges_to(name, stage)
        before, now = (sum(seen.items.get(edge, 0) for edge in edges) for seen in (self._seen[-2], self._seen[-1]))
        return before * worth, now * worth

    def _busy_seconds(self, stage: str, first: Observation) -> float:
        """How long the busiest task of ``stage`` had something to do, since ``first``."""
        last = self._seen[-1]
        gains = (
            flow.busy - first.flows[task].busy
            for task, flow in last.flows.items()
            if task.subgraph == stage and task in first.flows
        )
        return max(0.0, max(gains, default=0.0))

    def _busy(self, name: str, stage: str) -> bool:
        """Whether it has had something to do most of the time. One that commits nothing while items wait is in the midst of
        something. (Large batches fill small streams now and then, though the stage has time to spare.)"""
        busy = self._busy_seconds(stage, self._seen[0])
        if not busy:
            return any(self._seen[-1].items.get(edge, 0) for edge in self._edges_to(name, stage))
        return busy >= _BUSY_SHARE * (self._seen[-1].now - self._seen[0].now)

    def _saturated(self, name: str, stage: str, drain: float | None) -> bool:
        return drain is not None and min(self._backlogs(name, stage)) > _SHORT_SECONDS * drain

    def _falls_behind(self, name: str, stage: str) -> bool:
        """Whether what waits for ``stage`` takes it long, and ever longer."""
        edges, drain = self._edges_to(name, stage), self._drain(name, stage)
        waits = [sum(seen.items.get(edge, 0) for edge in edges) for seen in list(self._seen)[-_PATIENCE:]]
        if drain is None or len(waits) < _PATIENCE or sorted(set(waits)) != waits:
            return False
        now = self._backlogs(name, stage)[1]
        return (now / drain if drain else math.inf) > _DELAY_SECONDS


def _gain(before: Mapping[str, int], now: Mapping[str, int], name: str) -> int:
    """What a counter grew by; a server that was rolled back is no progress."""
    return max(0, now.get(name, 0) - before.get(name, 0))


def _edges_behind(plan: Plan, subgraph: Subgraph, absorbing: Collection[str]) -> Iterator[tuple[str, str]]:
    """The edges along which pressure comes to ``subgraph``, and the stages that read them."""
    if any(name in absorbing for name in subgraph.nodes):
        return
    for edge in plan.outputs(subgraph):
        reader = plan.subgraph_of[edge.dst]
        yield edge.name, reader.name
        yield from _edges_behind(plan, reader, absorbing)
