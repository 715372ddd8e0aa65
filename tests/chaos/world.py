"""One round's world: servers, proxy, processes, an agenda of things to do, and the trail of what was done."""

from __future__ import annotations

import heapq
import itertools
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import redis
from tools.aof import last_increment
from tools.jobs import wait_until
from tools.proxy import Proxy

from chaos.apps.chaos_parts import BLOCK, FREEZE, POISON_LOG
from chaos.fleet import NO_SERVER, Death, Fleet
from chaos.schedule import Fault, RoundPlan
from chaos.servers import Servers
from chaos.watch import Watch
from market_data_pipeline.app import load_app
from market_data_pipeline.dag.graph import Dag
from market_data_pipeline.dag.plan import Plan
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.store.keys import Keys, job_key

APP = Path(__file__).parent / "apps" / "chaos_jobs.py"
CAPACITY = 32
FRAME_BYTES = 8192
COMMIT_FRAMES = 4
CAPACITY_BYTES = 12 * FRAME_BYTES
_TICK = 0.02
_REPEATED_WITHIN = 6000
"""Items behind which the feed does not repeat a trade any more."""
_ASSIGN_SECONDS = 60.0


def app_arguments(plan: RoundPlan, folder: Path) -> dict[str, str]:
    """What ``--set`` gives the job: the faults that stand in the feed are part of it."""
    values = {
        "output": str(folder / "out"), "control": str(folder / "control"),
        "items": str(int(plan.rate * plan.seconds)), "rate": str(plan.rate), "seed": str(plan.seed),
    }  # fmt: skip
    for kind, name in (("poison-raise", "raises"), ("poison-kill", "kills")):
        ids = [str(poison_id(plan, fault)) for fault in plan.of_kind(kind)]
        if ids:
            values[name] = ",".join(ids)
    for fault in plan.of_kind("hot-symbol"):
        values["hot"] = f"{int(fault.at * plan.rate)}-{int((fault.at + fault.seconds) * plan.rate)}"
    return values


def poison_id(plan: RoundPlan, fault: Fault) -> int:
    """The trade that is poison: sent once, by the first feed, at about the fault's time."""
    feed: Any = load_job(plan, Path("unused"), poisoned=False).nodes["source"].fn
    first = int(fault.at * feed.rate)
    ahead = [row.trade_id for row in feed.generate(first, _REPEATED_WITHIN).rows()]
    often = Counter(ahead)
    return next(int(trade) for number, trade in enumerate(ahead, first) if trade == number and often[trade] == 1)


def load_job(plan: RoundPlan, folder: Path, poisoned: bool = True) -> Dag:
    """The job's graph, as the processes see it."""
    if poisoned:
        values = app_arguments(plan, folder)
    else:
        values = {
            "output": str(folder), "control": str(folder), "items": str(int(plan.rate * plan.seconds)),
            "rate": str(plan.rate), "seed": str(plan.seed),
        }  # fmt: skip
    return load_app(f"{APP}:{plan.topology.replace('-', '_')}", values)


