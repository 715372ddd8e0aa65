"""What a user of the server must be allowed to do, per role, and the question at start whether he is.

A script stops at the first command its user may not run, and what it wrote before that stays: half a commit. So every
command, those inside the scripts too, is asked for on every kind of key before anything is written (and ``commit.lua`` asks
once more, as rights may be taken away later). ``mdp acl`` prints the rules for the users of one job.

A role reads and writes keys by their shape (:data:`~market_data_pipeline.store.keys.Shape`). What a script gets in ``KEYS``
needs both rights, whatever the script does with it; what it only reads comes in ``ARGV``.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import redis.asyncio

from market_data_pipeline.errors import StoreUnavailable
from market_data_pipeline.store.client import Script, address_of, explained
from market_data_pipeline.store.keys import SHAPES, Keys, Shape
from market_data_pipeline.store.url import Address

_RIGHTS = Script("rights", "no-writes")
_CALL = re.compile(r"redis\.p?call\('(\w+)'")
_READS_JOB = ("EXISTS", "HGETALL", "HMGET", "SMEMBERS", "MGET", "SCARD", "HGET", "XLEN", "XRANGE")
_RUNS_SCRIPTS = ("INFO", "SCRIPT|LOAD", "EVAL", "EVALSHA")
_STATUS: tuple[Shape, ...] = (
    "record", "leader", "assignment", "workers", "worker:*", "ended", "dlq", "task:*", "q:*",
)  # fmt: skip
READ_COMMANDS = frozenset(
    (
        "EXISTS",
        "GET",
        "HGET",
        "HGETALL",
        "HKEYS",
        "HLEN",
        "HMGET",
        "MGET",
        "SCARD",
        "SMEMBERS",
        "XLEN",
        "XRANGE",
        "XREAD",
    )
)
"""Those that need no right to write their key."""
KEYLESS = frozenset(("AUTH", "HELLO", "INFO", "PING", "SCAN", "SELECT", "TIME", "WAIT"))


@dataclass(frozen=True)
class Role:
    """``scripts`` are those it runs, ``direct`` the commands it sends itself, as ``NAME`` or ``NAME|SUBCOMMAND``, ``useful``
    those that it can do without. ``writes``: shapes of the keys that it reads and writes; ``reads``: that it only reads."""

    name: str
    direct: tuple[str, ...]
    scripts: tuple[str, ...] = ()
    writes: tuple[Shape, ...] = ()
    reads: tuple[Shape, ...] = ()
    useful: tuple[str, ...] = ()

    def commands(self) -> list[str]:
        """Everything it needs, sorted."""
        return sorted({*self.direct, *(command for name in self.scripts for command in _inside(name))})

    def rule(self, job: str) -> str:
        """The words behind ``ACL SETUSER``, for a user who may do what the role does with this one job and no more. The
        password is to be filled in. Raises ``ConfigError`` for a name that could open others' keys."""
        keys = Keys(job)
        opened = [f"~{keys.pattern(shape)}" for shape in SHAPES if shape in self.writes]
        opened += [f"%R~{keys.pattern(shape)}" for shape in SHAPES if shape in self.reads]
        commands = [f"+{command.lower()}" for command in sorted({*self.commands(), *self.useful})]
        return " ".join([f"mdp-{job}-{self.name}", "reset", "on", f">{self.name.upper()}-PASSWORD", *opened, *commands])


