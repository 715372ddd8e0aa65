"""A job whose coordinator, workers, scaler and onlookers are the users that ``mdp acl`` prints, and nobody else."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.exceptions
from click.testing import CliRunner
from test_main_job import APP, RATE, arguments, end, until_told
from tools.jobs import ROOT, job, run_mdp, wait_until

from market_data_pipeline.app import load_app
from market_data_pipeline.cli import main
from market_data_pipeline.dag.planner import compile_dag
from market_data_pipeline.store.client import connect, connect_blocking
from market_data_pipeline.store.control import find_job, publish
from market_data_pipeline.store.embedded import EmbeddedServer
from market_data_pipeline.store.keys import Keys
from market_data_pipeline.store.rights import KEDA, VIEWER, Role

OPERATIONS = ROOT / "docs" / "operations.md"
SERVERS = [None, *(["redis-server"] if shutil.which("redis-server") else [])]


@pytest.fixture(params=SERVERS, ids=lambda binary: binary or "embedded")
def either(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(None, request.param) as running:
        yield running


def users(server: EmbeddedServer, name: str = "bars") -> dict[str, str]:
    """Make the users that ``mdp acl`` prints, take every right from the default one; URL by role."""
    urls = {}
    with connect_blocking(server.url) as client:
        for line in run_mdp("acl", "--job", name).stdout.splitlines():
            words = line.split()
            client.execute_command(*words)
            password = next(word[1:] for word in words if word.startswith(">"))
            urls[words[2].rpartition("-")[2]] = server.url.replace("//", f"//{words[2]}:{password}@")
        client.execute_command("ACL", "SETUSER", "admin", "on", ">admin-pw", "~*", "+@all")
        client.execute_command("ACL", "SETUSER", "default", "off")
    return {**urls, "admin": server.url.replace("//", "//admin:admin-pw@")}


def everything(client: Any) -> dict[bytes, Any]:
    return {key: client.dump(key) for key in client.scan_iter()}


def as_keda(url: str) -> dict[str, int]:
    """The length of every stream that ``mdp keys`` names, asked as KEDA asks."""
    names = run_mdp("keys", str(APP), "--set", "output=x", "--set", "items=1").stdout.split()
    with connect_blocking(url) as client:
        client.ping()
        return {name: int(client.xlen(name)) for name in names}


def test_the_users_of_a_job_can_run_it(either: EmbeddedServer, tmp_path: Path, logs: Path) -> None:
    """With a polite leave, a kill and a takeover: they send commands of their own."""
    url = users(either)
    as_worker = {"MDP_REDIS_URL": url["worker"]}
    look = ["--job", "bars", "--redis-url", url["viewer"]]
    calm = {"MDP_LEASE_TTL_MS": "2000"}  # one that a busy machine takes for dead is not well
    with job(url["admin"], APP, logs, *until_told(tmp_path, RATE), env=calm) as running:
        running.start("coordinator", "--min-workers", "3", env={"MDP_REDIS_URL": url["coordinator"]})
        for name in ("w0", "w1", "w2"):
            running.start(name, env=as_worker)
        running.wait_for_items("source", 20_000)
        assert set(running.streams()) <= set(as_keda(url["keda"]))
        running.processes["w0"].send_signal(signal.SIGTERM)
        assert running.wait_for_exit("w0") == 0
        running.processes["w1"].kill()
        wait_until(lambda: b"w1" not in {running.client.hget(running.keys.lease(p), "worker") for p in range(8)}, "w2")
        shown = run_mdp("status", "--json", *look)
        assert shown.returncode == 0, shown.stderr
        assert json.loads(shown.stdout)["state"] == "running"
        checked = run_mdp("status", "--check", *look)
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
        letters = run_mdp("dlq", *look)
        assert (letters.returncode, letters.stdout) == (0, ""), letters.stderr
        assert running.status()["job"] == "bars"
        end(running, tmp_path, RATE)
        assert running.wait_for_exit("w2") == running.wait_for_exit("coordinator") == 0
        assert run_mdp("status", "--check", *look).returncode == 0
        assert set(as_keda(url["keda"]).values()) == {0}
        removed = run_mdp("remove", "bars", "--redis-url", url["operator"])
        assert removed.returncode == 0, removed.stderr
        assert running.client.dbsize() == 0


@pytest.mark.parametrize("binary", SERVERS)
async def test_commits_outlive_a_restart_with_the_default_user_off(binary: str | None, tmp_path: Path) -> None:
    """As operations.md writes its line: without rights, Redis would refuse the scripts of its append-only file."""
    default = next(line for line in re.findall(r"`(user default [^`]+)`", OPERATIONS.read_text()))
    mine = [line.removeprefix("ACL SETUSER") for line in run_mdp("acl", "--job", "bars").stdout.splitlines()]
    file = tmp_path / "users.acl"
    file.write_text("".join(f"{line}\n" for line in [default, *(f"user{words}" for words in mine)]))
    plan = compile_dag(load_app(str(APP), {"output": str(tmp_path), "items": "1"}), 2)
    with EmbeddedServer(tmp_path / "data", binary, "--aclfile", str(file)) as server:
        url = server.url.replace("//", "//mdp-bars-coordinator:COORDINATOR-PASSWORD@")
        async with connect(url) as client:
            made = await publish(client, "bars", plan)
        server.kill()
        server.start()
        async with connect(url) as client:
            assert await find_job(client, "bars") == made
            assert await client.hget(made.keys.task(next(iter(plan.tasks()))), "commit")


@pytest.mark.parametrize(("role", "command"), [("worker", "xtrim"), ("coordinator", "hincrby")])
def test_a_role_that_lacks_an_inner_command_does_not_start(
    server: EmbeddedServer, tmp_path: Path, logs: Path, role: str, command: str
) -> None:
    url = users(server)
    with job(url["admin"], APP, logs, *arguments(tmp_path, 1000)) as running:
        running.client.execute_command("ACL", "SETUSER", f"mdp-bars-{role}", f"-{command}")
        name = "w0" if role == "worker" else "coordinator"
        running.start(name, env={"MDP_REDIS_URL": url[role]})
        assert running.wait_for_exit(name) == 3
        needs = f"lacks rights that a {role} needs: {command.upper()}; see 'mdp acl --job bars --role {role}'"
        assert needs in running.log(name)
        assert "Traceback" not in running.log(name)
        assert running.client.dbsize() == 0


def test_the_users_of_one_job_cannot_run_another(server: EmbeddedServer, tmp_path: Path, logs: Path) -> None:
    """Users of ``abc``: whoever comes with another job's name is refused at the door, and writes nothing."""
    url, name = users(server, "abc"), "abcd"
    with job(url["admin"], APP, logs, *arguments(tmp_path, 1000), "--job", name) as running:
        for process, role in (("coordinator", "coordinator"), ("w0", "worker")):
            running.start(process, env={"MDP_REDIS_URL": url[role]})
            assert running.wait_for_exit(process) == 3
            assert f"lacks rights that a {role} needs" in running.log(process)
        seen = run_mdp("status", "--job", name, "--redis-url", url["viewer"])
        assert seen.returncode == 3
        assert "permission denied" in seen.stderr
        running.client.hset(Keys(name).record, "uid", "x")
        before = everything(running.client)
        refused = run_mdp("remove", name, "--redis-url", url["operator"])
        assert refused.returncode == 3
        assert everything(running.client) == before
        with connect_blocking(url["keda"]) as client, pytest.raises(redis.exceptions.NoPermissionError):
            client.xlen(f"mdp:{{{name}:0}}:q:source.dedupe")


