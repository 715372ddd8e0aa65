"""The rights of the roles, on real servers: the documented rules are exactly what is asked for, and enough for a job."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.exceptions
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from market_data_pipeline.cli import main
from market_data_pipeline.dag.plan import PlanEdge, TaskId
from market_data_pipeline.errors import ConfigError, StoreUnavailable
from market_data_pipeline.store.client import Client, Script, connect, connect_blocking, text_of
from market_data_pipeline.store.embedded import EmbeddedServer
from market_data_pipeline.store.keys import SHAPES, Keys, Shape, budget_key, channel_keys
from market_data_pipeline.store.rights import (
    COORDINATOR,
    KEYLESS,
    OPERATOR,
    READ_COMMANDS,
    ROLES,
    WORKER,
    Role,
    check_rights,
)

ROOT = Path(__file__).resolve().parents[3]
SERVERS = [None, *(["redis-server"] if shutil.which("redis-server") else [])]
ASKED = [WORKER, COORDINATOR, OPERATOR]
JOB = "some-job"
SHARED: Shape = "budget:*"
"""What all jobs at a server share."""


def rule(role: Role, job: str = JOB) -> list[str]:
    return role.rule(job).split()


def grant(server: EmbeddedServer, *words: str) -> str:
    """Apply a rule; the URL of its user."""
    with connect_blocking(server.url) as client:
        client.execute_command("ACL", "SETUSER", *words)
    password = next(word for word in words if word.startswith(">"))[1:]
    return server.url.replace("redis://", f"redis://{words[0]}:{password}@")


async def ask(url: str, role: Role) -> None:
    client = connect(url)
    try:
        await check_rights(client, url, role, JOB)
    finally:
        await client.aclose()


@pytest.fixture(scope="module", params=SERVERS, ids=lambda binary: binary or "embedded")
def either(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(None, request.param) as running:
        yield running


def test_the_documented_rules_are_what_the_command_prints() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    documented = [line for line in text.splitlines() if line.startswith("ACL SETUSER mdp-")]
    printed = CliRunner().invoke(main, ["acl", "--job", "bars"])
    assert printed.exit_code == 0
    assert printed.output.splitlines() == documented == [f"ACL SETUSER {role.rule('bars')}" for role in ROLES]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--job", "a*"], "--job: 'a*' is not allowed; it must match [a-z0-9-]{1,40}"),
        (["--job", "{a}"], "is not allowed"),
        ([], "which job? give --job NAME or set MDP_JOB"),
        (["--job", "a", "--role", "root"], "there are: worker, coordinator, keda, viewer, operator"),
    ],
)
def test_what_no_rule_can_be_made_for(monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str) -> None:
    monkeypatch.delenv("MDP_JOB", raising=False)
    refused = CliRunner().invoke(main, ["acl", *arguments])
    assert refused.exit_code == 2
    assert said in refused.output
    assert len(refused.output.splitlines()) == 1


def test_single_roles_can_be_asked_for() -> None:
    printed = CliRunner().invoke(main, ["acl", "--job", "abc", "--role", "keda", "--role", "viewer"])
    assert [line.split()[2] for line in printed.output.splitlines()] == ["mdp-abc-keda", "mdp-abc-viewer"]
    assert printed.output.splitlines()[0] == (
        "ACL SETUSER mdp-abc-keda reset on >KEDA-PASSWORD %R~mdp:{abc:*}:q:* +auth +hello +ping +select +xlen"
    )


def names_of(job: str) -> dict[Shape, str]:
    """A key of every shape that belongs to a job, as the code makes it."""
    keys, task, edge = Keys(job), TaskId("node", 3), PlanEdge("a", "b", "keyed", "symbol")
    made = [
        keys.record, keys.leader, keys.term, keys.epochs, keys.assignment, keys.workers, keys.incarnations,
        keys.worker("w1"), keys.wake, keys.ended, keys.dead_letters, keys.lease(3), keys.task(task), keys.state(task),
        keys.stream(edge, 3), keys.stream_bytes(3), keys.staged_task(task, "life"), keys.staged_state(task, "life"),
    ]  # fmt: skip
    return dict(zip((shape for shape in SHAPES if shape != SHARED), made, strict=True))


def matches(pattern: str, key: str) -> bool:
    """As the server does; ``*`` is the only special character there is."""
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), key) is not None


name = st.text("ab0-", min_size=1, max_size=4) | st.sampled_from(["channel", "job"])


@given(name, name)
def test_a_pattern_opens_one_shape_of_one_job(job: str, other: str) -> None:
    for shape in SHAPES:
        pattern = Keys(job).pattern(shape)
        assert {found for found, key in names_of(job).items() if matches(pattern, key)} == {shape} - {SHARED}
        assert matches(pattern, budget_key(other)) == (shape == SHARED)
        if other != job:
            assert not [key for key in names_of(other).values() if matches(pattern, key)]
        assert not [key for key in channel_keys(other) if matches(pattern, key)]


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
async def test_a_user_of_one_job_has_no_right_on_another(either: EmbeddedServer, role: Role) -> None:
    grant(either, *rule(role, "abc"))
    user = f"mdp-abc-{role.name}"
    keyed = [command for command in role.commands() if command not in KEYLESS and "|" not in command]
    read = "HGET" if "HGET" in keyed else "XLEN"
    with connect_blocking(either.url) as admin:

        def may(command: str, key: str) -> bool:
            asked = ["", "1", key] if command == "EVALSHA" else [key, "field"] if command == "HGET" else [key]
            return text_of(admin.execute_command("ACL", "DRYRUN", user, command, *asked)) == "OK"

        mine = {**names_of("abc"), SHARED: budget_key("abc")}
        for shape, key in mine.items():
            assert may(read, key) == (shape in role.writes + role.reads), (read, key)
            if "EVALSHA" in keyed:
                assert may("EVALSHA", key) == (shape in role.writes), key
        for stranger in ("abcd", "ab", "abc-1", "job"):
            for key in names_of(stranger).values():
                assert not [command for command in (read, *({"EVALSHA"} & set(keyed))) if may(command, key)]


async def test_which_commands_only_read(either: EmbeddedServer) -> None:
    """What the server says of the commands that are asked for: a key that a role only reads gets no other ones."""
    every = {command.partition("|")[0] for role in ROLES for command in role.commands() if "|" not in command}
    with connect_blocking(either.url) as admin:
        for command in sorted(every - {"EVAL", "EVALSHA"}):
            flags = admin.execute_command("COMMAND", "INFO", command)[command.lower()]["flags"]
            reads = "readonly" in flags and command not in KEYLESS
            assert reads == (command in READ_COMMANDS), command


def test_every_script_belongs_to_a_role() -> None:
    scripts = ROOT / "market_data_pipeline" / "store" / "scripts"
    # asks nobody; programs of a user's own; servers of a user's own
    others = {"rights", "channel_put", "channel_take", "sink_latest", "sink_send"}
    assert {path.stem for path in scripts.glob("*.lua")} == {name for role in ROLES for name in role.scripts} | others
    for path in scripts.glob("*.lua"):
        calls = re.findall(r"redis\.p?call\(", path.read_text())
        named = re.findall(r"redis\.p?call\('[A-Z]+'", path.read_text())
        assert len(calls) == len(named), f"{path.name}: a command that is not a literal cannot be asked for"


@pytest.mark.parametrize("role", ASKED, ids=lambda role: role.name)
async def test_each_right_that_is_missing_is_named(either: EmbeddedServer, role: Role) -> None:
    words = rule(role)
    url = grant(either, *words)
    await ask(url, role)
    for command in role.commands():
        if command.startswith("EVAL") or command == "SCRIPT|LOAD":
            continue
        grant(either, *(word for word in words if word != f"+{command.lower()}"))
        with pytest.raises(StoreUnavailable) as caught:
            await ask(url, role)
        assert caught.value.exit_code == 3
        article = "an" if role is OPERATOR else "a"
        needs = f"lacks rights that {article} {role.name} needs: {command.replace('|', ' ')};"
        assert f"{needs} see 'mdp acl --job {JOB} --role {role.name}'" in str(caught.value)
        assert "PASSWORD" not in str(caught.value)


@pytest.mark.parametrize("role", ASKED, ids=lambda role: role.name)
async def test_each_key_that_is_out_of_reach_is_named(either: EmbeddedServer, role: Role) -> None:
    words = rule(role)
    url = grant(either, *words)
    for word in (word for word in words if "~" in word):
        grant(either, *(other for other in words if other != word))
        key = word.removeprefix("%R").removeprefix("~")
        with pytest.raises(StoreUnavailable, match=f"needs: anything on {re.escape(key.replace('*', '0'))};"):
            await ask(url, role)
        if word.startswith("~"):
            grant(either, *(f"%R{other}" if other == word else other for other in words))
            with pytest.raises(StoreUnavailable, match=f"needs: writing {re.escape(key.replace('*', '0'))};"):
                await ask(url, role)


async def test_who_may_run_no_script_is_told_so(either: EmbeddedServer) -> None:
    url = grant(either, *(word for word in rule(WORKER) if word != "+evalsha"))
    with pytest.raises(StoreUnavailable, match=r"permission denied \(.*evalsha"):
        await ask(url, WORKER)


async def test_the_rules_of_another_job_do_not_do(either: EmbeddedServer) -> None:
    url = grant(either, *rule(WORKER, "some-jo"))
    with pytest.raises(StoreUnavailable, match=r"needs: anything on mdp:job:some-job, .*\{some-job:0\}:bytes;"):
        await ask(url, WORKER)
    with pytest.raises(ConfigError, match="is not allowed"):
        WORKER.rule("some*")


async def test_wider_rules_do_too(either: EmbeddedServer) -> None:
    """Those that were documented once: one user for every job."""
    for role in ASKED:
        words = [word for word in rule(role) if "~" not in word]
        await ask(grant(either, *words, "~mdp:*"), role)


async def test_nothing_is_written_by_asking(client: Client, server: EmbeddedServer) -> None:
    for role in ASKED:
        await check_rights(client, server.url, role, JOB)
    assert await client.dbsize() == 0


async def test_half_a_script_is_what_the_question_prevents(either: EmbeddedServer) -> None:
    """Why it is asked: the server stops a script at the refused command and keeps what it wrote before."""
    url = grant(either, *(word for word in rule(COORDINATOR) if word != "+ltrim"))
    client = connect(url)
    try:
        with pytest.raises(redis.exceptions.RedisError):
            await Script("wake").call(client, [Keys(JOB).wake], [])
    finally:
        await client.aclose()
    with connect_blocking(either.url) as admin:
        found: Any = admin.llen(Keys(JOB).wake)
        assert found == 1
        admin.delete(Keys(JOB).wake)
