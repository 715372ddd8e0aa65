"""A password that would show: it is looked for in everything the commands print, log, serve, store and are called."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from test_main_job import APP
from tools.jobs import APPS, PATIENCE, ROOT, every_command, job, run_mdp, wait_until

from market_data_pipeline.store.client import connect_blocking
from market_data_pipeline.store.embedded import EmbeddedServer, free_port

MARK = "cAnArY"
PASSWORD = f"{MARK}:/@?#[%]&'\" \\{MARK}"
QUOTED = quote(PASSWORD, safe="")
SMALL = APPS / "small_job.py"


@pytest.fixture
def url(server: EmbeddedServer) -> str:
    """Of the one user who may do anything."""
    with connect_blocking(server.url) as client:
        client.acl_setuser("owner", enabled=True, passwords=[f"+{PASSWORD}"], commands=["+@all"], keys=["*"])
        client.acl_setuser("default", enabled=False)
    return f"redis://owner:{QUOTED}@127.0.0.1:{server.port}/0"


def clean(text: str, where: str) -> None:
    assert MARK.lower() not in text.lower(), f"the password shows in {where}: {text[:2000]}"


def descendants(pid: int) -> list[int]:
    """Of the process, itself first."""
    found = [pid]
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in tasks.read_text().split():
            found += descendants(int(child))
    return found


def everything_stored(url: str) -> str:
    """All keys and values of the server, as text."""
    read: dict[bytes, Any] = {}
    with connect_blocking(url) as client:
        get = {
            b"string": client.get, b"hash": client.hgetall, b"set": client.smembers, b"stream": client.xrange,
            b"list": lambda key: client.lrange(key, 0, -1),
        }  # fmt: skip
        for key in client.scan_iter():
            kind: Any = client.type(key)
            read[key] = get[kind](key) if kind != b"none" else None
    return repr(read)


@pytest.fixture
def running(url: str, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path, Path]]:
    """``mdp run`` under way with workers, its output, and the folder of its children's logs."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    output = tmp_path / "printed"
    env = {**os.environ, "MDP_REDIS_URL": url, "MDP_ALLOW_VOLATILE": "true", "TMPDIR": str(folder)}
    given = ["--workers", "2", "--set", f"output={tmp_path / 'out'}", "--set", "items=4000000", "--set", "rate=20000"]
    with output.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "market_data_pipeline.cli", "run", str(APP), *given, "--log-level", "DEBUG"],
            stdout=sink, stderr=sink, cwd=ROOT, env=env,
        )  # fmt: skip
    try:
        yield process, output, folder
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE)


def log_text(folder: Path) -> str:
    return "\n".join(path.read_text() for path in folder.rglob("*.log"))


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="command lines are read from /proc")
def test_a_running_job(url: str, running: tuple[subprocess.Popen[bytes], Path, Path]) -> None:
    process, output, folder = running
    wait_until(lambda: log_text(folder).count("holding partitions") >= 2, "both workers to hold partitions")
    pids = descendants(process.pid)
    assert len(pids) >= 4, "mdp run, coordinator and two workers"
    for pid in pids:
        proc = Path(f"/proc/{pid}")
        assert MARK.encode() in (proc / "environ").read_bytes(), "they know it from their environment"
        clean((proc / "cmdline").read_text() + (proc / "comm").read_text(), f"the command line of {pid}")
    for path in folder.rglob("*.log"):
        address = re.findall(r"listening on (http://\S+)", path.read_text())[0]
        for page in ("/metrics", "/healthz", "/readyz", *(["/api/status"] if path.stem == "coordinator" else [])):
            with urllib.request.urlopen(address + page, timeout=PATIENCE) as answer:
                clean(answer.read().decode() + str(answer.headers), page)
    for command in (["status"], ["status", "--json"], ["dlq"]):
        done = run_mdp(*command, "--debug", env={"MDP_REDIS_URL": url})
        assert done.returncode == 0, done.stderr
        clean(done.stdout + done.stderr, str(command))
    clean(everything_stored(url), "the server")
    os.kill(pids[-1], signal.SIGKILL)
    wait_until(lambda: "starting it again" in output.read_text(), "the worker to be started again")
    logs = log_text(folder)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    clean(logs, "the logs")
    clean(output.read_text(), "what mdp run printed")