@pytest.mark.parametrize("role", [VIEWER, KEDA], ids=lambda role: role.name)
def test_those_who_look_cannot_write(server: EmbeddedServer, role: Role) -> None:
    """Nor read what is not listed."""
    url, keys, stream = users(server)[role.name], Keys("bars"), "mdp:{bars:0}:q:source.dedupe"
    with connect_blocking(url) as client:
        for command in (
            ["XADD", stream, "*", "f", "x"], ["XTRIM", stream, "MAXLEN", "0"], ["FLUSHALL"], ["ACL", "LIST"],
            ["DEL", keys.record], ["HSET", keys.record, "state", "failed"], ["SET", keys.leader, "1:x"],
            ["EVAL", "return 1", "0"], ["HGETALL", keys.lease(0)], ["HGETALL", "mdp:{bars:0}:state:dedupe"],
            ["SCAN", "0"], ["KEYS", "*"], ["CONFIG", "GET", "*"], ["XREAD", "STREAMS", stream, "0"],
        ):  # fmt: skip
            with pytest.raises(redis.exceptions.ResponseError, match="permission"):
                client.execute_command(*command)


def test_every_command_of_a_viewer_is_needed(server: EmbeddedServer, tmp_path: Path, logs: Path) -> None:
    url = users(server)
    look = ["--job", "bars", "--redis-url", url["viewer"]]
    with job(url["admin"], APP, logs, *arguments(tmp_path, 1000)) as running:
        running.start("coordinator")
        running.start("w0")
        running.wait()
        assert run_mdp("status", *look).returncode == 0
        assert {running.wait_for_exit(name) for name in ("coordinator", "w0")} == {0}
        running.client.sadd(running.keys.workers, "w9")  # where there is no worker nobody asks for heartbeats
        for command in VIEWER.commands():
            running.client.execute_command("ACL", "SETUSER", "mdp-bars-viewer", f"-{command}")
            refused = CliRunner().invoke(main, ["status", *look])
            assert (refused.exit_code, len(refused.output.splitlines())) == (3, 1), (command, refused.output)
            assert "permission denied" in refused.output
            assert command.lower() in refused.output
            running.client.execute_command("ACL", "SETUSER", "mdp-bars-viewer", f"+{command}")
        unnamed = run_mdp("status", "--redis-url", url["viewer"])
        assert unnamed.returncode == 2
        assert "which job? --job NAME (this user may not look for them)" in unnamed.stderr