class World:
    """Use as a context manager; everything it started is gone afterwards. ``say`` prints a line."""

    def __init__(self, plan: RoundPlan, folder: Path, say: Callable[[str], None]) -> None:
        self.plan, self.folder, self._say = plan, folder, say
        self.control, self.points = folder / "control", folder / "points"
        for path in (self.control, self.points, folder / "logs", folder / "out"):
            path.mkdir(parents=True, exist_ok=True)
        self.dag = load_job(plan, folder)
        self.compiled: Plan = compile_dag(self.dag, plan.partitions)
        self.proxy = Proxy()
        self.began = 0.0
        self.healed_at = 0.0
        self.aof_floor = 0
        self.rollbacks: list[tuple[float, float]] = []
        self.performed: list[Fault] = []
        self.skipped: list[tuple[Fault, str]] = []
        self.faults_of_processes: list[Death] = []
        self.server_busy = False
        self.armed: dict[str, int] = {}
        self._trouble_until = 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._workers = itertools.count()

    def __enter__(self) -> Self:
        self.proxy.__enter__()
        replicated = self.plan.mode != "single"
        self.servers = Servers(self.folder / "data", self.plan.server, self.plan.fsync, replicated, self.proxy)
        arguments = [part for name, value in app_arguments(self.plan, self.folder).items()
                     for part in ("--set", f"{name}={value}")]  # fmt: skip
        app = [f"{APP}:{self.plan.topology.replace('-', '_')}", *arguments]
        self.fleet = Fleet(self.proxy, self._port, app, self.folder / "logs", self._environment(), self._excuse)
        self.watch = Watch(self._port, self.compiled.name, self.compiled, CAPACITY, CAPACITY_BYTES)
        return self

    def __exit__(self, *exc: object) -> None:
        self.watch.stop()
        self.fleet.close()
        self.servers.close()
        self.proxy.__exit__(*exc)

    def _port(self) -> int:
        return self.servers.master.port

    def _environment(self) -> dict[str, str]:
        settings: dict[str, Any] = {
            "lease_ttl_ms": self.plan.lease_ms, "partitions": self.plan.partitions, "min_workers": self.plan.workers,
            "channel_capacity": CAPACITY, "commit_frames": COMMIT_FRAMES, "frame_bytes": FRAME_BYTES,
            "channel_bytes": CAPACITY_BYTES, "commit_items": 1000, "linger_ms": 20,
            "fault_points": self.points, "wait_replicas": int(self.plan.mode == "wait"),
        }  # fmt: skip
        return {f"MDP_{name.upper()}": str(value) for name, value in settings.items()}

    @property
    def now(self) -> float:
        """Seconds since the feed began."""
        return time.time() - self.began

    def say(self, text: str) -> None:
        self._say(f"  {self.now:7.2f}  {text}" if self.began else f"           {text}")

    def start(self) -> None:
        """Everything up and every partition owned; then the feed begins."""
        self.servers.start()
        if self.plan.mode != "single":
            wait_until(self.servers.replica_in_sync, "the replica to follow", 30)
        self.fleet.start("coordinator-a")
        for _ in range(self.plan.workers):
            self.fleet.start(self.new_worker())
        wait_until(self._all_owned, "every partition to have an owner", _ASSIGN_SECONDS)
        self.aof_floor = last_increment(self.servers.master.folder).stat().st_size
        self.watch.start()
        self.began = time.time()
        begin = self.control / "begin.new"
        begin.write_text(repr(self.began))
        begin.rename(self.control / "begin")
        self.say(f"{self.plan.workers} workers hold {self.plan.partitions} partitions; the feed begins")

    def _all_owned(self) -> bool:
        self.look()
        assert not self.faults_of_processes, f"{self.faults_of_processes[0]}: see {self.folder / 'logs'}"
        client = self.servers.master.client
        uid = (client.hget(job_key(self.compiled.name), "uid") or b"").decode()
        return bool(uid) and client.hlen(Keys(self.compiled.name).assignment) == self.plan.partitions

    def new_worker(self) -> str:
        """A name that was never used."""
        return f"w{next(self._workers)}"

    def pick(self, where: float, role: str = "w") -> str | None:
        """One of the processes that run, of workers one that has partitions if any has: the one at ``where`` (0..1)."""
        running = self.fleet.running(role)
        owners = self.owners()
        running = [name for name in running if name in owners] or running
        return running[min(int(where * len(running)), len(running) - 1)] if running else None

    def owners(self) -> set[str]:
        """The workers that own partitions; empty where the server does not say."""
        uid = self.info().get("uid", "")
        try:
            found = self.servers.master.client.hvals(Keys(self.compiled.name).assignment) if uid else []
        except redis.exceptions.RedisError:
            return set()
        return {value.decode().split(":", 2)[2] for value in found}

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do ``action`` later; at the latest when the world is healed."""
        heapq.heappush(self._agenda, (time.time() + seconds, next(self._order), action))

    def trouble(self, seconds: float) -> None:
        """For so long, and a little longer, a process may find no server when it starts."""
        self._trouble_until = max(self._trouble_until, time.time() + seconds + 5.0)

    def look(self) -> None:
        """Who died, who is due, what is due."""
        for death in self.fleet.look(self.state() == "finished"):
            self.faults_of_processes.append(death)
            words = self.fleet.last_words(death.name)
            self.say(f"VIOLATION: {death.name} ({death.pid}) ended with {death.code}:\n{words}")
        while self._agenda and self._agenda[0][0] <= time.time():
            heapq.heappop(self._agenda)[2]()

    def run_until(self, seconds: float) -> None:
        """Let time pass until ``seconds`` after the feed began, or until the job is over."""
        while self.now < seconds and self.state() != "failed":
            self.look()
            time.sleep(_TICK)

    def state(self) -> str:
        """``running``, ``finished``, ``failed``, or empty where the server does not say."""
        return self.info().get("state", "")

    def info(self) -> dict[str, str]:
        if self.server_busy:
            return {}
        try:
            found = self.servers.master.client.hgetall(job_key(self.compiled.name))
        except redis.exceptions.RedisError:
            return {}
        return {key.decode(): value.decode() for key, value in found.items()}

    def heal(self) -> None:
        """Everything back to normal: what was begun is brought to its end, who should run runs."""
        self.healed_at = time.time()
        while self._agenda:
            heapq.heappop(self._agenda)[2]()
        for name in (BLOCK, FREEZE):
            (self.control / name).unlink(missing_ok=True)
        for name in self.armed:
            (self.points / name).unlink(missing_ok=True)
        for door in self.fleet.doors.values():
            door.heal()
        for member in self.fleet.members.values():
            if member.frozen:
                self.fleet.send(member.name, signal.SIGCONT)
        for name in self.fleet.starts_at:
            self.fleet.starts_at[name] = 0.0
        self.servers.master.client.config_set("maxmemory", 0)
        self.servers.master.client.config_set("min-replicas-to-write", 0)
        self.look()
        self.healed_at = time.time()
        self.say("healed: everything runs")

    def wait_for_end(self, seconds: float) -> str:
        """The job's last state, within ``seconds``."""
        deadline = time.time() + seconds
        while time.time() < deadline and self.state() not in ("finished", "failed"):
            self.look()
            time.sleep(_TICK)
        return self.state()

    def hits(self) -> list[tuple[str, int]]:
        """Fault points that were hit: name and pid."""
        log = self.points / "hits.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [(line.split()[0], int(line.split()[1])) for line in lines]

    def _poisoned(self) -> set[int]:
        log = self.control / POISON_LOG
        return {int(line) for line in log.read_text().split()} if log.exists() else set()

    def _excuse(self, pid: int, code: int, started: float) -> str:
        if code == -signal.SIGKILL:
            point = next((point for point, hit in self.hits() if hit == pid), "")
            return f"fault point {point}" if point else "poisoned" if pid in self._poisoned() else ""
        if code == NO_SERVER and self._trouble_until > started:
            return "found no server when it started"
        return ""
