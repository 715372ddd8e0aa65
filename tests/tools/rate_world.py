"""A job in simulated time, for the decisions about rates: streams with levels, a source that is told what it may bring in, a
store whose speed is the test's, and that may have a queue of its own. Steps are of 20 ms; the coordinator looks once a second
and is obeyed 0.2 s later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from mdp_coordinator.autoscale import Autoscaler, Observation
from mdp_coordinator.rates import Rates

from market_data_pipeline import Dag, Map, Node
from market_data_pipeline.dag.plan import Plan, TaskId
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.feedback import StoreReading
from market_data_pipeline.runtime.flow import TaskFlow
from market_data_pipeline.runtime.pace import Pace
from tools.memory_job import CommittedRows, ListSource

CAPACITY, HIGH, LOW, P = 64, 48, 16, 4
STEP, OBEYED_AFTER = 0.02, 0.2


def plan_of(*stages: str) -> Plan:
    """source -> each of ``stages``, the last one a sink."""
    dag = Dag("job")
    dag.add_node(Node("source", ListSource([])))
    for before, name in pairwise(("source", *stages)):
        dag.add_node(Node(name, CommittedRows() if name == stages[-1] else Map(dict)))
        dag.add_edge(before, name, key="symbol")
    return compile_dag(dag, P)


@dataclass
class Stage:
    """Reads ``edge``. ``speed``: items a second at a time; ``keeps``: of so many items it hands one on."""

    name: str
    edge: str
    speed: Callable[[float], float]
    waits: bool = True
    keeps: int = 1
    frame_items: int = 100
    queue: float = 0.0
    used: float = 0.0
    sent: float = 0.0
    busy: float = 0.0
    longest: int = 0

    @property
    def frames(self) -> int:
        """In each partition's stream."""
        return round(self.queue / self.frame_items / P)


@dataclass
class Queue:
    """A store's own queue, which takes all that comes at once. ``speed``: what is stored a second, at a time; ``unit``: items
    for one of what it counts its depth in. It is asked each second, and what it says is known ``said_after`` seconds later."""

    speed: Callable[[float], float]
    high: float = 20_000.0
    low: float = 5_000.0
    unit: float = 1.0
    said_after: float = 1.6
    answers: Callable[[float], bool] = lambda _: True
    depth: float = 0.0
    stored: float = 0.0
    idle: float = 0.0
    deepest: float = 0.0
    said: list[tuple[float, StoreReading]] = field(default_factory=list)

    def step(self, now: float) -> None:
        done = min(self.depth, self.speed(now) * STEP)
        self.deepest = max(self.deepest, self.depth)
        self.idle += STEP * (done < self.speed(now) * STEP)
        self.depth -= done
        self.stored += done
        if (now + 0.3) % 1.0 < STEP and self.answers(now):
            levels = (part / self.unit for part in (self.depth, self.high, self.low))
            self.said.append((now, StoreReading(*levels)))

    def reading(self, now: float) -> StoreReading | None:
        """What is known of it."""
        known = [said for at, said in self.said[-10:] if at <= now - self.said_after and at > now - self.said_after - 5]
        return known[-1] if known else None


@dataclass
class World:
    """A source that has ``offers(t)`` items a second, and ``stages`` behind each other."""

    stages: list[Stage]
    offers: Callable[[float], float]
    absorbing: tuple[str, ...] = ()
    queue: Queue | None = None
    now: float = 0.0
    brought: float = 0.0
    paused: float = 0.0
    pausing: bool = False
    pace: Pace = field(default_factory=Pace)
    rates: list[float | None] = field(default_factory=list)
    intakes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.plan = plan_of(*(stage.name for stage in self.stages))
        self.autoscaler = Autoscaler(self.plan, LOW)
        self.control = Rates(self.plan, HIGH, LOW, self.absorbing)
        self.due: list[tuple[float, float | None]] = []

    def run(self, seconds: float) -> None:
        end, look = self.now + seconds, self.now
        while self.now < end - STEP / 2:
            if self.now >= look - STEP / 2:
                self.look()
                look += 1.0
            self.step()

    def step(self) -> None:
        self.now += STEP
        while self.due and self.due[0][0] <= self.now:
            self.pace.set(self.due.pop(0)[1], self.now)
        first = self.stages[0]
        self.pausing = first.frames >= HIGH or (self.pausing and first.frames > LOW)
        if self.pausing:
            self.paused += STEP
        elif self.pace.wait(self.now) == 0:
            batch = min(self.offers(self.now) * STEP, CAPACITY * P * first.frame_items - first.queue)
            self.brought += batch
            self.pace.took(round(batch), self.now)
            first.queue += batch
        for n, stage in enumerate(self.stages):
            behind = self.stages[n + 1] if n + 1 < len(self.stages) else None
            stage.longest = max(stage.longest, stage.frames)
            if behind is not None and behind.frames >= HIGH:
                continue
            able = stage.speed(self.now) * STEP
            done = min(stage.queue, able)
            if stage.queue > 0:
                stage.busy += STEP * (done / able if able else 0.0)  # what hangs commits no times
            stage.queue -= done
            stage.used += done
            if behind is not None:
                stage.sent += done / stage.keeps
                behind.queue += done / stage.keeps
            elif self.queue is not None:
                self.queue.depth += done / stage.keeps
        if self.queue is not None:
            self.queue.step(self.now)

    def look(self) -> None:
        flows: dict[TaskId, TaskFlow] = {}
        source = self.plan.subgraph_of["source"]
        first = self.stages[0].edge
        for task in self.plan.tasks():
            if task.subgraph == source.name:
                flows[task] = TaskFlow({first: round(self.brought)}, {}, 0.0, 0.0, self.paused)
        for n, stage in enumerate(self.stages):
            subgraph = self.plan.subgraph_of[stage.name]
            for p in self.plan.partitions_of(subgraph):
                behind = self.stages[n + 1].edge if n + 1 < len(self.stages) else None
                flows[TaskId(subgraph.name, p)] = TaskFlow(
                    {behind: round(stage.sent / P)} if behind else {}, {stage.edge: round(stage.used / P)},
                    stage.busy, stage.busy if stage.waits else 0.0,
                )  # fmt: skip
        self.observe(flows)

    def observe(self, flows: dict[TaskId, TaskFlow]) -> None:
        lengths = {stage.edge: dict.fromkeys(range(P), stage.frames) for stage in self.stages}
        items = {stage.edge: round(stage.queue) for stage in self.stages}
        reading = None if self.queue is None else self.queue.reading(self.now)
        stores = {} if reading is None else {self.stages[-1].name: reading}
        seen = Observation(self.now, True, 2, lengths, items, flows, {"source": round(self.brought)}, stores)
        self.autoscaler.observe(seen)
        rate = self.control.observe(seen, self.autoscaler.waiting()).get("source")
        self.due.append((self.now + OBEYED_AFTER, rate))
        self.rates.append(rate)
        self.intakes.append(round(self.brought))

    def intake(self, seconds: int) -> float:
        """Items a second, over the last ones."""
        return (self.intakes[-1] - self.intakes[-1 - seconds]) / seconds


def store(speed: Callable[[float], float], **how: float | bool) -> Stage:
    return Stage("sink", "source.sink", speed, **how)  # type: ignore[arg-type]
