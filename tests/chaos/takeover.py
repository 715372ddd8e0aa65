"""How long the partitions of a worker stand still: after SIGKILL, and after it was asked to leave."""

from __future__ import annotations

import math
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools.jobs import wait_until

from chaos.schedule import RoundPlan
from chaos.world import World
from market_data_pipeline.dag.plan import TaskId
from market_data_pipeline.store.keys import Keys

LEASE_MS = 3000
_POLL_SECONDS = 0.002
_LIMIT_SECONDS = 30.0
_WORKERS, _PARTITIONS = 4, 8


@dataclass
class Takeover:
    """Seconds until every partition of the victim was committed to by its next owner."""

    killed: list[float] = field(default_factory=list)
    left: list[float] = field(default_factory=list)

    def report(self) -> str:
        """Both series and what they should stay below."""
        limits = (
            (f"SIGKILL, lease {LEASE_MS / 1000:g} s", self.killed, LEASE_MS / 1000 + 1),
            ("SIGTERM", self.left, 0.5),
        )
        return "\n".join(
            f"{name}: {len(values)} times, p50 {percentile(values, 0.5):.3f} s, p99 {percentile(values, 0.99):.3f} s,"
            f" longest {max(values):.3f} s; wanted p99 at most {limit:g} s"
            for name, values, limit in limits
        )

    @property
    def within_limits(self) -> bool:
        return percentile(self.killed, 0.99) <= LEASE_MS / 1000 + 1 and percentile(self.left, 0.99) <= 0.5


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that ``share`` of ``values`` do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def measure(times: int, seed: int, folder: Path, say: Callable[[str], None]) -> Takeover:
    """Kill a worker ``times`` times and ask one to leave as often, under load, one at a time."""
    plan = RoundPlan(
        seed, 36_000.0, "linear", "valkey", _WORKERS, _PARTITIONS, "everysec", "single", LEASE_MS, 2000, ()
    )
    result, rng = Takeover(), random.Random(seed)
    with World(plan, folder, say) as world:
        world.start()
        for _ in range(times):
            for number, into in ((signal.SIGKILL, result.killed), (signal.SIGTERM, result.left)):
                wait_until(lambda: _steady(world), "four workers with two partitions each", 60)
                time.sleep(rng.uniform(0, LEASE_MS / 3000))  # at any moment between two heartbeats
                into.append(_once(world, number, rng))
                world.say(f"{number.name}: {into[-1]:.3f} s")
                world.fleet.start(world.new_worker())
    return result


def _keys(world: World) -> Keys:
    return Keys(world.compiled.name)


def _owners(world: World, keys: Keys) -> dict[int, str]:
    found = world.servers.master.client.hgetall(keys.assignment)
    return {int(partition): value.decode().split(":", 2)[2] for partition, value in found.items()}


def _steady(world: World) -> bool:
    world.look()
    assert not world.faults_of_processes, world.faults_of_processes
    owners = _owners(world, _keys(world))
    running = world.fleet.running()
    return len(running) == _WORKERS and all(list(owners.values()).count(name) == 2 for name in running)


def _once(world: World, number: signal.Signals, rng: random.Random) -> float:
    keys, client = _keys(world), world.servers.master.client
    victim = rng.choice(world.fleet.running())
    waiting = {partition for partition, owner in _owners(world, keys).items() if owner == victim}
    assert waiting, f"{victim} owns nothing"
    seen: dict[int, bytes | None] = {}
    started = time.monotonic()
    world.fleet.send(victim, number)
    while waiting:
        assert time.monotonic() - started < _LIMIT_SECONDS, f"partitions {waiting} of {victim} stand still"
        owners = _owners(world, keys)
        for partition in list(waiting):
            if owners[partition] in ("", victim):
                continue
            commit = client.hget(keys.task(TaskId("dedupe", partition)), "commit")
            if seen.setdefault(partition, commit) != commit:  # the former owner is fenced: this is the next one's
                waiting.discard(partition)
        time.sleep(_POLL_SECONDS)
    return time.monotonic() - started