def test_a_right_that_is_taken_away_later_is_one_sentence(server: EmbeddedServer, tmp_path: Path, logs: Path) -> None:
    url = users(server)
    with job(url["admin"], APP, logs, *until_told(tmp_path, RATE)) as running:
        running.start("coordinator", env={"MDP_REDIS_URL": url["coordinator"]})
        running.start("w0", env={"MDP_REDIS_URL": url["worker"]})
        running.wait_for_items("source", 10_000)
        running.client.execute_command("ACL", "SETUSER", "mdp-bars-coordinator", "-blpop")
        assert running.wait_for_exit("coordinator") == 3
        last = running.log("coordinator").splitlines()[-1]
        assert "permission denied" in last
        assert "blpop" in last
        assert "Traceback" not in running.log("coordinator")
        os.kill(running.processes["w0"].pid, signal.SIGTERM)
        assert running.wait_for_exit("w0") == 0


def test_a_worker_that_loses_a_right_for_a_while_loses_nothing(
    server: EmbeddedServer, tmp_path: Path, logs: Path
) -> None:
    """Its commits are refused as wholes, and done when the right is back."""
    url = users(server)
    with job(url["admin"], APP, logs, *until_told(tmp_path, RATE)) as running:
        running.start("coordinator", env={"MDP_REDIS_URL": url["coordinator"]})
        running.start("w0", env={"MDP_REDIS_URL": url["worker"]})
        running.wait_for_items("source", 10_000)
        running.client.execute_command("ACL", "SETUSER", "mdp-bars-worker", "-xtrim")
        wait_until(lambda: "the server refuses the commit" in running.log("w0"), "a refused commit")
        assert running.state() == "running"
        running.client.execute_command("ACL", "SETUSER", "mdp-bars-worker", "+xtrim")
        end(running, tmp_path, RATE)
