"""What a user of the server must be allowed to do, per role, and the question at start whether he is.

A script stops at the first command its user may not run, and what it wrote before that stays: half a commit. So every
command, those inside the scripts too, is asked for before anything is written. ``docs/operations.md`` has the rules for
the users; the tests hold it against this list.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache

import redis.asyncio

from market_data_pipeline.errors import StoreUnavailable
from market_data_pipeline.store.client import Script, address_of, explained
from market_data_pipeline.store.keys import job_key
from market_data_pipeline.store.url import Address

_RIGHTS = Script("rights", "no-writes")
_CALL = re.compile(r"redis\.p?call\('(\w+)'")
_READS_JOB = ("HGETALL", "HMGET", "SMEMBERS", "MGET", "SCARD", "HGET", "XLEN", "XRANGE")
_RUNS_SCRIPTS = ("INFO", "SCRIPT|LOAD", "EVAL", "EVALSHA")


@dataclass(frozen=True)
class Role:
    """``scripts`` are those it runs, ``direct`` the commands it sends itself, as ``NAME`` or ``NAME|SUBCOMMAND``."""

    name: str
    direct: tuple[str, ...]
    scripts: tuple[str, ...] = ()

    def commands(self) -> list[str]:
        """Everything it needs, sorted."""
        return sorted({*self.direct, *(command for name in self.scripts for command in _inside(name))})


WORKER = Role(
    "worker",
    (
        *_RUNS_SCRIPTS, "HGETALL", "HMGET", "HGET", "SMEMBERS", "MGET", "WAIT",
        "XLEN", "XREAD", "CLIENT|ID", "CLIENT|UNBLOCK",
    ),
    ("attempt", "beat", "commit", "conclude", "forget", "load", "release", "wake"),
)  # fmt: skip
COORDINATOR = Role(
    "coordinator",
    (*_RUNS_SCRIPTS, *_READS_JOB, "BLPOP", "GET"),
    ("assign", "conclude", "forget", "lead", "phase", "publish", "resign", "resume"),
)
STATUS = Role("status", (*_READS_JOB, "SCAN"))
ROLES = (WORKER, COORDINATOR, STATUS)


@cache
def _inside(script: str) -> frozenset[str]:
    return frozenset(name.upper() for name in _CALL.findall(Script(script).text))


async def check_rights(client: redis.asyncio.Redis, where: str | Address, role: Role, job: str) -> None:
    """Raises ``StoreUnavailable`` with the commands that the user may not run on a job's keys. Nothing is written."""
    address = address_of(where)
    # one key of each shape: the job's record, what belongs to the job, what belongs to a partition
    keys = [job_key(job), f"mdp:{{{job}}}:x", f"mdp:{{{job}:0}}:x"]
    asked = [(command, key) for command in role.commands() for key in _keys_for(command, keys)]
    with explained(address):
        numbers = await _RIGHTS.call(client, [], [json.dumps(_words(command, key)) for command, key in asked])
    refused: dict[str, list[str]] = defaultdict(list)
    for number in numbers:
        command, key = asked[number - 1]
        refused[command].append(key)
    if refused:
        user = address.username or "default"
        raise StoreUnavailable(
            f"server {address}: user {user!r} lacks rights that a {role.name} needs:"
            f" {', '.join(_named(command, found, keys) for command, found in refused.items())}; see docs/operations.md"
        )


def _keys_for(command: str, keys: list[str]) -> list[str]:
    keyless = command in ("INFO", "EVAL", "EVALSHA", "MULTI", "EXEC", "TIME", "WAIT", "SCAN") or "|" in command
    return [""] if keyless else keys


def _words(command: str, key: str) -> list[str]:
    """The command as the server would get it, as far as rights are concerned."""
    if command == "XREAD":
        return ["XREAD", "STREAMS", key, "0-0"]
    if command == "BLPOP":
        return ["BLPOP", key, "1"]
    if command in ("EVAL", "EVALSHA"):
        return [command, "", "0"]
    return [*command.split("|"), *([key] if key else [])]


def _named(command: str, found: list[str], keys: list[str]) -> str:
    words = command.replace("|", " ")
    return words if found in ([""], keys) else f"{words} on {' and '.join(found)}"
