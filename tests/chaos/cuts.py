"""An append-only file cut at many places of its tail: what the server loads is each time one consistent moment of the job."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from chaos.schedule import RoundPlan
from chaos.servers import Server
from chaos.watch import Books, Seen
from chaos.world import CAPACITY, CAPACITY_BYTES, World
from market_data_pipeline.dag.plan import Plan
from market_data_pipeline.store.embedded import find_server
from market_data_pipeline.store.keys import job_key

_TAIL = 256 * 1024
_LOAD_SECONDS = 6.0
_SAID_EVERY = 100


def record(server: str, topology: str, folder: Path, say: Callable[[str], None]) -> tuple[Path, Plan, str]:
    """Run a job for a few seconds and kill its server under load: its data folder, the plan, and the job's uid."""
    plan = RoundPlan(1, 60.0, topology, server, 2, 8, "always", "single", 1000, 2000, ())
    with World(plan, folder, say) as world:
        world.start()
        world.run_until(_LOAD_SECONDS)
        uid = (world.servers.master.client.hget(job_key(world.compiled.name), "uid") or b"").decode()
        world.servers.master.kill()
        return world.servers.master.folder, world.compiled, uid


def random_cuts(count: int, seed: int) -> list[int]:
    """Bytes to cut off the end, anywhere in the last 256 KiB."""
    rng = random.Random(seed)
    return [rng.randrange(1, _TAIL) for _ in range(count)]


def try_cuts(server: str, topology: str, cuts: Iterable[int], folder: Path, say: Callable[[str], None]) -> Seen:
    """Load the file with each of ``cuts`` bytes less; all that was inconsistent is in the answer."""
    data, plan, uid = record(server, topology, folder, say)
    books = Books(plan, uid, CAPACITY, CAPACITY_BYTES)
    seen, started = Seen(), time.monotonic()
    for number, size in enumerate(cuts, 1):
        _try_cut(server, data, folder / "cut", size, books, seen)
        if number % _SAID_EVERY == 0:
            say(f"{number} cuts, {(time.monotonic() - started) / number:.2f} s each, {len(seen.broken)} violations")
    return seen


def _try_cut(server: str, data: Path, copy: Path, size: int, books: Books, seen: Seen) -> None:
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(data, copy)
    again = Server(find_server("redis-server" if server == "redis" else None), copy, "everysec")
    try:
        again.cut_append_only_file(size, 0)
        again.mend()
        again.start()
        look = books.look(again.client, deep=True)
        found = Seen()
        books.check_bounds(look, found)
        books.check_account(look, found)
        lost = [task for task, (commit, _) in look.records.items() if commit is None]
        for what in lost:
            found.violated("accounted", f"task {what} has no record")
        seen.looks += 1
        seen.accounts += found.accounts
        for invariant, wrong in found.broken.items():
            for what in wrong:
                seen.violated(invariant, f"{size} bytes less: {what}")
    finally:
        again.close()