def test_a_server_that_goes_away(url: str, server: EmbeddedServer, tmp_path: Path, logs: Path) -> None:
    """Errors in the middle of work are logged, also the client library's own."""
    given = ["--set", f"output={tmp_path / 'out'}", "--set", "items=400000", "--set", "rate=20000"]
    with job(url, APP, logs, *given, "--log-level", "DEBUG", "--debug") as processes:
        processes.start("coordinator")
        processes.start("w0")
        processes.wait_for_items("source", 10_000)
        server.kill()
        wait_until(lambda: "server away" in processes.log("w0"), "the worker to notice")
        wait_until(lambda: "server away" in processes.log("coordinator"), "the coordinator to notice")
        for name in processes.processes:
            clean(processes.log(name), name)


def bad_addresses(port: int) -> dict[str, tuple[str, int]]:
    """URL and exit code, by what is wrong; the unit tests of addresses know more that are refused."""
    return {
        "wrong password": (f"redis://owner:{QUOTED}x@127.0.0.1:{port}/0", 3),
        "nobody there": (f"redis://owner:{QUOTED}@127.0.0.1:{free_port()}/0", 3),
        "no sentinel": (f"redis+sentinel://owner:{QUOTED}@127.0.0.1:{free_port()}/main", 3),
        "not quoted": (f"redis://owner:{PASSWORD}@127.0.0.1:{port}/0", 2),
        "slash": (f"redis://owner:{MARK}/{MARK}@127.0.0.1:{port}/0", 2),
        "port": (f"redis://owner:{QUOTED}@127.0.0.1:{MARK}/0", 2),
        "only a password": (f"{MARK}{QUOTED}", 2),
    }


@pytest.mark.parametrize("what", bad_addresses(1))
def test_an_address_that_does_not_work(url: str, server: EmbeddedServer, what: str) -> None:
    address, code = bad_addresses(server.port)[what]
    for name, done in every_command(SMALL, env={"MDP_REDIS_URL": address, "MDP_LOG_LEVEL": "DEBUG"}).items():
        assert done.returncode == code, f"{name}: {done.stderr}"
        assert "Traceback" not in done.stderr
        clean(done.stdout + done.stderr, name)
    flag = ["--redis-url", address, "--debug"]
    debugged = every_command(SMALL, *flag, env={}, names=["worker"])["worker"]
    assert "Traceback" in debugged.stderr, "--debug shows where it was raised"
    clean(debugged.stdout + debugged.stderr, "the traceback")


def test_other_wrong_settings_beside_a_password(url: str) -> None:
    for env, code in [
        ({"MDP_PARTITIONS": "many"}, 2),
        ({"MDP_SENTINEL_PASSWORD": f"{MARK}-sentinel"}, 2),
        ({"MDP_REDIS_PASSWORD": f"{MARK}-apart"}, 2),
        ({"MDP_JOB": "No Such Job"}, 2),
    ]:
        for name, done in every_command(SMALL, env={"MDP_REDIS_URL": url, **env}, names=["run"]).items():
            assert done.returncode == code, f"{name}: {done.stderr}"
            clean(done.stdout + done.stderr, name)


def test_a_password_apart_from_the_address(url: str, server: EmbeddedServer) -> None:
    apart = {"MDP_REDIS_USERNAME": "owner", "MDP_REDIS_PASSWORD": PASSWORD}
    given = {**apart, "MDP_REDIS_URL": f"redis://127.0.0.1:{server.port}/0", "MDP_ALLOW_VOLATILE": "true"}
    done = every_command(SMALL, env=given, names=["run"])["run"]
    assert done.returncode == 0, done.stderr
    clean(done.stdout + done.stderr, "run")
    wrong = every_command(SMALL, env={**given, "MDP_REDIS_PASSWORD": f"{MARK}x"})
    alone = every_command(SMALL, env=apart, names=["run"])
    for code, commands in ((3, wrong), (2, alone)):
        for name, refused in commands.items():
            assert refused.returncode == code, f"{name}: {refused.stderr}"
            clean(refused.stdout + refused.stderr, name)
    assert "MDP_REDIS_USERNAME and _PASSWORD are for a server of your own" in alone["run"].stderr
