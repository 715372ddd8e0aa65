"""How triggers are read: on a real server, with the least rights, and over HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tools.hpa import NotSimulated
from tools.keda import ScaledObject
from tools.keda_scalers import Scalers, credentials_of, picked, plain_data
from tools.keda_simulator import Simulator
from tools.sentinel import SENTINEL_PASSWORD, SERVER_PASSWORD, replicated

from market_data_pipeline.store.client import connect_blocking
from market_data_pipeline.store.embedded import EmbeddedServer

AUTHENTICATION = {
    "metadata": {"name": "auth"},
    "spec": {
        "secretTargetRef": [
            {"parameter": "username", "name": "redis", "key": "keda-user"},
            {"parameter": "password", "name": "redis", "key": "keda-password"},
        ]
    },
}
SECRET = {"data": {"keda-user": "a2VkYQ=="}, "stringData": {"keda-password": "pw"}}


def scaled(*triggers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    given = {"scaleTargetRef": {"name": "worker"}, "triggers": list(triggers), **spec}
    return {"kind": "ScaledObject", "metadata": {"name": "worker"}, "spec": given}


def stream(name: str, key: str, **metadata: str) -> dict[str, Any]:
    given = {"address": "redis.db.svc:6379", "stream": key, "databaseIndex": "0", "enableTLS": "false", **metadata}
    return {"type": "redis-streams", "name": name, "metadata": given, "authenticationRef": {"name": "auth"}}


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as running, connect_blocking(running.url) as client:
        client.execute_command(
            *["ACL", "SETUSER", "keda", "reset", "on", ">pw", "%R~s*", "+xlen", "+ping", "+client|setinfo"]
        )
        for _ in range(3):
            client.xadd("s1", {"f": "x"})
        yield running


def test_lengths_with_the_rights_of_the_user_and_no_command_more(server: EmbeddedServer) -> None:
    spec = ScaledObject.parse(scaled(stream("p0", "s0"), stream("p1", "s1"), stream("p2", "other")))
    credentials = {"auth": credentials_of(AUTHENTICATION, {"redis": plain_data(SECRET)})}
    scalers = Scalers(spec, credentials, {"redis.db.svc:6379": f"127.0.0.1:{server.port}"})
    with connect_blocking(server.url) as client:
        client.ping()
        client.config_resetstat()
        assert scalers.read() == {"p0": 0, "p1": 3, "p2": None}, "missing is 0, forbidden is a failure"
        called = {name.removeprefix("cmdstat_") for name in client.info("commandstats")}
        assert called == {"hello", "client|setinfo", "ping", "xlen", "config|resetstat"}
    scalers.close()


def test_a_server_that_is_away_is_a_failure_and_comes_back(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path, None, "--appendfsync", "always") as server:
        spec = ScaledObject.parse(scaled(stream("p1", "s1")))
        scalers = Scalers(spec, {"auth": {}}, {"redis.db.svc:6379": f"127.0.0.1:{server.port}"})
        with connect_blocking(server.url) as client:
            client.xadd("s1", {"f": "x"})
        assert scalers.read() == {"p1": 1}
        server.kill()
        assert scalers.read() == {"p1": None}
        server.start()
        assert scalers.read() == {"p1": 1}
        scalers.close()


def test_through_sentinels(tmp_path: Path) -> None:
    with replicated(tmp_path) as trio:
        with connect_blocking(trio.address) as client:
            client.xadd("s0", {"f": "x"})
        trigger = stream("p0", "s0", addresses="a:1,b:2", sentinelMaster="main")
        spec = ScaledObject.parse(scaled({**trigger, "type": "redis-sentinel-streams"}))
        given = {"password": SERVER_PASSWORD, "sentinelPassword": SENTINEL_PASSWORD}
        found = dict.fromkeys(("a:1", "b:2"), f"127.0.0.1:{trio.sentinel_port}")
        scalers = Scalers(spec, {"auth": given}, found)
        assert scalers.read() == {"p0": 1}
        scalers.close()


@contextmanager
def api(answer: dict[str, Any]) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """A server that says ``answer``; its port, and what was asked with which Host."""
    asked: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Host"]))
            self.send_response(answer.get("status", 200))
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            return

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield running.server_address[1], asked
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


METRICS_API = {
    "type": "metrics-api",
    "name": "backlog",
    "metadata": {
        "url": "http://coordinator:8080/api/scale?target=20",
        "valueLocation": "scale_frames",
        "targetValue": "20",
    },
}


class Counted:
    """Replicas that are only a number."""

    def __init__(self, replicas: int) -> None:
        self.replicas = replicas
        self.given: list[int] = []

    def scale(self, replicas: int) -> None:
        self.replicas = replicas
        self.given.append(replicas)


def test_the_api_of_the_coordinator() -> None:
    answer: dict[str, Any] = {"scale_frames": 70}
    with api(answer) as (port, asked):
        target = Counted(1)
        fallback = {"failureThreshold": 1, "replicas": 5, "behavior": "currentReplicasIfHigher"}
        found = {"coordinator:8080": f"127.0.0.1:{port}"}
        simulator = Simulator(scaled(METRICS_API, minReplicaCount=1, fallback=fallback), target, found=found)
        simulator.step(0)
        assert target.given == [4]
        assert set(asked) == {("/api/scale?target=20", "coordinator:8080")}
        looked = len(asked)
        simulator.step(14.9)
        assert len(asked) == looked, "neither KEDA (30 s) nor the HPA (15 s) is due"
        answer["status"] = 503
        simulator.step(15)
        assert target.given == [4], "one failure"
        simulator.step(30)
        assert target.given == [4, 5], "two: it falls back"
        answer |= {"status": 200, "scale_frames": 0}
        for now in range(45, 330, 15):
            simulator.step(now)
        assert target.given == [4, 5], "the window of 300 s is not over"
        simulator.step(330)
        assert target.given == [4, 5, 1]
        simulator.close()


def test_numbers_in_documents() -> None:
    assert picked({"a": {"b": [1, {"c": "2.5"}]}}, "a.b.1.c") == 2.5
    for document in ({"a": None}, {"a": True}, {}, {"a": "many"}):
        with pytest.raises(ValueError):  # noqa: PT011 - float's own message counts too
            picked(document, "a")
    with pytest.raises(NotSimulated):
        picked({}, "a.#(b>1).c")


def test_ways_to_authenticate_that_are_not_simulated() -> None:
    with pytest.raises(NotSimulated, match="env"):
        credentials_of({"spec": {"env": []}}, {})
    with pytest.raises(KeyError):
        credentials_of(AUTHENTICATION, {"redis": {}})
