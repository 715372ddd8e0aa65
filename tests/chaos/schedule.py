"""What a round does, derived from a seed before anything starts. Pure: no clock, no process, no file."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from market_data_pipeline.faults import POINTS

WORKER = ("kill-same", "kill-new", "stop", "term", "scale")
POINT = "point"
NETWORK = ("cut", "cut-all", "delay", "half-reply", "refuse", "blackhole")
COORDINATOR = ("coordinator-kill", "coordinator-stop", "coordinator-two")
SERVER = ("server-kill", "server-stop", "aof-cut", "maxmemory", "refuse-writes")
FAILOVER = ("failover-lag", "failover-wait")
SMALL = ("script-flush",)
SINK = ("sink-block", "sink-freeze")
FEED = ("hot-symbol", "poison-raise", "poison-kill")
KINDS = (*WORKER, POINT, *NETWORK, *COORDINATOR, *SERVER, *FAILOVER, *SMALL, *SINK, *FEED)

EXCLUSIVE = frozenset({*SERVER, *FAILOVER, "refuse"})
"""Faults of the server: one at a time, each with time to come back before the next."""
ONCE = frozenset({"scale", "coordinator-two", "sink-block", "sink-freeze", "hot-symbol", "poison-raise", "poison-kill"})
"""At most once a round, as they last long or stand in the feed."""
ROLLS_BACK = frozenset({"aof-cut", "failover-lag"})
"""Behind these the server may know less than it had acknowledged; so does ``server-kill`` unless every write is synced."""

TOPOLOGIES = ("linear", "diamond", "fan-in", "fan-out")
SERVERS = ("valkey", "redis")
_POINT_SHARE = 8
_RECOVERY_SECONDS = 3.0
_EARLY = 0.6
"""Items that kill come in the first part of the feed: to find one takes a handful of deaths."""
_RATE = 2000
_QUIET_SECONDS = 1.0
"""No fault in the last second of the feed."""


@dataclass(frozen=True)
class Fault:
    """One fault. ``at``: seconds after the feed began; ``seconds``: how long it lasts; ``pick``: which victim, 0..1;
    ``detail``: a fault point; ``size``: bytes."""

    at: float
    kind: str
    seconds: float = 0.0
    pick: float = 0.0
    detail: str = ""
    size: int = 0

    def __str__(self) -> str:
        parts = [f"{self.at:6.2f} s  {self.kind}"]
        parts += [self.detail] if self.detail else []
        parts += [f"for {self.seconds:g} s"] if self.seconds else []
        parts += [f"{self.size} bytes"] if self.size else []
        return " ".join(parts)


@dataclass(frozen=True)
class Options:
    """What may be asked for; ``None`` and empty leave it to the seed. ``seconds``: how long the feed lasts; ``every``: mean
    time between faults; ``long_faults``: block sinks for 30 s and refuse writes for 10 s."""

    seconds: float = 60.0
    every: float = 2.0
    topology: str | None = None
    server: str | None = None
    workers: int | None = None
    partitions: int | None = None
    kinds: tuple[str, ...] = ()
    long_faults: bool = False
    first_point: int = 0
    """Fault points are taken in turn, from this one on."""


@dataclass(frozen=True)
class RoundPlan:
    """Everything about a round. ``mode``: ``single`` server, or a replica that may ``lag`` or that commits ``wait`` for."""

    seed: int
    seconds: float
    topology: str
    server: str
    workers: int
    partitions: int
    fsync: str
    mode: str
    lease_ms: int
    rate: int
    faults: tuple[Fault, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def digest(self) -> str:
        """Names this plan; another schedule has another one."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def of_kind(self, kind: str) -> list[Fault]:
        return [fault for fault in self.faults if fault.kind == kind]

    def rolls_back(self, kind: str) -> bool:
        """Whether a fault of this kind may make the server forget what it had acknowledged."""
        return kind in ROLLS_BACK or (kind == "server-kill" and self.fsync != "always")


def plan_from_dict(data: dict[str, Any]) -> RoundPlan:
    """The plan whose :meth:`RoundPlan.to_dict` gave ``data``."""
    return RoundPlan(**{**data, "faults": tuple(Fault(**fault) for fault in data["faults"])})


