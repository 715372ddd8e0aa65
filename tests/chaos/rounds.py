"""One round from its plan to its verdict: run the world, gather the evidence, judge it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from chaos.faults import inject
from chaos.invariants import Evidence, Noted, judge
from chaos.oracle import Expected, expect
from chaos.schedule import RoundPlan
from chaos.watch import Books, Look
from chaos.world import CAPACITY, CAPACITY_BYTES, World
from market_data_pipeline.dag.graph import Dag
from market_data_pipeline.packing import unpack, unseal

_END_SECONDS = 90.0
_EXIT_SECONDS = 60.0


@dataclass
class Verdict:
    """What came of a round. ``wrong``: by invariant. ``hits``: fault points at which a process died."""

    seed: int
    plan: str
    wrong: dict[str, list[str]]
    performed: dict[str, int] = field(default_factory=dict)
    skipped: int = 0
    hits: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    drained: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def violations(self) -> int:
        return sum(bool(found) for found in self.wrong.values())

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def run_round(plan: RoundPlan, folder: Path, say: Callable[[str], None], drain_seconds: float) -> Verdict:
    """Run ``plan`` in ``folder``, which then holds all evidence. ``drain_seconds``: see :class:`Evidence`."""
    started = time.time()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "schedule.json").write_text(json.dumps(plan.to_dict(), indent=2))
    with World(plan, folder, say) as world:
        world.start()
        for fault in plan.faults:
            world.after(fault.at, lambda fault=fault: inject(world, fault))  # type: ignore[misc]
        world.run_until(plan.seconds)
        world.heal()
        state = world.wait_for_end(max(_END_SECONDS, drain_seconds))
        drained = time.time() - world.healed_at
        evidence = replace(gather(world, state, drained), drain_seconds=drain_seconds)
    verdict = Verdict(
        plan.seed, plan.digest, judge(evidence), dict(Counter(fault.kind for fault in world.performed)), len(world.skipped),
        dict(Counter(point for point, _ in world.hits())), time.time() - started, drained, _figures(evidence),
    )  # fmt: skip
    (folder / "verdict.json").write_text(json.dumps(verdict.to_dict(), indent=2))
    return verdict


def _figures(e: Evidence) -> dict[str, Any]:
    return {
        "items": e.expected.items, "duplicates": e.expected.duplicates, "late": e.expected.late,
        "bars": len(e.expected.bars), "commits": len(e.commits), "rollbacks": len(e.rollbacks), "looks": e.seen.looks,
        "accounts": e.seen.accounts, "longest stream": f"{e.seen.longest} of {CAPACITY} frames",
        "largest stream": f"{e.seen.largest} of {CAPACITY_BYTES} bytes",
    }  # fmt: skip


def gather(world: World, state: str, drained: float) -> Evidence:
    """Stop watching, let everybody leave, and read what is there."""
    error = world.info().get("error", "")
    late = world.fleet.wait_for_exits(_EXIT_SECONDS if state == "finished" else 1.0)
    world.look()
    exits = [f"{death.name} ({death.pid}) ended with {death.code}" for death in world.faults_of_processes]
    exits += [f"{name} did not leave when the job was over" for name in late if state == "finished"]
    world.watch.stop()
    if world.watch.failure is not None:
        raise world.watch.failure
    client = world.servers.master.client
    books = Books(world.compiled, world.compiled.name, CAPACITY, CAPACITY_BYTES)
    look: Look = books.look(client, deep=False)
    letters = [dict(unpack(fields[b"d"])) for _, fields in client.xrange(books.keys.dead_letters)]
    return Evidence(
        world.plan.topology, world.folder / "out", oracle(world.dag), world.watch.seen,
        commits(world.points, world.fleet.started), world.rollbacks, state, error, drained, exits, look.counts(), letters,
        look.lengths, look.used, {str(task): _state(client.hgetall(books.keys.state(task))) for task in books.tasks},
    )  # fmt: skip


def _state(stored: dict[bytes, bytes]) -> dict[str, bytes]:
    """State blobs by field; of the dedupe's segments only the hashes."""
    fields = {name.decode(): unseal(blob, "state") for name, blob in stored.items()}
    return {name: unpack(blob)[1] if name.startswith("dedupe\x1f") else blob for name, blob in fields.items()}


def oracle(dag: Dag) -> Expected:
    """What the job's feeds come to."""
    feeds = [dag.nodes[name].fn for name in ("source", "slow") if name in dag.nodes]
    check: Any = dag.nodes["check"].fn if "check" in dag.nodes else None
    raises, kills = check.fn.args[:2] if check is not None else ((), ())
    return expect((_rows(feed) for feed in feeds), raises, kills)


def _rows(feed: Any) -> list[dict[str, Any]]:
    return [trade._asdict() for trade in feed.generate(0, feed.items).rows()]


def commits(points: Path, started: Mapping[int, float]) -> list[Noted]:
    """All accepted commits that processes have noted. A commit was made after the one its process noted before it for the
    same task; the first after the process (a pid) was ``started``."""
    noted: list[Noted] = []
    for path in points.glob("commits-*.jsonl"):
        last: dict[str, float] = {}
        start = started[int(path.stem.removeprefix("commits-"))]
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the last line of a process that was killed
            task = entry["task"]
            noted.append(Noted(task, entry["parent"], entry["id"], last.get(task, start), entry["t"]))
            last[task] = entry["t"]
    return noted
