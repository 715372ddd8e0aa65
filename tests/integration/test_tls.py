"""TLS and users on a real server, through the real commands: the good case runs a job, each bad one is one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from test_main_job import APP, SECOND, arguments, expected
from tools.jobs import APPS, every_command, job, run_mdp
from tools.oracle import check_bars
from tools.tls import Files, make_files, needs_tls, tls_server

from market_data_pipeline.store.embedded import EmbeddedServer
from market_data_pipeline.store.url import Tls, parse_address

SMALL = APPS / "small_job.py"
PASSWORD = "p@ss/w:rd#1%"
QUOTED = "p%40ss%2Fw%3Ard%231%25"

pytestmark = needs_tls


@dataclass(frozen=True)
class Secured:
    """Servers with and without client certificates; their files, and an authority that nobody trusts."""

    server: EmbeddedServer
    tls_port: int
    mutual_port: int
    files: Files
    strangers: Files


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("tls")
    files, strangers = make_files(folder, "server", "localhost"), make_files(folder, "strangers", "localhost")
    with tls_server(folder, files) as (plain, port), tls_server(folder, files, clients="yes") as (mutual, mutual_port):
        for server in (plain, mutual):
            with redis.Redis(port=server.port) as client:
                client.acl_setuser(
                    "runner", enabled=True, passwords=[f"+{PASSWORD}"], commands=["+@all"], keys=["mdp:*"]
                )
                client.acl_setuser("reader", enabled=True, passwords=[f"+{PASSWORD}"], commands=["+ping"], keys=["*"])
                client.acl_setuser("default", enabled=True, nopass=True, commands=["+@all"], keys=["*"])
        yield Secured(plain, port, mutual_port, files, strangers)


def test_a_job_over_mutual_tls_as_a_user(secured: Secured, tmp_path: Path, logs: Path) -> None:
    files = secured.files
    tls = Tls(files.ca, files.cert, files.key)
    address = parse_address(f"rediss://runner:{QUOTED}@localhost:{secured.mutual_port}/0", tls)
    env = {"MDP_REDIS_CA": str(files.ca), "MDP_REDIS_CERT": str(files.cert), "MDP_REDIS_KEY": str(files.key)}
    with job(address, APP, logs, *arguments(tmp_path, 20_000), env=env) as running:
        for name in ("coordinator", "w0", "w1"):
            running.start(name)
        running.wait()
        assert {running.wait_for_exit(name) for name in running.processes} == {0}
        shown = run_mdp("status", "--json", "--redis-url", address.url, env=env)
        assert json.loads(shown.stdout)["nodes"]["source"]["out"] == 20_000, "mdp status reads over the same connection"
    check_bars(tmp_path / "out", expected(20_000), SECOND)


def refused(env: dict[str, str], code: int, sentence: str) -> None:
    """Every command ends with ``code`` and one line that holds ``sentence``."""
    for name, done in every_command(SMALL, env=env).items():
        assert (done.returncode, done.stdout) == (code, ""), f"{name}: {done.stderr}"
        lines = done.stderr.splitlines()
        assert len(lines) == 1, f"{name}: {done.stderr}"
        assert sentence in lines[0]
        assert PASSWORD not in done.stderr
        assert QUOTED not in done.stderr


def test_an_authority_that_is_not_trusted(secured: Secured) -> None:
    url = f"rediss://localhost:{secured.tls_port}"
    sentence = "its certificate is not trusted (self-signed certificate in certificate chain)"
    refused({"MDP_REDIS_URL": url}, 3, sentence)
    refused({"MDP_REDIS_URL": url, "MDP_REDIS_CA": str(secured.strangers.ca)}, 3, sentence)


def test_a_certificate_for_another_name(secured: Secured) -> None:
    env = {"MDP_REDIS_URL": f"rediss://127.0.0.1:{secured.tls_port}", "MDP_REDIS_CA": str(secured.files.ca)}
    refused(env, 3, "its certificate is for another name (IP address mismatch")


def test_a_missing_or_strange_client_certificate(secured: Secured) -> None:
    url = f"rediss://localhost:{secured.mutual_port}"
    env = {"MDP_REDIS_URL": url, "MDP_REDIS_CA": str(secured.files.ca)}
    refused(
        env, 3, "a client certificate"
    )  # in one of two sentences: the refusal may be cut off by the reset behind it
    env |= {"MDP_REDIS_CERT": str(secured.strangers.cert), "MDP_REDIS_KEY": str(secured.strangers.key)}
    refused(env, 3, "our certificate (MDP_REDIS_CERT)")


def test_plain_text_to_a_tls_port(secured: Secured) -> None:
    refused({"MDP_REDIS_URL": f"redis://localhost:{secured.tls_port}"}, 3, "does it want TLS (rediss://)?")


def test_a_wrong_password_and_a_user_without_rights(secured: Secured) -> None:
    env = {"MDP_REDIS_CA": str(secured.files.ca)}
    url = f"rediss://runner:{QUOTED}x@localhost:{secured.tls_port}"
    refused(env | {"MDP_REDIS_URL": url}, 3, "it refuses the user or password (invalid username-password pair")
    url = f"rediss://reader:{QUOTED}@localhost:{secured.tls_port}"
    refused(env | {"MDP_REDIS_URL": url, "MDP_JOB": "small"}, 3, "permission denied")


def test_wrong_settings(secured: Secured) -> None:
    missing = {"MDP_REDIS_CA": "/nowhere/ca.pem"}
    refused({"MDP_REDIS_URL": "rediss://localhost:1", **missing}, 2, "MDP_REDIS_CA: /nowhere/ca.pem: No such file")
    refused({"MDP_REDIS_URL": "redis://localhost:1", **missing}, 2, "write rediss://")
    refused({"MDP_REDIS_URL": "redis+cluster://localhost:1"}, 2, "names a cluster")
