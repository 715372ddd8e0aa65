"""How each kind of fault is done. A function per kind: it begins the fault and leaves its end on the agenda."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress

import redis

from chaos.apps.chaos_parts import BLOCK, FREEZE
from chaos.schedule import Fault
from chaos.world import World

Action = Callable[[World, Fault], str | None]
"""Does it and says what was done; ``None`` when it could not be done now."""

_SYNC_SECONDS = 8.0
_RETRY_SECONDS = 0.25
_RETRIES = 12


def inject(world: World, fault: Fault, tries: int = _RETRIES) -> None:
    """Do ``fault`` now, or a little later when the world is not ready for it."""
    done = ACTIONS[fault.kind](world, fault)
    if done is not None:
        world.performed.append(fault)
        world.say(f"{fault.kind}: {done}")
    elif tries > 0 and not world.healed_at:
        world.after(_RETRY_SECONDS, lambda: inject(world, fault, tries - 1))
    else:
        world.skipped.append((fault, "nothing to do it to"))
        world.say(f"{fault.kind}: skipped, there was nothing to do it to")


def _kill_same(world: World, fault: Fault) -> str | None:
    name = world.pick(fault.pick)
    if name is None:
        return None
    world.fleet.start_later(name, fault.seconds)
    return f"SIGKILL {name} ({world.fleet.send(name, signal.SIGKILL)}), again after {fault.seconds:g} s"


def _kill_new(world: World, fault: Fault) -> str | None:
    name = world.pick(fault.pick)
    if name is None:
        return None
    successor = world.new_worker()
    world.fleet.start_later(successor, fault.seconds)
    return f"SIGKILL {name} ({world.fleet.send(name, signal.SIGKILL)}), {successor} after {fault.seconds:g} s"


def _term(world: World, fault: Fault) -> str | None:
    name = world.pick(fault.pick)
    if name is None:
        return None
    successor = world.new_worker()
    world.fleet.start_later(successor, fault.seconds)
    return f"SIGTERM {name} ({world.fleet.send(name, signal.SIGTERM)}), {successor} after {fault.seconds:g} s"


def _stop(world: World, fault: Fault, role: str = "w") -> str | None:
    name = world.pick(fault.pick, role)
    if name is None:
        return None
    pid = world.fleet.send(name, signal.SIGSTOP)

    def go_on() -> None:
        member = world.fleet.members.get(name)
        if member is not None and member.process.pid == pid:
            world.fleet.send(name, signal.SIGCONT)

    world.after(fault.seconds, go_on)
    return f"SIGSTOP {name} ({pid}) for {fault.seconds:g} s"


def _scale(world: World, fault: Fault) -> str | None:
    for step, count in enumerate((1, 4, 2, world.plan.workers)):
        world.after(step * fault.seconds / 3, lambda count=count: _set_workers(world, count))  # type: ignore[misc]
    return f"1 -> 4 -> 2 -> {world.plan.workers} workers, {fault.seconds / 3:.1f} s each"


def _set_workers(world: World, count: int) -> None:
    names = world.fleet.names()
    leaving = [m.name for m in world.fleet.members.values() if m.doomed and m.name not in world.fleet.starts_at]
    staying = [name for name in names if name not in leaving]
    for name in staying[count:]:
        world.fleet.starts_at.pop(name, None)
        world.fleet.send(name, signal.SIGTERM)
    for _ in range(count - len(staying)):
        world.fleet.start(world.new_worker())


def _point(world: World, fault: Fault) -> str | None:
    armed = world.points / fault.detail
    armed.touch()
    world.armed[fault.detail] = world.armed.get(fault.detail, 0) + 1
    world.after(fault.seconds, lambda: armed.unlink(missing_ok=True))
    return f"whoever comes to {fault.detail!r} within {fault.seconds:g} s dies there"


def _cut(world: World, fault: Fault) -> str | None:
    name = world.pick(fault.pick)
    if name is None:
        return None
    world.trouble(0)
    return f"{world.fleet.doors[name].cut()} connections of {name}"


def _cut_all(world: World, fault: Fault) -> str | None:
    world.trouble(0)
    return f"{sum(door.cut() for door in world.fleet.doors.values())} connections of everybody"


def _delay(world: World, fault: Fault) -> str | None:
    name = world.pick(fault.pick)
    if name is None:
        return None
    door = world.fleet.doors[name]
    door.delay(float(fault.detail))
    world.after(fault.seconds, lambda: door.delay(0))
    return f"{name}: each way {fault.detail} s late for {fault.seconds:g} s"


def _half_reply(world: World, fault: Fault) -> str | None:
    name = world.pick(fault.pick)
    if name is None:
        return None
    door = world.fleet.doors[name]
    world.trouble(2)
    door.close_in_reply(fault.size)
    world.after(2.0, lambda: door.close_in_reply(None))
    return f"{name}: a connection ends behind {fault.size} bytes of a reply"


def _refuse(world: World, fault: Fault) -> str | None:
    world.trouble(fault.seconds)
    for door in world.fleet.doors.values():
        door.refuse()

    def open_again() -> None:
        for door in world.fleet.doors.values():
            door.refuse(False)

    world.after(fault.seconds, open_again)
    return f"no connection for anybody for {fault.seconds:g} s"


def _blackhole(world: World, fault: Fault) -> str | None:
    name = world.pick(fault.pick)
    if name is None:
        return None
    door = world.fleet.doors[name]
    door.hold()
    world.after(fault.seconds, lambda: door.hold(False))
    return f"{name}: nothing gets through for {fault.seconds:g} s"


def _coordinator_kill(world: World, fault: Fault) -> str | None:
    name = world.pick(fault.pick, "coordinator")
    if name is None:
        return None
    world.fleet.start_later(name, fault.seconds)
    return f"SIGKILL {name} ({world.fleet.send(name, signal.SIGKILL)}), again after {fault.seconds:g} s"


def _coordinator_two(world: World, fault: Fault) -> str | None:
    running = world.fleet.running("coordinator")
    if len(running) != 1:
        return None
    second = "coordinator-b" if running[0] == "coordinator-a" else "coordinator-a"
    world.fleet.start(second)
    victim = running[0] if fault.pick < 0.5 else second

    def end_one() -> None:
        world.fleet.starts_at.pop(victim, None)
        world.fleet.send(victim, signal.SIGKILL)
        world.say(f"coordinator-two: SIGKILL {victim}")

    world.after(fault.seconds, end_one)
    return f"{second} beside {running[0]} for {fault.seconds:g} s"


def _server_kill(world: World, fault: Fault) -> str | None:
    return _server_down(world, fault, 0)


def _aof_cut(world: World, fault: Fault) -> str | None:
    return _server_down(world, fault, fault.size)


def _server_down(world: World, fault: Fault, cut: int) -> str | None:
    """SIGKILL, perhaps lose the end of the append-only file, start again."""
    if world.server_busy:
        return None
    world.server_busy = True
    world.trouble(fault.seconds + 10)
    server, since = world.servers.master, time.time()
    server.kill()
    lost = server.cut_append_only_file(cut, world.aof_floor) if cut else 0

    def start() -> None:
        server.mend()
        server.start()
        world.server_busy = False
        if world.plan.rolls_back(fault.kind):
            world.rollbacks.append((since, time.time()))
        world.say(f"{fault.kind}: the server is back")

    world.after(fault.seconds, start)
    end = f"{lost} bytes less" if cut else f"appendfsync {world.plan.fsync}"
    return f"SIGKILL the server, {end}, back after {fault.seconds:g} s"


def _server_stop(world: World, fault: Fault) -> str | None:
    if world.server_busy:
        return None
    world.server_busy = True
    world.trouble(fault.seconds)
    server = world.servers.master
    server.signal(signal.SIGSTOP)

    def go_on() -> None:
        server.signal(signal.SIGCONT)
        world.server_busy = False

    world.after(fault.seconds, go_on)
    return f"SIGSTOP the server for {fault.seconds:g} s"


def _configure(world: World, name: str, value: int) -> None:
    with suppress(redis.exceptions.RedisError):  # a server that is down comes back with its defaults
        world.servers.master.client.config_set(name, value)


def _maxmemory(world: World, fault: Fault) -> str | None:
    if world.server_busy:
        return None
    used = int(world.servers.master.client.info("memory")["used_memory"])
    world.trouble(fault.seconds)
    _configure(world, "maxmemory", used + fault.size)
    world.after(fault.seconds, lambda: _configure(world, "maxmemory", 0))
    return f"maxmemory {fault.size} bytes above what is used, for {fault.seconds:g} s"


def _refuse_writes(world: World, fault: Fault) -> str | None:
    if world.server_busy:
        return None
    world.trouble(fault.seconds)
    _configure(world, "min-replicas-to-write", 3)
    world.after(fault.seconds, lambda: _configure(world, "min-replicas-to-write", 0))
    return f"the server refuses writes for {fault.seconds:g} s"


def _script_flush(world: World, fault: Fault) -> str | None:
    if world.server_busy:
        return None
    world.servers.master.client.script_flush()
    return "the server forgets all scripts"


def _failover(world: World, fault: Fault) -> str | None:
    """The replica stops hearing from the master; then the master dies and the replica takes its place."""
    if world.server_busy or not world.servers.replica_in_sync():
        return None
    world.servers.hold_replica()
    world.server_busy = True
    world.trouble(fault.seconds + 10)

    def promote() -> None:
        since = time.time()
        world.servers.promote()
        for door in world.fleet.doors.values():
            door.lead_to(world.servers.master.port)
        if world.plan.rolls_back(fault.kind):
            world.rollbacks.append((since - fault.seconds, time.time()))
        world.aof_floor = 0
        world.server_busy = False
        world.servers.add_replica()
        world.say(f"{fault.kind}: the replica is the master now")

    world.after(fault.seconds, promote)
    return f"the replica lags by {fault.seconds:g} s, then takes the master's place"


def _gate(world: World, fault: Fault) -> str | None:
    gate = world.control / (BLOCK if fault.kind == "sink-block" else FREEZE)
    gate.touch()
    world.after(fault.seconds, lambda: gate.unlink(missing_ok=True))
    return f"the sinks {'wait' if fault.kind == 'sink-block' else 'hold their processes up'} for {fault.seconds:g} s"


def _in_the_feed(world: World, fault: Fault) -> str | None:
    return "comes with the feed"


ACTIONS: dict[str, Action] = {
    "kill-same": _kill_same,
    "kill-new": _kill_new,
    "stop": _stop,
    "term": _term,
    "scale": _scale,
    "point": _point,
    "cut": _cut,
    "cut-all": _cut_all,
    "delay": _delay,
    "half-reply": _half_reply,
    "refuse": _refuse,
    "blackhole": _blackhole,
    "coordinator-kill": _coordinator_kill,
    "coordinator-stop": lambda world, fault: _stop(world, fault, "coordinator"),
    "coordinator-two": _coordinator_two,
    "server-kill": _server_kill,
    "server-stop": _server_stop,
    "aof-cut": _aof_cut,
    "maxmemory": _maxmemory,
    "refuse-writes": _refuse_writes,
    "failover-lag": _failover,
    "failover-wait": _failover,
    "script-flush": _script_flush,
    "sink-block": _gate,
    "sink-freeze": _gate,
    "hot-symbol": _in_the_feed,
    "poison-raise": _in_the_feed,
    "poison-kill": _in_the_feed,
}
