"""The rights of the roles, on real servers: the documented rules are exactly what is asked for, and enough for a job."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.exceptions

from market_data_pipeline.errors import StoreUnavailable
from market_data_pipeline.store.client import Client, Script, connect, connect_blocking
from market_data_pipeline.store.embedded import EmbeddedServer
from market_data_pipeline.store.rights import COORDINATOR, ROLES, STATUS, WORKER, Role, check_rights

ROOT = Path(__file__).resolve().parents[3]
OPTIONAL = {"+config|get"}
SERVERS = [None, *(["redis-server"] if shutil.which("redis-server") else [])]


def documented() -> dict[str, list[str]]:
    """Role name -> words of its rule behind ``ACL SETUSER``."""
    text = (ROOT / "docs" / "operations.md").read_text()
    rules = [line.split() for line in text.splitlines() if line.startswith("ACL SETUSER mdp-")]
    return {rule[2].removeprefix("mdp-"): rule[2:] for rule in rules}


def grant(server: EmbeddedServer, *words: str) -> str:
    """Apply a rule; the URL of its user."""
    with connect_blocking(server.url) as client:
        client.execute_command("ACL", "SETUSER", *words)
    password = next(word for word in words if word.startswith(">"))[1:]
    return server.url.replace("redis://", f"redis://{words[0]}:{password}@")


async def ask(url: str, role: Role) -> None:
    client = connect(url)
    try:
        await check_rights(client, url, role, "some-job")
    finally:
        await client.aclose()


@pytest.fixture(scope="module", params=SERVERS, ids=lambda binary: binary or "embedded")
def either(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(None, request.param) as running:
        yield running


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_the_documented_rules_are_what_the_roles_ask_for(role: Role) -> None:
    rule = documented()[role.name]
    given = {word for word in rule if word.startswith("+")} - OPTIONAL
    assert given == {f"+{command.lower()}" for command in role.commands()}
    assert [word for word in rule if "~" in word] == ["%R~mdp:*" if role is STATUS else "~mdp:*"]


def test_every_script_belongs_to_a_role() -> None:
    scripts = ROOT / "market_data_pipeline" / "store" / "scripts"
    others = {
        "rights",
        "retire",
        "clear",
        "ask",
        "swap",
        "channel_put",
        "channel_take",
    }  # asks nobody; operators; programs of a user's own
    assert {path.stem for path in scripts.glob("*.lua")} == {name for role in ROLES for name in role.scripts} | others
    for path in scripts.glob("*.lua"):
        calls = re.findall(r"redis\.p?call\(", path.read_text())
        named = re.findall(r"redis\.p?call\('[A-Z]+'", path.read_text())
        assert len(calls) == len(named), f"{path.name}: a command that is not a literal cannot be asked for"


@pytest.mark.parametrize("role", [WORKER, COORDINATOR], ids=lambda role: role.name)
async def test_each_right_that_is_missing_is_named(either: EmbeddedServer, role: Role) -> None:
    rule = documented()[role.name]
    url = grant(either, *rule)
    await ask(url, role)
    for command in role.commands():
        if command.startswith("EVAL") or command == "SCRIPT|LOAD":
            continue
        grant(either, *(word for word in rule if word != f"+{command.lower()}"))
        with pytest.raises(StoreUnavailable) as caught:
            await ask(url, role)
        assert caught.value.exit_code == 3
        assert f"lacks rights that a {role.name} needs: {command.replace('|', ' ')}; see docs" in str(caught.value)
        assert "PASSWORD" not in str(caught.value)


async def test_who_may_run_no_script_is_told_so(either: EmbeddedServer) -> None:
    url = grant(either, *(word for word in documented()["worker"] if word != "+evalsha"))
    with pytest.raises(StoreUnavailable, match=r"permission denied \(.*evalsha"):
        await ask(url, WORKER)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (["%R~mdp:job:*", "~mdp:{*"], "HSET on mdp:job:some-job"),
        (["~mdp:job:*"], "XADD on mdp:{some-job}:x and mdp:{some-job:0}:x"),
        (["~other:*"], "XADD,"),
    ],
)
async def test_keys_out_of_reach_are_named(either: EmbeddedServer, keys: list[str], named: str) -> None:
    url = grant(either, *(word for word in documented()["worker"] if "~" not in word), *keys)
    with pytest.raises(StoreUnavailable) as caught:
        await ask(url, WORKER)
    assert named in str(caught.value)


async def test_nothing_is_written_by_asking(client: Client, server: EmbeddedServer) -> None:
    for role in (WORKER, COORDINATOR):
        await check_rights(client, server.url, role, "some-job")
    assert await client.dbsize() == 0


async def test_half_a_script_is_what_the_question_prevents(either: EmbeddedServer) -> None:
    """Why it is asked: the server stops a script at the refused command and keeps what it wrote before."""
    url = grant(either, *(word for word in documented()["coordinator"] if word != "+ltrim"))
    client = connect(url)
    try:
        with pytest.raises(redis.exceptions.RedisError):
            await Script("wake").call(client, ["mdp:wake"], [])
    finally:
        await client.aclose()
    with connect_blocking(either.url) as admin:
        found: Any = admin.llen("mdp:wake")
        assert found == 1
        admin.delete("mdp:wake")
