"""A job whose coordinator, workers and onlookers are the users of the documented rules, and nobody else."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from test_main_job import APP, SECOND, arguments, expected
from tools.jobs import ROOT, job, run_mdp, wait_until
from tools.oracle import check_bars

from market_data_pipeline.store.client import connect_blocking
from market_data_pipeline.store.embedded import EmbeddedServer


def users(server: EmbeddedServer) -> dict[str, str]:
    """Make the documented users, take every right from the default one; URL by role."""
    text = (ROOT / "docs" / "operations.md").read_text()
    urls = {}
    with connect_blocking(server.url) as client:
        for line in text.splitlines():
            if line.startswith("ACL SETUSER mdp-"):
                words = line.split()
                client.execute_command(*words)
                password = next(word[1:] for word in words if word.startswith(">"))
                urls[words[2].removeprefix("mdp-")] = server.url.replace("//", f"//{words[2]}:{password}@")
        client.execute_command("ACL", "SETUSER", "admin", "on", ">admin-pw", "~*", "+@all")
        client.execute_command("ACL", "SETUSER", "default", "off")
    return {**urls, "admin": server.url.replace("//", "//admin:admin-pw@")}


def test_the_documented_users_can_run_a_job(server: EmbeddedServer, tmp_path: Path, logs: Path) -> None:
    """With a polite leave, a kill and a takeover: they send commands of their own."""
    url = users(server)
    given = arguments(tmp_path, 400_000, 40_000)
    as_worker = {"MDP_REDIS_URL": url["worker"]}
    with job(url["admin"], APP, logs, *given) as running:
        running.start("coordinator", "--min-workers", "3", env={"MDP_REDIS_URL": url["coordinator"]})
        for name in ("w0", "w1", "w2"):
            running.start(name, env=as_worker)
        running.wait_for_items("source", 20_000)
        running.processes["w0"].send_signal(signal.SIGTERM)
        assert running.wait_for_exit("w0") == 0
        running.processes["w1"].kill()
        wait_until(lambda: b"w1" not in {running.client.hget(running.keys.lease(p), "worker") for p in range(8)}, "w2")
        shown = run_mdp("status", "--json", "--redis-url", url["status"])
        assert shown.returncode == 0, shown.stderr
        assert json.loads(shown.stdout)["state"] == "running"
        letters = run_mdp("dlq", "--redis-url", url["status"])
        assert (letters.returncode, letters.stdout) == (0, ""), letters.stderr
        assert json.loads(running.http("coordinator", "/api/status"))["job"] == "bars"
        running.wait()
        assert running.wait_for_exit("w2") == running.wait_for_exit("coordinator") == 0
    check_bars(tmp_path / "out", expected(400_000, 40_000), SECOND)


@pytest.mark.parametrize(("role", "command"), [("worker", "xtrim"), ("coordinator", "hincrby")])
def test_a_role_that_lacks_an_inner_command_does_not_start(
    server: EmbeddedServer, tmp_path: Path, logs: Path, role: str, command: str
) -> None:
    url = users(server)
    with job(url["admin"], APP, logs, *arguments(tmp_path, 1000)) as running:
        running.client.execute_command("ACL", "SETUSER", f"mdp-{role}", f"-{command}")
        name = "w0" if role == "worker" else "coordinator"
        running.start(name, env={"MDP_REDIS_URL": url[role]})
        assert running.wait_for_exit(name) == 3
        assert f"lacks rights that a {role} needs: {command.upper()}; see docs/operations.md" in running.log(name)
        assert "Traceback" not in running.log(name)
        assert running.client.dbsize() == 0


def test_a_right_that_is_taken_away_later_is_one_sentence(server: EmbeddedServer, tmp_path: Path, logs: Path) -> None:
    url = users(server)
    with job(url["admin"], APP, logs, *arguments(tmp_path, 400_000, 40_000)) as running:
        running.start("coordinator", env={"MDP_REDIS_URL": url["coordinator"]})
        running.start("w0", env={"MDP_REDIS_URL": url["worker"]})
        running.wait_for_items("source", 10_000)
        running.client.execute_command("ACL", "SETUSER", "mdp-coordinator", "-blpop")
        assert running.wait_for_exit("coordinator") == 3
        last = running.log("coordinator").splitlines()[-1]
        assert "permission denied" in last
        assert "blpop" in last
        assert "Traceback" not in running.log("coordinator")
        os.kill(running.processes["w0"].pid, signal.SIGTERM)
        assert running.wait_for_exit("w0") == 0
