"""Which worker gets which partition. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def place(partitions: int, current: Mapping[int, str], workers: Mapping[str, Sequence[int]]) -> dict[int, str]:
    """Partition -> worker, for all partitions (empty when there are no workers).

    ``current``: who has which partition now, workers that are gone left out or not; ``workers``: the living ones with
    their pins. First pins: a pinned partition goes to a worker that pins it (the present owner if it does, else the one
    with the fewest). All others are balanced within one over all workers, and as few as possible move.
    """
    if not workers:
        return {}
    placed: dict[int, str] = {}
    load = dict.fromkeys(sorted(workers), 0)

    def give(partition: int, worker: str) -> None:
        placed[partition] = worker
        load[worker] += 1

    for partition in range(partitions):
        pinning = [name for name in load if partition in workers[name]]
        if pinning:
            owner = current.get(partition)
            give(partition, owner if owner in pinning else min(pinning, key=lambda name: load[name]))
    free = [partition for partition in range(partitions) if partition not in placed]
    quota = _quotas(load, len(free), current, free)
    homeless = []
    for partition in free:
        owner = current.get(partition)
        if owner in load and quota[owner] > 0:
            quota[owner] -= 1
            give(partition, owner)
        else:
            homeless.append(partition)
    for partition in homeless:
        worker = max(quota, key=lambda name: (quota[name], -load[name]))
        quota[worker] -= 1
        give(partition, worker)
    return placed


def _quotas(load: Mapping[str, int], count: int, current: Mapping[int, str], free: Sequence[int]) -> dict[str, int]:
    """How many of ``count`` free partitions each worker gets so that totals differ by at most one where pins allow it;
    an odd one goes to a worker that owns more already, so that it need not move."""
    totals = dict(load)
    owned = {name: sum(current.get(partition) == name for partition in free) for name in totals}
    for _ in range(count):
        lowest = min(totals.values())
        name = max((n for n in totals if totals[n] == lowest), key=lambda n: owned[n] - (totals[n] - load[n]))
        totals[name] += 1
    return {name: totals[name] - load[name] for name in totals}
