"""What a leading coordinator does next: a view of the job in, commands out. No clock, no socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from market_data_pipeline.store.control import Heartbeat, Owner, Transition
from mdp_coordinator.placement import place

_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class View:
    """The job at one moment. ``now`` is monotonic seconds."""

    now: float
    workers: Mapping[str, Heartbeat]
    owners: Mapping[int, Owner]
    ended: int


@dataclass(frozen=True)
class Assign:
    """Write these assignments, each with a new epoch."""

    transitions: tuple[Transition, ...]


@dataclass(frozen=True)
class Finish:
    """Every task has ended."""


Command = Assign | Finish


class CoordinatorState:
    """Decides for a job of ``partitions`` partitions and ``tasks`` tasks. The first assignment waits for ``min_workers``
    workers, ten seconds at most, so that partitions need not move while workers start."""

    def __init__(self, partitions: int, tasks: int, min_workers: int = 1) -> None:
        self._partitions = partitions
        self._tasks = tasks
        self._min_workers = min_workers
        self._first_seen: float | None = None

    def decide(self, view: View) -> list[Command]:
        """What to do now."""
        if view.ended >= self._tasks:
            return [Finish()]
        if not view.workers or not self._patient_enough(view):
            return []
        alive = {beat.token: name for name, beat in view.workers.items()}
        current = {p: alive[owner.token] for p, owner in view.owners.items() if owner.token in alive}
        target = place(self._partitions, current, {name: beat.pins for name, beat in view.workers.items()})
        moves = tuple(
            Transition(partition, worker, view.workers[worker].token)
            for partition, worker in sorted(target.items())
            if current.get(partition) != worker
        )
        return [Assign(moves)] if moves else []

    def _patient_enough(self, view: View) -> bool:
        if view.owners or len(view.workers) >= self._min_workers:
            return True
        if self._first_seen is None:
            self._first_seen = view.now
        return view.now - self._first_seen >= _PATIENCE_SECONDS

    def unassigned(self, view: View) -> int:
        """Partitions without a living owner."""
        alive = {beat.token for beat in view.workers.values()}
        return self._partitions - sum(owner.token in alive for owner in view.owners.values())