def plan_round(seed: int, options: Options) -> RoundPlan:
    """The round of ``seed``: always the same one for the same arguments."""
    rng = random.Random(seed)
    topology, server = rng.choice(TOPOLOGIES), rng.choice(SERVERS)
    workers, partitions = rng.choice((1, 4, 4)), rng.choice((1, 8, 8, 64))
    fsync = rng.choice(("always", "everysec"))
    mode = rng.choice(("single", "single", "lag", "wait"))
    topology = options.topology or topology
    if topology == "diamond" and partitions == 64 and options.partitions is None:
        partitions = 8  # 64 x 64 streams of marks are a benchmark, not a round
    mode = _mode_for(options.kinds, mode)
    plan = RoundPlan(
        seed, options.seconds, topology, options.server or server, options.workers or workers,
        options.partitions or partitions, fsync, mode, rng.choice((600, 800, 1000)), _RATE, (),
    )  # fmt: skip
    if plan.workers == 1 or plan.partitions > 8:
        plan = replace(plan, rate=_RATE // 2)  # drained in time also on a machine with two cores
    kinds = possible(options.kinds or KINDS, plan)
    return replace(plan, faults=tuple(_faults(rng, kinds, plan, options)))


def _mode_for(kinds: Collection[str], drawn: str) -> str:
    """Faults that were asked for need their mode."""
    if "failover-wait" in kinds:
        return "wait"
    return "lag" if "failover-lag" in kinds else drawn


def possible(kinds: Sequence[str], plan: RoundPlan) -> list[str]:
    """Those of ``kinds`` that ``plan``'s servers can have."""
    gone = {"single": {"failover-lag", "failover-wait"}, "lag": {"failover-wait"}, "wait": {"failover-lag"}}[plan.mode]
    return [kind for kind in kinds if kind not in gone]


def _faults(rng: random.Random, kinds: Sequence[str], plan: RoundPlan, options: Options) -> list[Fault]:
    deck: list[str] = []
    spent: set[str] = set()
    faults: list[Fault] = []
    point = options.first_point
    server_free_at = 0.0
    at = rng.uniform(0.3, 0.9) * options.every
    while at < plan.seconds - _QUIET_SECONDS:
        barred = set(spent)
        if round(at, 2) < server_free_at:
            barred |= EXCLUSIVE
        if at > _EARLY * plan.seconds:
            barred.add("poison-kill")
        kind = _draw(rng, deck, kinds, barred)
        if kind is not None:
            fault = _make(rng, kind, at, plan, options)
            if kind == POINT:
                fault = replace(fault, detail=POINTS[point % len(POINTS)])
                point += 1
            if kind in EXCLUSIVE:
                server_free_at = fault.at + fault.seconds + _RECOVERY_SECONDS
            if kind in ONCE:
                spent.add(kind)
            faults.append(fault)
        at += options.every * rng.uniform(0.6, 1.4)
    return faults


def _draw(rng: random.Random, deck: list[str], kinds: Sequence[str], barred: Collection[str]) -> str | None:
    """The next card that is not barred, from a deck that is filled again when it holds none."""
    for _ in range(2):
        for i, kind in enumerate(deck):
            if kind not in barred:
                return deck.pop(i)
        deck[:] = [kind for kind in kinds for _ in range(_POINT_SHARE if kind == POINT else 1)]
        rng.shuffle(deck)
    return None


def _make(rng: random.Random, kind: str, at: float, plan: RoundPlan, options: Options) -> Fault:
    lease = plan.lease_ms / 1000
    left = plan.seconds - at
    spans = {
        "stop": rng.uniform(1, 3) * lease,
        "kill-same": rng.uniform(0.1, 1.5) * lease,
        "kill-new": rng.uniform(0.1, 1.5) * lease,
        "term": rng.uniform(0.0, 1.0) * lease,
        "scale": 5.0,
        POINT: 3.0,
        "delay": rng.uniform(0.5, 2.0),
        "refuse": rng.uniform(0.3, 2.0),
        "blackhole": rng.uniform(0.5, 2.5) * lease,
        "coordinator-kill": rng.uniform(0.1, 2.0) * lease,
        "coordinator-stop": rng.uniform(1, 3) * lease,
        "coordinator-two": rng.uniform(1.5, 4.0),
        "server-kill": rng.uniform(0.0, 1.0),
        "server-stop": rng.uniform(1, 3) * lease,
        "aof-cut": rng.uniform(0.0, 0.5),
        "maxmemory": rng.uniform(1.0, 3.0),
        "refuse-writes": 10.0 if options.long_faults else rng.uniform(1.0, 3.0),
        "failover-lag": rng.uniform(0.2, 1.5),
        "failover-wait": rng.uniform(0.2, 1.5),
        "sink-block": 30.0 if options.long_faults else 4.0,
        "sink-freeze": rng.uniform(1.0, 3.0) * lease,
        "hot-symbol": min(10.0, plan.seconds / 4),
    }
    sizes = {
        "aof-cut": int(2 ** rng.uniform(0, 20)),  # as often a few bytes as a second of writing
        "half-reply": int(2 ** rng.uniform(0, 10)),
        "maxmemory": 65536,
    }
    seconds = round(min(spans.get(kind, 0.0), max(0.1, left)), 2)
    details = {"delay": f"{rng.uniform(0.005, 0.15):.3f}"}
    return Fault(round(at, 2), kind, seconds, round(rng.random(), 3), details.get(kind, ""), sizes.get(kind, 0))