WORKER = Role(
    "worker",
    (
        *_RUNS_SCRIPTS, "HGETALL", "HMGET", "HGET", "SMEMBERS", "MGET", "WAIT",
        "XLEN", "XREAD", "CLIENT|ID", "CLIENT|UNBLOCK",
    ),
    ("attempt", "beat", "budget", "commit", "conclude", "forget", "load", "release", "wake"),
    writes=(
        "record", "assignment", "workers", "incarnations", "worker:*", "wake", "ended", "dlq",
        "lease", "task:*", "state:*", "q:*", "bytes", "budget:*",
    ),
    useful=("CONFIG|GET",),
)  # fmt: skip
COORDINATOR = Role(
    "coordinator",
    (*_RUNS_SCRIPTS, *_READS_JOB, "BLPOP", "GET"),
    ("assign", "conclude", "forget", "lead", "phase", "publish", "rates", "resign", "resume"),
    writes=(
        "record", "leader", "term", "epochs", "assignment", "workers", "incarnations", "worker:*", "wake", "ended",
        "lease", "task:*",
    ),
    reads=("dlq", "q:*"),
    useful=("CONFIG|GET",),
)  # fmt: skip
VIEWER = Role("viewer", _READS_JOB, reads=_STATUS)
KEDA = Role("keda", ("AUTH", "HELLO", "PING", "SELECT", "XLEN"), reads=("q:*",))
"""What KEDA's client says when it connects, and the length of a stream. Its CLIENT SETINFO is refused, which it ignores: Redis
7.0 does not know that command, not even in a rule."""
OPERATOR = Role(
    "operator",
    (*_RUNS_SCRIPTS, *_READS_JOB, "SCAN", "DEL", "UNLINK", "XDEL", "HKEYS", "HSET"),
    ("ask", "assign", "clear", "lead", "phase", "resign", "retire", "swap"),
    writes=tuple(shape for shape in SHAPES if shape != "budget:*"),
)
ROLES = (WORKER, COORDINATOR, KEDA, VIEWER, OPERATOR)


@cache
def _inside(script: str) -> frozenset[str]:
    return frozenset(name.upper() for name in _CALL.findall(Script(script).text))


async def check_rights(client: redis.asyncio.Redis, where: str | Address, role: Role, job: str) -> None:
    """Raises ``StoreUnavailable`` with the commands that the user may not run on a job's keys. Nothing is written."""
    address = address_of(where)
    asked = _questions(role, job)
    with explained(address):
        numbers = await _RIGHTS.call(client, [], [json.dumps(_words(command, key)) for command, key in asked])
    if numbers:
        article = "an" if role.name[0] in "aeiou" else "a"
        raise StoreUnavailable(
            f"server {address}: user {address.username or 'default'!r} lacks rights that {article} {role.name} needs:"
            f" {', '.join(_named(asked, {asked[number - 1] for number in numbers}))};"
            f" see 'mdp acl --job {job} --role {role.name}'"
        )


def _questions(role: Role, job: str) -> list[tuple[str, str]]:
    """Each command with each key that it may be sent for; ``""`` for those without keys. One key of each shape."""
    keys = Keys(job)
    written = [keys.pattern(shape).replace("*", "0") for shape in role.writes]
    read = [keys.pattern(shape).replace("*", "0") for shape in role.reads]
    questions = []
    for command in role.commands():
        if command in KEYLESS or "|" in command:
            questions.append((command, ""))
        else:
            questions += [(command, key) for key in (*written, *(read if command in READ_COMMANDS else ()))]
    return questions


def _named(asked: list[tuple[str, str]], refused: set[tuple[str, str]]) -> Iterator[str]:
    """Commands that are refused everywhere; then, by key, what else is."""
    on, of = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for command, key in asked:
        on[command].add(key)
    nowhere = [command for command, keys in on.items() if all((command, key) in refused for key in keys)]
    yield from (command.replace("|", " ") for command in nowhere)
    for command, key in asked:
        if command not in nowhere:
            of[key].add(command)
    for key, commands in of.items():
        lacking = {command for command in commands if (command, key) in refused}
        if lacking == commands:
            yield f"anything on {key}"
        elif lacking and lacking == commands - READ_COMMANDS:
            yield f"writing {key}"
        elif lacking:
            yield f"{' and '.join(sorted(lacking))} on {key}"


def _words(command: str, key: str) -> list[str]:
    """The command as the server would get it, as far as rights are concerned."""
    if command == "XREAD":
        return ["XREAD", "STREAMS", key, "0-0"]
    if command == "BLPOP":
        return ["BLPOP", key, "1"]
    if command == "RENAME":
        return ["RENAME", key, key]
    if command in ("EVAL", "EVALSHA"):
        return [command, "", "1", key]
    return [*command.split("|"), *([key] if key else [])]
